"""Values are kept: those a model has before training, and those set later."""

import copy
import itertools
import math
import pickle
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Dropout, Linear, Module
from minitrain.optim import SGD, Adam, Optimizer
from minitrain.parallel.parallelize import REDUCERS, parallelize
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.precision import StaticPolicy, use
from minitrain.train import checkpoint, progress
from minitrain.train.step import compute_gradients
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import toy_batch
from tests.strategies import named

Tensors = dict[str, np.ndarray]
Program = Callable[[Communicator], Any]

# (name, other options of the strategy, mesh): uneven sizes, three ranks, every axis
WAYS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    *((how, {}, {"dp": 3}) for how in REDUCERS),
    ("bucketed", {"recompute": 2}, {"dp": 1}),
    ("zero3", {"recompute": 1, "prefetch": True}, {"dp": 2}),
    ("bucketed", {}, {"tp": 3}),
    ("zero1", {"sp": True}, {"tp": 2}),
    ("bucketed", {}, {"pp": 3}),
    ("zero1", {"schedule": "interleaved", "chunks": 2}, {"pp": 2}),
    ("zero2", {}, {"dp": 2, "tp": 2}),
]


def shown(x: Any) -> str:
    return x if isinstance(x, str) else " ".join(f"{key}={value}" for key, value in x.items())


every_way = pytest.mark.parametrize(("how", "options", "mesh"), WAYS, ids=shown)


def small(tied: bool = True, layers: int = 2, dtype: str = "float64") -> Model:
    return gpt(GPTConfig(11, 6, layers=layers, heads=3, width=9, tied=tied, std=0.3, dtype=dtype))


def loaded(seed: int = 7, **options: Any) -> Model:
    """Return an initialized model."""
    model = small(**options)
    model.init(seed)
    return model


def values(model: Model) -> Tensors:
    return {p.placement.path: np.array(p.data) for p in model.parameters()}


def trainer(
    model: Model,
    world: Communicator,
    how: str,
    options: Mapping[str, Any],
    mesh: Mapping[str, int],
    reducers: Mapping[str, type[Reducer]] = REDUCERS,
) -> Trainer:
    return Trainer(
        model,
        world,
        optimizer=SGD,
        schedule=0.5,
        mesh=Mesh(world, **mesh),
        strategy=named(how, **options),
        accumulate=2 if options.get("schedule") == "interleaved" else 1,
        parallelize=partial(parallelize, reducers=reducers),
    )


def gathered(made: Trainer) -> Tensors:
    return checkpoint.gather(made.model, made.world, reducer=made.reducer)


def on_ranks(mesh: dict[str, int], program: Program) -> list[Any]:
    return threads.run(math.prod(mesh.values()), program, timeout=20)


def same(found: Tensors, true: Tensors, bound: float = 0.0) -> None:
    assert found.keys() == true.keys()
    for path, x in found.items():
        np.testing.assert_allclose(x, true[path], rtol=0, atol=bound, err_msg=path)


def batch(number: int = 0) -> Batch:
    return toy_batch(number)


def serial_step(model: Model) -> Tensors:
    """Return the values after one step on one process, from the model's values."""
    made = trainer(model, world_of_one(), "naive", {}, {"dp": 1})
    made.step(batch())
    return gathered(made)


# An initialized model keeps its values --------------------------------------------------------------------------------


@every_way
def test_a_trainer_keeps_the_values_of_a_model(
    how: str, options: dict[str, Any], mesh: dict[str, int], reducers: Mapping[str, type[Reducer]] = REDUCERS
) -> None:
    true = values(loaded())
    after = serial_step(loaded())

    def program(world: Communicator) -> None:
        made = trainer(loaded(), world, how, options, mesh, reducers)
        same(gathered(made), true)
        made.step(batch())
        same(gathered(made), after, 1e-12)
        made.close()

    on_ranks(mesh, program)


def test_what_has_no_values_is_drawn() -> None:
    """If only some values were loaded, only the others are initialized."""
    model, initialized = small(), loaded(seed=1)
    own = values(loaded())
    chosen = [p for p in model.parameters() if "mlp" in p.placement.path]
    for p in chosen:
        p.data = own[p.placement.path]
    made = Trainer(model, world_of_one(), seed=1)
    kept = {p.placement.path for p in chosen}
    same(gathered(made), {path: own[path] if path in kept else x for path, x in values(initialized).items()})


