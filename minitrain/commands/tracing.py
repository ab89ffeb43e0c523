"""The trace of a training run: `train --trace build/trace` records a few updates."""

from collections.abc import Callable, Iterator
from itertools import islice

from ..comm.communicator import Communicator
from ..errors import on_rank_0
from ..observe import trace
from ..train.history import Update
from .options import TraceOptions


def window(count: int, options: TraceOptions) -> tuple[int, int]:
    """Return (updates before those to record, updates to record) in a run of `count` updates."""
    length = min(options.trace_updates, count)
    return min(options.trace_from - 1, count - length), length


def traced(
    updates: Iterator[Update], count: int, options: TraceOptions, world: Communicator, log: Callable[[str], None]
) -> Iterator[Update]:
    """Yield the updates, of which there are `count`; record some if the options say so, and print what was recorded.

    Raise UserError, on all ranks and before the first update, if the folder cannot be written. If writing fails later,
    print that and keep training.
    """
    if options.trace is None or not count:
        yield from updates
        return
    folder = options.trace
    on_rank_0(world, lambda: trace.claim(folder / trace.NAME))
    before, length = window(count, options)
    yield from islice(updates, before)
    try:
        with trace.recording(world, folder) as made:
            yield from islice(updates, length)
        log(made.text)
    except trace.Unwritten as error:
        log(f"minitrain: {error}")
    yield from updates
