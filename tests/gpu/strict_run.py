"""Everything that one process computes on the chosen backend, written to a file of NumPy arrays.

    MINITRAIN_BACKEND=... python -m tests.gpu.strict_run OUT.npz [--dtypes float64 float32] [--only models ranks]
    mpirun -n 2 python -m tests.gpu.strict_run OUT.npz --only mpi

It runs each operation of functional.py and fused.py forward and backward, whole training steps of the models, and data
parallel over threads or MPI. The files of NumPy and another backend must agree; since the backend is chosen once per
process, a comparison takes two processes. Everything goes through `xp` and the library's public functions, as in user
code: the other tests' helpers compare directly with NumPy, which CuPy refuses.
"""

import argparse
import dataclasses
import inspect
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minitrain import functional as F
from minitrain import fused
from minitrain.attention import attend, attend_vjp
from minitrain.autograd import apply, no_grad
from minitrain.backend import to_device, to_host, xp
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.data.batch import Batch
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam, AdamW, Optimizer
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.reducer import Reducer
from minitrain.runtime.launch import launch
from minitrain.tensor import Tensor
from minitrain.train import checkpoint
from minitrain.train.checkpoint_folder import newest
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.generate import generate
from minitrain.train.region_reader import Reader
from minitrain.train.resharding import load
from minitrain.train.step import train_step
from minitrain.train.trainer import Trainer
from minitrain.train.weights import Weights, start_from
from tests.strategies import named

Results: TypeAlias = dict[str, np.ndarray]
Shapes: TypeAlias = list[tuple[tuple[int, ...], ...]]
Loader: TypeAlias = TextLoader | ArrayLoader


# Operations -----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """An operation on tensors, which may call several of our functions, and its input shapes."""

    calls: str  # their names, separated by one space
    operation: Callable[..., Tensor]
    shapes: Shapes


def ids(shape: tuple[int, ...], n: int) -> Any:
    """Return integers 0..n-1 of this shape on the device."""
    return to_device(np.arange(np.prod(shape, dtype=int)).reshape(shape) * 2 % max(n, 1))


def padded(shape: tuple[int, ...], n: int) -> Any:
    """Return the same with the first row ignored."""
    labels = ids(shape, n)
    labels[0] = fused.IGNORE
    return labels


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    y, p = attend(q.data, k.data, v.data, 0.7, 3, 1)
    return apply(y, (q, k, v), lambda g: attend_vjp(g, q.data, k.data, v.data, p, 0.7), saved=(q, k, v, p))


ONE: Shapes = [((5,),), ((3, 1, 7),), ((),), ((0,),), ((2, 0, 3),)]
TWO: Shapes = [((2, 1, 3), (4, 1)), ((), ()), ((), (2, 3)), ((2, 3), ()), ((0, 3), (3,)), ((1,), (0,))]
THREE: Shapes = [((3, 2, 5),)]
INDICES: list[Any] = [
    1,
    -1,
    np.int64(2),
    (0, np.int64(1)),
    slice(None, None, 2),
    (slice(None), 2),
    (None, ..., 0),
    (1, 2),
]
LISTS: list[Any] = [[0, 2, 2], ([0, 1, 1], [2, 3, 3]), (slice(None), [1, 1]), np.array([[1, -2], [-2, 1]])]
AXES: list[Any] = [(None, False), (None, True), (0, False), (-1, True), ((0, 2), False), ((-1, 0), True)]