# Values set later -----------------------------------------------------------------------------------------------------


@every_way
def test_values_that_are_restored(how: str, options: dict[str, Any], mesh: dict[str, int]) -> None:
    """Restored after the trainer was made and after an update: the next step starts from them."""
    true, after = values(loaded()), serial_step(loaded())

    def program(world: Communicator) -> None:
        made = trainer(small(), world, how, options, mesh)
        for number in range(2):
            made.step(batch(number))
            checkpoint.restore(made.model, true)
            same(gathered(made), true)
        made.step(batch())
        same(gathered(made), after, 1e-12)
        made.close()

    on_ranks(mesh, program)


@pytest.mark.parametrize("how", [*REDUCERS])
def test_values_that_are_assigned(how: str) -> None:
    """`p.data = w` writes through to the memory that the optimizer updates. `p.data *= 2` works in place."""
    doubled = loaded()
    for p in doubled.parameters():
        p.data = p.data * 2
    after = serial_step(doubled)

    def program(world: Communicator) -> None:
        made = trainer(small(), world, how, {}, {"dp": 3})
        for p, q in zip(made.model.parameters(), loaded().parameters(), strict=True):
            p.data = q.data * 2
        made.step(batch())
        same(gathered(made), after, 1e-12)
        made.close()

    on_ranks({"dp": 3}, program)


def test_values_that_are_changed_in_place() -> None:
    made = trainer(loaded(), world_of_one(), "bucketed", {}, {"dp": 1})
    before = gathered(made)
    for p in made.model.parameters():
        place = p.data
        p.data *= 2
        assert p.data is place
    same(gathered(made), {path: 2 * x for path, x in before.items()})


@pytest.mark.parametrize("how", ["bucketed", "zero1", "zero2"])
def test_gradients_that_are_assigned(how: str) -> None:
    """`p.grad = g` is used by the optimizer, or refused. `p.grad *= 2` works in place."""
    model = loaded()
    made = trainer(model, world_of_one(), how, {}, {"dp": 1})
    table, before = model.parameters()[0], values(model)
    with pytest.raises(UserError, match="its bucket stores no gradients now"):
        table.grad = np.ones(table.shape)
    compute_gradients(model, batch(), made.reducer)
    if how == "zero2":  # already reduced to their owners
        with pytest.raises(UserError, match="under ZeRO-2 and -3 only until they are reduced"):
            table.grad = np.ones(table.shape)
        return
    for wrong in (None, np.ones(3), np.ones(table.shape, np.float32)):
        with pytest.raises(UserError, match=r"embed\.tokens\.weight\.grad was set to"):
            table.grad = wrong
    table.grad = np.full(table.shape, 3.0)
    table.grad *= 2
    made.optimizer.step(0.5)
    np.testing.assert_array_equal(table.data, before[table.placement.path] - 0.5 * 6.0)


