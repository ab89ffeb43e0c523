"""Gradients are unscaled and checked for overflow before the reduction: one rank's inf reaches ranks that step."""

from minitrain.backend import Array, is_finite
from minitrain.data.batch import Batch
from minitrain.models import Model
from minitrain.optim import Optimizer, clip_grad_norm
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS
from minitrain.precision import DynamicScaler
from minitrain.train.step import compute_gradients
from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import Case
from tests.parallel.test_overflow import FIRST, Spot, test_all_ranks_leave_the_batch_out


class LooksFirst(Bucketed):
    S, overflow = 1.0, False

    def detach(self, bucket: Bucket) -> Array:
        flat = super().detach(bucket)
        self.overflow = self.overflow or not is_finite(flat)
        flat /= self.S
        return flat


def step(
    model: Model, batch: Batch, reducer: LooksFirst, optimizer: Optimizer, lr: float, accumulate: int, clip: float,
    scaler: DynamicScaler,
) -> tuple[float, float]:  # fmt: skip
    reducer.S, reducer.overflow = scaler.value, False
    loss = compute_gradients(model, batch, reducer, accumulate, scaler)
    scaler.update(reducer.overflow)
    if reducer.overflow:
        return loss, float("inf")
    norm = clip_grad_norm(reducer, clip)
    optimizer.step(lr)
    return loss, norm


SPOTS = (Spot(2, FIRST),)
BUG = FunctionBug(
    test_all_ranks_leave_the_batch_out,
    (3, Case(), SPOTS),
    (3, Case(hooks={"reducers": {**REDUCERS, "bucketed": LooksFirst}}), SPOTS),
    step=step,
)
