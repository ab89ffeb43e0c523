"""float16 on the device: products summed in float32, their speed, and training that stays near float32.

    python -m tests.gpu.halves SIZES            a part of `make gpu`

A sum of 8192 ones is 2048 if it is kept in float16, which cannot tell 2049 from 2048; summed in float32 it is 8192.
A product rounded to float16 at the end differs from the exact one by half a unit in the last place, 2^-11, and by the
rounding of its sum in float32, which is smaller.
"""

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from minitrain.backend import matmul, synchronize, to_device, to_host
from minitrain.comm.threads import world_of_one
from tests.benchmarks import jobs, timing
from tests.benchmarks.ours import Ours
from tests.benchmarks.sizes import Size
from tests.gpu.rows import row

ONES = 8192
PRODUCTS: dict[str, tuple[tuple[int, ...], Any]] = {  # name -> (leading axes, the result's dtype)
    "of matrices to float32": ((), np.float32),
    "of matrices to float16": ((), np.float16),
    "of stacks to float32": ((3,), np.float32),
    "of stacks to float16": ((3,), np.float16),
}
N = {"full": 4096, "small": 64}  # rows and columns of the products that are timed
REPEATS = 10
STEPS = {"full": 30, "small": 3}
MODELS = {  # for the training
    "full": Size("", width=256, heads=8, layers=4, T=128, B=8, V=256),
    "small": Size("", width=16, heads=2, layers=1, T=8, B=2, V=32),
}


def products() -> None:
    """Report, for each kind of product, the error of a sum of ones and that of a random product."""
    draw = np.random.default_rng(1)
    for name, (lead, dtype) in PRODUCTS.items():
        ones = to_device(np.ones((*lead, 16, ONES), np.float16))
        error = np.abs(to_host(matmul(ones, ones.swapaxes(-1, -2), dtype=dtype)).astype(float) - ONES).max()
        jobs.report(row(f"halves {name}: sum of {ONES} ones", float(error), bound=0.0, why="in float16: 6144 too few"))
        a, b = (draw.standard_normal((*lead, *shape)).astype(np.float16) for shape in ((96, 512), (512, 64)))
        exact = a.astype(float) @ b.astype(float)
        found = to_host(matmul(to_device(a), to_device(b), dtype=dtype)).astype(float)
        bound = 2.0**-11 * 1.1 if dtype == np.float16 else 1e-5
        worst = float(np.abs(found - exact).max() / np.abs(exact).max())
        jobs.report(row(f"halves {name}: random", worst, bound=bound))


def rates(n: int) -> None:
    """Report the speed of products of float16 and float32: many times faster on tensor cores."""
    for dtype, result in (("float32", "float32"), ("float16", "float16"), ("float16", "float32")):
        x = to_device(np.random.default_rng(1).standard_normal((n, n)).astype(dtype))
        product = lambda x=x, result=result: matmul(x, x, dtype=result)
        product()
        teraflops = 2e-12 * n**3 / timed(product)
        jobs.report(row(f"product of {n} x {n}, {dtype} to {result}", teraflops, "TFLOP/s"))


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that the device takes for one of REPEATS."""
    synchronize()
    start = perf_counter()
    for _ in range(REPEATS):
        work()
    synchronize()
    return (perf_counter() - start) / REPEATS


def training(sizes: str) -> None:
    """Report how far the loss after some steps in float16 is from that in float32, as a fraction of how far it fell."""
    losses: dict[bool, list[float]] = {}
    for half in (False, True):
        side = Ours(MODELS[sizes], world_of_one(), half=half)
        for _ in range(STEPS[sizes]):
            timing.step(side)
            losses.setdefault(half, []).append(side.loss())
        skipped = side.scaler.skips
    fell = losses[False][0] - losses[False][-1]
    worst = abs(losses[True][-1] - losses[False][-1]) / fell
    why = f"loss {losses[False][0]:.4f} to {losses[False][-1]:.4f}; steps skipped by the loss scale: {skipped}"
    jobs.report(row(f"float16 beside float32, {STEPS[sizes]} steps", worst, bound=0.1, why=why))


if __name__ == "__main__":
    jobs.begin()
    products()
    rates(N[sys.argv[1]])
    training(sys.argv[1])
