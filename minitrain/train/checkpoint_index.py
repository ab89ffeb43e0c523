"""The index of a checkpoint: what it holds, where each piece lies, and the sums by which every file is checked.

    checkpoints/step-100/index.json                       written last: without it, there is no checkpoint
                         rank-0-of-2.safetensors          what rank 0 owned
                         rank-1-of-2.safetensors

    {"sha256": of the rest, "checkpoint": {
        "number": 7, "saved": the time, "updates": 100, "mesh": {"dp": 2, ...},     the 7th save into this folder
        "state": {...}, "about": {...},                          what is not an array
        "files": [[name, bytes, SHA-256], ...],
        "tensors": {"model/head.weight": ["float32", [8, 65], [[file, held, run, CRC-32], ...]], ...}}}

A tensor is known by its logical name, and a piece by its place in it (regions.py): nothing depends on the mesh. Whether
a checkpoint is complete is decided by its content, never by a name: the index has its own sum, and those of all files.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from ..backend import FLOATS
from ..errors import UserError, check_text, check_whole, shown
from .regions import Region, cover
from .tensor_file import FILES, LONGEST, Files, NewFile

INDEX = "index.json"
FILE = re.compile(r"rank-\d{1,6}-of-\d{1,6}\.safetensors")
SIZES = {dtype.name: dtype.itemsize for dtype in FLOATS}


class RankFile(NamedTuple):
    """A file of a checkpoint."""

    name: str
    size: int  # bytes
    sha256: str


class Piece(NamedTuple):
    """A region of a tensor, in a file of this number. crc32: of its bytes."""

    file: int
    region: Region
    crc32: int


class Logical(NamedTuple):
    """A logical tensor: its dtype, its shape, and its pieces, which cover it once."""

    dtype: str
    shape: tuple[int, ...]
    pieces: list[Piece]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * SIZES[self.dtype]


@dataclass(frozen=True)
class Index:
    """See the top of this file."""

    number: int
    saved: str
    updates: int
    mesh: dict[str, int]
    state: dict[str, Any]
    about: dict[str, Any]
    files: list[RankFile]
    tensors: dict[str, Logical]

    def write(self, folder: Path, files: Files = FILES) -> None:
        """Write the index, which makes the checkpoint complete. Raise OSError if it cannot be written."""
        with NewFile(folder / INDEX, files) as file:
            files.write(file, signed(self._plain()))

    def _plain(self) -> dict[str, Any]:
        ends = lambda place: [place.start, place.stop]
        pieces = lambda found: [[p.file, [*map(ends, p.region.held)], ends(p.region.run), p.crc32] for p in found]
        tensors = {name: [x.dtype, list(x.shape), pieces(x.pieces)] for name, x in self.tensors.items()}
        return {**vars(self), "files": [list(file) for file in self.files], "tensors": tensors}


def signed(checkpoint: Mapping[str, Any]) -> bytes:
    """Return the text of an index: what it says, and the sum of that."""
    text = _text(checkpoint)
    return _text({"sha256": hashlib.sha256(text).hexdigest(), "checkpoint": json.loads(text)})


def _text(value: Any) -> bytes:
    """Return the only text that this value has in an index."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_index(folder: Path) -> Index:
    """Return the index of the checkpoint in a folder.

    Raise UserError if there is none, or if it is damaged, contradicts itself, or names a file outside the folder.
    """
    path = folder / INDEX
    check_file(path)
    try:
        if path.stat().st_size > LONGEST:
            raise UserError(f"{path} is larger than {LONGEST:,} bytes, which no index is")
        data = path.read_bytes()
        signed_part = json.loads(data)
        checkpoint = signed_part["checkpoint"]
        if data != signed(checkpoint):
            raise UserError(f"{path} is damaged: it differs from its sum")
        return _parsed(path, checkpoint)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged, or not the index of a checkpoint: {shown(error)}") from error


def _parsed(path: Path, given: Mapping[str, Any]) -> Index:
    """Return the index. Raise UserError if its parts do not fit each other, other errors if a part is missing."""
    files = [RankFile(*file) for file in given["files"]]
    for name, size, _ in files:
        if not (isinstance(name, str) and FILE.fullmatch(name)):
            raise UserError(f"{path} names the file {shown(name)}, which is no file of a checkpoint")
        check_whole(f"{path}: size of {name}", size, 0)
        check_file(path.parent / name, size)
    tensors = {name: _tensor(*tensor) for name, tensor in given["tensors"].items()}
    there = sum(file.size for file in files)
    for name, x in tensors.items():
        _check_tensor(f"{path}: {shown(name)}", x, there, len(files))
    check_whole(f"{path}: number", given["number"])
    check_whole(f"{path}: updates", given["updates"])
    check_text(f"{path}: saved", given["saved"])
    state, about, mesh = (dict(given[key]) for key in ("state", "about", "mesh"))
    return Index(given["number"], given["saved"], given["updates"], mesh, state, about, files, tensors)


def _tensor(dtype: str, shape: Sequence[int], pieces: Sequence[Sequence[Any]]) -> Logical:
    region = lambda held, run: Region(tuple(slice(*ends) for ends in held), slice(*run))
    return Logical(dtype, tuple(shape), [Piece(file, region(held, run), sum) for file, held, run, sum in pieces])


def _check_tensor(name: str, x: Logical, most: int, files: int) -> None:
    """Raise UserError unless the pieces cover the tensor once. most: bytes that there are; it cannot be larger."""
    for n in x.shape:
        check_whole(f"{name}: length of an axis", n)
    if x.dtype not in SIZES or x.nbytes > most:
        raise UserError(
            f"{name} is {shown(x.dtype)}, shape {shown(x.shape)}: more than the {most:,} bytes of the files"
        )
    for piece in x.pieces:
        held, run = piece.region
        check_whole(f"{name}: number of a file", piece.file, 0, files - 1)
        inside = len(held) == len(x.shape)
        inside &= all(0 <= place.start <= place.stop <= n for place, n in zip(held, x.shape, strict=False))
        local = math.prod(place.stop - place.start for place in held)
        if not inside or not 0 <= run.start <= run.stop <= local:
            raise UserError(f"{name} has a piece outside its shape {x.shape}")
    if not cover([piece.region for piece in x.pieces], x.shape):
        raise UserError(f"{name}: its pieces do not hold each of its elements once")


def check_file(path: Path, size: int | None = None) -> None:
    """Raise UserError unless this is a regular file, not a link, and has this size."""
    try:
        found = path.lstat()
    except OSError as error:
        raise UserError(f"{path} is missing: {error.strerror}") from error
    if not S_ISREG(found.st_mode):
        raise UserError(f"{path} is a link, or no file: a checkpoint has neither")
    if size is not None and found.st_size != size:
        raise UserError(f"{path} has {found.st_size:,} bytes instead of {size:,}: it is damaged, or of another save")
