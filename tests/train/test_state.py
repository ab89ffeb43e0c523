"""An interrupted run resumes bit for bit from new objects, restored weights and loaded state."""

import json
import math
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.errors import UserError
from minitrain.lr_schedules import reduce_on_plateau
from minitrain.models import GPTConfig, MLPConfig, gpt, mlp
from minitrain.optim import LAMB, SGD, Adam
from minitrain.parallel.strategy import Strategy
from minitrain.precision import DynamicPolicy, DynamicScaler, Precision, Scaler, StaticPolicy, StaticScaler
from minitrain.train import checkpoint
from minitrain.train.history import History, Update
from minitrain.train.trainer import Trainer
from tests.strategies import named
from tests.tiers import full


def points(n: int = 25, seed: int = 1) -> ArrayLoader:
    draw = np.random.default_rng(seed)
    return ArrayLoader(draw.normal(size=(n, 5)).astype(np.float32), draw.integers(0, 2, n), 7, seed=seed)


def trainer(world: Communicator, **options: Any) -> Trainer:
    model = mlp(MLPConfig(5, (6, 4), 2))
    return Trainer(model, world, **{"optimizer": Adam, "schedule": 0.05, **options})


def gathered(made: Trainer) -> dict[str, np.ndarray]:
    return checkpoint.gather(made.model, made.world, reducer=made.reducer)


def fresh(made: Trainer, other: Trainer) -> Trainer:
    """Return `other` restored to the first trainer's progress; the plain parts of the state pass through a file."""
    state = made.state_dict()
    plain = json.loads(json.dumps({name: part for name, part in state.items() if name != "optimizer"}))
    checkpoint.restore(other.model, gathered(made))
    other.load_state_dict({**plain, "optimizer": state["optimizer"]})
    return other


def same(a: Trainer, b: Trainer) -> None:
    for (path, x), (_, y) in zip(gathered(a).items(), gathered(b).items(), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)
    states = [{name: part for name, part in made.state_dict().items() if name != "optimizer"} for made in (a, b)]
    assert repr(states[0]) == repr(states[1])  # compared as text, since NaN is not equal to itself


Options = Callable[[], dict[str, Any]]

# The interrupted states include a scale that shrank and is about to grow, and layers in float32 or blamed.
RUNS: dict[str, Options] = {
    "float32": dict,
    "momentum": lambda: {"optimizer": partial(SGD, momentum=0.5), "clip": 0.1},
    "norms": lambda: {"optimizer": LAMB},
    "scale": lambda: {"precision": StaticPolicy(), "scaler": DynamicScaler(2.0**40, interval=3)},
    "half weights": lambda: {
        "precision": StaticPolicy(), "half_weights": True, "scaler": DynamicScaler(2.0**20, interval=2)
    },
    "constant": lambda: {"precision": StaticPolicy(), "scaler": StaticScaler(2.0**10)},
    "layers": lambda: {"precision": DynamicPolicy(patience=2, rest=3), "scaler": DynamicScaler(4.0, interval=2)},
}  # fmt: skip


def spoilt(made: Trainer) -> None:
    """Make the first layer's output overflow in 16 bits."""
    tensors = gathered(made)
    for path, factor in (("dense.0.linear.weight", 1e6), ("dense.1.linear.weight", 1e-6)):
        tensors[path] *= np.float32(factor)
    checkpoint.restore(made.model, tensors)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        full(name, how) if how == "zero1" or name in ("float32", "norms", "constant") else (name, how)
        for name in RUNS
        for how in ("bucketed", "zero1", "zero3")
    ],
)
def test_a_run_that_was_interrupted_goes_on(name: str, how: str) -> None:
    """Interrupt after every batch, including those whose update was skipped."""

    def program(world: Communicator) -> None:
        def make() -> Trainer:
            return trainer(world, strategy=named(how), **RUNS[name]())

        whole, parts = make(), [make()]
        if name == "layers":
            for made in (whole, parts[0]):
                spoilt(made)
        true: list[Update] = []
        for number in range(14):
            true.append(whole.step(points().batch(number)))
            assert repr(parts[-1].step(points().batch(number))) == repr(true[-1])  # NaN is not equal to itself
            same(parts[-1], whole)
            parts.append(fresh(parts[-1], make()))
            same(parts[-1], whole)
        assert any(update.skipped for update in true) == (name in ("scale", "half weights", "layers"))
        if name in ("scale", "layers"):
            assert len({update.scale for update in true}) > 2

    threads.run(2, program, timeout=30)


