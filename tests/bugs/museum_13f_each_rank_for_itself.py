"""A rank whose gradients overflow skips the step; ranks that hold other parts of the model take it."""

from functools import partial

from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import Case
from tests.parallel.test_overflow import UP, Spot, moving, test_all_ranks_leave_the_batch_out

BUG = FunctionBug(
    test_all_ranks_leave_the_batch_out,
    (3, Case(layout="pp", pp=3, accumulate=3), (Spot(1, UP),)),
    scaler=partial(moving, agree=lambda overflow, world: overflow),
    patience=1,
)
