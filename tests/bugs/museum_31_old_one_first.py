"""The old checkpoints are removed before the new one is complete: a crash in between leaves none."""

from pathlib import Path

from minitrain.errors import UserError
from minitrain.train.checkpoint_folder import complete, remove
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.tensor_file import FILES
from tests.bugs.museum import FolderBug
from tests.kill.calls import NEW, OLD, Calls, fail, loaded, prepared, save
from tests.train.test_checkpoints import test_a_call_that_fails


class OldFirst(Checkpoints):
    def _new_folder(self, updates: int) -> Path:
        """Remove what will not be kept, then make the folder."""
        for folder, _ in complete(self.path)[: len(complete(self.path)) + 1 - self.keep]:
            remove(folder, self.files)
        return super()._new_folder(updates)


def loses_nothing(folder: Path, kind: type[Checkpoints] = Checkpoints) -> None:
    """Fail at some calls of rank 0, and look whether the old or the new step is there."""
    for k in range(1, 30, 7):
        run = prepared(folder / str(k))
        save(run, NEW, files=[Calls(k, fail), FILES], keep=1, kind=kind)
        try:
            assert loaded(run) in (OLD, NEW)
        except UserError as error:
            raise AssertionError(f"call {k} fails: {error}") from error


BUG = FolderBug(test_a_call_that_fails, loses_nothing, kind=OldFirst)
