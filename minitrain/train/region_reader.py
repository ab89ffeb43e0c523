"""Reading regions of logical tensors from files: of a checkpoint, or of a model that another program has saved.

An index (checkpoint_index.py) says in which file each piece of a tensor lies. A rank reads the bytes that overlap with
what it holds (regions.py), and no others, whatever mesh has written them.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..backend import Array, bfloat16, to_device, xp
from ..errors import UserError, check_names, reason, shown
from ..models import Model
from .checkpoint_index import Index, Logical, Piece, check_file
from .owned_regions import MODEL, OPTIMIZER
from .regions import Region, overlaps
from .tensor_file import DTYPES, FILES, Entry, Files, header_of

BLOCK = 2**21  # elements that are read and converted at once


class Reader:
    """Reads regions of the tensors in an index. names: names that tensors have in their files, where they differ."""

    def __init__(
        self, folder: Path, index: Index, files: Files = FILES, names: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.folder, self.index, self.files, self.names = folder, index, files, names
        self.headers: dict[int, dict[str, Entry]] = {}  # by the number of a file

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
            if not shared:
                continue
            start, path = self._start(name, x, piece), self.path(piece.file)
            with opened(path) as file:
                for source, target, size in shared:
                    at, n = target * dtype.itemsize, size * dtype.itemsize
                    data = self.files.read(file, n, start + source * dtype.itemsize)
                    if len(data) < n:
                        raise UserError(f"{path} became shorter meanwhile")
                    raw[at : at + n] = np.frombuffer(data, np.uint8)
        return found if sys.byteorder == "little" else found.byteswap()

    def path(self, number: int) -> Path:
        """Return the path of a file."""
        return self.folder / self.index.files[number].name

    def _start(self, name: str, x: Logical, piece: Piece) -> int:
        """Return where a piece begins in its file. Raise UserError if it is not there."""
        path = self.path(piece.file)
        if piece.file not in self.headers:
            check_file(path, self.index.files[piece.file].size)
            try:
                self.headers[piece.file] = header_of(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read: {reason(error)}") from error
        entry = self.headers[piece.file].get(self.names.get(name, name))
        dtypes = ("U16", "BF16") if x.dtype == "bfloat16" else (DTYPES[x.dtype],)
        if entry is None or entry.dtype not in dtypes or math.prod(entry.shape) != piece.region.size:
            raise UserError(f"{path} holds {shown(entry)} for {shown(name)}, unlike the index")
        return entry.start

    def blocks(self, path: str, region: Region, dtype: np.dtype) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield a region of a parameter in this dtype, block by block, each with its place in the region.

        Raise UserError for values that the dtype cannot hold.
        """
        name = source_of(self.index, path, dtype)
        first, last = region.run.start, region.run.stop
        for lo in range(first, last, BLOCK):
            hi = min(lo + BLOCK, last)
            values = self.read(name, region._replace(run=slice(lo, hi)))
            yield slice(lo - first, hi - first), converted(name, values, dtype)

    def read_parameter(self, path: str, region: Region, dtype: np.dtype) -> Array:
        """Return a region of a parameter, (n), in this dtype. Raise UserError as `blocks` does."""
        found = xp.empty(region.size, dtype)
        for place, values in self.blocks(path, region, dtype):
            found[place] = to_device(values)
        return found


def source_of(index: Index, path: str, dtype: np.dtype) -> str:
    """Return the name of the tensor from which a parameter is read in this dtype: its float32 master, if there is one,
    unless it was saved in this dtype itself."""
    name, master = MODEL + path, f"{OPTIMIZER}{path}.master"
    return master if master in index.tensors and index.tensors[name].dtype != dtype.name else name


def check_parameters(what: str, index: Index, model: Model, cure: str) -> list[str]:
    """Return notes on conversions. Raise UserError, with this cure, unless the index has the parameters of the model.

    what: the index is of. All of the model's parameters count, also those that other ranks hold.
    """
    needed = {**getattr(model, "elsewhere", {})}
    needed |= {p.placement.path: (p.placement.shape, p.dtype) for p in model.parameters()}
    given = {name.removeprefix(MODEL): x for name, x in index.tensors.items() if name.startswith(MODEL)}
    check_names(what, "model", given.keys(), needed.keys(), cure)
    notes = []
    for path, (shape, dtype) in needed.items():
        if given[path].shape != tuple(shape):
            raise UserError(f"the {what} has shape {given[path].shape} for {path}; the model needs {tuple(shape)}")
        if (there := index.tensors[source_of(index, path, dtype)].dtype) != dtype.name:
            notes.append(f"parameters are {there} in the {what} and {dtype.name} here: converted")
    return list(dict.fromkeys(notes))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield the descriptor of a file to read. Raise UserError if it cannot be read; links are not followed."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            yield file
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def converted(name: str, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return x in this dtype. Raise UserError if the dtype cannot hold its values."""
    with np.errstate(over="ignore"):
        y = x.astype(dtype, copy=False)
    if y is not x and np.isfinite(y).sum() < np.isfinite(x).sum():
        raise UserError(f"{name} has values up to {np.nanmax(abs(x)):g}, too large for {dtype}")
    return y
