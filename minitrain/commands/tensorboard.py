"""The curves of a run for TensorBoard: the numbers of each row of the log, in an event file.

    python -m minitrain train --tensorboard build/curves        tensorboard --logdir build/curves

An event file is a sequence of records, each with two sums:

    length, crc32c(length), data, crc32c(data)         data: an Event, with its time, step, and [(tag, float32), ...]

A resumed run begins a new file. Its first event says that the run starts again at a step: of earlier files, TensorBoard
then shows nothing from this step on, so that a step has one value (SessionLog.START).

The package tensorboardX knows the format. Its SummaryWriter writes in another thread, where an error, such as a full
disk, would end the job; EventsWriter, on which it rests, raises the error here.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, memory_used, reason
from ..train.tensor_file import make_folders

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

TAGS = {  # entry in a row of the log -> tag
    "loss": "train/loss",
    "lr": "train/learning rate",
    "norm": "train/gradient norm",
    "scale": "train/loss scale",
    "val_loss": "validation/loss",
    "final_val_loss": "validation/loss of the whole text",
}
SKIPPED, SPEED, MEMORY = "train/skipped batches", "speed/tokens per second", "memory/MiB of rank 0"
FLUSH = 2.0  # seconds after which what was written must be in the file; TensorBoard looks every five


def check_package() -> None:
    """Raise UserError if tensorboardX cannot be imported."""
    try:
        import tensorboardX.event_file_writer  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs the package tensorboardX, which cannot be imported ({error}): "
            "pip install 'tensorboardX>=2.6,<3'"
        ) from error


class Curves:
    """The event file of a run, written on rank 0.

    The file is made when there is something to write. If it cannot be written, `log` is told, training goes on, and
    `ended` says why, as for the log.
    """

    def __init__(self, folder: Path | None, tokens: int, log: Callable[[str], None]) -> None:
        """folder: None: there are no curves. tokens: of an update. Raise UserError if the folder cannot be written."""
        self.folder, self.tokens, self.log = folder, tokens, log
        self.updates = self.skipped = self.step = 0  # updates made before, batches skipped so far, the last step
        self.writer: EventsWriter | None = None
        self.ended = ""
        self.last = self.flushed = time.monotonic()
        if folder is not None:
            check_folder(folder)

    def resume(self, updates: int, skipped: int) -> None:
        """Continue the curves of a run that has made so many updates, and skipped so many batches."""
        self.updates, self.skipped = updates, skipped

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row of the log. A skipped batch is counted, with the next update: it has no step."""
        now = time.monotonic()
        seconds, self.last = max(now - self.last, 1e-9), now
        if "skipped" in row:
            self.skipped += 1
            return
        values = {tag: row[key] for key, tag in TAGS.items() if key in row}
        if "scale" in row:
            values[SKIPPED] = self.skipped
        if "loss" in row:
            values |= {SPEED: self.tokens / seconds, MEMORY: memory_used() / 2**20}
        self.step = row["step"]
        self._try(lambda: self._write(self.step, values))

    def flush(self) -> None:
        """Wait until what was written is on the disk."""
        if self.writer is not None:
            self._try(self.writer.flush)

    def close(self) -> None:
        """Flush and close the file."""
        if self.writer is not None:
            self._try(self.writer.close)
            self.writer = None

    def _try(self, work: Callable[[], object]) -> None:
        """Do what writes, unless the curves have ended; they do if it fails."""
        if self.folder is None or self.ended:
            return
        try:
            work()
        except OSError as error:
            self.ended = f"the curves in {self.folder} end before update {self.step}: {reason(error)}"
            self.log(self.ended)
            if self.writer is not None:
                with suppress(OSError):  # it tries once more to write what it holds
                    self.writer.close()
                self.writer = None

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._event(self.writer or self._open(), step, summary=Summary(value=scalars))
        if time.monotonic() - self.flushed > FLUSH:
            self.flushed = time.monotonic()
            self.flush()

    def _open(self) -> "EventsWriter":
        """Make the file, which replaces what earlier ones have from its first step on."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        assert self.folder is not None
        make_folders(self.folder)
        if not self.updates and any(self.folder.glob("*.tfevents.*")):
            self.log(f"{self.folder} has curves of an earlier run: TensorBoard shows those of this one instead")
        # Two files of the same second have different names, in the order of their steps.
        self.writer = EventsWriter(str(self.folder / "events"), f".{self.updates:09}.{os.getpid()}")
        self._event(self.writer, self.updates + 1, session_log=SessionLog(status=SessionLog.START))
        self.writer.flush()  # a full disk is noticed now
        return self.writer

    def _event(self, writer: "EventsWriter", step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        writer.write_event(Event(wall_time=time.time(), step=step, **what))


def check_folder(folder: Path) -> None:
    """Make the folder of the curves. Raise UserError if that fails, or if it cannot be written."""
    try:
        make_folders(folder)
        trouble = "" if os.access(folder, os.W_OK) else "permission denied"
    except (OSError, ValueError) as error:  # ValueError: a null byte
        trouble = reason(error)
    if trouble:
        raise UserError(f"cannot write in {folder}: {trouble}; give another folder with --tensorboard")
