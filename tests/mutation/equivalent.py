"""Mutants that no test can see, since they change nothing that can be seen, and why."""

EQUIVALENT: dict[str, str] = {}