def test_layers_that_rest_and_are_blamed_are_in_the_state() -> None:
    """Without this, the test above would prove nothing."""
    made, found = trainer(world_of_one(), **RUNS["layers"]()), []
    spoilt(made)
    for number in range(6):
        made.step(points().batch(number))
        found.append(made.state_dict()["precision"])
    assert found[0] == {"resting": {}, "blamed": {"dense.0": 1}}
    assert found[1]["resting"] == {"dense.0": 3} and found[5]["resting"]


def test_a_scaler_gives_up_as_it_would_have() -> None:
    """The count of consecutive bad batches continues."""
    always = partial(StaticScaler, 8.0, patience=5, agree=lambda overflow, world: True)
    made = trainer(world_of_one(), scaler=always())
    for number in range(3):
        made.step(points().batch(number))
    other = fresh(made, trainer(world_of_one(), scaler=always()))
    other.step(points().batch(3))
    with pytest.raises(UserError, match="5 batches in a row"):
        other.step(points().batch(4))
    assert other.scaler.skips == 5


def plateau(world: Communicator) -> Trainer:
    made: Trainer = trainer(
        world, schedule=lambda update: reduce_on_plateau(made.history.validation_loss, 0.3, factor=0.5, patience=0)
    )
    return made


@pytest.mark.parametrize("patience", [None, 2])
def test_a_later_fit_goes_on(patience: int | None) -> None:
    """Learning rates follow the whole history, and each fit has its own patience, as without an interruption."""
    true = plateau(world_of_one())
    first = true.fit(points(), 4, points(10, 2), patience)
    between = fresh(true, plateau(world_of_one()))
    histories = [made.fit(points(), 7, points(10, 2), patience) for made in (true, between)]
    assert histories[0] == histories[1] and between.history == true.history
    assert len(set(true.history.lr)) > 2 and len(first.loss) + len(histories[0].loss) == len(true.history.loss)
    if patience:
        assert histories[0].waited == patience, "otherwise the best weights did not come back"
    same(true, between)


def test_text_goes_on_in_the_middle_of_an_epoch() -> None:
    """The next batch and its dropout are the same."""
    text = TextLoader(np.arange(60) ** 2 % 7, context=6, batch=4, seed=1)

    def make() -> Trainer:
        model = gpt(GPTConfig(7, 6, layers=1, heads=2, width=8, std=0.3, dropout=0.3, dtype="float64"))
        return Trainer(model, world_of_one(), optimizer=Adam, schedule=0.01)

    whole, part = make(), make()
    true = whole.fit(text, updates=7, validate_every=1)
    part.fit(text, updates=4, validate_every=1)
    other = fresh(part, make())
    other.fit(text, updates=3, validate_every=1)
    same(whole, other)
    assert other.history == whole.history and astuple(true) == astuple(whole.history)


@pytest.mark.parametrize("mesh", [{"dp": 1, "tp": 2}, {"dp": 1, "pp": 2}], ids=str)
def test_on_a_divided_model(mesh: dict[str, int]) -> None:
    def program(world: Communicator) -> None:
        made, other = (trainer(world, mesh=Mesh(world, **mesh)) for _ in range(2))
        made.fit(points(), 1)
        fresh(made, other)
        for one in (made, other):
            one.fit(points(), 1)
        same(made, other)

    threads.run(2, program, timeout=20)


