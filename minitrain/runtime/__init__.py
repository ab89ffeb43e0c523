"""Where a program meets its machine: start and end of the ranks, time limits, what they print, the doctor."""
