"""What users bring: custom layers, batches, settings and failures. They work, or are refused by name."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from minitrain import Tensor, fused
from minitrain import functional as F
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Linear, Module, Parameter
from minitrain.optim import SGD, Adam
from minitrain.parallel.strategy import Strategy
from minitrain.precision import DynamicScaler, StaticPolicy, StaticScaler
from minitrain.train import checkpoint
from minitrain.train.history import History
from minitrain.train.step import compute_gradients
from minitrain.train.trainer import Trainer
from tests.train.test_values import batch as ids
from tests.train.test_values import loaded, on_ranks, same, small, trainer, values


def refused(call: Callable[[], Any], said: str, error: type[Exception] = UserError) -> None:
    with pytest.raises(error, match=said) as caught:
        call()
    assert len(str(caught.value).splitlines()) <= 3


def points(n: int = 12, features: int = 5, dtype: str = "float32") -> ArrayLoader:
    draw = np.random.default_rng(1)
    return ArrayLoader(draw.normal(size=(n, features)).astype(dtype), draw.integers(0, 2, n), 4, seed=1)


def tiny(dtype: str = "float32") -> Model:
    return mlp(MLPConfig(5, (6,), 2, dtype))


# Layers ---------------------------------------------------------------------------------------------------------------


class Stack(Module):
    """A unit with layers in a list and a dictionary, and a scalar parameter."""

    def __init__(self, path: str, kind: type = list) -> None:
        self.path = path
        layers = [Linear(f"{path}.{i}", 5, 5, std=0.5, dtype="float64") for i in range(2)]
        self.layers: Any = kind(layers) if kind is not dict else dict(enumerate(layers))
        self.scale = Parameter(f"{path}.scale", (), mean=1.5, dtype="float64")

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        x = Tensor(batch.inputs) if x is None else x
        for layer in self.layers.values() if isinstance(self.layers, dict) else self.layers:
            x = F.tanh(layer(x))
        return F.multiply(x, self.scale)


def stacked(kind: type = list) -> Model:
    return Model([Stack("stack", kind), *mlp(MLPConfig(5, (), 2, "float64")).units])


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_layers_in_a_list_are_trained(kind: type) -> None:
    """On one process and on three ranks."""

    def learn(world: Communicator) -> dict[str, np.ndarray]:
        made = Trainer(stacked(kind), world, optimizer=SGD, schedule=0.5)
        made.step(points(dtype="float64").batch(0))
        return checkpoint.gather(made.model, world)

    start = stacked(kind)
    start.init(1)
    after = learn(world_of_one())
    assert len(after) == 7 and all((x != after[path]).any() for path, x in values(start).items())
    for found in threads.run(3, learn):
        same(found, after, 1e-12)


@pytest.mark.parametrize("change", ["times", "tensor", "array", "none"])
def test_a_parameter_that_would_be_replaced(change: str) -> None:
    """`layer.weight *= 0.5` would create a tensor that nobody trains."""
    layer = Linear("a", 2, 3)
    layer.init(1)

    def replace() -> None:
        if change == "times":
            layer.weight *= 0.5  # type: ignore[assignment]
        else:
            layer.weight = {"tensor": Tensor(np.ones((2, 3))), "array": np.ones((2, 3)), "none": None}[change]  # type: ignore[assignment]

    refused(replace, r"a\.weight is a parameter, but was set to .*\nChange its values instead: weight\.data \*= 0\.5")
    layer.weight.data *= 0.5
    layer.weight = Parameter("b.weight", (2, 3))


def test_parameters_that_change_after_the_trainer_was_made() -> None:
    for change, said in (
        (lambda model: setattr(model.parameters()[0], "decay", False), "got a different decay, False"),
        (lambda model: model.units.pop(0), r"dense\.0\.linear\.\w+ was removed"),
        (lambda model: setattr(model.parameters()[0], "requires_grad", False), "was frozen"),
    ):
        made = Trainer(tiny(), world_of_one())
        change(made.model)
        refused(lambda made=made: made.step(points().batch(0)), said)  # type: ignore[misc]


def test_a_weight_that_was_computed() -> None:
    """A computed weight would get no gradient."""
    x, w = (Tensor(np.ones((3, 3)), requires_grad=True) for _ in range(2))
    row = Tensor(np.ones(3), requires_grad=True)
    for name, call in (
        ("linear", lambda: fused.linear(x, w * 2)),
        ("linear", lambda: fused.linear(x, w, row * 2)),
        ("linear_transposed", lambda: fused.linear_transposed(x, w + x)),
        ("layer_norm", lambda: fused.layer_norm(x, row * 2, row)),
        ("embedding", lambda: fused.embedding([0, 1], w * 2)),
        ("add_bias", lambda: fused.add_bias(x, row * 2)),
    ):
        refused(call, rf"^{name}: a weight of shape .* was computed", TypeError)
    F.sum(F.matmul(x, w * 2)).backward()
    assert w.grad is not None and (w.grad == 6).all()


def test_sequence_parallel_needs_a_time() -> None:
    def program(world: Communicator) -> None:
        make = lambda: Trainer(tiny(), world, mesh=Mesh(world, tp=2), strategy=Strategy(sp=True))
        refused(make, "sequence parallel needs sequences")

    threads.run(2, program)


@pytest.mark.parametrize("returned", [None, 1.0, np.ones(3), (1, 2)])
def test_a_unit_that_returns_something_else(returned: Any) -> None:
    class Wrong(Module):
        path = "wrong"

        def __call__(self, x: Tensor | None, batch: Batch) -> Any:
            return returned

    refused(lambda: Model([Wrong()])(points().batch(0)), "unit wrong returned .*; a unit returns a Tensor", TypeError)
    refused(lambda: Model([lambda x, batch: x]), "a unit of the model is")  # type: ignore[list-item]


def test_copies_keep_what_was_added() -> None:
    p = Parameter("p", (2,))
    p.tag = "mine"  # type: ignore[attr-defined]
    assert copy.deepcopy(p).tag == "mine"  # type: ignore[attr-defined]


# Values ---------------------------------------------------------------------------------------------------------------


def test_a_parameter_without_axes() -> None:
    """NumPy turns sums of zero-dimensional arrays into scalars."""
    p = Parameter("p", (), mean=2.0, dtype="float64")
    p.data = np.array(2.0)
    p.data = p.data - 0.5 * p.data
    assert p.data.shape == () and p.data == 1.0


@pytest.mark.parametrize("how", ["bucketed", "zero1", "zero3"])
def test_a_model_that_is_drawn_again(how: str) -> None:
    def program(world: Communicator) -> None:
        made = trainer(small(), world, how, {}, {"dp": 2})
        made.model.init(7)
        same(checkpoint.gather(made.model, world, reducer=made.reducer), values(loaded()))

    on_ranks({"dp": 2}, program)


def test_values_that_differ_between_ranks() -> None:
    """If only rank 0 loaded the weights, replicas would diverge."""

    def program(world: Communicator) -> None:
        model = small() if world.rank else loaded()
        refused(lambda: trainer(model, world, "bucketed", {}, {"dp": 2}), "ranks were given different values")

    on_ranks({"dp": 2}, program)


def test_a_gradient_assigned_before_finish() -> None:
    """It is not mistaken for one that backward did not reach."""
    made = trainer(loaded(), world_of_one(), "naive", {}, {"dp": 1})
    table, reducer = made.model.parameters()[0], made.reducer
    reducer.start_step()
    made.model(made.local_batch(ids())).backward()
    table.grad = np.full(table.shape, 3.0)
    reducer.end_backward()
    reducer.synchronize()
    assert table.grad is not None and (table.grad == 3.0).all()


@pytest.mark.parametrize("half", ["mixed_float16", "mixed_bfloat16"])
def test_rows_that_change_places_in_half_weights(half: str) -> None:
    """The change is made in place, without a setter, but the masters still follow."""
    made = Trainer(
        small(dtype="float32"),
        world_of_one(),
        optimizer=Adam,
        schedule=0.0,
        precision=StaticPolicy(half),
        half_weights=True,
    )
    made.step(ids())
    table = made.model.parameters()[0]
    turned = table.data[::-1].copy()
    table.data[...] = turned
    made.step(ids())
    np.testing.assert_array_equal(table.data, turned)


def test_a_checkpoint_holds_what_it_was_given(tmp_path: Any) -> None:
    """Arrays in any memory layout are saved correctly, although safetensors writes memory as is."""
    a = np.arange(12.0).reshape(3, 4)
    tensors = {
        "turned": a.T, "cut": a[:, ::2], "fortran": np.asfortranarray(a), "back": a[::-1], "foreign": a.astype(">f8"),
        "spread": np.broadcast_to(a[0], (3, 4)), "number": np.array(2.5), "none": a[:0],
    }  # fmt: skip
    path = str(tmp_path / "model.safetensors")
    checkpoint.save(path, tensors, {})
    found, _ = checkpoint.load(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].shape == x.shape
        np.testing.assert_array_equal(found[name], x)
    for wrong in ([1.0], np.ma.ones(2), Tensor([1.0])):
        refused(lambda wrong=wrong: checkpoint.save(path, {"x": wrong}, {}), "x is .*; a checkpoint holds arrays")  # type: ignore[misc]
    half = partial(checkpoint.save, path, {"x": np.ones(2, np.float16)}, {})
    refused(half, r"x is float16; `load` reads float32 and float64: save x\.astype\(np\.float32\)")


def test_all_ranks_save_to_one_file(tmp_path: Any) -> None:
    path = tmp_path / "model.safetensors"

    def save(world: Communicator) -> None:
        for _ in range(20):
            checkpoint.save(path, {"x": np.ones(1000)}, {})

    threads.run(4, save)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    (tmp_path / "model.999999999.1.partial").touch()  # left by a process that no longer exists
    checkpoint.save(path, {"x": np.ones(1)}, {})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_restoring_what_does_not_fit() -> None:
    model, names = loaded(), {"transformer.wte": np.ones(2)}
    refused(lambda: checkpoint.restore(model, names, strict=False), "the checkpoint has no parameter of the model")
    refused(lambda: checkpoint.restore(model, ({}, {})), "the tensors are")  # type: ignore[arg-type]
    half = small(dtype="float32")
    large = {path: np.full(x.shape, 1e39) for path, x in values(loaded(dtype="float32")).items()}
    refused(lambda: checkpoint.restore(half, large, strict=False), "values up to 1e[+]39, too large for float32")
    refused(lambda: checkpoint.gather(model, world_of_one(), what="weights"), "what is 'weights'")
    refused(lambda: checkpoint.gather(model, world_of_one(), root=5), "root is 5")
    made = Trainer(model, world_of_one())
    compute_gradients(model, ids(), made.reducer)
    refused(lambda: checkpoint.gather(model, world_of_one(), "grad"), "give gather.*reducer=trainer.reducer")


def test_a_stage_refuses_what_only_another_one_has() -> None:
    """All ranks refuse, so none is changed."""

    def program(world: Communicator) -> None:
        made = trainer(loaded(), world, "bucketed", {}, {"pp": 2})
        before = values(made.model)
        wrong = {**values(loaded(seed=3)), "head.norm.bias": np.ones(3)}
        refused(lambda: checkpoint.restore(made.model, wrong), r"for head\.norm\.bias; the model needs float64")
        same(values(made.model), before)

    on_ranks({"pp": 2}, program)


# Batches --------------------------------------------------------------------------------------------------------------


def where(**changed: Any) -> Where:
    return Where(**{"seed": 1, "number": 0, "B": 3, "T": 1, "samples": slice(0, 3), "time": slice(0, 1), **changed})


@pytest.mark.parametrize(
    "changed",
    [{"samples": slice(0, 2)}, {"samples": slice(1, 3)}, {"samples": slice(-1, 2)}, {"T": 0}],
)
def test_a_batch_is_as_long_as_it_says(changed: dict[str, Any]) -> None:
    x = np.ones((3, 5), np.float32)
    Batch(x, np.zeros(3, int), where())
    refused(lambda: Batch(x, np.zeros(3, int), where(**changed)), "`where` says samples")
    refused(lambda: Batch(x, np.zeros(4, int), where()), "`where` says samples")
    tokens = np.zeros((3, 7), int)
    Batch(tokens, tokens, where(T=7, time=slice(0, 7)))
    refused(lambda: Batch(x, np.zeros(3, int), where(counted=2.5)), "where.counted is 2.5")
    made = Trainer(tiny(), world_of_one())
    for part in (where(B=100), where(B=2), where(B=6, samples=slice(3, 6))):
        batch = Batch(x, np.zeros(3, int), part)
        refused(lambda batch=batch: made.step(batch), "give `step` the whole global batch on every rank")  # type: ignore[misc]
    for labels in (None, tokens):  # as of images, though they have a time
        refused(lambda labels=labels: Batch(tokens, labels, where()), "one column per position")  # type: ignore[misc]


def test_a_batch_of_lists() -> None:
    batch = Batch([[1.0, 2, 3, 4, 5]] * 3, [0, 1, 0], where())  # type: ignore[arg-type]
    model = tiny("float64")
    model.init(1)
    assert math.isfinite(model(batch).item())
    for masked in ([np.ma.ones(5)] * 3, np.ma.ones((3, 5))):
        refused(lambda masked=masked: ArrayLoader(masked, [0, 1, 0], 2, 1), "inputs is")  # type: ignore[misc]


def test_objects_that_numpy_can_read() -> None:
    """Such as those of pandas or PyTorch."""

    class Like:
        def __init__(self, values: Any) -> None:
            self.values = np.asarray(values)

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return self.values

    loader = ArrayLoader(Like(np.ones((3, 5))), Like([0, 1, 0]), 2, 1)  # type: ignore[arg-type]
    assert loader.inputs.dtype == np.float64 and loader.labels.tolist() == [0, 1, 0]
    refused(lambda: ArrayLoader(Tensor(np.ones((3, 5))), [0, 1, 0], 2, 1), "inputs is")  # type: ignore[arg-type]


def test_validation_on_parts_of_one_batch() -> None:
    """An exhausted iterator, or several whole batches: their losses have no common mean."""
    made, data = Trainer(tiny(), world_of_one()), points()
    used = data.validation()
    assert 0 <= made.accuracy(data.validation()) <= 1 and made.mean_loss(used) > 0
    for look in (made.mean_loss, made.accuracy):
        refused(lambda look=look: look(used), "the batches hold 0 samples")  # type: ignore[misc]
        refused(lambda look=look: look([data.batch(0), data.batch(1)]), "hold 8 samples of a global batch of 4")  # type: ignore[misc]
        refused(lambda look=look: look(data), "batches is")  # type: ignore[misc]


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_validation_sample_that_is_not_finite_is_named(ranks: int) -> None:
    data = points()
    data.inputs[7, 1] = math.nan

    def program(world: Communicator) -> None:
        made = Trainer(tiny(), world)
        with np.errstate(invalid="ignore"):
            refused(lambda: made.fit(points(), 1, data), "row 7 of the data, has inputs that are NaN")

    on_ranks({"dp": ranks}, program)


def test_a_context_that_the_model_does_not_have() -> None:
    model = gpt(GPTConfig(11, 4, layers=1, heads=3, width=9))
    model.init(1)
    data = TextLoader(np.arange(50) % 11, 8, 2, 1)
    refused(lambda: model(data.batch(0)), "positions 0 to 7, but the model's context is 4")


# Trainers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": mlp}, {"world": None}, {"mesh": 4}, {"precision": "mixed_float16"}, {"scaler": 65536},
        {"half_weights": True},
    ],
)  # fmt: skip
def test_arguments_of_another_kind(wrong: dict[str, Any]) -> None:
    given = {"model": tiny(), "world": world_of_one(), **wrong}
    refused(lambda: Trainer(given.pop("model"), given.pop("world"), **given), next(iter(wrong)))


def test_a_trainer_that_could_not_be_made_leaves_the_model_free() -> None:
    model = loaded()
    true = values(model)

    def wrong(reducer: Any) -> Any:
        raise ValueError("a typo")

    refused(lambda: Trainer(model, world_of_one(), optimizer=wrong), "a typo", ValueError)
    same(values(model), true)
    Trainer(model, world_of_one()).step(ids())


def test_a_step_needs_a_batch_with_labels() -> None:
    made, batch = Trainer(tiny(), world_of_one()), points().batch(0)
    for wrong in ((batch.inputs, batch.labels), Batch(batch.inputs, None, batch.where)):
        refused(lambda wrong=wrong: made.step(wrong), "training takes a Batch with labels")  # type: ignore[misc]


def test_a_copy_computes_as_the_model_does() -> None:
    """The copy has the model's precision, and so a loss scaler."""
    made = Trainer(tiny(), world_of_one(), precision=StaticPolicy())
    copied = Trainer(copy.deepcopy(made.model), world_of_one())
    assert isinstance(copied.precision, StaticPolicy) and isinstance(copied.scaler, DynamicScaler)


