"""Loading a checkpoint on any mesh: each rank reads the slices that it needs.

    folder, index = newest(Path("build/run"), world)         checkpoint_folder.py; every byte has been checked
    for line in load(trainer, folder, index):
        print(line)                                          what had to be converted, if anything

A rank reads the pieces of the logical tensors that overlap with what it holds (regions.py), whatever mesh has written
them. Adam's moments of a ZeRO shard may come from parts of the files of several ranks.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, accumulation_dtype, bfloat16, to_device
from ..comm.agreement import agreed
from ..errors import UserError, check_names, reason, shown
from ..optim import Optimizer, Part
from ..parallel.reducer import require
from .checkpoint_index import Index, Logical, Piece, check_file
from .owned_regions import MODEL, OPTIMIZER
from .regions import Region, overlaps
from .tensor_file import DTYPES, FILES, Entry, Files, header_of
from .trainer import Trainer


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
            raise UserError(f"{path} cannot be read: {reason(error)}") from error
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
                raise UserError(f"{path} cannot be read: {reason(error)}") from error
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
