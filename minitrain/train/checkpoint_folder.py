"""What is in a folder of checkpoints: which are complete, which is the last, what is damaged, what may be removed.

    folder, index = newest(Path("build/run"), world)

Before a checkpoint is used, its ranks divide the files among them, and check every byte against its sum.
"""

import contextlib
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..comm.communicator import Communicator
from ..errors import UserError, reason, shown
from .checkpoint_index import FILE, INDEX, Index, check_file, read_index
from .folder_lock import LOCK
from .tensor_file import FILES, Files, header_of

BLOCK = 2**20  # bytes that are read at once
LARGE = 10**9  # bytes whose sums take more than a second or two
CHECKPOINTS = "checkpoints"  # the folder of a run's checkpoints


def newest(path: Path, world: Communicator, log: Callable[[str], None] = print) -> tuple[Path, Index]:
    """Return the folder and the index of the last complete checkpoint. All ranks call it, and check all its sums.

    path: a run's folder, its folder of checkpoints, or one checkpoint. log: is told on rank 0 of damaged ones, which
    are passed over. Raise UserError if there is none.
    """
    found, troubles = world.gather_objects(candidates(path) if world.rank == 0 else ([], []))[0]
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
            for trouble in troubles if world.rank == 0 else ():
                log(f"passed over: {trouble}")
            return folder, index
        troubles.append("; ".join(bad[:3]))
    raise UserError(none_in(path, troubles))


def none_in(path: Path, troubles: Sequence[str] = ()) -> str:
    """Return that there is no complete checkpoint at a path, with what is wrong with those that there are, or else
    where an earlier run has been moved that has some."""
    moved = [other for other in sorted(path.parent.glob(f"{path.name}.*")) if folders(other / CHECKPOINTS)]
    more = [f"{other} has checkpoints of an earlier run" for other in moved]
    return "\n".join([f"there is no complete checkpoint in {path}", *(troubles[:3] or more[-1:])])


def candidates(path: Path) -> tuple[list[tuple[Path, Index]], list[str]]:
    """Return the checkpoints at a path whose index is sound, the last save first, and what is wrong with others."""
    inner = path / CHECKPOINTS
    found, troubles = [], []
    try:
        inside = folders(inner if inner.is_dir() and not inner.is_symlink() else path)
        there = [path] if (path / INDEX).exists() else inside
    except OSError as error:
        return [], [f"{path} cannot be read: {reason(error)}"]
    for folder in there:
        try:
            if len(there) == 1 or (folder / INDEX).exists() or (folder / INDEX).is_symlink():
                found.append((folder, read_index(folder)))
        except UserError as error:
            troubles.append(str(error))
    return sorted(found, key=lambda it: -it[1].number), troubles


def damage(folder: Path, index: Index, number: int, each: Callable[[], object] = lambda: None) -> list[str]:
    """Return what is wrong with a file of a checkpoint, by tensor; nothing if its sum is right. Reads all of it.

    each: called after each block of BLOCK bytes, or less at the end.
    """
    name, size, sha256 = index.files[number]
    path, sum = folder / name, hashlib.sha256()
    try:
        check_file(path, size)
        with path.open("rb") as file:
            while data := file.read(BLOCK):
                sum.update(data)
                each()
        if sum.hexdigest() == sha256:
            return []
        right = expected(index, number)
        wrong = [tensor for tensor, crc32 in sums_of(path) if crc32 != right.get(tensor)]
    except UserError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path} cannot be read: {reason(error)}"]
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


# All of them ---------------------------------------------------------------------------------------------------------


def folders(path: Path) -> list[Path]:
    """Return the folders that may hold a checkpoint; links are none."""
    return [folder for folder in sorted(path.glob("step-*")) if folder.is_dir() and not folder.is_symlink()]


def complete(path: Path) -> list[tuple[Path, Index]]:
    """Return the checkpoints whose index is sound and whose files have their sizes, the last save at the end."""
    found = []
    for folder in folders(path):
        with contextlib.suppress(UserError):
            found.append((folder, read_index(folder)))
    return sorted(found, key=lambda it: it[1].number)


def leftovers(path: Path) -> list[Path]:
    """Return the folders of saves that were interrupted: they have no index, and nothing but a save's files."""
    ours = lambda file: FILE.fullmatch(file.name) or file.name.endswith(".partial")
    return [folder for folder in folders(path) if not (folder / INDEX).exists() and all(map(ours, folder.iterdir()))]


def clear(path: Path) -> None:
    """Remove all checkpoints in a folder, and the folder if nothing else is in it. Raise OSError if that fails."""
    for folder in folders(path):
        remove(folder)
    (path / LOCK).unlink(missing_ok=True)
    FILES.remove_folder(path)


def remove(folder: Path, files: Files = FILES) -> None:
    """Remove a checkpoint, or what there is of one: the index first, and no file that is not a checkpoint's.

    Raise OSError if something cannot be removed.
    """
    if (folder / INDEX).exists():
        files.unlink(folder / INDEX)
        files.sync_folder(folder)
    if folder.exists():
        for file in sorted(folder.iterdir()):
            if FILE.fullmatch(file.name) or file.name.endswith(".partial"):
                files.unlink(file)
        files.remove_folder(folder)
        files.sync_folder(folder.parent)