@pytest.mark.parametrize("optimizer", [Adam, LAMB])
def test_on_another_mesh(optimizer: Any) -> None:
    """The optimizer's state is gathered first. Also compare with an uninterrupted run on one process."""

    def make(world: Communicator, **mesh: int) -> Trainer:
        strategy = Strategy(zero=2 if world.size > 1 else 0)
        model = mlp(MLPConfig(5, (6, 4), 2, "float64"))
        return Trainer(model, world, optimizer=optimizer, schedule=0.01, strategy=strategy, mesh=Mesh(world, **mesh))

    draw = np.random.default_rng(1)
    data = ArrayLoader(draw.normal(size=(25, 5)), draw.integers(0, 2, 25), 7, seed=1)

    def first(world: Communicator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        made = make(world, dp=3)
        made.fit(data, updates=5, validation=data, validate_every=2)
        state = made.state_dict()
        return gathered(made), {**state, "optimizer": checkpoint.gather_state(state["optimizer"], world)}

    tensors, state = threads.run(3, first)[0]

    def second(world: Communicator, **mesh: int) -> tuple[dict[str, np.ndarray], History]:
        made = make(world, **mesh)
        checkpoint.restore(made.model, tensors)
        made.load_state_dict(state)
        made.fit(data, updates=4, validation=data, validate_every=2)
        return gathered(made), made.history

    whole = make(world_of_one(), dp=1)
    for updates in (5, 4):
        whole.fit(data, updates=updates, validation=data, validate_every=2)
    others = [*threads.run(4, lambda world: second(world, dp=2, tp=2)), second(world_of_one(), dp=1)]
    for values, history in others:
        for path, x in gathered(whole).items():
            np.testing.assert_allclose(values[path], x, rtol=0, atol=1e-12, err_msg=path)
        np.testing.assert_allclose(history.loss, whole.history.loss, rtol=1e-12)


# A scaler, a precision and a history on their own ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (Scaler, {}),
        (StaticScaler, {"value": 4096.0, "in_a_row": 0, "skips": 0}),
        (DynamicScaler, {"value": 65536.0, "in_a_row": 0, "good": 0, "skips": 0}),
        (Precision, {}),
        (StaticPolicy, {}),
        (DynamicPolicy, {"resting": {}, "blamed": {}}),
        (History, {"loss": [], "lr": [], "validation_loss": [], "accuracy": []}),
    ],
)
def test_what_is_in_a_state(make: Callable[[], Any], state: dict[str, Any]) -> None:
    made = make()
    assert made.state_dict() == state
    made.load_state_dict(state)
    assert made.state_dict() == state
    with pytest.raises(UserError, match="has 'vlaue'; it must have "):
        made.load_state_dict({**state, "vlaue": 1})
    for name in state:
        with pytest.raises(UserError, match=f"lacks '{name}'; it must have"):
            made.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(UserError, match=r"is 3; it must be the dictionary that state_dict\(\) returned"):
        made.load_state_dict(3)


def test_a_state_is_a_copy() -> None:
    history, precision = History(), DynamicPolicy()
    states = [history.state_dict(), precision.state_dict()]
    history.add([1.0, 0.1])
    precision.resting["head"] = 3
    assert states == [History().state_dict(), DynamicPolicy().state_dict()]
    history.load_state_dict(given := {"loss": [2.0], "lr": [0.1], "validation_loss": [], "accuracy": []})
    history.add([1.0, 0.1])
    assert given["loss"] == [2.0]


ROW = {"loss": [1.0], "lr": [0.1], "validation_loss": [], "accuracy": []}


