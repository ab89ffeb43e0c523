"""Running on a machine: start and end of the ranks, hang detection, ordered output, the doctor."""
