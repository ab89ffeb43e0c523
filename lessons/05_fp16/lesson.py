"""float16: gradients slide out of the window of numbers that it can hold, and a factor slides them back in.

python lessons/05_fp16/lesson.py [--loss-weight 1e-4] [--figure FILE.svg]
"""

# %% What we need
import argparse
from collections.abc import Callable
from importlib import import_module
from itertools import chain
from types import SimpleNamespace
from typing import Any

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch
from minitrain.data.digits import load_digits
from minitrain.data.loader import ArrayLoader
from minitrain.lessons.charts import chart
from minitrain.lessons.receipt import Receipt
from minitrain.models import MLPConfig, Model, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, Owned
from minitrain.parallel.parallelize import parallelize
from minitrain.precision import DynamicScaler, Scaler, StaticPolicy, StaticScaler, use
from minitrain.tensor import Tensor
from minitrain.train.step import train_step

B, SEED, UPDATES, SCRIPT = 128, 1, 1000, "...xx..x..."  # x: a batch whose gradients overflow
window = import_module("minitrain.lessons.course.05_fp16.window")  # histograms


# %% The same training with weights and gradients in float32 or in float16
class Weighted(Model):
    """A model of the given units whose loss is multiplied by `weight`."""

    weight = 1.0

    def __call__(self, batch: Batch) -> Tensor:
        return super().__call__(batch) * self.weight


def train(
    updates: int, weight: float, half: bool, scaler: Scaler, make: Callable[..., Any] = SGD, lr: float = 0.5
) -> tuple[list[float], Any, Any, Callable]:
    """Train a small MLP, its loss multiplied by `weight`. Return the losses without it, and a function that steps."""
    model, (images, labels) = Weighted(mlp(MLPConfig(hidden=(32,))).units), load_digits()
    model.weight = weight
    data = ArrayLoader(images[:B].astype(np.float32), labels[:B], B, SEED)  # every batch holds all 128 images
    if half:
        use(model, StaticPolicy("mixed_float16"), half_weights=True)
    reducer = parallelize(model, Mesh(world_of_one(), dp=1))
    reducer.init(SEED)
    optimizer = make(reducer)
    rate = lr / weight if make is SGD else lr  # Adam divides by the size of the gradient
    step = lambda: train_step(model, data.batch(optimizer.updates), reducer, optimizer, rate, scaler=scaler)
    return [step()[0] / weight for _ in range(updates)], reducer, optimizer, step


def curves(weight: float, receipt: Receipt) -> tuple[dict[str, list[float]], np.ndarray, np.ndarray]:
    """Return the losses of three runs, and float32's gradients in the first and the last update."""
    moving = DynamicScaler(2.0**16, interval=25)  # a short interval, so that overflows occur
    full, reducer, *_ = train(UPDATES, weight, False, Scaler())
    runs = {"float32": full, "float16": train(UPDATES, weight, True, Scaler())[0]}
    runs["float16, dynamic S"] = moved = train(UPDATES, weight, True, moving)[0]
    receipt.near("last loss, dynamic S / float32", 1, moved[-1] / full[-1], 0.1)
    receipt.true("dynamic S skipped some batches", moving.skips > 0)
    receipt.near("last loss, dynamic S / float32, equal updates", 1, moved[-1] / full[-1 - moving.skips])
    if weight == 1e-4:  # with 1 nothing is lost
        receipt.true("last loss, SGD: float16 over 3 times float32", runs["float16"][-1] > 3 * full[-1])
        adam = [train(UPDATES, weight, half, Scaler(), Adam, 0.003)[0][-1] for half in (False, True)]
        receipt.true("last loss, Adam: float16 over 3 times float32", adam[1] > 3 * adam[0])
    return runs, window.all_of(train(1, weight, False, Scaler())[1]), window.all_of(reducer)


# %% Single claims
def trace(script: str) -> str:
    """Return log2 S after each batch of the script."""
    scaler, g, after = DynamicScaler(2.0**16, interval=3), np.ones(1, np.float16), []
    for letter in script:
        g[0] = np.inf if letter == "x" else 1
        scaler.unscale(SimpleNamespace(owned=lambda: [Owned(g, g, False)], world=None, factor=1.0))
        after.append(f"{np.log2(scaler.value):.0f}")
    return " ".join(after)


def claims(weight: float, receipt: Receipt) -> None:
    receipt.true("S after each batch of this trace", trace(SCRIPT) == "16 16 17 16 15 15 15 14 14 14 15")
    end = [[o.data.tobytes() for o in train(100, weight, False, s)[1].owned()] for s in (Scaler(), StaticScaler(2**12))]
    receipt.true("float32, 100 updates: S = 2^12 changes no bit", end[0] == end[1])
    alone, (w, g) = np.float16(1), np.ones((2, 1), np.float16)
    sgd: Any = SGD(SimpleNamespace(owned=lambda: [Owned(w, g, False)], factor=1.0))
    for _ in range(1000):
        alone -= np.float16(1e-4)
        sgd.step(1e-4)
    receipt.equal("1.0 after 1000 updates of -1e-4: float16 alone", 1.0, float(alone))
    receipt.near("the same with a float32 master", 0.9, float(sgd.masters[0][0]))
    for half, theory in ((False, "4 + 4 + 8"), (True, "2 + 2 + 12")):
        with Ledger().open() as ledger:
            _, reducer, adam, step = train(3, weight, half, scaler := StaticScaler(1), Adam, 0.01)
        n = sum(owned.data.size for owned in reducer.owned())
        held = " + ".join(f"{ledger.live[kind] / n:g}" for kind in ("parameters", "gradients", "optimizer"))
        receipt.equal(f"bytes per parameter, {'float16' if half else 'float32'}", theory, held)
    arrays = [*(owned.data for owned in reducer.owned()), *adam.masters, *chain(*adam.state)]
    bits, scaler.value = [array.tobytes() for array in arrays], 2.0**60
    step()
    same = adam.updates == 3 and scaler.skips == 1 and bits == [array.tobytes() for array in arrays]
    receipt.true("skipped batch: w, master, m, v, t unchanged", same)


# %% The run
def run(options: argparse.Namespace) -> None:
    """Train in float32 and float16, and show where the gradients are."""
    receipt = Receipt()
    runs, first, last = curves(options.loss_weight, receipt)
    print(f"{UPDATES} updates by SGD with {B} images of digits each, loss x {options.loss_weight:g}\n")
    print(chart(runs, "loss", "update", log=True, height=8))
    print(f"\n{window.text(last)}\n\n{window.table({'first update': first, 'last update': last})}")
    print(f"\noverflow (x)  {'  '.join(SCRIPT)}\nlog2 S after  {trace(SCRIPT)}")
    claims(options.loss_weight, receipt)
    if options.figure:
        window.draw(last, options.figure)
    receipt.print()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss-weight", type=float, default=1e-4, help="factor of the loss; default: 1e-4")
    parser.add_argument("--figure", help="write the picture to this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch():
        run(options)


if __name__ == "__main__":
    main()
