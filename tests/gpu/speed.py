"""The training step's time and peak memory on the device: ours, and PyTorch's.

    python -m tests.gpu.speed ours SIZE ROUNDS           a part of `make gpu`
    python -m tests.gpu.speed theirs SIZE ROUNDS FILE    FILE: what the parts of ours have written

The two sides run in processes of their own: a crash or a full memory of one leaves the other, and neither takes memory
from the other. They begin with the same values and data, so that their first two losses must agree. In float16 both
compute with a cast where it is needed, and a dynamic loss scale. Neither uses TF32, which rounds the operands of
float32 products to 10 bits.

The first steps are timed apart: CuPy compiles each kernel at its first use, for seconds. Each clock waits for the
device. Peak memory is what the arrays of a step take, without what the pools of CuPy and PyTorch keep beyond that.
"""

import gc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.benchmarks import jobs, timing
from tests.benchmarks.sizes import DEVICE_SIZES, Size, ValuesOf
from tests.benchmarks.timing import Side
from tests.gpu.rows import LEFT_OUT, row, values, without_value

WARM_UP = 3  # steps
DTYPES = ("float32", "float16")
LOSSES = {"float32": 1e-4, "float16": 1e-2}  # how far PyTorch's loss may be from ours, of about 10


def measure(side: Side, name: str, rounds: int, wait: Callable[[], None], peak: Callable[[], float]) -> list[float]:
    """Report the times of a step and its peak memory, in MB (10^6 bytes). Return the first two losses."""
    losses, start = [], perf_counter()
    for number in range(WARM_UP):
        timing.step(side, wait)
        losses += [side.loss()] if number < 2 else []
    jobs.report(row(f"{name} first {WARM_UP} steps", perf_counter() - start, "s"))
    found = timing.medians({"step": partial(timing.step, side, wait)}, rounds)["step"]
    for what, seconds in zip(timing.PARTS, found, strict=True):
        jobs.report(row(f"{name} {what}", 1e3 * seconds, "ms"))
    most = peak()
    none = without_value(f"{name} peak memory", LEFT_OUT, "nothing was taken from a device's memory")
    jobs.report(row(f"{name} peak memory", most, "MB") if most else none)
    return losses


def ours(size: Size, rounds: int) -> None:
    """Measure our step, and report the losses that PyTorch's must agree with."""
    import cupy

    from minitrain.backend import synchronize
    from minitrain.comm.threads import world_of_one
    from tests.benchmarks.ours import Ours

    initial = ValuesOf(size)
    for dtype in DTYPES:
        name = f"{size.name} {dtype}"
        side = Ours(size, world_of_one(), half=dtype == "float16", values=initial)
        losses = measure(side, name, rounds, synchronize, partial(our_peak, cupy, side))
        for number, loss in enumerate(losses, 1):
            jobs.report(row(f"{name} loss {number}", loss))
        del side
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()


def our_peak(cupy: Any, side: Side) -> float:
    """Return the most MB that arrays take during a step."""

    class Peak(cupy.cuda.MemoryHook):
        """Adds what is taken from CuPy's pool and subtracts what comes back."""

        now = most = cupy.get_default_memory_pool().used_bytes()

        def malloc_postprocess(self, **event: int) -> None:
            self.now += event["mem_size"]
            self.most = max(self.most, self.now)

        def free_postprocess(self, **event: int) -> None:
            self.now -= event["mem_size"]

    with Peak() as hook:
        timing.step(side)
    return hook.most / 1e6


def theirs(size: Size, rounds: int, file: Path) -> None:
    """Measure PyTorch's step, and compare its losses with ours."""
    import torch

    if not torch.cuda.is_available():
        jobs.report(without_value(size.name, LEFT_OUT, f"this PyTorch ({torch.__version__}) finds no CUDA device"))
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    written, initial = dict(values(file, [f"step of {size.name}"])), ValuesOf(size)
    for dtype in DTYPES:
        torch.cuda.empty_cache()
        their_step(size, dtype, rounds, initial, written)


def their_step(
    size: Size, dtype: str, rounds: int, initial: ValuesOf, written: dict[str, float], device: str = "cuda"
) -> None:
    """Report the rows of one dtype. written: our losses by name."""
    import torch

    from tests.benchmarks.theirs import Theirs

    side, name = Theirs(size, device=device, half=dtype == "float16"), f"{size.name} {dtype}"
    side.model.copy(initial)

    def peak() -> float:
        torch.cuda.reset_peak_memory_stats()
        timing.step(side)
        return torch.cuda.max_memory_allocated() / 1e6

    wait = torch.cuda.synchronize if device == "cuda" else timing.nothing
    losses = measure(side, name, rounds, wait, peak if device == "cuda" else float)
    for number, loss in enumerate(losses, 1):
        here = f"{name} loss {number}"
        if here in written:
            jobs.report(row(f"{here}: PyTorch's - ours", abs(loss - written[here]), bound=LOSSES[dtype]))
        else:
            jobs.report(without_value(here, LEFT_OUT, "our step gave no loss to compare with"))


if __name__ == "__main__":
    jobs.begin()
    size, rounds = DEVICE_SIZES[sys.argv[2]], int(sys.argv[3])
    if sys.argv[1] == "ours":
        ours(size, rounds)
    else:
        theirs(size, rounds, Path(sys.argv[4]))
