"""Trainer: its history matches the serial run, what schedules count, early stopping."""

import math
import re
from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
import pytest

from minitrain.autograd import no_grad
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.batch import Batch
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.errors import UserError
from minitrain.lr_schedules import reduce_on_plateau
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.optim import SGD, Adam
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.zero import Zero3
from minitrain.precision import DynamicPolicy, DynamicScaler, StaticScaler
from minitrain.tensor import Tensor
from minitrain.train import trainer as trainer_module
from minitrain.train.history import History
from minitrain.train.trainer import Trainer

Capture = pytest.CaptureFixture[str]


def data(samples: int, batch: int = 7, seed: int = 1) -> ArrayLoader:
    """Return two classes of points, labeled by the sign of a sum, with some labels wrong."""
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(samples, 5))
    labels = (points.sum(axis=1) + 0.5 * draw.normal(size=samples) > 0).astype(np.int64)
    return ArrayLoader(points, labels, batch, seed=seed)


def small(world: Communicator, **options: Any) -> Trainer:
    model = mlp(MLPConfig(inputs=5, hidden=(6, 4), classes=2, dtype="float64"))
    return Trainer(model, world, **{"schedule": 0.01, **options})


def learn(world: Communicator, mesh: dict[str, int] | None = None, **options: Any) -> History:
    """25 samples in batches of 7 end with a batch of 4, and 10 validation samples with 3: fewer than 4 ranks."""
    if mesh is not None:
        options["mesh"] = Mesh(world, **mesh)
    trainer = small(world, **options)
    history = trainer.fit(data(25), 4, data(10, seed=2))
    trainer.close()
    return history


def assert_close(found: History, true: History, bound: float) -> None:
    for a, b in zip(astuple(found), astuple(true), strict=True):
        assert len(a) == len(b) > 0
        assert np.allclose(a, b, rtol=bound, atol=0)


# The values -----------------------------------------------------------------------------------------------------------


def test_the_history_by_hand() -> None:
    """Compute the history from logits, sample by sample."""
    trainer, train, held_out = small(threads.world_of_one(), optimizer=SGD), data(25), data(10, seed=2)

    def judge(inputs: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[bool]]:
        whole = ArrayLoader(inputs, labels, len(labels), 1).batch(0).where
        with no_grad():
            logits = trainer.model(Batch(inputs, None, whole)).data
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses = -np.log(p[np.arange(len(labels)), labels])
        return losses.tolist(), (logits.argmax(axis=1) == labels).tolist()

    for epoch in range(3):
        losses: list[float] = []
        for number in range(4 * epoch, 4 * epoch + 4):
            batch = train.batch(number)
            assert batch.labels is not None
            losses += judge(batch.inputs, batch.labels)[0]
            trainer.step(batch)
        after, right = judge(held_out.inputs, held_out.labels)
        trained = small(threads.world_of_one(), optimizer=SGD)
        history = trained.fit(train, epoch + 1, held_out)
        assert len(losses) == 25 and math.isclose(history.loss[-1], sum(losses) / 25)
        assert math.isclose(history.validation_loss[-1], sum(after) / 10)
        assert history.accuracy[-1] == sum(right) / 10


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, {}),
        (3, {}),
        (4, {}),
        (3, {"accumulate": 2, "clip": 0.1}),
        (3, {"strategy": Strategy(reduce="naive")}),
        (2, {"strategy": Strategy(zero=1)}),
        (3, {"strategy": Strategy(zero=2), "accumulate": 2}),
        (3, {"strategy": Strategy(zero=3, recompute=1)}),
        (2, {"mesh": {"pp": 2}, "accumulate": 2, "strategy": Strategy(schedule="gpipe")}),
        (4, {"mesh": {"dp": 2, "pp": 2}, "strategy": Strategy(bucket_mb=1e-4)}),
    ],
    ids=str,
)
def test_the_same_history_on_any_mesh(ranks: int, options: dict[str, Any]) -> None:
    clip = {"clip": options["clip"]} if "clip" in options else {}
    serial = learn(threads.world_of_one(), **clip)
    for found in threads.run(ranks, lambda world: learn(world, **options)):
        assert_close(found, serial, 1e-12)


@pytest.mark.ranks(3, full=(2,))
def test_the_same_history_under_mpirun(world: Communicator) -> None:
    assert_close(learn(world), learn(threads.world_of_one()), 1e-12)


