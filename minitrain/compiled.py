"""Loops compiled by Numba, where asked for: `pip install 'minitrain[numba]'` and MINITRAIN_KERNELS=numba.

NumPy makes one pass over its arrays for each operator: thirteen for an update by Adam. A compiled loop reads and
writes every element once, and is then limited by memory alone: an update takes a third of the time (4% of a step of
20 M parameters on an AMD EPYC). The NumPy forms are the definition and the default; the loops give the same bits.
Lam, Pitrou, Seibert, "Numba: a LLVM-based Python JIT compiler", LLVM-HPC 2015.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from .errors import UserError, check_choice

Function = TypeVar("Function", bound=Callable[..., None])


def chosen() -> str:
    """Return MINITRAIN_KERNELS: "numpy", the default, or "numba". Raise UserError if Numba cannot be used."""
    name = os.environ.get("MINITRAIN_KERNELS") or "numpy"
    check_choice("MINITRAIN_KERNELS", name, ("numpy", "numba"))
    if name == "numba":
        if os.environ.get("MINITRAIN_BACKEND", "numpy") != "numpy":
            raise UserError("MINITRAIN_KERNELS=numba is for NumPy's arrays; unset it, or MINITRAIN_BACKEND")
        try:
            import numba  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"MINITRAIN_KERNELS is 'numba', but Numba cannot be imported ({error}): pip install 'minitrain[numba]'"
            ) from error
    return name


NAME = chosen()


def adam_step(
    w: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """Apply optim.rules.adam_step to arrays of shape (n)."""
    scalars = (beta1, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**t), (1 - beta2**t) ** -0.5, epsilon)
    _fast(_adam)(w, g, m, v, *map(w.dtype.type, scalars))


def _adam(w, g, m, v, beta1, rest1, beta2, rest2, rate, correction, epsilon):  # type: ignore[no-untyped-def]
    for i in range(len(w)):
        m[i] = beta1 * m[i] + rest1 * g[i]
        v[i] = beta2 * v[i] + rest2 * (g[i] * g[i])
        w[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + epsilon)


@functools.cache
def _fast(loop: Function) -> Function:
    """Return the loop, to be compiled when it is first called, for the dtypes that it gets: that takes a second.

    Under NumPy's error model 1 / 0 is infinite. A check of each divisor would keep the loop from computing several
    elements at a time.
    """
    import numba

    return numba.njit(error_model="numpy", nogil=True)(loop)


FORMS = {"adam_step": adam_step}


def or_compiled(function: Function) -> Function:
    """Return the compiled form of a function, if MINITRAIN_KERNELS asks for it; otherwise the function itself."""
    return function if NAME == "numpy" else FORMS[function.__name__]  # type: ignore[return-value]
