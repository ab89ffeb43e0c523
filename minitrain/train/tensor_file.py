"""A safetensors file: written so that it appears complete or not at all, one tensor at a time, and read strictly.

    8 bytes     n, the length of the header, little-endian
    n bytes     the header, JSON: {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    the rest    the tensors' bytes at their offsets, without gaps

A crash, or a loss of power, while a file is written must not cost the one that it replaces. So a new file is written
beside it, forced to the disk, and renamed, which the system does in one instant; then the folder, with the new name,
is forced to the disk as well. Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

import errno
import hashlib
import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, to_host, xp
from ..errors import UserError, shown
from ..observe import ledger
from ..operands import is_masked

# NumPy's names, and safetensors' names. The package cannot read bfloat16 into NumPy: its bits are stored as uint16.
DTYPES = {"float32": "F32", "float64": "F64", "float16": "F16", "uint16": "U16"}
LONGEST = 100_000_000  # bytes of a header that other programs read


class Files:
    """What a save asks of the operating system. Tests replace it by one that fails, or ends the process, at call k."""

    def create(self, path: Path) -> int:
        """Return the descriptor of a new, empty file, whose permissions are what the user's umask leaves."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, file: int, data: bytes | memoryview) -> None:
        """Write all of the data."""
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]

    def sync(self, file: int) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(file)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file its name, in place of a file that has it."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Make a new folder."""
        path.mkdir()

    def remove_folder(self, path: Path) -> None:
        """Remove a folder, unless something is left in it."""
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def read(self, file: int, size: int, at: int) -> bytes:
        """Return `size` bytes from position `at`, or as many as there are."""
        return os.pread(file, size, at)

    def sync_folder(self, path: Path) -> None:
        """Wait until a folder's names are on the disk, on systems that can."""
        if os.name == "posix":
            folder = os.open(path, os.O_RDONLY)
            try:
                self.sync(folder)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # this file system has no such call
                    raise
            finally:
                os.close(folder)


FILES = Files()


def make_folders(path: Path, files: Files = FILES) -> None:
    """Make a folder, and those above it, unless they are there. New ones are on the disk when this returns."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        files.sync_folder(folder.parent)


class Written(NamedTuple):
    """A file that was written: its size in bytes, its SHA-256, and the CRC-32 of each tensor's bytes."""

    size: int
    sha256: str
    sums: dict[str, int]


class Later(NamedTuple):
    """An array that is read when it is written, so that a file's tensors are never in memory together."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(
    path: Path, tensors: Mapping[str, Array | Later], metadata: Mapping[str, str], files: Files = FILES
) -> Written:
    """Write a file that has this name only once it is complete. At most one tensor is read or copied at a time.

    Raise OSError if it cannot be written, which leaves a file of this name as it was, and UserError for what cannot be
    stored: arrays of a dtype that DTYPES lacks, and more names than fit in a header.
    """
    ordered = sorted(tensors, key=lambda name: (-_checked(name, tensors[name]).dtype.itemsize, name))  # for alignment
    header = _header({name: tensors[name] for name in ordered}, metadata)
    beginning = len(header).to_bytes(8, "little") + header
    size, sha256, sums = len(beginning), hashlib.sha256(beginning), {}
    with NewFile(path, files) as file:
        files.write(file, beginning)
        for name in ordered:
            data = _bytes(x.read() if isinstance(x := tensors[name], Later) else x)
            files.write(file, data)
            size, sums[name] = size + len(data), zlib.crc32(data)
            sha256.update(data)
    return Written(size, sha256.hexdigest(), sums)


class NewFile:
    """A file that takes its name when the `with` ends, in place of one that has it; not at all after an exception."""

    def __init__(self, path: Path, files: Files = FILES) -> None:
        self.path, self.files = path, files
        self.partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.partial")

    def __enter__(self) -> int:
        """Return the descriptor to write to."""
        self.file = self.files.create(self.partial)
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            try:
                if kind is None:
                    self.files.sync(self.file)
            finally:
                os.close(self.file)
            if kind is None:
                self.files.rename(self.partial, self.path)
                self.files.sync_folder(self.path.parent)
        finally:
            self.files.unlink(self.partial)


def _header(tensors: Mapping[str, Array | Later], metadata: Mapping[str, str]) -> bytes:
    """Return the header, padded with spaces to a multiple of 8 bytes, after which the first tensor begins."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, x in tensors.items():
        begin, end = end, end + x.nbytes
        entries[name] = {"dtype": DTYPES[x.dtype.name], "shape": x.shape, "data_offsets": (begin, end)}
    header = json.dumps(entries, separators=(",", ":")).encode()
    if len(header) > LONGEST:
        raise UserError(f"the names and shapes of {len(tensors):,} tensors take more than {LONGEST:,} bytes")
    return header + b" " * (-len(header) % 8)


def _checked(name: str, x: Any) -> Array | Later:
    """Return x. Raise UserError unless it is an array that can be stored under this name."""
    if not isinstance(x, (np.ndarray, xp.ndarray, Later)) or is_masked(x):
        raise UserError(f"{name} is {shown(x)}; a checkpoint holds arrays: give p.data")
    if x.dtype.name not in DTYPES or name == "__metadata__":
        raise UserError(f"{name} is {x.dtype}; a file holds {', '.join(DTYPES)}: convert it first")
    return x


def _bytes(x: Array) -> memoryview:
    """Return the bytes of x in C order and little-endian; a copy of x only if it is not stored so, or on a device."""
    here = to_host(x)
    rows = np.ascontiguousarray(here, here.dtype.newbyteorder("<"))
    if rows.base is not x and rows is not x:
        ledger.hold(rows, "buffers", "checkpoint")
    return rows.reshape(-1).view(np.uint8).data


# Read -----------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A tensor in a file: safetensors' name of its dtype, its shape, and its first byte, counted from the file's."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def header_of(path: Path) -> dict[str, Entry]:
    """Return the tensors of a file, of which only the header is read.

    Raise UserError if it breaks a rule of the format: the package's, or one of `check_header`. OSError if it cannot be
    read.
    """
    from safetensors import SafetensorError, safe_open

    entries = check_header(path)
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    with path.open("rb") as file:
        data = 8 + int.from_bytes(file.read(8), "little")
    return {
        name: Entry(entry["dtype"], tuple(entry["shape"]), data + entry["data_offsets"][0])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def check_header(path: Path) -> dict[str, Any]:
    """Return a header. Raise UserError if it breaks a rule that the package safetensors does not check.

    A name may stand only once, since programs differ in which of two they take, and the header begins with a brace.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(LONGEST, path.stat().st_size) else b"{}"  # the package refuses it
    if header[:1] != b"{":
        raise UserError(f"{path} cannot be read as a checkpoint: its header does not begin with a brace")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for name, value in pairs:
            if name in entries:
                raise UserError(f"{path} cannot be read as a checkpoint: {shown(name)} is in its header twice")
            entries[name] = value
        return entries

    try:
        return json.loads(header, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: its header is not JSON: {error}") from error
