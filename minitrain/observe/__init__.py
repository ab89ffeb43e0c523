"""Instruments: what was sent, computed and held is counted, since a clock proves nothing on a shared machine."""
