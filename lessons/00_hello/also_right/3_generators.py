"""Runs the program as one generator for each rank, which stops at the collective."""

from collections.abc import Generator


def program(rank: int) -> Generator[int, list[int], str]:
    """One rank: yields what it gathers, is sent what all have gathered, returns its line."""
    mine = rank
    if rank == 2:
        mine = 10
    everyone = yield mine
    mine += everyone[rank - 1]
    return f"rank {rank} has {mine}"


def ended(run: Generator[int, list[int], str], everyone: list[int]) -> str:
    """Send it the list and return its result."""
    try:
        run.send(everyone)
    except StopIteration as stop:
        return stop.value
    raise AssertionError


def printed(ranks: int) -> list[str]:
    """Return the lines that `six_lines` prints on `ranks` ranks, in order."""

    runs = [program(rank) for rank in range(ranks)]
    everyone = [next(run) for run in runs]
    return [ended(run, everyone) for run in runs]
