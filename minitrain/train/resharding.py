"""Loading a checkpoint on any mesh: find the last complete one, check its sums, read the slices that a rank needs.

    folder, index = newest(Path("build/run"), world)
    for line in load(trainer, folder, index):
        print(line)                                  what had to be converted, if anything

The ranks first divide the files among them, and check every byte against its sum. Then each reads the pieces of the
logical tensors that overlap with what it holds (regions.py), whatever mesh has written them.
"""

import hashlib
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, accumulation_dtype, bfloat16, to_device
from ..comm.agreement import agreed
from ..comm.communicator import Communicator
from ..errors import UserError, check_names, shown
from ..optim import Optimizer, Part
from ..parallel.reducer import require
from .checkpoint_index import INDEX, Index, Logical, Piece, check_file, read_index
from .checkpoints import folders, why
from .owned_regions import MODEL, OPTIMIZER
from .regions import Region, overlaps
from .tensor_file import DTYPES, FILES, Entry, Files, header_of
from .trainer import Trainer

BLOCK = 2**20  # bytes that are read at once
LARGE = 10**9  # bytes whose sums take more than a second or two
CHECKPOINTS = "checkpoints"  # the folder of a run's checkpoints


# Which one ------------------------------------------------------------------------------------------------------------


def newest(path: Path, world: Communicator, log: Callable[[str], None] = print) -> tuple[Path, Index]:
    """Return the folder and the index of the last complete checkpoint. All ranks call it, and check all its sums.

    path: a run's folder, its folder of checkpoints, or one checkpoint. log: is told on rank 0 of damaged ones, which
    are passed over. Raise UserError if there is none.
    """
    found, troubles = world.gather_objects(candidates(path) if world.rank == 0 else ([], []))[0]
    for trouble in troubles if world.rank == 0 else ():
        log(f"passed over: {trouble}")
    for folder, index in found:
        size = sum(file.size for file in index.files)
        if size > LARGE and world.rank == 0:
            log(f"checking {size / 1e9:,.1f} GB in {folder}")
        here = [
            trouble
            for file in range(world.rank, len(index.files), world.size)
            for trouble in damage(folder, index, file)
        ]
        bad = [trouble for there in world.gather_objects(here) for trouble in there]
        if not bad:
            return folder, index
        troubles.append("; ".join(bad[:3]))
        if world.rank == 0:
            log(f"passed over: {troubles[-1]}")
    reasons = ":\n" + "\n".join(troubles[:3]) if troubles else ""
    raise UserError(f"there is no complete checkpoint in {path}{reasons}")


def candidates(path: Path) -> tuple[list[tuple[Path, Index]], list[str]]:
    """Return the checkpoints at a path whose index is sound, the last save first, and what is wrong with others."""
    inner = path / CHECKPOINTS
    there = [path] if (path / INDEX).exists() else folders(inner if inner.is_dir() and not inner.is_symlink() else path)
    found, troubles = [], []
    for folder in there:
        try:
            if len(there) == 1 or (folder / INDEX).exists() or (folder / INDEX).is_symlink():
                found.append((folder, read_index(folder)))
        except UserError as error:
            troubles.append(str(error))
    return sorted(found, key=lambda it: -it[1].number), troubles


def damage(folder: Path, index: Index, number: int) -> list[str]:
    """Return what is wrong with a file of a checkpoint, by tensor; nothing if its sum is right. Reads all of it."""
    name, size, sha256 = index.files[number]
    path, sum = folder / name, hashlib.sha256()
    try:
        check_file(path, size)
        with path.open("rb") as file:
            while data := file.read(BLOCK):
                sum.update(data)
        if sum.hexdigest() == sha256:
            return []
        wrong = [tensor for tensor, crc32 in sums_of(path) if crc32 != expected(index, number).get(tensor)]
    except UserError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path} cannot be read: {why(error)}"]
    return [f"{path} is damaged in {', '.join(map(shown, wrong[:3])) if wrong else 'its header'}"]


def expected(index: Index, number: int) -> dict[str, int]:
    """Return the CRC-32 of each tensor in a file of the checkpoint."""
    return {name: piece.crc32 for name, x in index.tensors.items() for piece in x.pieces if piece.file == number}


