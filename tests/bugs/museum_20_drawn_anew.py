"""The trainer reinitializes a model whose weights were loaded."""

import numpy as np

from minitrain.backend import Array
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS
from tests.bugs.museum import FunctionBug
from tests.train.test_values import test_a_trainer_keeps_the_values_of_a_model


class DrawnAnew(Bucketed):
    def place(self, bucket: Bucket, flat: Array) -> None:
        super().place(bucket, np.concatenate([p.initial_values(seed=1).reshape(-1) for p in bucket.parameters]))


BUG = FunctionBug(
    test_a_trainer_keeps_the_values_of_a_model,
    ("bucketed", {}, {"dp": 3}),
    reducers={**REDUCERS, "bucketed": DrawnAnew},
)