def test_adam_refuses_a_gradient_whose_square_is_infinite() -> None:
    """The second moment would stay infinite and the weight would stop moving. After clipping, the step is taken."""
    made = Trainer(tiny(), world_of_one(), schedule=0.1)
    compute_gradients(made.model, points().batch(0), made.reducer)
    made.reducer.owned()[0].grad[0] = 3e19
    norm = made.reducer.norm()
    refused(lambda: made.optimizer.check_norm(norm), "the norm of the gradient is 3.0e[+]19")
    made.reducer.factor /= norm
    made.optimizer.check_norm(made.reducer.norm())
    made.optimizer.step(0.1)
    assert all(np.isfinite(array).all() for state in made.optimizer.state for array in state)


@pytest.mark.parametrize(("power", "clip"), [(120, 1e-6), (126, 1e-6), (127, 1e-8)])
def test_a_small_clip_of_largely_scaled_gradients(power: int, clip: float) -> None:
    """Their product is below float32's smallest number, but the gradient that the optimizer sees is not."""
    plain, scaled = (
        Trainer(tiny(), world_of_one(), optimizer=SGD, schedule=1e3, clip=clip, scaler=scaler)
        for scaler in (None, StaticScaler(2.0**power))
    )
    start = values(plain.model)
    for made in (plain, scaled):
        made.step(points().batch(0))
    moved = [{path: x - start[path] for path, x in values(made.model).items()} for made in (plain, scaled)]
    for path, x in moved[0].items():
        np.testing.assert_allclose(moved[1][path], x, rtol=1e-4, atol=1e-6 * abs(x).max(), err_msg=path)


