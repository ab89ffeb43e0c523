"""minitrain: the training strategies behind large models, written out in plain code."""

import os
import sys

# One thread per rank: the ranks share the cores. The libraries read these when NumPy is imported, so before it.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")

from .errors import UserError
from .runtime.launchers import not_installed, tell

try:
    from .autograd import Tensor, backward, no_grad
    from .fused import IGNORE
    from .runtime.launch import launch
except UserError as error:  # a MINITRAIN_BACKEND that cannot be used: known before `main` is there to catch it
    if sys.argv[0] != "-m":  # what Python puts there while it looks for the module to run
        raise
    sys.exit(tell(error))
except ModuleNotFoundError as error:  # another Python than the environment's
    if sys.argv[0] != "-m":
        raise
    sys.exit(tell(not_installed(error)))

__version__ = "0.1.0"
__all__ = ["IGNORE", "Tensor", "UserError", "backward", "launch", "no_grad"]
