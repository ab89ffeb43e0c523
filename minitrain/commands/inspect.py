"""Look at checkpoints: which there are, what is in one, and whether every byte is still what was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from ..environment import launched
from ..errors import UserError, shown
from ..train.checkpoint_folder import BLOCK, candidates, damage, none_in
from ..train.checkpoint_index import Index, Logical
from ..train.owned_regions import MODEL, OPTIMIZER
from ..train.progress import Progress
from ..train.regions import Region
from .run_checkpoints import named

MB = 1e6


@dataclass(frozen=True)
class Inspect:
    """Show a run's checkpoints, and what is in the last one: mesh, files with their sums, tensors."""

    folder: tyro.conf.Positional[Path] = Path("build/run")
    """Folder of a run, or of one checkpoint."""
    verify: bool = False
    """Read every byte of all checkpoints in the folder and compare it with its sum. The status is 1 if one differs."""
    tensor: str | None = None
    """Show the pieces of the tensors whose names match this pattern, such as "model/head.*"."""

    def run(self) -> int:
        """Print the tables, on rank 0 only. Raise UserError if there is no checkpoint, or no such tensor."""
        if launched()[1] != 0:
            return 0
        console = Console(highlight=False, markup=False, soft_wrap=True, width=200)  # no name is cut off
        found, troubles = candidates(self.folder)
        if not found:
            cure = () if troubles else ("train writes them: --save-every 100",)
            raise UserError("; ".join([none_in(self.folder, troubles), *cure]))
        folder, index = found[0]
        if self.tensor is None:
            for part in (parameters(index), "", files(index), "", *described(folder, index), "", overview(found)):
                console.print(part)
        else:
            console.print(pieces(index, self.tensor))
        for trouble in troubles:
            console.print(f"damaged: {trouble}")
        wrong = self._verify(console, found) if self.verify else 0
        return int(bool(troubles or wrong))

    def _verify(self, console: Console, found: list[tuple[Path, Index]]) -> int:
        """Print for each checkpoint whether it is what was written. Return how many files are not."""
        wrong, blocks = 0, sum(-(-file.size // BLOCK) for _, index in found for file in index.files)
        with Progress().task("verifying", blocks, "MiB") as task:
            for folder, index in found:
                numbers = range(len(index.files))
                bad = [trouble for number in numbers for trouble in damage(folder, index, number, task.advance)]
                size = sum(file.size for file in index.files)
                good = f"verified, {size:,} bytes in {len(index.files)} files"
                console.print(f"{folder}: {'; '.join(bad) if bad else good}")
                wrong += len(bad)
        return wrong


def overview(found: list[tuple[Path, Index]]) -> Table:
    """Return one row per checkpoint, the last save at the end."""
    table = plain("checkpoint", ">updates", "mesh", ">MB", "saved")
    for folder, index in reversed(found):
        size = sum(file.size for file in index.files) / MB
        table.add_row(folder.name, f"{index.updates:,}", named(index.mesh), f"{size:,.2f}", index.saved)
    return table


def described(folder: Path, index: Index) -> Iterator[str]:
    """Yield what a checkpoint is, in a few lines."""
    state = index.state
    yield f"{folder}: {index.updates:,} updates are made, the next batch is {state.get('batches')}"
    parameters = sum(x.nbytes for name, x in index.tensors.items() if name.startswith(MODEL))
    kept = sum(x.nbytes for name, x in index.tensors.items() if name.startswith(OPTIMIZER))
    yield f"parameters {parameters / MB:,.2f} MB, optimizer state {kept / MB:,.2f} MB"
    if state.get("scaler"):
        yield f"loss scale {shown(state['scaler'])}"
    for name, part in (("random", "seed"), ("tokenizer", "name"), ("tokenizer", "sha256")):
        about = index.about.get(name)
        if isinstance(about, dict) and part in about:
            yield f"{part if name == 'random' else f'{name} {part}'} {shown(about[part])}"


def files(index: Index) -> Table:
    """Return one row per file, with the beginning of its sum; the index has all of it."""
    table = plain("file", ">bytes", "sha256 begins with")
    for file in index.files:
        table.add_row(file.name, f"{file.size:,}", file.sha256[:16])
    return table


def parameters(index: Index) -> Table:
    """Return one row per parameter, with the names of what the optimizer keeps for it."""
    table = plain("parameter", "dtype", "shape", ">bytes", ">pieces", "optimizer")
    kept: dict[str, list[str]] = {}
    for name in index.tensors:
        if name.startswith(OPTIMIZER):
            path, _, state = name.removeprefix(OPTIMIZER).rpartition(".")
            kept.setdefault(path, []).append(state)
    for name, x in index.tensors.items():
        if name.startswith(MODEL):
            states = kept.get(path := name.removeprefix(MODEL), [])
            table.add_row(path, x.dtype, shape_of(x), f"{x.nbytes:,}", str(len(x.pieces)), ", ".join(states))
    return table


def pieces(index: Index, pattern: str) -> Table:
    """Return one row per piece of the tensors whose names match. Raise UserError if none does."""
    table = plain("tensor", ">rank", "slice", "elements of it", "crc32")
    for name, x in index.tensors.items():
        for piece in x.pieces if fnmatchcase(name, pattern) else ():
            run = piece.region.run
            elements = f"{run.start}:{run.stop}"
            table.add_row(name, str(piece.file), slice_of(piece.region), elements, f"{piece.crc32:08x}")
    if not table.row_count:
        raise UserError(f"no tensor matches {pattern!r}; the first ones are {', '.join(list(index.tensors)[:3])}")
    return table


def shape_of(x: Logical) -> str:
    """Return the shape as text: 65 x 128."""
    return " x ".join(map(str, x.shape)) or "1"


def slice_of(region: Region) -> str:
    """Return the slice of a region as it is written in Python: 0:65, 64:128."""
    return ", ".join(f"{place.start}:{place.stop}" for place in region.held)


def plain(*headings: str) -> Table:
    """Return an empty table without lines; columns whose heading begins with > are set to the right."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading[0] == ">" else "left", no_wrap=True)
    return table