def test_a_scale_that_moved_between_begin_and_the_loss() -> None:
    """The gradients' scale would be unknown."""
    scaler = DynamicScaler(1024.0, interval=1)
    one, two = (Trainer(tiny(), world_of_one(), scaler=scaler) for _ in range(2))
    for made in (one, two):
        made.reducer.start_step()
    for made in (one, two):
        scaler.scale(made.model(points().batch(0))).backward()
        made.reducer.end_backward()
        made.reducer.synchronize()
        if made is one:
            assert scaler.unscale(made.reducer)
    refused(lambda: scaler.unscale(two.reducer), "a loss was scaled after the scale changed")


@pytest.mark.parametrize("half_weights", [False, True])
def test_patience_with_epochs_that_were_skipped(half_weights: bool) -> None:
    """If the best epoch precedes every update, the optimizer has no masters yet."""
    made = Trainer(
        tiny(), world_of_one(), schedule=5.0, precision=StaticPolicy(), half_weights=half_weights,
        scaler=DynamicScaler(2.0**40, interval=10**6),
    )  # fmt: skip
    start = values(made.model)
    with np.errstate(all="ignore"):
        history = made.fit(points(), 10, points(), patience=9)
    assert made.updates > 0 and history.best == 0 and history.waited > 0
    same(values(made.model), start)


