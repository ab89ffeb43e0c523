"""A run is resumed with its weights and moments, but begins the data anew."""

from collections.abc import Mapping
from typing import Any

from minitrain.train.trainer import Trainer
from tests.bugs.museum import FolderBug
from tests.train.test_resharding import resumed_equals_uninterrupted, test_a_resumed_run_equals_an_uninterrupted_one


class Forgetful(Trainer):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all but the position in the data."""
        super().load_state_dict({**state, "batches": 0})


BUG = FolderBug(test_a_resumed_run_equals_an_uninterrupted_one, resumed_equals_uninterrupted, "serial", kind=Forgetful)
