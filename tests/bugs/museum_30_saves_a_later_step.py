"""A checkpoint is written in the background from the arrays that training goes on to change: it is of a later step."""

from minitrain.backend import Array
from minitrain.train.checkpoints import Checkpoints
from tests.bugs.museum import FolderBug
from tests.train.test_checkpoints import changed_at_once, test_training_goes_on_while_a_file_is_written


class NoCopy(Checkpoints):
    def _copy(self, arrays: dict[str, Array]) -> None:
        """Do nothing."""


BUG = FolderBug(test_training_goes_on_while_a_file_is_written, changed_at_once, "full precision", kind=NoCopy)
