"""Early stopping runs out of patience and keeps the weights of the last epoch instead of the best."""

from minitrain.backend import Array
from minitrain.train.trainer import Trainer
from tests.bugs.museum import FunctionBug
from tests.train.test_values import test_patience_ends_with_the_best_weights


class Last(Trainer):
    def put_back(self, weights: list[Array]) -> None:
        """Do nothing."""


BUG = FunctionBug(test_patience_ends_with_the_best_weights, ("zero1", False), kind=Last)
