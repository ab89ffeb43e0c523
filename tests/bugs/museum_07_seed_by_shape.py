"""Initial values depend on the shape: layers of the same shape start with the same weights."""

import numpy as np

from minitrain import rng
from minitrain.models import GPTConfig, gpt
from minitrain.nn import Parameter
from tests.bugs.museum import FunctionBug
from tests.models.test_models import test_no_two_parameters_start_equal


def initial_values(p: Parameter, seed: int) -> np.ndarray:
    return p.init_std * rng.normal(rng.key(seed, *p.shape), p.shape)


BUG = FunctionBug(test_no_two_parameters_start_equal, (gpt(GPTConfig(vocabulary=7, width=8)),), draw=initial_values)
