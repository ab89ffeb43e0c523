"""A checkpoint of one mesh loaded on every other: the run goes on as if it had never stopped."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Parameter
from minitrain.optim import LAMB, LARS, SGD, Adam, Matrixwise, Part
from minitrain.parallel.strategy import Strategy
from minitrain.precision import DynamicPolicy, DynamicScaler, StaticPolicy
from minitrain.sharding import even_shards
from minitrain.train import checkpoint
from minitrain.train.checkpoint_folder import newest
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.history import Update
from minitrain.train.resharding import load
from minitrain.train.tensor_file import FILES, Files
from minitrain.train.trainer import Trainer
from tests.tiers import full

EXACT = 1e-12  # float64: orders of summation differ between meshes
CONFIG = GPTConfig(7, 6, layers=2, heads=4, width=8, std=0.3, dropout=0.3, dtype="float64")


class Layout(NamedTuple):
    ranks: int
    strategy: Strategy = Strategy()
    mesh: dict[str, int] = {}  # noqa: RUF012 - never changed


LAYOUTS = {
    "serial": Layout(1),
    "dp3": Layout(3),
    "zero3": Layout(4, Strategy(zero=3)),
    "tp2 pp2": Layout(4, mesh={"pp": 2, "tp": 2}),
    "zero1 dp2 pp2 tp2": Layout(8, Strategy(zero=1), {"dp": 2, "pp": 2, "tp": 2}),
    "tp2 sp": Layout(2, Strategy(sp=True), {"tp": 2}),
}


def text() -> TextLoader:
    """Batches of five sequences, which neither two nor three ranks divide evenly."""
    return TextLoader(np.arange(60) ** 2 % 7, context=6, batch=5, seed=1)


def points(n: int = 25, dtype: str = "float32") -> ArrayLoader:
    draw = np.random.default_rng(1)
    return ArrayLoader(draw.normal(size=(n, 5)).astype(dtype), draw.integers(0, 2, n), 7, seed=1)


def made(
    world: Communicator, layout: Layout, model: Model | None = None, kind: type[Trainer] = Trainer, **options: Any
) -> Trainer:
    mesh = Mesh(world, **layout.mesh) if layout.mesh else None
    options = {"optimizer": Adam, "schedule": 0.01, "strategy": layout.strategy, "mesh": mesh, **options}
    return kind(gpt(CONFIG) if model is None else model, world, **options)


def saved(trainer: Trainer, folder: Path, **options: Any) -> Path:
    """Save the trainer's progress, which must succeed. Return the folder of the checkpoint."""
    checkpoints = Checkpoints(folder, trainer.world, **options)
    assert checkpoints.save(trainer) and checkpoints.last is not None
    checkpoints.close()
    return checkpoints.last


def loaded(trainer: Trainer, folder: Path, files: Files = FILES) -> list[str]:
    return load(trainer, *newest(folder, trainer.world), files)


def whole(trainer: Trainer) -> dict[str, np.ndarray]:
    """Return the logical parameters and optimizer states, gathered without the code of checkpoints.py."""
    values = checkpoint.gather(trainer.model, trainer.world, reducer=trainer.reducer)
    state: Any = checkpoint.gather_state(trainer.optimizer.state_dict(), trainer.world)
    return values | {name: x for name, x in state.items() if name != "updates"}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], within: float = 0.0) -> None:
    """Compare values. The bias of the keys is left out unless bits are compared: its gradient is 0 up to rounding,
    which Adam magnifies, and it changes no loss."""
    assert a.keys() == b.keys()
    for name, x in a.items():
        y = b[name]
        assert x.dtype == y.dtype and x.shape == y.shape, name
        if within and "qkv.bias" in name:
            x, y = x[[0, 2]], y[[0, 2]]
        np.testing.assert_allclose(x.astype(float), y.astype(float), rtol=0, atol=within, err_msg=name)


# Every mesh under every other -----------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What an uninterrupted run did after it was saved, and what it held at its end."""

    folder: Path
    after: list[Update]
    end: dict[str, np.ndarray]


