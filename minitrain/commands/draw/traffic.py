"""Who sends how much to whom in one update: the bytes of a real run, message by message.

On a mesh the picture is sparse. A ring's rank sends only to the next one of its group, a stage of a pipeline only to
its neighbors, and the most passes between the ranks along tp, which therefore are adjacent (comm/mesh.py).
"""

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from ...comm.communicator import Communicator
from ...comm.mesh import AXES
from ...comm.threads import ThreadCommunicator
from ...errors import UserError
from ...observe.palette import FILLS, INK, TEXT_ON
from ..config import TrainConfig
from ..options import ParallelOptions
from ..plan_report import size
from .drawing import Drawing, Numbers, Picture
from .real_update import on_threads, ranks_of, third_update

MOST = 32  # ranks: more squares are too small
MOST_NUMBERS = 10  # ranks: with more, a number does not fit into a square


class Sent:
    """The bytes that one rank has sent, by the receiver's number in the world."""

    def __init__(self) -> None:
        self.bytes: Counter[int] = Counter()
        self.lock = threading.Lock()  # a communication thread sends, too


class Recording(ThreadCommunicator):
    """A group of threads that records each message."""

    def __init__(self, inner: ThreadCommunicator, sent: Sent) -> None:
        super().__init__(inner.group, inner.rank, inner.moves, inner.members)
        self.sent = sent

    def _send(self, x: Any, to: int, number: int) -> Any:
        with self.sent.lock:
            self.sent.bytes[self.members[to]] += x.nbytes
        return super()._send(x, to, number)

    def _child(self, name: tuple, members: list[int]) -> "Recording":
        return Recording(super()._child(name, members), self.sent)


def record(config: TrainConfig, world: Communicator) -> list[int]:
    """Return the bytes that this rank sends to each rank in the third update. All ranks, which are threads, call it."""
    assert isinstance(world, ThreadCommunicator)
    sent = Sent()

    def count(update: Callable[[], object]) -> list[int]:
        sent.bytes.clear()
        update()
        return [sent.bytes[rank] for rank in range(world.size)]

    _, found = third_update(config, Recording(world, sent), count)
    return found


def matrix(config: TrainConfig) -> Numbers:
    """Return the bytes from each rank (row) to each rank (column), and the axes along which the two differ.

    Raise UserError for options that do not fit together.
    """
    ranks, p = ranks_of(config), config.parallel
    if p.comm != "ring":
        raise UserError(f"--comm {p.comm} hides which rank sends to which; give --comm ring")
    if not 1 < ranks <= MOST:
        raise UserError(f"--dp, --pp and --tp make {ranks} ranks; give 2 to {MOST}")
    places = [*product(range(p.dp or 1), range(p.pp), range(p.tp))]
    differ = [[" ".join(axis for axis, i, j in zip(AXES, a, b, strict=True) if i != j) for b in places] for a in places]
    sizes = dict(zip(AXES, (p.dp or 1, p.pp, p.tp), strict=True))
    return {"mesh": sizes, "places": places, "bytes": on_threads(ranks, partial(record, config)), "axes": differ}


def draw(numbers: Numbers, axes: Any) -> None:
    """Draw a square for each pair of ranks that communicates on matplotlib axes: the darker, the more bytes."""
    rows, n = numbers["bytes"], len(numbers["bytes"])
    fills = classes([nbytes for row in rows for nbytes in row if nbytes])
    for source, to in product(range(n), range(n)):
        if nbytes := rows[source][to]:
            fill = fills[nbytes]
            axes.bar(to, 0.94, 0.94, source - 0.47, color=fill)
            if n <= MOST_NUMBERS:
                words = f"{size(nbytes)}\n{numbers['axes'][source][to]}"
                axes.text(to, source, words, ha="center", va="center", fontsize=7, color=TEXT_ON[fill])
        elif source != to:
            axes.plot(to, source, ".", color=INK, markersize=1.5)
    for fill in dict.fromkeys(sorted(fills.values(), key=FILLS.index)):
        alike = [nbytes for nbytes in fills if fills[nbytes] == fill]
        axes.fill_between([], [], facecolor=fill, edgecolor=INK, label=f"{size(min(alike))} to {size(max(alike))}")
    names = [f"{rank}: {' '.join(map(str, place))}" for rank, place in enumerate(numbers["places"])]
    along = " ".join(AXES)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="to rank", ylabel=f"from rank: its place along {along}")
    axes.set(xticks=range(n), yticks=range(n))
    axes.set_yticklabels(names)
    axes.tick_params(length=0, labelsize=8)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="bytes per update", fontsize=8, title_fontsize=8)


def classes(sizes: list[int]) -> dict[int, str]:
    """Return size -> fill: a fill for each quarter of the squares; sizes whose first digits agree have the same."""
    alike = sorted(float(f"{nbytes:.0e}") for nbytes in sizes)
    quarter = lambda nbytes: len(FILLS) * bisect_left(alike, float(f"{nbytes:.0e}")) // len(alike)
    return {nbytes: FILLS[quarter(nbytes)] for nbytes in sorted(sizes)}


def text(numbers: Numbers) -> str:
    """Return the rows that a terminal is wide enough for, in kB, and what each axis carries."""
    rows, n = numbers["bytes"], len(numbers["bytes"])
    lines = []
    if n <= MOST_NUMBERS:
        lines = [f"{'kB from, to rank':<17}" + "".join(f"{rank:>6}" for rank in range(n))]
        for rank, row in enumerate(rows):
            place = " ".join(f"{axis}{i}" for axis, i in zip(AXES, numbers["places"][rank], strict=True))
            lines.append(f"{rank:>2} ({place})".ljust(17) + "".join(f"{kilobytes(x):>6}" for x in row))
        lines.append("")
    total: Counter[str] = Counter()
    for row, axes in zip(rows, numbers["axes"], strict=True):
        for nbytes, axis in zip(row, axes, strict=True):
            total[axis] += nbytes
    lines += [f"between ranks that differ along {axis:<10}{size(n):>10}" for axis, n in total.most_common() if n]
    return "\n".join(lines)


def kilobytes(nbytes: int) -> str:
    """Format bytes in kB, in at most five characters up to a gigabyte."""
    return (
        "." if not nbytes else f"{nbytes / 1e3:.{max(0, 2 - int(math.log10(max(nbytes / 1e3, 1))))}f}"[:5].rstrip(".")
    )


@dataclass(frozen=True)
class Traffic(Picture, TrainConfig):
    """Draw the bytes from each rank to each rank in one update; takes train's options."""

    name = "traffic"

    parallel: ParallelOptions = field(
        default_factory=lambda: ParallelOptions(dp=2, pp=2, tp=2, comm="ring", accumulate=4)
    )

    def drawing(self) -> Drawing:
        """Make three updates with ranks as threads, and count the third. Raise UserError for bad options."""
        numbers = matrix(self)
        return Drawing(
            numbers, partial(draw, numbers), text(numbers), height=min(6.5, 0.45 * len(numbers["bytes"]) + 0.8)
        )
