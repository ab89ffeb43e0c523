"""The checkpoints of a run: saved so that a crash at any instant leaves the last complete one, and no mixture.

    checkpoints = Checkpoints(Path("build/run/checkpoints"), world, keep=2)
    for update in trainer.each_update(text, 1000):
        if trainer.updates % 100 == 0:
            checkpoints.save(trainer)
    checkpoints.close()

    folder, index = newest(Path("build/run/checkpoints"), world)        in another run; checkpoint_folder.py
    load(trainer, folder, index)                                        on any mesh; resharding.py

A save takes four steps:

    1  every rank writes its share (owned_regions.py) to a file, and forces it to the disk
    2  the ranks exchange the sums of their files                       if one failed, there is no checkpoint
    3  rank 0 writes the index (checkpoint_index.py)                    in this instant, the checkpoint is complete
    4  rank 0 removes the oldest ones: the index first, so that no half of one is taken for a whole

In the background, step 1 is done by a thread from a copy, while training goes on; `look`, called after each update,
does the others. Mohan, Phanishayee, Chidambaram, "CheckFreq", FAST 2021. Synchronously a save needs no memory beyond
what training holds (with CuPy, one tensor); in the background, one copy of the rank's share.
"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..backend import Array, to_device, to_host
from ..comm.communicator import Communicator
from ..errors import UserError, check_whole, reason
from ..observe import ledger
from .checkpoint_folder import complete, leftovers, remove
from .checkpoint_index import INDEX, Index, Logical, Piece, RankFile
from .folder_lock import lock, unlock
from .owned_regions import OwnedRegion, owned_regions
from .tensor_file import FILES, Files, Written, make_folders, write
from .trainer import Trainer

LOOK = ("mesh", "checkpoint")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Pending:
    """A save that has begun: its folder, what the index will say, and what this rank owns."""

    folder: Path
    name: str  # of this rank's file
    about: dict[str, Any]  # the fields of the index that are not about files
    owned: list[OwnedRegion]
    arrays: dict[str, Array]  # by the name of the tensor, as they are stored


class Checkpoints:
    """The checkpoints in a folder, which no other run writes in meanwhile. All ranks make the same calls.

    The folder must be on a disk that all ranks share.
    """

    def __init__(
        self,
        path: Path,
        world: Communicator,
        keep: int = 2,
        background: bool = False,
        log: Callable[[str], None] = print,
        files: Files = FILES,
    ) -> None:
        """keep: how many complete checkpoints to keep. background: write in a thread. log: receives what to tell the
        user, on rank 0.

        What interrupted saves have left is removed. Raise UserError, on all ranks, if another run writes in the folder.
        If it cannot be written, `log` is told, and each save tries again.
        """
        check_whole("keep", keep, 1)
        self.path, self.world, self.keep, self.files = path, world, keep, files
        self.log = log if world.rank == 0 else lambda text: None
        self.thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self.pending: tuple[Pending, Future[Written | str]] | None = None
        self.last: Path | None = None  # the last complete checkpoint
        self.number = 0  # of the last save into this folder by any run; rank 0 counts
        self.lock: Any = None
        self.opened = False
        self.open()

    def open(self) -> bool:
        """Lock the folder, and remove what interrupted saves have left. Return whether that has succeeded before, or
        does now."""
        if not self.opened and (found := self._on_rank_0(self._open)) is not None:
            self.opened, self.last = True, found[0]
        return self.opened

    def _open(self) -> tuple[Path | None]:
        try:
            make_folders(self.path, self.files)
            self.lock = self.lock or lock(self.path, "")
            for folder in leftovers(self.path):
                remove(folder, self.files)
        except OSError as error:
            raise Failed(f"cannot write in {self.path}: {reason(error)}") from error
        found = complete(self.path)
        self.number = found[-1][1].number if found else 0
        return (found[-1][0] if found else None,)

    def close(self) -> None:
        """Complete a save that is in progress, and let other runs write in the folder."""
        self.finish()
        if self.thread is not None:
            self.thread.shutdown()
        if self.lock is not None:
            unlock(self.lock)

    # A save -----------------------------------------------------------------------------------------------------------

    def save(self, trainer: Trainer, about: Mapping[str, Any] | None = None) -> bool:
        """Save all that later updates depend on, and `about`, which must be what JSON can hold.

        Return whether the checkpoint is complete; in the background, whether it has begun. If it cannot be written, for
        example since the disk is full, `log` is told why, and training can go on: earlier checkpoints are kept. Raise
        UserError for an optimizer whose state has no names.
        """
        self.finish()
        if not self.open():
            return False
        mine = list(owned_regions(trainer.reducer, trainer.optimizer))
        fields = {"updates": trainer.updates, "mesh": trainer.mesh.sizes, "about": dict(about or {})}
        fields["state"] = without_nan(trainer.plain_state())
        check_json(fields)
        folder = self._on_rank_0(lambda: self._new_folder(trainer.updates))
        if folder is None:
            return False
        name = f"rank-{self.world.rank}-of-{self.world.size}.safetensors"
        arrays = {it.name: stored(it) for it in mine if it.region.size}
        pending = Pending(folder, name, fields, mine, arrays)
        if self.thread is None:
            return self._complete(pending, self._write(pending))
        self._copy(arrays)
        self.pending = pending, self.thread.submit(self._write, pending)
        return True

    def look(self, signalled: bool = False) -> bool:
        """Complete a save in the background once all ranks have written their files. Call it after every update.

        Return whether any rank is `signalled` to stop. Each rank sends two integers.
        """
        writing = self.pending is not None and not self.pending[1].done()
        x = to_device(np.array([signalled, writing], np.int32))
        self.world.all_reduce(x, LOOK, op="max")
        stop, writing = to_host(x).astype(bool).tolist()
        if not writing:
            self.finish()
        return bool(stop)

    def finish(self) -> bool:
        """Wait for a save in the background, and complete it. Return whether it could be."""
        if self.pending is None:
            return True
        (pending, future), self.pending = self.pending, None
        return self._complete(pending, future.result())

    def _copy(self, arrays: dict[str, Array]) -> None:
        """Replace the arrays by copies: training changes them while they are written."""
        for name, x in arrays.items():
            arrays[name] = to_host(x).copy()
            ledger.hold(arrays[name], "buffers", "checkpoint")

    def _write(self, pending: Pending) -> Written | str:
        """Write this rank's file. Return its sums, or why there is none."""
        try:
            return write(
                pending.folder / pending.name, pending.arrays, {"minitrain": "part of a checkpoint"}, self.files
            )
        except (OSError, UserError) as error:
            return f"rank {self.world.rank}: {reason(error)}"
        finally:
            pending.arrays.clear()  # the copies

    def _complete(self, pending: Pending, mine: Written | str) -> bool:
        """Write the index if all ranks have written their files. Return whether the checkpoint is complete."""
        table = [(s.name, s.array.dtype.name, s.shape, s.region) for s in pending.owned]
        everyone = self.world.gather_objects((pending.name, mine, table))
        made = self._on_rank_0(lambda: self._index(pending, everyone))
        self.last = made or self.last
        return made is not None

    def _new_folder(self, updates: int) -> Path:
        """Make the folder of the next save. Its name says the number of updates; others may have the same."""
        name, again = f"step-{updates}", 1
        while (folder := self.path / name).exists() or folder.is_symlink():
            name, again = f"step-{updates}-{again}", again + 1
        try:
            self.files.make_folder(folder)
            self.files.sync_folder(self.path)
        except OSError as error:
            self._discard(folder)
            raise Failed(reason(error)) from error
        return folder

    def _index(self, pending: Pending, everyone: Sequence[tuple[str, Written | str, list]]) -> Path:
        """Write the index, then remove the oldest checkpoints."""
        folder = pending.folder
        try:
            self.number += 1  # even if this save fails: its index may be there
            index = Index(self.number, **pending.about, **contents(everyone))
            for file in index.files:
                if not (folder / file.name).is_file():
                    raise Failed(f"rank 0 cannot see {file.name}: the folder must be on a disk that all ranks share")
            index.write(folder, self.files)
            self._prune()
        except (OSError, Failed) as error:
            if not (folder / INDEX).exists():
                self._discard(folder)
                raise Failed(reason(error)) from error
            self.log(f"{folder} is complete, but may not survive a loss of power: {reason(error)}")
        return folder

    def _prune(self) -> None:
        """Remove all but the last complete checkpoints."""
        for folder, _ in complete(self.path)[: -self.keep]:
            try:
                remove(folder, self.files)
            except OSError as error:
                self.log(f"the old checkpoint {folder} could not be removed: {reason(error)}")

    def _discard(self, folder: Path) -> None:
        """Remove what an unsuccessful save has left, if that is possible: otherwise the next run does it."""
        with contextlib.suppress(OSError):
            remove(folder, self.files)

    def _on_rank_0(self, work: Callable[[], Made]) -> Made | None:
        """Return on all ranks what work() returned on rank 0; None, having told why, if it has Failed there."""
        made: Made | None = None
        error: Failed | UserError | None = None
        if self.world.rank == 0:
            try:
                made = work()
            except (Failed, UserError) as caught:
                error = caught
        told = made, isinstance(error, Failed), str(error or "")
        made, failed, message = self.world.gather_objects(told)[0]
        if message and not failed:
            raise UserError(message)
        if message:
            last = f"the last complete one is {self.last}" if self.last else "there is no earlier one"
            self.log(f"checkpoint not saved: {message}; {last}")
        return made


