"""minitrain: the training strategies behind large models, written out in plain code."""

import os

# One thread per rank: the ranks share the cores. The libraries read these when NumPy is imported, so before it.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")

from .autograd import Tensor, backward, no_grad
from .comm.launch import launch
from .errors import UserError

__version__ = "0.1.0"
__all__ = ["Tensor", "UserError", "backward", "launch", "no_grad"]
