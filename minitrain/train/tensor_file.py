"""A safetensors file: written so that it appears complete or not at all, one tensor at a time, and read strictly.

    8 bytes     n, the length of the header, little-endian
    n bytes     the header, JSON: {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    the rest    the tensors' bytes at their offsets, without gaps

A crash, or a loss of power, while a file is written must not cost the one that it replaces. So a new file is written
beside it, forced to the disk, and renamed, which the system does in one instant; then the folder, with the new name,
is forced to the disk as well. Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

import errno
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, shown
from ..operands import is_masked

DTYPES = {"float32": "F32", "float64": "F64"}  # NumPy's names, and safetensors' names
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


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], files: Files = FILES) -> None:
    """Write a file that has this name only once it is complete. At most one tensor is copied at a time.

    Raise OSError if it cannot be written, which leaves a file of this name as it was, and UserError for what cannot be
    stored: arrays of another dtype than float32 and float64, and more names than fit in a header.
    """
    ordered = sorted(tensors, key=lambda name: (-_checked(name, tensors[name]).dtype.itemsize, name))  # for alignment
    header = _header({name: tensors[name] for name in ordered}, metadata)
    partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.partial")
    try:
        file = files.create(partial)
        try:
            files.write(file, len(header).to_bytes(8, "little") + header)
            for name in ordered:
                files.write(file, _bytes(tensors[name]))
            files.sync(file)
        finally:
            os.close(file)
        files.rename(partial, path)
        files.sync_folder(path.parent)
    finally:
        files.unlink(partial)


def _header(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
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


def _checked(name: str, x: Any) -> np.ndarray:
    """Return x. Raise UserError unless it is an array that can be stored under this name."""
    if not isinstance(x, np.ndarray) or is_masked(x):
        raise UserError(f"{name} is {shown(x)}; a checkpoint holds arrays: give p.data")
    if x.dtype.name not in DTYPES or name == "__metadata__":
        raise UserError(f"{name} is {x.dtype}; `load` reads float32 and float64: save x.astype(np.float32)")
    return x


def _bytes(x: np.ndarray) -> memoryview:
    """Return the bytes of x in C order and little-endian."""
    rows = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
    return rows.reshape(-1).view(np.uint8).data


def check_header(path: Path) -> None:
    """Raise UserError if a header breaks a rule that the package safetensors does not check.

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
        json.loads(header, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: its header is not JSON: {error}") from error