Runs = Callable[[str], Run]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Five updates, saved, and five more, by the name of the layout; each is run once."""

    @cache
    def run(name: str) -> Run:
        folder = tmp_path_factory.mktemp("run")

        def program(world: Communicator) -> Run:
            trainer = made(world, LAYOUTS[name])
            list(trainer.each_update(text(), 5))
            saved(trainer, folder)
            after = list(trainer.each_update(text(), 5))
            found = Run(folder, after, whole(trainer))
            trainer.close()
            return found

        return threads.run(LAYOUTS[name].ranks, program)[0]

    return run


QUICK = [
    ("serial", "serial"), ("zero3", "zero3"), ("zero1 dp2 pp2 tp2", "serial"), ("serial", "zero1 dp2 pp2 tp2"),
    ("tp2 pp2", "dp3"), ("zero3", "tp2 pp2"), ("tp2 sp", "zero3"), ("dp3", "tp2 sp"),
]  # fmt: skip
PAIRS = [(a, b) for a in LAYOUTS for b in LAYOUTS]


@pytest.mark.parametrize(("source", "target"), [pair if pair in QUICK else full(*pair) for pair in PAIRS])
def test_saved_on_one_mesh_and_loaded_on_another(source: str, target: str, runs: Runs) -> None:
    """Bit for bit on the same mesh, and up to the order of summation on another one."""
    run = runs(source)

    def program(world: Communicator) -> tuple[list[Update], dict[str, np.ndarray]]:
        trainer = made(world, LAYOUTS[target])
        assert loaded(trainer, run.folder) == []
        assert (trainer.updates, trainer.batches) == (5, 5)
        after = list(trainer.each_update(text(), 5))
        found = after, whole(trainer)
        trainer.close()
        return found

    within = 0.0 if source == target else EXACT
    for after, end in threads.run(LAYOUTS[target].ranks, program):
        np.testing.assert_allclose(after, run.after, rtol=0, atol=within)
        same(end, run.end, within)


def test_one_then_three_then_two_ranks(tmp_path: Path) -> None:
    """A run that moves twice sees each batch once, and ends like one that stays where it is."""

    def part(world: Communicator, number: int) -> tuple[list[Update], dict[str, np.ndarray]]:
        trainer = made(world, Layout(world.size, Strategy(zero=world.size - 1)))
        if number:
            loaded(trainer, tmp_path / str(number - 1))
        updates = list(trainer.each_update(text(), 4))
        saved(trainer, tmp_path / str(number))
        assert trainer.batches == 4 * (number + 1)
        return updates, whole(trainer)

    parts = [threads.run(ranks, partial(part, number=number))[0] for number, ranks in enumerate((1, 3, 2))]
    trainer = made(threads.world_of_one(), LAYOUTS["serial"])
    true = list(trainer.each_update(text(), 12))
    np.testing.assert_allclose([update for updates, _ in parts for update in updates], true, rtol=0, atol=EXACT)
    same(parts[-1][1], whole(trainer), EXACT)


# The same mesh, bit for bit -------------------------------------------------------------------------------------------


Case = tuple[Layout, dict[str, Any]]


def half(scale: float = 2.0**20) -> dict[str, Any]:
    """Half weights, with a scale that is too large for the first batches."""
    return {"precision": StaticPolicy(), "half_weights": True, "scaler": DynamicScaler(scale, interval=2)}


SIZES = (5 * 6, 6, 6 * 4, 4, 4 * 2, 2)  # of a weight and a bias in each layer: each is a bucket


def small(dtype: str = "float32") -> Model:
    return mlp(MLPConfig(5, (6, 4), 2, dtype))


CASES: dict[str, Callable[[], Case]] = {
    "serial": lambda: (Layout(1), {}),
    "dp": lambda: (Layout(2), {}),
    "zero1": lambda: (Layout(2, Strategy(zero=1)), {"clip": 0.1}),
    "zero2": lambda: (Layout(3, Strategy(zero=2)), {"optimizer": partial(SGD, momentum=0.5)}),
    "zero3": lambda: (Layout(3, Strategy(zero=3)), {}),
    "tp pp": lambda: (LAYOUTS["tp2 pp2"], {"accumulate": 2}),
    "sp": lambda: (LAYOUTS["tp2 sp"], {}),
    "half weights": lambda: (Layout(2, Strategy(zero=2)), {"model": small(), "schedule": 0.05, **half()}),
    "half weights, zero3": lambda: (Layout(3, Strategy(zero=3)), {"model": small(), "schedule": 0.05, **half()}),
    "layers": lambda: (Layout(2), {"model": small(), "precision": DynamicPolicy(), "scaler": DynamicScaler(2.0**40)}),
    "micro-batches": lambda: (Layout(2, Strategy(zero=2)), {"accumulate": 2}),
}


@pytest.mark.parametrize(
    "name",
    [full(name) if name in ("dp", "zero1", "zero2", "half weights", "micro-batches") else name for name in CASES],
)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    """Eight updates, and four, a checkpoint, new objects and four more: losses, norms, scales and all values."""
    resumed_equals_uninterrupted(tmp_path, name)


def resumed_equals_uninterrupted(folder: Path, name: str, kind: type[Trainer] = Trainer) -> None:
    """kind: of the resumed trainer."""
    data = points() if "model" in CASES[name]()[1] else text()
    ranks = CASES[name]()[0].ranks

    def progress(trainer: Trainer) -> tuple[dict[str, np.ndarray], str]:
        return whole(trainer), repr((trainer.plain_state(), trainer.batches, trainer.updates))

    def program(world: Communicator) -> None:
        def new(kind: type[Trainer] = Trainer) -> Trainer:
            layout, options = CASES[name]()
            return made(world, layout, kind=kind, **options)

        uninterrupted, first, second = new(), new(), new(kind)
        true = list(uninterrupted.each_update(data, 4))
        assert repr(list(first.each_update(data, 4))) == repr(true)
        saved(first, folder)
        assert loaded(second, folder) == []
        for trainer in (first, second):
            values, plain = progress(trainer)
            same(values, progress(uninterrupted)[0])
            assert plain == progress(uninterrupted)[1]
        true = list(uninterrupted.each_update(data, 4))
        assert repr(list(second.each_update(data, 4))) == repr(true)
        same(progress(second)[0], progress(uninterrupted)[0])
        assert progress(second)[1] == progress(uninterrupted)[1]
        for trainer in (uninterrupted, first, second):
            trainer.close()

    threads.run(ranks, program)


# Half precision -------------------------------------------------------------------------------------------------------

BOUND = 0.01  # of a loss near 0.7 in 16 bits, whose sums are in another order


@pytest.fixture
def halves(tmp_path: Path) -> Run:
    """Six batches in half precision with ZeRO-2 on two ranks, of which some were skipped; six more come after."""

    def program(world: Communicator) -> Run:
        trainer = made(world, Layout(2, Strategy(zero=2)), small(), schedule=0.05, **half())
        before = [trainer.step(points().batch(i)) for i in range(6)]
        assert {update.skipped for update in before} == {True, False}
        saved(trainer, tmp_path)
        values = whole(trainer)
        values["scale"] = np.array([trainer.scaler.value])
        after = [trainer.step(points().batch(i)) for i in range(6, 14)]
        assert any(update.skipped for update in after)
        return Run(tmp_path, after, values)

    return threads.run(2, program)[0]


@pytest.mark.parametrize(
    "layout", [Layout(1), Layout(3, Strategy(zero=2)), Layout(4, Strategy(zero=3))], ids=["serial", "zero2", "zero3"]
)
def test_half_weights_on_another_mesh(layout: Layout, halves: Run) -> None:
    """Weights, masters, moments and the scale are the same bits; then the same batches are skipped."""

    def program(world: Communicator) -> None:
        trainer = made(world, layout, small(), schedule=0.05, **half())
        assert loaded(trainer, halves.folder) == []
        same({**whole(trainer), "scale": np.array([trainer.scaler.value])}, halves.end)
        after = [trainer.step(points().batch(i)) for i in range(6, 14)]
        assert [(u.skipped, u.scale) for u in after] == [(u.skipped, u.scale) for u in halves.after]
        np.testing.assert_allclose([u.loss for u in after], [u.loss for u in halves.after], atol=BOUND, equal_nan=True)

    threads.run(layout.ranks, program)


def test_half_weights_that_were_set_after_the_last_update(tmp_path: Path) -> None:
    """The weight is kept, although its master does not know of it yet, and the next update starts from it."""

    def program(world: Communicator) -> None:
        def new() -> Trainer:
            return made(world, Layout(2, Strategy(zero=1)), small(), schedule=0.05, **half(1.0))

        first, second = new(), new()
        first.step(points().batch(0))
        tensors = checkpoint.gather(first.model, world)
        tensors["head.linear.bias"][:] = 0.5
        checkpoint.restore(first.model, tensors)
        saved(first, tmp_path)
        loaded(second, tmp_path)
        assert (whole(second)["head.linear.bias"] == 0.5).all()
        for trainer in (first, second):
            trainer.step(points().batch(1))
        same(whole(second), whole(first))

    threads.run(2, program)


def parts_of(values: dict[str, np.ndarray], ending: str) -> dict[str, np.ndarray]:
    return {name.removesuffix(ending): x for name, x in values.items() if name.endswith(ending)}


def test_half_weights_continued_in_full_precision(halves: Run) -> None:
    """The new parameters are the masters, not what was rounded from them."""

    def program(world: Communicator) -> None:
        trainer = made(world, Layout(3, Strategy(zero=1)), small())
        assert loaded(trainer, halves.folder) == [
            "the scaler of the checkpoint is of another kind: this run starts with a new one",
        ]
        values = whole(trainer)
        masters = parts_of(halves.end, ".master")
        assert masters and any((x != x.astype(np.float16)).any() for x in masters.values())
        same({name: values[name] for name in masters}, masters)
        for moment in (".m", ".v"):
            same(parts_of(values, moment), parts_of(halves.end, moment))
        assert trainer.updates and trainer.batches == 6
        assert math.isfinite(trainer.step(points().batch(6)).loss)

    threads.run(3, program)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_full_precision_continued_with_half_weights(policy: str, tmp_path: Path) -> None:
    """The masters are the saved parameters; the weights are rounded from them."""

    def first(world: Communicator) -> dict[str, np.ndarray]:
        trainer = made(world, Layout(2, Strategy(zero=3)), small())
        for i in range(3):
            trainer.step(points().batch(i))
        saved(trainer, tmp_path)
        return whole(trainer)

    true = threads.run(2, first)[0]

    def second(world: Communicator) -> None:
        precision = StaticPolicy(policy)
        trainer = made(world, Layout(3, Strategy(zero=2)), small(), precision=precision, half_weights=True)
        notes = loaded(trainer, tmp_path)
        name = policy.removeprefix("mixed_")
        assert notes[0] == f"parameters are float32 in the checkpoint and {name} here: converted"
        values = whole(trainer)
        parameters = {path: x for path, x in true.items() if not path.endswith((".m", ".v"))}
        same(parts_of(values, ".master"), parameters)
        same({path: values[path] for path in parameters}, {p: x.astype(precision.half) for p, x in parameters.items()})
        for moment in (".m", ".v"):
            same(parts_of(values, moment), parts_of(true, moment))
        for i in range(3, 6):
            trainer.step(points().batch(i))
        assert trainer.updates == 6

    threads.run(3, second)


@pytest.mark.parametrize("target", ["mixed_bfloat16", "mixed_float16"])
def test_bfloat16_half_weights(target: str, tmp_path: Path) -> None:
    """Stored as their bits; continued in float16, the weights are rounded from the masters."""

    def program(world: Communicator) -> None:
        def new(policy: str) -> Trainer:
            layout = Layout(2, Strategy(zero=2))
            return made(world, layout, small(), schedule=0.05, precision=StaticPolicy(policy), half_weights=True)

        first, second = new("mixed_bfloat16"), new(target)
        for i in range(4):
            first.step(points().batch(i))
        saved(first, tmp_path)
        notes = loaded(second, tmp_path)
        true, values = whole(first), whole(second)
        assert true["head.linear.weight"].dtype.name == "bfloat16"
        if target == "mixed_bfloat16":
            assert notes == []
            same(values, true)
            assert repr(second.step(points().batch(4))) == repr(first.step(points().batch(4)))
            return
        assert notes[0] == "parameters are float32 in the checkpoint and float16 here: converted"
        masters = parts_of(true, ".master")
        same(parts_of(values, ".master"), masters)
        same({path: values[path] for path in masters}, {path: x.astype(np.float16) for path, x in masters.items()})

    threads.run(2, program)


def test_values_too_large_for_half_weights(tmp_path: Path) -> None:
    """Refused on all ranks by the name of the parameter, before anything has changed."""

    def program(world: Communicator) -> str:
        first = made(world, Layout(2, Strategy(zero=1)), small())
        tensors = checkpoint.gather(first.model, world)
        tensors["head.linear.bias"][1] = 1e6
        checkpoint.restore(first.model, tensors)
        saved(first, tmp_path)
        second = made(world, Layout(2, Strategy(zero=2)), small(), **half())
        before, plain = whole(second), repr(second.plain_state())
        with pytest.raises(
            UserError, match=r"head\.linear\.bias .*values up to 1e\+06, too large for float16"
        ) as caught:
            loaded(second, tmp_path)
        same(whole(second), before)
        assert repr(second.plain_state()) == plain
        return str(caught.value)

    assert len({*threads.run(2, program)}) == 1


# Only what a rank holds is read ---------------------------------------------------------------------------------------


class Counting(Files):
    """Counts the bytes that are read."""

    def __init__(self) -> None:
        self.bytes = 0

    def read(self, file: int, size: int, at: int) -> bytes:
        self.bytes += size
        return super().read(file, size, at)


@pytest.mark.parametrize("target", ["serial", "dp3", full("zero3"), full("tp2 pp2"), "tp2 sp"])
def test_a_rank_reads_what_it_holds(target: str, runs: Runs) -> None:
    """The bytes of its parameters and of two moments, and nothing else."""
    run = runs("dp3")
    total = CONFIG.parameters * 3 * 8

    def program(world: Communicator) -> int:
        trainer, files = made(world, LAYOUTS[target]), Counting()
        loaded(trainer, run.folder, files)
        held = sum(held.data.nbytes for held in trainer.reducer.held())
        trainer.close()
        assert files.bytes == 3 * held
        return files.bytes

    read = threads.run(LAYOUTS[target].ranks, program)
    if target in ("serial", "dp3"):
        assert read == [total] * len(read)
    elif target == "zero3":
        assert sum(read) == total and max(read) - min(read) <= 3 * 8 * 20, "as even as its shards"
    else:
        assert all(total / len(read) < size < total for size in read)


def test_a_rank_of_zero3_reads_its_shards(tmp_path: Path) -> None:
    """By hand: six buckets, each divided among four ranks."""

    def program(world: Communicator) -> int:
        layout = Layout(4, Strategy(zero=3))
        trainer, files = made(world, layout, small()), Counting()
        trainer.step(points().batch(0))
        saved(trainer, tmp_path)
        loaded(made(world, layout, small()), tmp_path, files)
        return files.bytes

    shards = [even_shards(n, 4) for n in SIZES]
    true = [sum(3 * 4 * (shard[rank].stop - shard[rank].start) for shard in shards) for rank in range(4)]
    assert threads.run(4, program) == true


# The bytes of the files -----------------------------------------------------------------------------------------------

EACH: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
    "adam": (4 + 8, dict),
    "momentum": (4 + 4, lambda: {"optimizer": partial(SGD, momentum=0.9)}),
    "sgd": (4, lambda: {"optimizer": SGD}),
    "half weights": (2 + 4 + 8, lambda: half(1.0)),
}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("zero", [0, 1, 2, full(3)])
@pytest.mark.parametrize("name", EACH)
def test_the_bytes_that_each_rank_writes(name: str, zero: int, ranks: int, tmp_path: Path) -> None:
    """Replicas are written once, in every strategy: 12 bytes a parameter with Adam, divided by the ranks."""
    each, options = EACH[name]

    def program(world: Communicator) -> None:
        trainer = made(world, Layout(ranks, Strategy(zero=zero)), small(), **options())
        trainer.step(points().batch(0))
        assert trainer.updates == 1
        saved(trainer, tmp_path)
        trainer.close()

    threads.run(ranks, program)
    written = []
    for rank in range(ranks):
        file = (tmp_path / "step-1" / f"rank-{rank}-of-{ranks}.safetensors").read_bytes()
        written.append(len(file) - 8 - int.from_bytes(file[:8], "little"))
    assert sum(written) == each * sum(SIZES)
    shards = [even_shards(n, ranks) for n in SIZES]
    assert written == [sum(each * (shard[r].stop - shard[r].start) for shard in shards) for r in range(ranks)]


# Optimizers and models ------------------------------------------------------------------------------------------------


class Signs(Matrixwise):
    """Momentum, and the sign of the whole matrix divided by its largest entry: needs whole parameters."""

    states = ("momentum",)

    def direction(self, p: Parameter, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        state[0][...] = 0.9 * state[0] + g
        return state[0]

    def whole(self, p: Parameter, x: Array) -> Array:
        return x / (abs(x).max() + 1e-3)

    def update_with(self, p: Parameter, w: Array, y: Array, lr: float, decay: bool) -> None:
        w -= lr * y


@pytest.mark.parametrize("optimizer", [LAMB, Signs, full(LARS), full(partial(SGD, momentum=0.9)), full(SGD)])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Layout(3, Strategy(zero=2)), Layout(2, mesh={"tp": 2})),
        full(Layout(2, mesh={"tp": 2}), Layout(3, Strategy(zero=3))),
        full(Layout(2, mesh={"pp": 2}), Layout(1)),
    ],
    ids=["zero2 to tp", "tp to zero3", "pp to serial"],
)
def test_other_optimizers(optimizer: Any, source: Layout, target: Layout, tmp_path: Path) -> None:
    """With norms, and with ranks that own whole parameters."""

    def first(world: Communicator) -> tuple[list[Update], dict[str, np.ndarray]]:
        trainer = made(world, source, optimizer=optimizer)
        list(trainer.each_update(text(), 3))
        saved(trainer, tmp_path)
        return list(trainer.each_update(text(), 3)), whole(trainer)

    def second(world: Communicator) -> tuple[list[Update], dict[str, np.ndarray]]:
        trainer = made(world, target, optimizer=optimizer)
        assert loaded(trainer, tmp_path) == []
        return list(trainer.each_update(text(), 3)), whole(trainer)

    true, end = threads.run(source.ranks, first)[0]
    found, values = threads.run(target.ranks, second)[0]
    np.testing.assert_allclose(found, true, rtol=0, atol=EXACT)
    same(values, end, EXACT)


def with_frozen_parameters() -> Model:
    """One weight is frozen, and some are used by no layer: of an odd size, without axes, and without elements."""
    model = gpt(CONFIG)
    for name, shape in {"odd": (3, 5), "scalar": (), "empty": (0, 3)}.items():
        unused = Parameter(f"blocks.0.{name}", shape, mean=0.5, std=0.1, dtype="float64")
        setattr(model.units[1], name, unused)
    next(p for p in model.parameters() if p.placement.path == "blocks.1.mlp.up.weight").requires_grad = False
    return model


@pytest.mark.parametrize("updates", [0, 3])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Layout(3, Strategy(zero=2)), Layout(2, mesh={"tp": 2})),
        (Layout(2, mesh={"tp": 2}), Layout(2, Strategy(zero=3))),
    ],
    ids=["zero2 to tp", "tp to zero3"],
)
def test_frozen_and_unused_parameters(source: Layout, target: Layout, updates: int, tmp_path: Path) -> None:
    """And a checkpoint before the first update, which holds no moments."""

    def program(world: Communicator, layout: Layout, resumed: bool) -> tuple[list[Update], dict[str, np.ndarray]]:
        trainer = made(world, layout, with_frozen_parameters(), seed=5 if resumed else 1)
        if resumed:
            assert loaded(trainer, tmp_path) == [] and trainer.updates == updates
        else:
            list(trainer.each_update(text(), updates))
            saved(trainer, tmp_path)
        return list(trainer.each_update(text(), 3)), whole(trainer)

    true, end = threads.run(source.ranks, partial(program, layout=source, resumed=False))[0]
    found, values = threads.run(target.ranks, partial(program, layout=target, resumed=True))[0]
    np.testing.assert_allclose(found, true, rtol=0, atol=EXACT)
    same(values, end, EXACT)
    assert {"blocks.0.odd", "blocks.0.scalar.m", "blocks.0.empty.m"} < values.keys()
    assert "blocks.1.mlp.up.weight.m" not in values


# What does not fit ----------------------------------------------------------------------------------------------------


def other(**sizes: Any) -> Model:
    return mlp(MLPConfig(**{"inputs": 5, "hidden": (6, 4), "classes": 2, **sizes}))


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "another optimizer": (
        lambda: {"optimizer": partial(SGD, momentum=0.9)},
        "the state of another optimizer: m, v; SGD keeps velocity. Give the optimizer of the run",
    ),
    "an optimizer without a state": (lambda: {"optimizer": SGD}, "another optimizer: m, v; SGD keeps none"),
    "another model": (lambda: {"model": other(hidden=(6, 4, 4))}, r"the checkpoint lacks dense\.2\.linear\.bias"),
    "a smaller model": (lambda: {"model": other(hidden=(6,))}, r"entries that the model lacks: dense\.1\.linear\.bias"),
    "another shape": (
        lambda: {"model": other(hidden=(6, 3))},
        r"the checkpoint has shape .* for dense\.1\.linear\.\w+; the model needs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """With the same message on all ranks, and before anything has changed."""
    options, said = REFUSED[name]

    def program(world: Communicator) -> str:
        layout = Layout(2, Strategy(zero=2))
        trainer = made(world, layout, small())
        trainer.step(points().batch(0))
        saved(trainer, tmp_path)
        second = made(world, layout, **{"model": small(), **options()})
        for number in range(2):
            second.step(points().batch(number))
        before, plain = whole(second), repr(second.plain_state())
        with pytest.raises(UserError, match=said) as caught:
            loaded(second, tmp_path)
        same(whole(second), before)
        assert repr(second.plain_state()) == plain
        second.step(points().batch(2))
        return str(caught.value)

    assert len({*threads.run(2, program)}) == 1


@pytest.mark.parametrize("optimizer", [SGD, partial(SGD, momentum=0.9)], ids=["no state", "another state"])
def test_a_state_that_the_checkpoint_lacks(optimizer: Any, tmp_path: Path) -> None:
    """Also of an optimizer that keeps none: the message is about the optimizer, not about one parameter."""

    def program(world: Communicator) -> str:
        trainer = made(world, Layout(2), small(), optimizer=optimizer)
        trainer.step(points().batch(0))
        saved(trainer, tmp_path)
        second = made(world, Layout(2), small())
        with pytest.raises(UserError, match=r"the state of another optimizer: .*; Adam keeps m, v") as caught:
            loaded(second, tmp_path)
        assert second.updates == 0
        return str(caught.value)

    assert len({*threads.run(2, program)}) == 1


def test_a_parameter_that_was_frozen_then(tmp_path: Path) -> None:
    """It has no moments in the checkpoint."""

    def program(world: Communicator) -> str:
        frozen = small()
        frozen.parameters()[0].requires_grad = False
        trainer = made(world, Layout(2), frozen)
        trainer.step(points().batch(0))
        saved(trainer, tmp_path)
        second = made(world, Layout(2), small())
        with pytest.raises(
            UserError, match=r"has no m for dense\.0\.linear\.\w+, which was not trained then"
        ) as caught:
            loaded(second, tmp_path)
        assert second.updates == 0
        return str(caught.value)

    assert len({*threads.run(2, program)}) == 1


class Counts(Adam):
    """Keeps a number of its own in its state."""

    def state_dict(self) -> dict[str, Part | np.ndarray | int]:
        return {**super().state_dict(), "calls": 3}


def test_an_optimizer_with_a_state_of_its_own(tmp_path: Path) -> None:
    """Its state would be lost: refused on all ranks, and the folder can be used after that."""

    def program(world: Communicator) -> None:
        trainer = made(world, Layout(2), small(), optimizer=Counts)
        checkpoints = Checkpoints(tmp_path, world)
        with pytest.raises(UserError, match="Counts has its own state_dict, which a checkpoint does not call"):
            checkpoints.save(trainer)
        assert checkpoints.save(made(world, Layout(2), small()))
        checkpoints.close()

    threads.run(2, program)
    assert [folder.name for folder in tmp_path.glob("step-*")] == ["step-0"]


def test_a_history_with_gaps(tmp_path: Path) -> None:
    """NaN marks a number that was not measured; JSON has no such number."""

    def program(world: Communicator) -> None:
        trainer = made(world, Layout(2), small())
        trainer.fit(points(), updates=2, validate_every=1)
        trainer.fit(points(), updates=1, validation=points())
        saved(trainer, tmp_path)
        second = made(world, Layout(2), small())
        loaded(second, tmp_path)
        assert [math.isnan(x) for x in second.history.validation_loss] == [True, True, False]
        assert repr(second.history) == repr(trainer.history)

    threads.run(2, program)