def test_a_model_divided_by_tensor_parallel_is_judged_once() -> None:
    """Compare a GPT's loss and accuracy, the fraction of next characters it predicts."""
    text = TextLoader(np.arange(60) ** 2 % 7, context=6, batch=4, seed=1)

    def loss_or_logits(world: Communicator, tp: int = 1, sp: bool = False) -> tuple[float, float]:
        mesh = Mesh(world, dp=world.size // tp, tp=tp)
        model = gpt(GPTConfig(7, 6, layers=1, heads=2, width=8, std=0.3, dtype="float64"))
        trainer = Trainer(model, world, mesh=mesh, strategy=Strategy(sp=sp))
        for number in range(20):
            trainer.step(text.batch(number))
        return trainer.mean_loss(text.validation()), trainer.accuracy(text.validation())

    loss, right = loss_or_logits(threads.world_of_one())
    assert 1 / 7 < right < 1 and right == round(right * 59) / 59
    for sp in (False, True):
        for found in threads.run(4, lambda world: loss_or_logits(world, 2, sp)):  # noqa: B023
            assert math.isclose(found[0], loss, rel_tol=1e-12) and found[1] == right


def test_a_second_fit_goes_on() -> None:
    whole, parts = small(threads.world_of_one()), small(threads.world_of_one())
    true = whole.fit(data(25), 5, data(10))
    first, second = (parts.fit(data(25), n, data(10)) for n in (2, 3))
    assert astuple(true) == tuple(a + b for a, b in zip(astuple(first), astuple(second), strict=True))
    assert len(parts.history.loss) == 5 and parts.batches == parts.updates == 20


@pytest.mark.parametrize(("batch", "compared"), [(7, 3), (8, 1)])
def test_large_batches_are_compared_in_the_first_step_only(
    batch: int, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample has 8 KiB; from 64 KiB on, a checksum takes too long for every step."""
    seen: list[int] = []
    checksum = trainer_module.checksum_of

    def watched(it: Batch) -> int:
        seen.append(it.inputs.nbytes)
        return checksum(it)

    monkeypatch.setattr(trainer_module, "checksum_of", watched)

    def program(world: Communicator) -> None:
        model = mlp(MLPConfig(inputs=1024, hidden=(2,), classes=2, dtype="float64"))
        Trainer(model, world).fit(ArrayLoader(np.ones((3 * batch, 1024)), np.zeros(3 * batch, int), batch, 1), 1)

    threads.run(2, program)
    assert seen == 2 * compared * [batch * 2**13]


# The learning rate ----------------------------------------------------------------------------------------------------


def test_the_schedule_is_asked_before_each_update() -> None:
    asked: list[int] = []

    def schedule(update: int) -> float:
        asked.append(update)
        return 0.1 / (1 + update)

    trainer = small(threads.world_of_one(), schedule=schedule, optimizer=SGD)
    weight = trainer.model.parameters()[0]
    before = weight.data.copy()
    update = trainer.step(data(25).batch(0))
    step = np.linalg.norm(weight.data - before) / np.linalg.norm(weight.grad if weight.grad is not None else 0)
    assert update.lr == 0.1 and math.isclose(step, 0.1)
    history = trainer.fit(data(25), 2, data(10))
    assert asked == list(range(9)) and history.lr == [0.1 / (1 + 4), 0.1 / (1 + 8)]


@pytest.mark.parametrize("rate", [None, -0.1, math.nan, "0.1"])
def test_a_schedule_that_returns_nonsense(rate: Any) -> None:
    """Refused before the update, with the update's number."""
    trainer = small(threads.world_of_one(), schedule=lambda update: [0.1, 0.1, rate][update])
    with pytest.raises(UserError, match=rf"schedule\(2\) is {rate!r}; it must be a number, at least 0"):
        trainer.fit(data(25), 1)
    assert trainer.updates == 2


@pytest.mark.parametrize("optimizer", [Adam, partial(SGD, momentum=0.5)], ids=["Adam", "SGD"])
def test_a_momentum_that_moves_is_set_before_each_update(optimizer: Any) -> None:
    """A constant schedule matches a constant momentum, and another one does not."""

    def weights(momentum: Any, initial: float = 0.5) -> list[np.ndarray]:
        make = partial(optimizer, **{"beta1" if optimizer is Adam else "momentum": initial})
        trainer = small(threads.world_of_one(), optimizer=make, momentum=momentum)
        trainer.fit(data(25), 2)
        return [p.data for p in trainer.model.parameters()]

    true = weights(None)
    assert all(map(np.array_equal, weights(lambda update: 0.5, initial=0.9), true))
    late = weights(lambda update: 0.5 + 0.1 * (update == 7), initial=0.9)  # only in the last of 8 updates
    assert not all(map(np.array_equal, late, true)) and np.allclose(late[0], true[0], atol=0.05)


@pytest.mark.parametrize("momentum", [0.9, 1.0, math.nan])
def test_a_momentum_that_cannot_be_set(momentum: float) -> None:
    """Its value is invalid, or the optimizer has no momentum."""
    trainer = small(threads.world_of_one(), optimizer=SGD, momentum=lambda update: momentum)
    with pytest.raises(UserError, match=rf"momentum\(0\) is {momentum}"):
        trainer.step(data(25).batch(0))


def test_a_batch_whose_update_is_left_out_counts_as_a_batch() -> None:
    """As with too large a loss scale: schedule and Adam do not advance, the data does."""
    rates, scaler = {0: 0.5}, StaticScaler(8.0, agree=lambda overflow, world: True)
    trainer = small(threads.world_of_one(), schedule=rates.__getitem__, scaler=scaler)
    before = [p.data.copy() for p in trainer.model.parameters()]
    made = [trainer.step(data(25).batch(n)) for n in range(3)]
    assert [(update.lr, update.scale, update.skipped) for update in made] == [(0.5, 8.0, True)] * 3
    assert (trainer.batches, trainer.updates, scaler.skips) == (3, 0, 3)
    assert all(np.array_equal(p.data, w) for p, w in zip(trainer.model.parameters(), before, strict=True))
    assert trainer.fit(data(25), 1).loss[0] > 0, "their losses are numbers, and count"


def test_a_layer_that_overflows_goes_back_to_float32(capsys: Capture) -> None:
    """Two layers do: the second's input, the first's output, does not fit into 16 bits either."""
    model = mlp(MLPConfig(inputs=5, hidden=(6, 4), classes=2))
    trainer = Trainer(model, threads.world_of_one(), precision=DynamicPolicy(patience=2, rest=3))
    model.parameters()[0].data *= 1e6
    model.parameters()[2].data *= 1e-6
    skipped = [trainer.step(data(25).batch(n)).skipped for n in range(9)]
    assert skipped == [True] * 4 + [False] * 3 + [True] * 2
    said = capsys.readouterr().out
    assert "update 0: layer dense.0 overflowed in 2 batches in a row: float32 from now on" in said
    assert "update 3: layer dense.0 is tried in half precision again" in said


def test_an_epoch_that_overflowed_is_not_the_best() -> None:
    assert History(loss=[math.nan, 3.0, 2.0]).best == 2
    assert History(loss=[math.nan]).best == 0


def test_a_layer_is_not_blamed_for_its_backward_above_the_floor() -> None:
    """The scale is reduced first."""
    model = mlp(MLPConfig(inputs=5, hidden=(6, 4), classes=2))
    precision, scaler = DynamicPolicy(patience=1), DynamicScaler(2.0**40, floor=2.0**30)
    trainer = Trainer(model, threads.world_of_one(), precision=precision, scaler=scaler)
    for number in range(10):
        assert trainer.step(data(25).batch(number)).skipped and not precision.resting
    assert scaler.at_floor()
    assert trainer.step(data(25).batch(10)).skipped and list(precision.resting) == ["head"]
    assert trainer.step(data(25).batch(11)).skipped and list(precision.resting) == ["head", "dense.1"]


def test_a_schedule_may_go_by_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history covers all epochs so far, including those of earlier fits."""
    peak = 0.5
    trainer: Trainer = small(
        threads.world_of_one(),
        schedule=lambda update: reduce_on_plateau(trainer.history.validation_loss, peak, 0.1, patience=1),
    )
    losses_of(trainer, [3.0, 2.0, 2.0, 2.0, 2.0, 1.0], monkeypatch)
    first, second = trainer.fit(data(25), 3, data(10)), trainer.fit(data(25), 3, data(10))
    assert first.lr == [peak] * 3 and np.allclose(second.lr, [peak, peak / 10, peak / 10])
    assert trainer.history.lr == first.lr + second.lr


# Stopping -------------------------------------------------------------------------------------------------------------


def losses_of(trainer: Trainer, values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace validation by a fixed sequence of losses."""
    coming = iter(values)
    monkeypatch.setattr(trainer, "validate", lambda *arguments: [next(coming), 0.5])


@pytest.mark.parametrize(
    ("patience", "losses", "epochs"),
    [
        (None, [2.0, 3.0, 4.0, 5.0], 4),
        (1, [3.0, 2.0, 2.5, 1.0], 3),
        (2, [3.0, 2.0, 2.5, 2.0, 1.0], 4),  # an equal loss is no improvement
        (2, [3.0, 2.0, 2.5, 1.9, 1.0], 5),
        (4, [3.0, 4.0, 4.0, 4.0, 2.0], 5),
    ],
)
def test_patience(patience: int | None, losses: list[float], epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small(threads.world_of_one())
    losses_of(trainer, losses, monkeypatch)
    history = trainer.fit(data(25), len(losses), data(10), patience)
    assert history.validation_loss == losses[:epochs] and len(history.loss) == len(trainer.history.loss) == epochs
    assert history.best == losses.index(min(losses[:epochs]))


def test_ranks_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 decides, since another rank's loss may differ in the last bit."""

    def program(world: Communicator) -> History:
        trainer = small(world)
        falling = [1.0, 0.9, 0.8, 0.7]
        losses_of(trainer, falling if world.rank else [1.0, *([1.0 + 1e-16] * 3)], monkeypatch)
        return trainer.fit(data(25), 4, data(10), patience=2)

    first, second, third = threads.run(3, program, timeout=10)
    assert first == second == third and len(first.loss) == 3


# Output ---------------------------------------------------------------------------------------------------------------


def test_without_validation(capsys: Capture) -> None:
    history = small(threads.world_of_one()).fit(data(25), 3)
    assert len(history.loss) == len(history.lr) == 3 and history.best == 2
    assert history.validation_loss == history.accuracy == []
    assert "validation" not in capsys.readouterr().out


@pytest.mark.parametrize("limit", [None, 0.01])
def test_clipping(limit: float | None) -> None:
    """Without momentum, an update's length is the gradient norm, at most the limit, times the learning rate."""
    trainer = small(threads.world_of_one(), optimizer=SGD, schedule=0.5, clip=limit)
    before = [p.data.copy() for p in trainer.model.parameters()]
    norm = trainer.step(data(25).batch(0)).norm
    after = [p.data for p in trainer.model.parameters()]
    moved = math.sqrt(sum(float(np.square(b - a).sum()) for a, b in zip(after, before, strict=True)))
    assert norm > 0.01 and math.isclose(moved, 0.5 * (limit or norm))


def test_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model processes micro-batches one at a time."""
    trainer = small(threads.world_of_one(), accumulate=3)
    seen: list[int] = []
    forward = Model.__call__

    def look(model: Model, batch: Batch) -> Tensor:
        seen.append(len(batch.inputs))
        return forward(model, batch)

    monkeypatch.setattr(Model, "__call__", look)
    trainer.step(data(25).batch(0))
    assert seen == [3, 2, 2]


def test_options_reach_the_optimizer() -> None:
    trainer = small(threads.world_of_one(), optimizer=lambda reducer: Adam(reducer, beta1=0.5))
    assert isinstance(trainer.optimizer, Adam) and trainer.optimizer.beta1 == 0.5


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ({"how": "zero1"}, "must be a Strategy, such as Strategy(zero=1)"),
        ({"x" * 10**6: 1}, "must be a Strategy, such as Strategy(zero=1)"),
        (Strategy(zero=1, reduce_once=True), "reduce_once=True is for zero=2 and 3; zero=1 reduces once anyway"),
        (Strategy(schedule="2f2b"), "schedule is '2f2b'; allowed: 'naive'"),
        (Strategy(chunks=0), "chunks is 0; it must be at least 1"),
    ],
)
def test_a_strategy_that_cannot_be_meant(strategy: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        Trainer(mlp(), threads.world_of_one(), strategy=strategy)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("fields", [{"hwo": "zero1"}, {"zero": 1, "recompte": 1}, {"zero": 3, "prefech": True}])
def test_a_field_that_no_strategy_has(fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"'{[*fields][-1]}'"):
        Strategy(**fields)


def test_the_fields_of_a_strategy_are_passed_on_to_what_is_below() -> None:
    strategy = Strategy(zero=3, prefetch=True, reduce_once=True, recompute=1, bucket_mb=2.0)
    trainer = Trainer(mlp(), threads.world_of_one(), strategy=strategy)
    made = trainer.reducer
    assert isinstance(made, Zero3) and made.ahead is not None and not made.each_backward
    trainer.close()
