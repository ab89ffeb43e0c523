"""1F1B with blocking sends: one neighbour sends activations, the other a gradient, and neither receives."""

from tests.bugs.museum import FunctionBug
from tests.parallel.test_pipeline import Blocking, test_pipeline_is_the_serial_run

BUG = FunctionBug(test_pipeline_is_the_serial_run, ("1f1b", True), comm=Blocking, patience=1)