TABLE = [
    Row("add", lambda a, b: a + b, TWO),
    Row("add", lambda x: 2 + x + np.float64(0.5) + to_device(np.array(1.5)), ONE),
    Row("subtract", lambda a, b: a - b, TWO),
    Row("subtract", lambda x: 2 - (x - 0.5), ONE),
    Row("multiply", lambda a, b: a * b, TWO),
    Row("multiply", lambda x: np.float32(3) * x * 2, ONE),
    Row("multiply", lambda x: x * [1, 2.5, 3] * to_device(np.ones(3)).astype(x.dtype), [((2, 3),), ((3,),)]),
    Row("divide exp", lambda a, b: a / F.exp(b), TWO),
    Row("divide exp", lambda x: 1 / (F.exp(x) / 3), ONE),
    Row("negative", lambda x: -x, ONE),
    Row(
        "matmul",
        lambda a, b: a @ b,
        [((2, 3), (3, 5)), ((4, 1, 2, 3), (1, 7, 3, 5)), ((2, 0), (0, 5)), ((0, 3), (3, 2))],
    ),
    Row("relu", F.relu, ONE),
    Row("tanh", F.tanh, ONE),
    Row("power", lambda a, b: (F.exp(a) + 1) ** b, TWO),
    Row("power", lambda x: x**3 + (x * x + 1) ** -0.5 + 2**x, ONE),
    Row("maximum minimum", lambda a, b: F.maximum(a, b) * F.minimum(a * 2, b), TWO),
    Row("where", lambda a, b: F.where(ids((3,), 2) > 0, a, b), [((3,), (3,)), ((2, 3), (1, 3)), ((), (2, 1))]),
    Row("where", lambda x: F.where([True, False, True], x, 0) + F.where(x > 0, 1, x), [((2, 3),), ((3,),)]),
    Row("broadcast_to", lambda x: F.broadcast_to(x, (4, 2, 3)), [((3,),), ((2, 1),), ((),)]),
    Row("sqrt abs", lambda x: F.sqrt(F.abs(x) + 1), ONE),
    Row("sigmoid", F.sigmoid, ONE),
    Row("clip", lambda x: F.clip(x, -0.5, 0.5) + F.clip(x, high=0.1), ONE),
    Row("squeeze", F.squeeze, [((1, 3, 1),), ((),)]),
    Row("split", lambda x: F.split(x, [1, 3], -1)[1] * F.split(x, 2, 1)[0][:, :1], [((3, 4),)]),
    Row("stack", lambda *xs: F.stack(xs, -1), [((3,),) * 2, ((2, 3),) * 3, ((), ())]),
    Row("exp", F.exp, ONE),
    Row("log multiply add", lambda x: F.log(x * x + 1.0), ONE),
    Row("cast", lambda x: F.cast(F.cast(x, np.float64), x.dtype), ONE),
    Row("reshape", lambda x: F.reshape(x, (3, -1)), [((2, 6),), ((3, 1, 2),)]),
    Row("reshape transpose", lambda x: F.reshape(F.transpose(x), (-1,)), [((2, 6),), ((2, 3, 4),)]),
    Row("transpose", lambda x: F.transpose(x, (-1, 0, 1)), [((2, 3, 4),), ((0, 1, 2),)]),
    *(Row("index", lambda x, item=item: x[item], [((3, 4),)]) for item in [*INDICES, *LISTS]),
    Row("index", lambda x: x[ids((2, 3), 3)], [((3, 4),)]),
    Row("index", lambda x: x[to_device(np.arange(12).reshape(3, 4) % 3 > 0)], [((3, 4),)]),
    Row("concatenate", lambda *xs: F.concatenate(xs), [((3,),), ((2, 3), (1, 3)), ((2,), (0,), (3,))]),
    Row("concatenate", lambda *xs: F.concatenate(xs, -1), [((2, 3), (2, 1), (2, 4))]),
    *(Row("sum", lambda x, a=axis, keep=keep: F.sum(x, a, keep), THREE) for axis, keep in AXES),
    *(Row("mean", lambda x, a=axis, keep=keep: F.mean(x, a, keep), THREE) for axis, keep in AXES),
    *(Row("max", lambda x, a=axis, keep=keep: F.max(x, a, keep), THREE) for axis, keep in AXES),
    *(Row("min", lambda x, a=axis, keep=keep: F.min(x, a, keep), THREE) for axis, keep in AXES),
    *(Row("var", lambda x, a=axis, keep=keep: F.var(x, a, keep), THREE) for axis, keep in AXES),
    *(Row("logsumexp", lambda x, a=axis, keep=keep: F.logsumexp(x, a, keep), THREE) for axis, keep in AXES),
    Row("sum", F.sum, ONE),
    Row("mean max", lambda x: F.mean(x) + F.max(x), [((),), ((1,),)]),
    Row("max relu", lambda x: F.max(F.relu(x), 0), [((6, 5),)]),  # with ties
    Row("softmax", F.softmax, [((2, 5),), ((3, 1),), ((0, 3),), ((2, 0),)]),
    Row("softmax", lambda x: F.softmax(x, 0), [((4, 2),), ((0, 2),)]),
    Row("log_softmax", F.log_softmax, [((2, 5),), ((3, 1),), ((0, 3),)]),
    Row("linear", fused.linear, [((3,), (3, 4), (4,)), ((2, 5, 3), (3, 3, 2, 2), (3, 2, 2)), ((0, 3), (3, 4), (4,))]),
    Row("linear", fused.linear, [((5, 3), (3, 4)), ((2, 5, 3), (3, 2, 2)), ((2, 0), (0, 4))]),
    Row(
        "linear", lambda x, w, b: fused.linear(x, w, b, gelu=True), [((2, 5, 3), (3, 4), (4,)), ((0, 3), (3, 4), (4,))]
    ),
    Row("add_bias", fused.add_bias, [((2, 3), (3,)), ((2, 5, 3), (3,)), ((0, 3), (3,))]),
    Row("linear_transposed", fused.linear_transposed, [((3,), (4, 3)), ((2, 5, 3), (4, 3)), ((0, 3), (4, 3))]),
    Row("embedding", lambda w: fused.embedding(ids((2, 3), 4), w), [((4, 3),), ((7, 1),)]),
    Row("embedding", lambda w: fused.embedding(ids((2, 0), 4), w), [((4, 3),)]),
    Row("embedding", lambda w: fused.embedding(ids((), 4), w), [((4, 3),)]),
    Row("embedding", lambda w: fused.embedding([[0, 2], [3, 0]], w), [((4, 3),)]),
    Row("layer_norm", fused.layer_norm, [((5,), (5,), (5,)), ((2, 3, 5), (5,), (5,)), ((0, 5), (5,), (5,))]),
    Row("gelu", fused.gelu, ONE),
    Row("gelu", lambda x: fused.gelu(x, "none"), ONE),
    Row("attention", fused.attention, [((2, 3, 4), (2, 5, 4), (2, 5, 6))]),
    Row("attention", lambda x: fused.attention(x, x, x, np.tri(5, k=-1, dtype=bool)), [((2, 5, 3),)]),
    Row("causal_attention", fused.causal_attention, [((2, 5, 3, 2, 3),), ((1, 1, 3, 2, 2),), ((0, 3, 3, 2, 2),)]),
    Row("causal_attention", lambda x: fused.causal_attention(x, 9, 0.1), [((2, 4, 3, 3, 1),)]),
    Row("attend attend_vjp", attended, [((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4))]),
    Row(
        "cross_entropy", lambda x: fused.cross_entropy(x, ids(x.shape[:-1], x.shape[-1]), 7), [((6, 4),), ((2, 3, 5),)]
    ),
    Row("cross_entropy", lambda x: fused.cross_entropy(x, ids(x.shape[:-1], 1), 7), [((5,),), ((0, 4),), ((3, 1),)]),
    Row("cross_entropy", lambda x: fused.cross_entropy(x, padded(x.shape[:-1], x.shape[-1]), 4), [((2, 3, 5),)]),
    Row("cross_entropy", lambda x: fused.cross_entropy(x, [1, 0], 7), [((2, 3),)]),
    Row("mean_squared_error", lambda x: fused.mean_squared_error(x, [[1, 2.5, 3]], 7), [((1, 3),)]),
    Row("mean_squared_error", lambda x: fused.mean_squared_error(x, to_device(np.ones(x.shape, x.dtype)), 7), ONE),
    Row("dropout", lambda x: fused.dropout(x, ids(x.shape, 3) > 0, 0.3), ONE),
]
HELPERS = {
    "gelu_and_slope",
    "heads_of",
    "scale_of",
    "unbroadcast",
    "unbroadcast_both",
    "operands",
    "elementwise_operands",
    "row_max",
    "softmax_rows",
    "targets",
    "axis_of",
    "axes_of",
}  # helpers called by the others