@pytest.mark.parametrize("in_a_bucket", [False, True])
@pytest.mark.parametrize(
    "value",
    [np.ones((9, 9)), np.ones(11), np.ones((11, 9), np.float32), np.ones((11, 9), int), [[1.0] * 9] * 11, None, 1.0],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_values_that_do_not_fit(value: Any, in_a_bucket: bool) -> None:
    model = loaded()
    if in_a_bucket:
        Trainer(model, world_of_one())
    table = model.parameters()[0]
    before = table.data.copy()
    with pytest.raises(UserError, match=r"embed\.tokens\.weight\.data was set to .*float64, shape \(11, 9\)"):
        table.data = value
    np.testing.assert_array_equal(table.data, before)


@pytest.mark.parametrize("how", ["bucketed", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("half", ["mixed_float16", "mixed_bfloat16"])
def test_half_weights_that_are_restored_stay(how: str, half: str, optimizer: type[Optimizer] = Adam) -> None:
    """The masters follow, and an update of 0 changes nothing. Elements that were not set keep their masters' digits."""
    true = values(loaded(dtype="float32"))

    def program(world: Communicator) -> None:
        made = Trainer(
            small(dtype="float32"),
            world,
            optimizer=optimizer,
            schedule=0.0,
            strategy=named(how),
            precision=StaticPolicy(half),
            half_weights=True,
        )
        made.step(batch())
        masters = [np.array(master) for master in made.optimizer.masters if master is not None]
        made.step(batch())
        for master, before in zip(made.optimizer.masters, masters, strict=True):
            assert master is not None
            np.testing.assert_array_equal(master, before)
        checkpoint.restore(made.model, true, strict=False)
        made.step(batch())
        dtype = made.model.parameters()[0].dtype
        same(gathered(made), {path: x.astype(dtype) for path, x in true.items()})

    on_ranks({"dp": 3}, program)


@pytest.mark.parametrize("how", ["bucketed", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("half", [None, "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("made_before", [0, 1])
@pytest.mark.parametrize("mesh", [{"dp": 3}, pytest.param({"dp": 2, "tp": 2}, marks=pytest.mark.full)], ids=shown)
def test_training_goes_on_from_restored_values(
    mesh: dict[str, int], made_before: int, half: str | None, how: str
) -> None:
    """Training continues bit for bit like a trainer's that had these values, and float32 masters, from the start."""

    def make(world: Communicator, tensors: Tensors | None = None) -> Trainer:
        model = small(dtype="float32")
        if half is not None:
            use(model, StaticPolicy(half), half_weights=True)
        if tensors is not None:
            checkpoint.restore(model, tensors, strict=False)
        return Trainer(
            model, world, optimizer=SGD, schedule=0.01, mesh=Mesh(world, **mesh), strategy=named(how), seed=1
        )

    def program(world: Communicator) -> None:
        made = make(world)
        for number in range(made_before):
            made.step(batch(number))
        tensors = {path: x.astype(np.float32) + 1 for path, x in gathered(made).items()}  # different values everywhere
        checkpoint.restore(made.model, tensors, strict=False)
        true = make(world, tensors)
        for number in range(2):
            same(gathered(made), gathered(true))
            for one in (made, true):
                one.step(batch(number))
        assert (half is not None) == any(master is not None for master in made.optimizer.masters)
        for a, b in zip(made.optimizer.masters, true.optimizer.masters, strict=True):
            np.testing.assert_array_equal(a, b)
        assert any((gathered(made)[path] != x).any() for path, x in tensors.items()), "nothing was learned"

    on_ranks(mesh, program)


# Checkpoints that do not fit ------------------------------------------------------------------------------------------


def refused(model: Model, tensors: Tensors, said: str) -> None:
    """Assert that restoring raises UserError with the name, before anything is changed."""
    before = values(model)
    with pytest.raises(UserError, match=said) as caught:
        checkpoint.restore(model, tensors)
    assert len(str(caught.value).splitlines()) <= 3
    same(values(model), before)


def test_more_tensors_than_the_model_has() -> None:
    tensors = values(loaded(seed=3, layers=3))
    refused(loaded(), tensors, r"the checkpoint has entries that the model lacks: blocks\.2\.attn.* and 9 more")
    refused(loaded(), values(loaded(tied=False)), r"has entries that the model lacks: head\.classifier\.weight")
    model = loaded()
    checkpoint.restore(model, tensors, strict=False)
    same(values(model), {path: tensors[path] for path in values(model)})


def test_fewer_tensors_than_the_model_has() -> None:
    tensors = values(loaded(seed=3))
    refused(loaded(layers=3), tensors, r"the checkpoint lacks blocks\.2\.attn.* and 9 more")
    model, own = loaded(layers=3), values(loaded(layers=3))
    checkpoint.restore(model, tensors, strict=False)
    same(values(model), {path: tensors.get(path, x) for path, x in own.items()})


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones((11, 8)), np.ones((9, 11)), np.ones(99), np.ones((11, 9), np.float32), np.ones((11, 9), np.int64),
        np.ma.masked_array(np.ones((11, 9))), [[1.0] * 9] * 11, np.ones((11, 9), object), None,
    ],
)  # fmt: skip
def test_one_tensor_of_another_kind(wrong: Any) -> None:
    tensors = values(loaded(seed=3))
    refused(loaded(), {**tensors, "embed.tokens.weight": wrong}, r"for embed\.tokens\.weight; the model needs float64")


def test_a_stage_knows_what_the_others_have() -> None:
    """`strict` also works on a rank that holds only some of the layers."""
    whole, more = values(loaded()), values(loaded(layers=3))

    def program(world: Communicator) -> None:
        made = trainer(small(), world, "bucketed", {}, {"pp": 2})
        checkpoint.restore(made.model, whole)
        with pytest.raises(UserError, match=r"has entries that the model lacks: blocks\.2"):
            checkpoint.restore(made.model, more)
        with pytest.raises(UserError, match=r"the checkpoint lacks head\.norm\.bias"):
            checkpoint.restore(made.model, {path: x for path, x in whole.items() if path != "head.norm.bias"})

    on_ranks({"pp": 2}, program)


# Unique paths ---------------------------------------------------------------------------------------------------------


class Two(Module):
    def __init__(self, first: Module, second: Module) -> None:
        self.path, self.first, self.second = "two", first, second


@pytest.mark.parametrize(
    "make",
    [
        lambda: Two(Linear("a", 2, 3), Linear("a", 2, 3)),
        lambda: Two(Linear("a", 2, 3), Two(Linear("a", 3, 3), Dropout("a", 0.5))),
        lambda: Two(Dropout("drop", 0.5), Dropout("drop", 0.5)),
        lambda: Two(Linear("a", 2, 3), Two(Linear("b", 2, 3), Linear("a", 2, 4))),
    ],
)
def test_two_things_with_one_path(make: Callable[[], Module]) -> None:
    with pytest.raises(UserError, match=r"two (parameters|dropouts) have the path '(a\.weight|drop)'"):
        Model([make()])
    model = Model([])
    model.units = [make()]  # after construction
    with pytest.raises(UserError, match=r"two (parameters|dropouts) have the path"):
        Trainer(model, world_of_one())


def test_a_shared_layer_is_one_thing() -> None:
    layer = Linear("a", 2, 3)
    assert len(Model([Two(layer, layer)]).parameters()) == 2


# One trainer per model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [*REDUCERS])
@pytest.mark.parametrize("closed", [False, True])
def test_a_second_trainer(how: str, closed: bool) -> None:
    def program(world: Communicator) -> None:
        model = small()
        first = trainer(model, world, how, {}, {"dp": 2})
        first.step(batch())
        if closed:
            first.close()
        for precision in (None, StaticPolicy()):
            with pytest.raises(UserError, match="belongs to a trainer already"):
                Trainer(model, world, precision=precision)
        if not closed:
            first.step(batch())
            first.close()
        with pytest.raises(UserError, match="this trainer was closed"):
            first.step(batch())
        first.close()  # closing twice is harmless

    on_ranks({"dp": 2}, program)


def test_a_forward_after_close() -> None:
    """A forward works unless it must gather with a thread that has ended; then it raises a clear error."""

    def forward(how: str, **options: Any) -> Program:
        def program(world: Communicator) -> float:
            made = trainer(loaded(), world, how, options, {"dp": 2})
            made.close()
            return made.model(made.local_batch(batch())).item()

        return program

    for how in REDUCERS:
        assert all(math.isfinite(loss) for loss in on_ranks({"dp": 2}, forward(how)))
    with pytest.raises(RuntimeError, match="the prefetch thread has ended: its trainer was closed"):
        on_ranks({"dp": 2}, forward("zero3", prefetch=True))


# Copying a model ------------------------------------------------------------------------------------------------------

copies = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep", "pickle"]
)


@copies
@pytest.mark.parametrize("how", ["naive", "bucketed", "overlap", "zero1", "zero2"])
def test_a_copy_of_a_trained_model(copied: Callable[[Any], Any], how: str) -> None:
    """The copy has the values, trains independently, and leaves the original unchanged."""

    def program(world: Communicator) -> None:
        made = trainer(loaded(), world, how, {"recompute": 1} if how == "zero1" else {}, {"dp": 2})
        made.step(batch())
        other = copied(made.model)
        before = gathered(made)
        same(values(other), before)
        apart = trainer(other, world, "bucketed", {}, {"dp": 2})
        apart.step(batch(1))
        same(gathered(made), before)
        made.step(batch(1))
        same(gathered(made), gathered(apart), 1e-12)
        assert len(other.parameters()) == len(made.model.parameters()), "a tied weight stays one"
        made.close()

    on_ranks({"dp": 2}, program)


@copies
def test_a_copy_of_a_model_before_training(copied: Callable[[Any], Any]) -> None:
    same(values(copied(loaded())), values(loaded()))
    fresh = copied(small())
    fresh.init(7)
    same(values(fresh), values(loaded()))


@copies
@pytest.mark.parametrize(("how", "mesh"), [("zero3", {"dp": 2}), ("bucketed", {"tp": 2}), ("bucketed", {"pp": 2})])
def test_no_copy_of_a_part(copied: Callable[[Any], Any], how: str, mesh: dict[str, int]) -> None:
    def program(world: Communicator) -> None:
        made = trainer(loaded(), world, how, {}, mesh)
        with pytest.raises((UserError, TypeError), match="cannot be copied"):
            copied(made.model)

    on_ranks(mesh, program)


# The best epoch -------------------------------------------------------------------------------------------------------


def examples(samples: int, seed: int) -> ArrayLoader:
    """Random labels: fitting them soon increases the validation loss."""
    draw = np.random.default_rng(seed)
    return ArrayLoader(draw.normal(size=(samples, 5)).astype(np.float32), draw.integers(0, 2, samples), 7, seed=seed)


def test_masters_are_put_back_to_the_last_digit() -> None:
    """Masters recreated from half-precision weights would lose the digits those cannot hold."""

    def program(world: Communicator) -> None:
        made = Trainer(
            mlp(MLPConfig(5, (16,), 2)), world, optimizer=Adam, schedule=0.05, strategy=Strategy(zero=1),
            precision=StaticPolicy(), half_weights=True,
        )  # fmt: skip
        for number in range(6):
            made.step(examples(25, 1).batch(number))
            if number == 2:
                kept = made.weights()
        made.put_back(kept)
        masters = [master for master in made.optimizer.masters if master is not None]
        assert len(masters) == len(kept) and all(np.array_equal(a, b) for a, b in zip(masters, kept, strict=True))
        assert any((master != master.astype(np.float16)).any() for master in masters)

    on_ranks({"dp": 2}, program)


@pytest.mark.parametrize("how", ["bucketed", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("half", [False, True])
def test_patience_ends_with_the_best_weights(how: str, half: bool, kind: type[Trainer] = Trainer) -> None:
    def program(world: Communicator) -> tuple[float, list[float]]:
        options: dict[str, Any] = {"precision": StaticPolicy(), "half_weights": True} if half else {}
        made = kind(mlp(MLPConfig(5, (16,), 2)), world, optimizer=Adam, schedule=0.05, strategy=named(how), **options)
        held_out = examples(10, 2)
        history = made.fit(examples(25, 1), 9, held_out, patience=3)
        assert history.waited > 0, "otherwise this shows nothing"
        again = made.validate(held_out)[0]
        made.step(examples(25, 1).batch(0))  # training can continue from there
        return again, history.validation_loss

    for again, losses in on_ranks({"dp": 3}, program):
        assert again == pytest.approx(min(losses), rel=1e-12)


# The README ---------------------------------------------------------------------------------------------------------


def test_text_in_the_readme(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's example runs as printed."""
    monkeypatch.setattr(progress, "QUIET", 60.0)  # a busy machine would print progress in between
    text = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    section = text.split("number of updates rather than epochs:\n", 1)[1]
    program = textwrap.dedent("\n".join(itertools.takewhile(lambda x: not x or x[0] == " ", section.splitlines())))
    exec(compile(program, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12] for line in lines] == ["update 10/20", "update 20/20"] and "validation loss" in lines[1]


def test_the_program_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's program runs as printed."""
    text = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    section = text.split("### Your own data and weights\n", 1)[1]
    program = textwrap.dedent("\n".join(itertools.takewhile(lambda x: not x or x[0] == " ", section.splitlines())))
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["history"].loss and names["tensors"].keys() == values(names["model"]).keys()