def sums_of(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the CRC-32 of each tensor in a file."""
    entries = sorted(header_of(path).items(), key=lambda it: it[1].start)
    ends = [*(entry.start for _, entry in entries), path.stat().st_size][1:]
    with path.open("rb") as file:
        for (name, entry), end in zip(entries, ends, strict=True):
            file.seek(entry.start)
            sum, left = 0, end - entry.start
            while left:
                data = file.read(min(BLOCK, left))
                sum, left = zlib.crc32(data, sum), left - len(data)
            yield name, sum


# Its tensors ----------------------------------------------------------------------------------------------------------


class Reader:
    """Reads regions of the logical tensors of a checkpoint whose sums have been checked. Close it at the end."""

    def __init__(self, folder: Path, index: Index, files: Files = FILES) -> None:
        self.folder, self.index, self.files = folder, index, files
        self.opened: dict[int, tuple[int, dict[str, Entry]]] = {}  # number of a file -> descriptor, header

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        for file, _ in self.opened.values():
            os.close(file)

    def read(self, name: str, region: Region) -> np.ndarray:
        """Return a region of a tensor, (n), in the dtype in which it was saved. Only its own bytes are read.

        Raise UserError if a file contradicts the index.
        """
        x = self.index.tensors[name]
        dtype = bfloat16() if x.dtype == "bfloat16" else np.dtype(x.dtype)
        found = np.empty(region.size, dtype)
        raw = found.view(np.uint8)
        for piece in x.pieces:
            shared = list(overlaps(piece.region, region, x.shape))
            start = self._start(name, x, piece) if shared else 0
            for source, target, size in shared:
                at, n = target * dtype.itemsize, size * dtype.itemsize
                data = self._bytes(piece.file, n, start + source * dtype.itemsize)
                raw[at : at + n] = np.frombuffer(data, np.uint8)
        return found if sys.byteorder == "little" else found.byteswap()

    def _bytes(self, number: int, size: int, at: int) -> bytes:
        """Return bytes of an opened file. Raise UserError if they cannot be read."""
        path = self.folder / self.index.files[number].name
        try:
            data = self.files.read(self.opened[number][0], size, at)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {why(error)}") from error
        if len(data) < size:
            raise UserError(f"{path} became shorter meanwhile")
        return data

    def _start(self, name: str, x: Logical, piece: Piece) -> int:
        """Return where a piece begins in its file, which is opened if it is not yet."""
        path = self.folder / self.index.files[piece.file].name
        if piece.file not in self.opened:
            check_file(path, self.index.files[piece.file].size)
            try:
                entries = header_of(path)
                self.opened[piece.file] = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), entries
            except OSError as error:
                raise UserError(f"{path} cannot be read: {why(error)}") from error
        entry = self.opened[piece.file][1].get(name)
        dtype = "U16" if x.dtype == "bfloat16" else DTYPES[x.dtype]
        if entry is None or (entry.dtype, math.prod(entry.shape)) != (dtype, piece.region.size):
            raise UserError(f"{path} holds {shown(entry)} for {shown(name)}, unlike the index")
        return entry.start


# Into a trainer -------------------------------------------------------------------------------------------------------


def load(trainer: Trainer, folder: Path, index: Index, files: Files = FILES) -> list[str]:
    """Continue from a checkpoint that `newest` returned. All ranks call it. Return what was converted, in sentences.

    Floats are converted to the dtypes of this run: parameters in half precision come from the saved float32 masters, if
    there are any, and the other way round. Raise UserError, before any change, if the checkpoint does not fit the model
    or the optimizer.
    """
    with Reader(folder, index, files) as reader:
        notes = agreed(trainer.world, lambda: check_fits(trainer, index))
        state, more = state_for(trainer, reader)
        read = lambda: (optimizer_state(trainer, reader), list(parameters(trainer, reader)))
        state["optimizer"], values = agreed(trainer.world, read)
    trainer.load_state_dict(state)
    for place, x in values:
        place[...] = to_device(x)
    return notes + more


def parameters(trainer: Trainer, reader: Reader) -> Iterator[tuple[Array, np.ndarray]]:
    """Yield the place of each parameter, or of the shard of it that is held here, and its values."""
    for bucket in trainer.reducer.buckets:
        held = require(bucket.shard if bucket.data is None else bucket.data)
        for p, run, place in bucket.part(bucket.group.rank if bucket.data is None else None):
            yield held[place], values_of(reader, p.placement.path, Region(p.placement.index, run), p.dtype)


def check_fits(trainer: Trainer, index: Index) -> list[str]:
    """Return notes on conversions. Raise UserError unless the checkpoint has this model and this kind of optimizer."""
    needed = {**getattr(trainer.model, "elsewhere", {})}
    needed |= {p.placement.path: (p.placement.shape, p.dtype) for p in trainer.model.parameters()}
    given = {name.removeprefix(MODEL): x for name, x in index.tensors.items() if name.startswith(MODEL)}
    check_names("checkpoint", "model", set(given), needed.keys(), "Build the model with the sizes of the checkpoint")
    notes = []
    for path, (shape, dtype) in needed.items():
        if given[path].shape != tuple(shape):
            raise UserError(f"the checkpoint has shape {given[path].shape} for {path}; the model needs {tuple(shape)}")
        if given[path].dtype != dtype.name:
            notes.append(f"parameters are {given[path].dtype} in the checkpoint and {dtype.name} here: converted")
    check_optimizer(trainer.optimizer, index)
    return list(dict.fromkeys(notes))


def check_optimizer(optimizer: Optimizer, index: Index) -> None:
    """Raise UserError if the checkpoint has the state of another kind of optimizer."""
    states = {name.rpartition(".")[2] for name in index.tensors if name.startswith(OPTIMIZER)} - {"master"}
    if states != set(optimizer.states) and index.updates and optimizer.reducer.held():
        raise UserError(
            f"the checkpoint has the state of another optimizer: {', '.join(sorted(states)) or 'none'}; "
            f"{type(optimizer).__name__} keeps {', '.join(optimizer.states) or 'none'}. Give the optimizer of the run"
        )


def state_for(trainer: Trainer, reader: Reader) -> tuple[dict[str, Any], list[str]]:
    """Return the plain state for this trainer, and notes on parts that are of another kind and start afresh."""
    state, notes = dict(reader.index.state), []
    for name, part in trainer.parts_of_state().items():
        own = part.state_dict()
        if not isinstance(state.get(name), dict) or state[name].keys() != own.keys():
            state[name] = own
            notes.append(f"the {name} of the checkpoint is of another kind: this run starts with a new one")
    if isinstance(history := state["history"], dict):
        number = lambda x: math.nan if x is None else x
        state["history"] = {key: [*map(number, row)] if isinstance(row, list) else row for key, row in history.items()}
    return state, notes


def optimizer_state(trainer: Trainer, reader: Reader) -> dict[str, Any]:
    """Return the part of the optimizer's state that this rank needs, as its state_dict() would.

    Raise UserError if the checkpoint lacks some of it.
    """
    optimizer, tensors = trainer.optimizer, reader.index.tensors
    state: dict[str, Any] = {"updates": reader.index.updates}
    if not reader.index.updates:
        return state
    for held in trainer.reducer.held():
        dtype = accumulation_dtype(held.data.dtype)
        for p, run, _ in held.pieces:
            path, region = p.placement.path, Region(p.placement.index, run)
            for name in optimizer.states:
                if (key := f"{OPTIMIZER}{path}.{name}") not in tensors or tensors[key].shape != p.placement.shape:
                    raise UserError(f"the checkpoint has no {name} for {path}, which was not trained then")
                state[f"{path}.{name}"] = Part(converted(key, reader.read(key, region), dtype), *region)
            if held.data.dtype != dtype:
                state[f"{path}.master"] = Part(values_of(reader, path, region, dtype), *region)
    return state


def values_of(reader: Reader, path: str, region: Region, dtype: np.dtype) -> np.ndarray:
    """Return a region of a parameter in this dtype: from its master, unless it was saved in this dtype itself."""
    name, master = MODEL + path, f"{OPTIMIZER}{path}.master"
    if master in reader.index.tensors and reader.index.tensors[name].dtype != dtype.name:
        name = master
    return converted(name, reader.read(name, region), dtype)


def converted(name: str, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return x in this dtype. Raise UserError if the dtype cannot hold its values."""
    with np.errstate(over="ignore"):
        y = x.astype(dtype, copy=False)
    if np.isfinite(y).sum() < np.isfinite(x).sum():
        raise UserError(f"{name} of the checkpoint has values up to {abs(x).max():g}, too large for {dtype}")
    return y