def test_a_forward_that_failed_leaves_nothing_behind() -> None:
    """Under ZeRO-3 with prefetch, what was in flight is stale by the next forward."""

    def program(world: Communicator) -> list[float]:
        losses = []
        for prefetch in (False, True):
            model = mlp(MLPConfig(5, (6, 6), 2))
            model.init(1)
            made = Trainer(model, world, strategy=Strategy(zero=3, prefetch=prefetch))
            wrong = ArrayLoader(np.ones((4, 3), np.float32), [0, 1, 0, 1], 4, 1)
            refused(lambda made=made, wrong=wrong: made.validate(wrong), "takes 5 features")  # type: ignore[misc]
            twice = {path: 2 * x for path, x in values(tiny_drawn()).items()}
            checkpoint.restore(model, twice)
            losses.append(made.validate(points())[0])
            made.close()
        return losses

    for plain, prefetched in on_ranks({"dp": 2}, program):
        assert plain == prefetched


def tiny_drawn() -> Model:
    model = mlp(MLPConfig(5, (6, 6), 2))
    model.init(1)
    return model


def test_a_history_of_epochs_with_and_without_validation() -> None:
    history = History()
    for row in ([3.0, 0.1], [2.0, 0.1, 5.0, 0.5], [1.0, 0.1, 4.0, 0.6], [1.0, 0.1]):
        history.add(row)
    assert len(history.loss) == len(history.validation_loss) == len(history.accuracy) == 4
    assert (history.best, history.waited) == (2, 1)