@pytest.mark.parametrize(
    ("part", "wrong", "said"),
    [
        ("scaler", {"value": 0.0}, "the loss scale is 0"),
        ("scaler", {"value": 2.0**130}, "float32 must hold it"),
        ("scaler", {"value": "8"}, "the loss scale is '8'"),
        ("scaler", {"good": 1.5}, "good in the state of the scaler is 1.5"),
        ("scaler", {"in_a_row": -1}, "in_a_row in the state of the scaler is -1"),
        ("scaler", {"skips": None}, "skips in the state of the scaler is None"),
        ("precision", {"resting": ["head"]}, "resting in the state of the precision is"),
        ("precision", {"resting": {"haed": 3}}, "a layer of resting in the state of the precision is 'haed'; allowed"),
        ("precision", {"blamed": {"head": 0}}, "blamed.'head'. in the state of the precision is 0"),
        ("history", {**ROW, "loss": "ab"}, "loss in the state of the history is 'ab'; it must be a list"),
        ("history", {**ROW, "loss": [True]}, "loss in the state of the history is"),
        ("history", {**ROW, "lr": []}, "lr in the state of the history is .*; it must be a list of 1 numbers"),
        ("history", {**ROW, "accuracy": [0.5, 0.6]}, "accuracy in the state of the history is"),
        ("batches", -1, "batches in the state of the trainer is -1"),
        ("batches", 2.5, "batches in the state of the trainer is 2.5"),
        ("bathces", 2, "has 'bathces'; it must have 'optimizer', 'scaler', 'precision', 'history', 'batches'"),
    ],
    ids=str,
)
def test_what_is_no_state(part: str, wrong: Any, said: str) -> None:
    """Refused by name before anything has changed, even the parts that fit."""
    make = partial(trainer, world_of_one(), precision=DynamicPolicy(), scaler=DynamicScaler())
    made, other = make(), make()
    made.fit(points(), 1)
    state, before = made.state_dict(), other.state_dict()
    state[part] = {**state[part], **wrong} if isinstance(wrong, dict) else wrong
    with pytest.raises(UserError, match=said):
        other.load_state_dict(state)
    assert other.state_dict() == before


def test_an_optimizer_that_refuses_its_state_leaves_the_rest_alone() -> None:
    """Refused on all ranks, though only one has a state that does not fit."""

    def program(world: Communicator) -> str:
        made, other = (trainer(world, strategy=Strategy(zero=1)) for _ in range(2))
        made.fit(points(), 1)
        state = made.state_dict()
        if world.rank == 1:
            state["optimizer"].pop("head.linear.weight.m")
        with pytest.raises(UserError, match=r"the state lacks head\.linear\.weight\.m") as caught:
            other.load_state_dict(state)
        assert other.batches == 0 and other.history == History()
        assert other.updates == 0 and other.optimizer.state_dict() == {"updates": 0}, "of this rank's optimizer as well"
        return str(caught.value)

    assert len({*threads.run(2, program, timeout=10)}) == 1


def test_a_state_of_another_kind_of_run() -> None:
    made, other = trainer(world_of_one(), scaler=DynamicScaler()), trainer(world_of_one(), scaler=StaticScaler())
    with pytest.raises(
        UserError, match="the state of the scaler has 'good'; it must have 'value', 'in_a_row', 'skips'"
    ):
        other.load_state_dict(made.state_dict())
    with pytest.raises(UserError, match="the state of the scaler lacks 'good'"):
        made.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    "change",
    [{"batches": 3}, {"history": ROW}, {"scaler": {"value": 8.0, "in_a_row": 0, "skips": 0}}, {"optimiser": {}}, None],
    ids=str,
)
def test_ranks_that_load_different_states(change: dict[str, Any] | None) -> None:
    """All ranks raise the same error."""

    def program(world: Communicator) -> str:
        made = trainer(world, scaler=StaticScaler())
        state: Any = made.state_dict()
        if world.rank == 1:
            state = None if change is None else {**state, **change}
        with pytest.raises(UserError, match="ranks were given different values") as caught:
            made.load_state_dict(state)
        return str(caught.value)

    first, *others = threads.run(3, program, timeout=10)
    assert others == [first] * 2 and "rank 1" in first


def test_a_scaler_that_is_loaded_between_two_rounds_begins_a_new_one() -> None:
    """What the previous round stored is not restored."""
    scaler = DynamicScaler(8.0, interval=1)
    made = trainer(world_of_one(), scaler=scaler)
    made.step(points().batch(0))
    scaler.load_state_dict({"value": 64.0, "in_a_row": 0, "good": 0, "skips": 2})
    update = made.step(points().batch(1))
    assert update.scale == 64.0 and math.isclose(scaler.value, 128.0) and scaler.skips == 2
