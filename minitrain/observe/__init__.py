"""Instruments that count bytes, FLOPs and memory, since wall time proves nothing on a shared machine."""
