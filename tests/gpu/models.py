"""GPT and MLP on the device and on the CPU: the same losses and gradients?

    python -m tests.gpu.models SIZES            a part of `make gpu`
    python -m tests.gpu.models SIZES KIND OUT   what it starts: one kind of numbers, on the backend of its process

A run is three updates with Adam. Compared are their losses and the gradients of the first, each as max|a - b| / max|b|.

float64 must agree to 1e-10. In float32 and float16, two correct programs differ: sums are taken in another order, and
halves are rounded at other places. How far apart they may be is measured, not guessed: NumPy's run in the same kind of
numbers differs from NumPy's run in float64 by its own rounding, and so does the device's run. The bound is four times
that difference, which counts as at least LEAST: NumPy's may be small by chance.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.optim import Adam
from minitrain.parallel.parallelize import parallelize
from minitrain.precision import Scaler, StaticPolicy, StaticScaler, use
from minitrain.train import checkpoint
from minitrain.train.step import train_step
from tests.benchmarks import jobs
from tests.gpu import strict_run
from tests.gpu.rows import FAILED, row, without_value

STEPS, SEED, LR = 3, 7, 1e-3
TIMES = 4  # the bound of float32 and float16, as a multiple of the effect of rounding on NumPy's run
LEAST = {"float32": 5e-7, "float16": 1e-3}  # 4 and 1 units in the last place
KINDS = ("float64", "float32", "float16", "float16 weights")  # the last two: autocast, and float32 masters


class Sizes(NamedTuple):
    """Sizes of the GPT, and the number of its tokens at a time; the MLP's layers are as wide."""

    V: int
    T: int
    layers: int
    heads: int
    width: int
    B: int


SIZES = {"full": Sizes(256, 64, 3, 4, 128, 8), "small": Sizes(32, 8, 1, 2, 16, 2)}


def models(sizes: Sizes, dtype: str) -> Mapping[str, Callable[[], tuple[Model, strict_run.Loader]]]:
    """Return name -> function that makes a model and its batches."""
    draw = np.random.default_rng(SEED)
    text = TextLoader(draw.integers(0, sizes.V, 4 * sizes.B * sizes.T), context=sizes.T, batch=sizes.B, seed=1)
    pixels, digits = draw.standard_normal((4 * sizes.B, sizes.width)).astype(dtype), draw.integers(0, 10, 4 * sizes.B)
    images = ArrayLoader(pixels, digits, batch=2 * sizes.B, seed=1)
    config = GPTConfig(sizes.V, sizes.T, sizes.layers, sizes.heads, sizes.width, dtype=dtype)
    wide = (4 * sizes.width, 4 * sizes.width)
    return {"GPT": lambda: (gpt(config), text), "MLP": lambda: (mlp(MLPConfig(sizes.width, wide, 10, dtype)), images)}


def compute(sizes: Sizes, kind: str) -> strict_run.Results:
    """Return losses and gradients of all models."""
    half, results = kind.startswith("float16"), strict_run.Results()
    for name, make in models(sizes, "float32" if half else kind).items():
        model, data = make()
        if half:
            use(model, StaticPolicy("mixed_float16"), half_weights=kind.endswith("weights"))
        scaler = StaticScaler(2.0**10) if half else Scaler()
        world = world_of_one()
        reducer = parallelize(model, Mesh(world))
        reducer.init(SEED)
        optimizer, losses = Adam(reducer), []
        for number in range(STEPS):
            losses.append(train_step(model, data.batch(number), reducer, optimizer, LR, scaler=scaler)[0])
            if number == 0:
                gradients = checkpoint.gather(model, world, "grad", reducer)
        results[f"{name} losses"] = np.array(losses)
        results |= {f"{name} gradients {path}": np.asarray(x, np.float64) for path, x in gradients.items()}
    return results


def compare(sizes: str) -> None:
    """Start all kinds on both backends, and report the rows of each kind as soon as it is done."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [(backend, kind) for kind in KINDS for backend in ("numpy", "cupy")]
        files = {run: Path(folder) / f"{number}.npz" for number, run in enumerate(runs)}
        started = {run: start(sizes, run, file) for run, file in files.items()}
        found: dict[tuple[str, str], strict_run.Results] = {}
        for run, process in started.items():
            try:
                jobs.result(process)
            except jobs.Failed as error:
                jobs.report(without_value(" ".join(run), FAILED, str(error)))
                continue
            with np.load(files[run]) as file:
                found[run] = dict(file)
            numpy, exact = found.get(("numpy", run[1])), found.get(("numpy", "float64"))
            if run[0] == "cupy" and numpy is not None and exact is not None:
                report(run[1], found[run], numpy, exact)


def start(sizes: str, run: tuple[str, str], file: Path) -> "subprocess.Popen[str]":
    backend, kind = run
    return jobs.python("tests.gpu.models", sizes, kind, file, environment={"MINITRAIN_BACKEND": backend})


def report(kind: str, found: strict_run.Results, numpy: strict_run.Results, exact: strict_run.Results) -> None:
    """Report the differences between the device's run and NumPy's. exact: NumPy's run in float64."""
    for what in sorted({" ".join(name.split()[:2]) for name in found}):
        ours, theirs, best = (
            {name: x for name, x in run.items() if name.startswith(what)} for run in (found, numpy, exact)
        )
        rounding = strict_run.compare(theirs, best)[0]
        bound = 1e-10 if kind == "float64" else TIMES * max(rounding, LEAST[kind.split()[0]])
        worst, where = strict_run.compare(ours, theirs)
        name, _, thing = what.partition(" ")
        jobs.report(row(f"{name}, {kind}: {thing}", worst, bound=bound, why="" if worst <= bound else where))


if __name__ == "__main__":
    jobs.begin()
    if len(sys.argv) == 2:
        compare(sys.argv[1])
    else:
        np.savez(sys.argv[3], **compute(SIZES[sys.argv[1]], sys.argv[2]))  # type: ignore[arg-type]
        jobs.report("done")
