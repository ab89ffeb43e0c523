"""Adam: the step size is chosen per coordinate. Then the serial run, which later lessons must reproduce.

python lessons/02_adam/lesson.py [--figure FILE.svg]
"""

# %% What we need
import argparse
from collections.abc import Callable
from types import SimpleNamespace

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.autograd import no_grad
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch
from minitrain.data.digits import load_digits, split_digits
from minitrain.data.loader import ArrayLoader
from minitrain.lessons.charts import chart, figure
from minitrain.lessons.receipt import Receipt
from minitrain.models import Model, mlp
from minitrain.optim import SGD, Adam, Optimizer, Owned, adam_step
from minitrain.parallel.parallelize import parallelize
from minitrain.train.step import train_step

SEED, EPOCHS, UPDATES, SHOWN, CURVATURE = 1, 6, 2000, 300, np.array([1.0, 1000.0])
STRAIGHT, TURNED = np.eye(2), np.array([[1, -1], [1, 1]]) / 2**0.5  # by 45 degrees


# %% First half: a valley, 1000 times as steep across as along
def descend(
    make: Callable[..., Optimizer], lr: float, updates: int, scale: float = 1.0, turn: np.ndarray = STRAIGHT
) -> tuple[np.ndarray, Optimizer]:
    """Minimize L = scale (u_1^2 + 1000 u_2^2) / 2 from u = (1, 1). w is u, or u turned. Return all u, the optimizer."""
    w, g, path = turn @ np.ones(2), np.zeros(2), [np.ones(2)]
    optimizer = make(SimpleNamespace(owned=lambda: [Owned(w, g, decay=False)], factor=1.0, sharded=False))
    for _ in range(updates):
        g[...] = turn @ (scale * CURVATURE * path[-1])
        optimizer.step(lr)  # changes w in place
        path.append(w @ turn)
    return np.array(path), optimizer


def step_sizes(v: np.ndarray, t: int, lr: float, beta1: float, beta2: float, epsilon: float) -> np.ndarray:
    """Return what update t multiplies m by, for each coordinate: w -= step_sizes(v, ...) * m. Do not change v."""
    v_hat = v / (1 - beta2**t)
    return lr / (1 - beta1**t) / (np.sqrt(v_hat) + epsilon)


def valleys(receipt: Receipt) -> dict[str, list[float]]:
    """Fill the receipt. Return the losses of four runs, update by update."""
    paths = {f"SGD {lr}": descend(SGD, lr, UPDATES)[0] for lr in (0.00199, 0.00201)}
    for (name, u), factor in zip(paths.items(), (0.99, 1.01), strict=True):
        receipt.near(f"{name}: u_2 after {UPDATES} updates", factor**UPDATES, abs(u[-1, 1]))
    paths["Adam 0.01"], optimizer = descend(Adam, 0.01, UPDATES)
    sizes = step_sizes(optimizer.state[0][1], UPDATES, 0.01, 0.9, 0.999, 1e-8)
    receipt.near("Adam: lr / (sqrt(v_hat) + epsilon), along / across", 1000, sizes[0] / sizes[1])
    exact, loud = (descend(lambda g: Adam(g, epsilon=0), 0.01, 200, scale)[0] for scale in (1, 1024))
    receipt.below("epsilon 0: the coordinates differ by", 1e-12, float(np.abs(exact[:, 0] - exact[:, 1]).max()))
    receipt.true("epsilon 0, loss x 1024: same bits after 200 updates", np.array_equal(exact, loud))
    bare = lambda w, g, m, v, t, *rest: adam_step(w, g, m, v, 10**6, *rest)  # 1 - beta^t is 1: no correction
    u = descend(lambda g: Adam(g, rule=bare), 0.01, 1)[0]
    receipt.near("first step / lr, without correction", 0.1 / 0.001**0.5, (1 - u[1, 0]) / 0.01)
    turned = descend(SGD, 0.00199, UPDATES, turn=TURNED)[0]
    receipt.below("turned, SGD 0.00199: u changes by", 1e-12, float(np.abs(turned - paths["SGD 0.00199"]).max()))
    paths["Adam turned"] = descend(Adam, 0.01, UPDATES, turn=TURNED)[0]
    losses = {name: (path**2 @ CURVATURE / 2).tolist() for name, path in paths.items()}
    receipt.below(f"turned, loss at {UPDATES}: SGD / Adam", 1e-3, losses["SGD 0.00199"][-1] / losses["Adam turned"][-1])
    u = descend(lambda g: Adam(g, beta2=0.9), 0.01, SHOWN, turn=TURNED)[0]
    receipt.below(f"turned, loss at {SHOWN}: Adam, beta2 0.9", 1e-3, u[-1] ** 2 @ CURVATURE / 2)
    print(chart({name: curve[: SHOWN + 1] for name, curve in losses.items()}, "loss", "update", log=True))
    return losses


# %% Second half: the serial run
def accuracy(model: Model, data: ArrayLoader) -> float:
    """Return the share of images whose largest logit is that of their label."""
    with no_grad():
        right = [model(Batch(b.inputs, None, b.where)).data.argmax(axis=1) == b.labels for b in data.validation()]
    return float(np.mean(np.concatenate(right)))


def serial(receipt: Receipt) -> list[float]:
    """Train an MLP on the digits. Return the loss of each batch."""
    print("\nThe serial run: an MLP on images of digits\n")
    images, labels = load_digits()
    parts = split_digits(images.astype(np.float32), labels, SEED)
    data, held_out = (ArrayLoader(*part, batch=32, seed=SEED) for part in parts)
    model, losses = mlp(), []
    reducer = parallelize(model, Mesh(world_of_one(), dp=1))
    reducer.init(SEED)
    optimizer = Adam(reducer)
    for epoch in range(EPOCHS):
        numbers = range(epoch * data.batches, (epoch + 1) * data.batches)
        losses += [train_step(model, data.batch(n), reducer, optimizer, lr=0.001)[0] for n in numbers]
        right, mean = accuracy(model, held_out), np.mean(losses[-data.batches :])
        print(f"epoch {epoch + 1}: {data.batches} updates   mean loss ≈ {mean:.2f}   accuracy ≈ {right:.2f}")
    receipt.true("loss of the first batch; ln 10 is 2.303", 2 < losses[0] < 2.6, "2.0 to 2.6", f"≈ {losses[0]:.3f}")
    receipt.true("accuracy on held-out images", right > 0.9, "> 0.9", f"≈ {right:.2f}")
    return losses


# %% The run
def run(options: argparse.Namespace) -> None:
    """Go down the valley, then train an MLP."""
    receipt = Receipt()
    curves, losses = valleys(receipt), serial(receipt)
    if options.figure:
        with figure(options.figure, columns=2, height=2.8) as (left, right):
            for name, curve in curves.items():
                left.semilogy(curve, label=name)
            left.set(xlabel="update", ylabel="loss in the valley", xlim=(0, 1000), ylim=(1e-3, 1e5))
            left.legend()
            right.plot(losses, linewidth=0.8)
            right.set(xlabel="update", ylabel="loss of a batch, serial run")
    receipt.print()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", help="also draw the picture, into this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch():
        run(options)


if __name__ == "__main__":
    main()