class Failed(Exception):
    """A checkpoint that could not be written; training can go on."""


def stored(owned: OwnedRegion) -> Array:
    """Return a region's array as it is stored: in the shape of its slice if it is all of it, bfloat16 as its bits."""
    bits = owned.array.view(np.uint16) if owned.array.dtype.name == "bfloat16" else owned.array
    return bits.reshape(owned.region.shape)


def contents(everyone: Sequence[tuple[str, Written | str, list]]) -> dict[str, Any]:
    """Return the files and the tensors for the index, from what all ranks have written. Raise Failed if one has not."""
    tensors: dict[str, Logical] = {}
    files = []
    for number, (file, written, table) in enumerate(everyone):
        if isinstance(written, str):
            raise Failed("; ".join(failure for _, failure, _ in everyone if isinstance(failure, str)))
        files.append(RankFile(file, written.size, written.sha256))
        for name, dtype, shape, region in table:
            x = tensors.setdefault(name, Logical(dtype, shape, []))
            if region.size:
                x.pieces.append(Piece(number, region, written.sums[name]))
    return {"files": files, "tensors": tensors}


def without_nan(value: Any) -> Any:
    """Return the value with None for NaN, which JSON does not have: the history's mark for no number."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def check_json(value: Any) -> None:
    """Raise UserError for what JSON cannot hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"a checkpoint keeps numbers, strings, lists and dictionaries: {error}") from error
