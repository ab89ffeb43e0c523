"""A skipped batch is counted as an update: Adam's t and the learning-rate schedule run ahead."""

from minitrain.data.batch import Batch
from minitrain.models import Model
from minitrain.optim import Optimizer, clip_grad_norm
from minitrain.parallel.reducer import Reducer
from minitrain.precision import DynamicScaler
from minitrain.train.step import compute_gradients
from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import Case
from tests.parallel.test_overflow import FIRST, Spot, test_all_ranks_leave_the_batch_out


def step(
    model: Model, batch: Batch, reducer: Reducer, optimizer: Optimizer, lr: float, accumulate: int, clip: float,
    scaler: DynamicScaler,
) -> tuple[float, float]:  # fmt: skip
    loss = compute_gradients(model, batch, reducer, accumulate, scaler)
    if not scaler.unscale(reducer):
        optimizer.updates += 1
        return loss, float("inf")
    norm = clip_grad_norm(reducer, clip)
    optimizer.step(lr)
    reducer.gather_parameters()
    return loss, norm


BUG = FunctionBug(test_all_ranks_leave_the_batch_out, (3, Case("zero2"), (Spot(2, FIRST),)), step=step)