def uncalled() -> list[str]:
    """Return the public functions of functional.py, fused.py and their parts that no row calls; should be empty."""
    called = {name for row in TABLE for name in row.calls.split()} | HELPERS
    modules = ("functional", "shapes", "reductions", "fused", "attention", "gelu", "losses")
    public = [
        f"{module.__name__}.{name}"
        for module in (import_module(f"minitrain.{name}") for name in modules)
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
    ]
    return [name for name in public if name.rpartition(".")[2] not in called]


def operations(dtype: str) -> Results:
    """Return the result and the gradients of every row."""
    results: Results = {}
    for number, row in enumerate(TABLE):
        for shapes in row.shapes:
            name = f"{number} {row.calls} {shapes}"
            draw = np.random.default_rng(number)
            leaves = [Tensor(draw.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]
            y = row.operation(*leaves)
            assert y.dtype == dtype, f"{name}: {y.dtype}"
            y.backward(to_device(np.asarray(draw.standard_normal(y.shape), dtype)))
            results[f"{name} y"] = to_host(y.data)
            for i, leaf in enumerate(leaves):
                assert leaf.grad is not None and type(leaf.grad) is type(y.data) and leaf.grad.dtype == dtype, name
                results[f"{name} gradient {i}"] = to_host(leaf.grad)
    return results


# Models ---------------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A model, its batches, and its optimizer's constructor."""

    model: Model
    data: Loader
    optimizer: Callable[[Reducer], Optimizer]


def cases(dtype: str) -> Iterator[tuple[str, Case]]:
    """Yield (name, case), with a large standard deviation so that errors show."""
    # Adam divides by the size of gradients that are pure rounding, such as attention's key bias.
    draw, epsilon = np.random.default_rng(5), 1e-4 if dtype == "float64" else 1e-2
    text = TextLoader(draw.integers(0, 11, 200), context=6, batch=5, seed=3)
    images = ArrayLoader(draw.standard_normal((23, 6)).astype(dtype), draw.integers(0, 4, 23), batch=8, seed=3)
    config = GPTConfig(vocabulary=11, context=6, layers=2, heads=2, width=8, dropout=0.2, std=0.3, dtype=dtype)
    yield "gpt adamw", Case(gpt(config), text, lambda g: AdamW(g, weight_decay=0.1, epsilon=epsilon))
    untied = dataclasses.replace(config, tied=False)
    yield "untied gpt sgd", Case(gpt(untied), text, lambda g: SGD(g, momentum=0.9, weight_decay=0.1))
    small = MLPConfig(6, (9, 7), 4, dtype)
    yield "mlp adam", Case(mlp(small), images, lambda g: Adam(g, epsilon=epsilon))


def steps(case: Case, world: Communicator, how: str, count: int = 3, **axes: int) -> Results:
    """Return losses, norms, gradients and parameters of some training steps. axes: of the mesh, by default dp."""
    mesh = Mesh(world, **(axes or {"dp": world.size}))
    reducer = parallelize(case.model, mesh, named(how, bucket_mb=1e-3))
    reducer.init(7)
    optimizer = case.optimizer(reducer)
    rows = []
    for number in range(count):
        mine = case.data.batch(number).part(mesh.part("samples"), mesh.parts("samples"))
        loss, norm = train_step(case.model, mine, reducer, optimizer, lr=0.05, accumulate=2, clip=0.5)
        rows.append((sum(mesh.over("samples", "layers").gather_objects(loss)), norm))
    reducer.close()
    tensors = {
        f"{what} {name}": x
        for what, get in (("parameter", "data"), ("gradient", "grad"))
        for name, x in checkpoint.gather(case.model, world, get, reducer).items()
    }
    losses, norms = np.array(rows).T
    return tensors | {"loss": losses, "norm": norms}


def models(dtype: str) -> Results:
    """Run serial training steps with the ledger open, validation, checkpoints, and a sample."""
    results: Results = {}
    for name, case in cases(dtype):
        ledger = Ledger()
        with ledger.open():
            found = steps(case, threads.world_of_one(), "bucketed")
        results |= {f"{name} {key}": x for key, x in found.items()}
        with no_grad():
            losses = [case.model(batch).item() for batch in case.data.validation()]
        results[f"{name} validation"] = np.array(losses)
        weights = {p.placement.path: to_host(p.data) * 0.5 for p in case.model.parameters()}
        checkpoint.restore(case.model, weights)
        unlabelled = dataclasses.replace(case.data.batch(9), labels=None)
        results[f"{name} logits"] = to_host(case.model(Batch(unlabelled.inputs, None, unlabelled.where)).data)
        if name.startswith("gpt"):
            results[f"{name} sample"] = generate(case.model, 6, np.array([1, 2]), 8, 0.8, seed=1).astype(dtype)
    return results | resumed(dtype)


def resumed(dtype: str) -> Results:
    """Save a run, in the background and not, load it into a new trainer, and train on. Nothing without safetensors."""
    results: Results = {}
    if find_spec("safetensors") is None:  # a Python with NumPy and CuPy is enough for the rest
        return results
    for background in (False, True):
        made = []
        for _ in range(2):
            _, case = next(cases(dtype))
            made.append(Trainer(case.model, threads.world_of_one(), optimizer=case.optimizer, schedule=0.05))
        for _ in made[0].each_update(case.data, 2):
            continue
        with tempfile.TemporaryDirectory() as folder:
            saves = Checkpoints(Path(folder), made[0].world, background=background)
            saves.save(made[0])
            made[0].step(case.data.batch(2))  # what is written are the values before
            saves.close()
            where, index = newest(Path(folder), made[1].world)
            load(made[1], where, index)
            fresh = next(cases(dtype))[1].model
            start_from(fresh, Weights(where, where, GPTConfig(1), None, Reader(where, index)))
            fresh.init(1)
            results |= {f"started {p.placement.path}": to_host(p.data) for p in fresh.parameters()}
        losses = [update.loss for update in made[1].each_update(case.data, 2)]
        name = f"gpt adamw resumed {'from a background save' if background else ''}"
        results[f"{name} loss"] = np.array(losses)
        found = checkpoint.gather(case.model, made[1].world)
        results |= {f"{name} parameter {path}": x for path, x in found.items()}
    return results


# Ranks ----------------------------------------------------------------------------------------------------------------


def collectives(world: Communicator, dtype: str) -> Results:
    """Run every operation of a communicator on device arrays, and data parallel on top of it."""
    n, tag = world.size, ("dp", "test")
    results: Results = {}
    for kind in (dtype, "float16"):
        mine = np.arange(5 * n + 1, dtype=kind) * (world.rank + 1)
        # Copies: on NumPy the device array would be `mine` itself.
        summed, largest, parts, told = (to_device(mine.copy()) for _ in range(4))
        world.all_reduce(summed, tag)
        world.all_reduce(largest.reshape(1, -1), tag, op="max")
        shard_of = world.reduce_scatter(to_device(mine.copy()), tag)
        world.all_gather(parts, tag)
        world.broadcast(told, n - 1, tag)
        received = to_device(mine * 0)
        handle = world.send(told * (world.rank + 2), (world.rank + 1) % n, tag)
        world.receive(received, (world.rank - 1) % n, tag)
        handle.wait()
        found = {"summed": summed, "largest": largest, "share": shard_of, "parts": parts, "told": told}
        results |= {f"{kind} {name}": to_host(x) for name, x in [*found.items(), ("received", received)]}
    return results


def distributed(world: Communicator, dtype: str) -> Results:
    """Return a rank's results with the world's own collectives and with the ring's."""
    results: Results = {}
    for kind, group in {"native": world, "ring": RingCommunicator(world)}.items():
        results |= {f"{kind} {name}": x for name, x in collectives(group, dtype).items()}
        for how in ("naive", "bucketed", "overlap"):
            if how == "overlap" and not group.threads_allowed:
                continue
            _, case = next(cases(dtype))
            results |= {f"{kind} {how} {name}": x for name, x in steps(case, group, how).items()}
    return results


def ranks(dtype: str) -> Results:
    """Run two ranks as threads."""
    found = threads.run(2, lambda world: distributed(world, dtype))
    return {f"rank {i} {name}": x for i, rank in enumerate(found) for name, x in rank.items()}


def mpi(dtype: str) -> Results:
    """Run under mpirun: device arrays go through host memory. Rank 0 returns everything, the others nothing."""
    with launch() as world:
        found = world.gather_objects(distributed(world, dtype))
    return {f"rank {i} {name}": x for i, rank in enumerate(found) for name, x in rank.items() if world.rank == 0}


PARTS: dict[str, Callable[[str], Results]] = {
    "operations": operations,
    "models": models,
    "ranks": ranks,
    "mpi": mpi,
}


def compare(found: Results, expected: Results) -> tuple[float, str]:
    """Return the largest difference, max|a - b| / max|b|, and its location.

    max|b| is at least 1e-3 of the largest of its kind, since some gradients are zero up to rounding. A kind is all
    entries with the same name up to the last word: the gradients of one run, the losses of one run.
    """
    assert found.keys() == expected.keys()
    kinds: dict[str, float] = {}
    for name, b in expected.items():
        assert (found[name].shape, found[name].dtype) == (b.shape, b.dtype), name
        kind = name.rpartition(" ")[0]
        kinds[kind] = max(kinds.get(kind, 1e-300), float(np.abs(b.astype(np.float64)).max(initial=0.0)))
    worst, where = 0.0, ""
    for name, b in expected.items():
        size = max(float(np.abs(b.astype(np.float64)).max(initial=0.0)), 1e-3 * kinds[name.rpartition(" ")[0]])
        difference = float(np.abs(found[name].astype(np.float64) - b).max(initial=0.0)) / size
        if not difference <= worst:  # or NaN
            worst, where = difference, name
    return worst, where


def main() -> None:
    """Run from the command line as described in this file's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=["float64"])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=["operations", "models", "ranks"])
    given = parser.parse_args()
    wanted = [(part, dtype) for part in given.only for dtype in given.dtypes]
    results = {f"{part} {dtype}: {name}": x for part, dtype in wanted for name, x in PARTS[part](dtype).items()}
    print(f"computed with {xp.__file__}")
    if results:
        np.savez(given.out, **results)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