def test_a_history_without_accuracy() -> None:
    """Once accuracy appears, rows without it are padded so that the lists stay aligned."""
    history = History()
    for row in ([3.0, 0.1, 5.0], [2.0, 0.1, 4.0]):
        history.add(row)
    assert history.accuracy == [] and history.validation_loss == [5.0, 4.0] and history.best == 1
    assert history.line() == "loss 2.000  rate 1.00e-01  validation loss 4.000"
    history.add([1.0, 0.1, 3.0, 0.5])
    assert np.isnan(history.accuracy).tolist() == [True, True, False] and "accuracy 0.500" in history.line()


# Ranks with different data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("differs", ["labels", "inputs"])
@pytest.mark.parametrize("where_it_is", ["training", "validation"])
def test_data_that_differ_between_ranks(differs: str, where_it_is: str) -> None:
    """Equal sizes, so that nothing else reveals the difference."""

    def program(world: Communicator) -> None:
        mine, held_out = points(), points(8)
        other = mine if where_it_is == "training" else held_out
        if world.rank == 1:
            setattr(other, differs, getattr(other, differs)[::-1].copy())
        made = Trainer(tiny(), world)
        refused(lambda: made.fit(mine, 1, held_out), "ranks were given different values.*\nchecksum of the data")

    threads.run(3, program)


def test_a_strategy_that_is_a_dictionary() -> None:
    for key in ("zero", "seed", "mesh", "model", 1):
        given: Any = {key: 1}
        make = partial(Trainer, tiny(), world_of_one(), strategy=given)
        refused(make, r"must be a Strategy, such as Strategy\(zero=1\)")
