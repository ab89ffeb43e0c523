"""minitrain: the training strategies behind large models, written out in plain code."""

import os
import sys

# One thread per rank: the ranks share the cores. The libraries read these when NumPy is imported, so before it.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")

from .comm.launchers import tell
from .errors import UserError

try:
    from .autograd import Tensor, backward, no_grad
    from .comm.launch import launch
    from .fused import IGNORE
except UserError as error:  # a MINITRAIN_BACKEND that cannot be used: known before `main` is there to catch it
    if sys.argv[0] != "-m":  # what Python puts there while it looks for the module to run
        raise
    sys.exit(tell(error))

__version__ = "0.1.0"
__all__ = ["IGNORE", "Tensor", "UserError", "backward", "launch", "no_grad"]
