"""Trainer.fit on text and on samples: epochs or updates, history rows, resuming, and what is refused."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch
from minitrain.data.loader import ArrayLoader, Loader, TextLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, gpt, mlp
from minitrain.optim import SGD
from minitrain.precision import StaticScaler
from minitrain.train.history import History
from minitrain.train.trainer import Trainer
from tests.strategies import named

Capture = pytest.CaptureFixture[str]


def text(n: int = 60, batch: int = 4) -> TextLoader:
    """Return 59 ids to predict in windows of 6: 3 batches per epoch."""
    return TextLoader(np.arange(n) ** 2 % 7, context=6, batch=batch, seed=1)


def digits(n: int = 25, seed: int = 1) -> ArrayLoader:
    """Return 25 samples by default: 4 batches per epoch, the last of 4 samples."""
    draw = np.random.default_rng(seed)
    return ArrayLoader(draw.normal(size=(n, 5)), draw.integers(0, 2, n), 7, seed=seed)


def learner(world: Communicator, data: Loader, **options: Any) -> Trainer:
    """Return a trainer with a GPT for text and an MLP for samples."""
    if isinstance(data, TextLoader):
        model = gpt(GPTConfig(7, 6, layers=1, heads=2, width=8, std=0.3, dtype="float64"))
    else:
        model = mlp(MLPConfig(5, (6,), 2, "float64"))
    return Trainer(model, world, **{"schedule": lambda update: 0.01 / (1 + update), **options})


@pytest.fixture(params=[text, digits], ids=["text", "samples"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param


def by_hand(trainer: Trainer, data: Loader, numbers: range) -> tuple[float, float]:
    """Return (mean loss over all labels, last learning rate) of these batches."""
    losses: list[float] = []
    for number in numbers:
        update = trainer.step(data.batch(number))
        losses += [update.loss] * data.batch(number).where.count
    return math.fsum(losses) / len(losses), update.lr


def values(trainer: Trainer) -> list[np.ndarray]:
    return [p.data.copy() for p in trainer.model.parameters()]


def equal(a: Trainer, b: Trainer) -> bool:
    return all(map(np.array_equal, values(a), values(b)))


# Rows -----------------------------------------------------------------------------------------------------------------


def test_epochs(make: Callable[..., Any]) -> None:
    """An epoch has the loader's batches 0, 1, 2, ... in order, and ends with validation."""
    data, held_out = make(), make(20)
    true, found = (learner(world_of_one(), data) for _ in range(2))
    history = found.fit(data, 2, held_out)
    for epoch in range(2):
        loss, rate = by_hand(true, data, range(epoch * data.batches, (epoch + 1) * data.batches))
        assert math.isclose(history.loss[epoch], loss, rel_tol=1e-12) and history.lr[epoch] == rate
        assert history.validation_loss[epoch] == true.mean_loss(held_out.validation())
        if not isinstance(data, TextLoader):
            assert history.accuracy[epoch] == true.accuracy(held_out.validation())
    assert equal(found, true) and found.batches == 2 * data.batches
    assert len(history.accuracy) == (0 if isinstance(data, TextLoader) else 2), "which of many labels is no accuracy"


@pytest.mark.parametrize(("every", "ends"), [(None, [7]), (7, [7]), (9, [7]), (3, [3, 6, 7]), (1, range(1, 8))])
def test_updates(make: Callable[..., Any], every: int | None, ends: list[int]) -> None:
    """A row for every `validate_every` updates, and one for the rest."""
    data, held_out = make(), make(20)
    true, found = (learner(world_of_one(), data) for _ in range(2))
    history = found.fit(data, updates=7, validation=held_out, validate_every=every)
    for row, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        loss, rate = by_hand(true, data, range(begin, end))
        assert math.isclose(history.loss[row], loss, rel_tol=1e-12) and history.lr[row] == rate
        assert history.validation_loss[row] == true.mean_loss(held_out.validation())
    assert len(history.loss) == len(ends) and found.updates == 7 and equal(found, true)


@pytest.mark.parametrize("how", ["bucketed", "zero3"])
@pytest.mark.parametrize("mesh", [{"dp": 3}, {"dp": 1, "tp": 2}], ids=str)
def test_the_same_history_on_any_mesh(make: Callable[..., Any], mesh: dict[str, int], how: str) -> None:
    data, length = make(), {"updates": 5, "validate_every": 2}

    def program(world: Communicator, **options: Any) -> History:
        trainer = learner(world, data, optimizer=SGD, schedule=0.1, **options)
        history = trainer.fit(data, validation=make(20), **length)
        trainer.close()
        return history

    serial = program(world_of_one())
    ranks = math.prod(mesh.values())
    for found in threads.run(
        ranks, lambda world: program(world, mesh=Mesh(world, **mesh), strategy=named(how)), timeout=20
    ):
        for name in ("loss", "lr", "validation_loss", "accuracy"):
            np.testing.assert_allclose(getattr(found, name), getattr(serial, name), rtol=1e-12)


def test_updates_that_are_skipped_are_not_counted() -> None:
    """Their batches still count: the next step uses the next batch."""
    turns = iter([True, False, True, True, False, False])
    scaler = StaticScaler(8.0, agree=lambda overflow, world: next(turns))
    trainer = learner(world_of_one(), digits(), scaler=scaler)
    made = list(trainer.each_update(digits(), 3))
    assert [update.skipped for update in made] == [True, False, True, True, False, False]
    assert (trainer.updates, trainer.batches) == (3, 6)
    assert [update.labels for update in made] == [7, 7, 7, 4, 7, 7]


def test_updates_are_made_when_they_are_asked_for() -> None:
    trainer = learner(world_of_one(), text())
    coming = trainer.each_update(text(), 3)
    assert trainer.updates == 0
    for n, update in enumerate(coming, 1):
        assert trainer.updates == n and update.labels == 24
    assert list(trainer.each_update(text(), 0)) == [] and trainer.updates == 3


# Resuming -------------------------------------------------------------------------------------------------------------


def test_a_second_call_goes_on(make: Callable[..., Any]) -> None:
    """However training is split into calls: the same batches, learning rates and weights."""
    data = make()
    whole, parts, mixed = (learner(world_of_one(), data) for _ in range(3))
    whole.fit(data, updates=3 * data.batches)
    for n in (1, data.batches, 2 * data.batches - 1):
        parts.fit(data, updates=n)
    mixed.fit(data, 1)
    mixed.fit(data, updates=data.batches)
    mixed.fit(data, 1)
    assert equal(whole, parts) and equal(whole, mixed)
    assert len(mixed.history.loss) == 3


def test_an_epoch_is_a_whole_one() -> None:
    """After updates that ended mid-epoch, an epoch still visits each sample once."""
    trainer, seen = learner(world_of_one(), digits()), []
    step = trainer.step

    def look(batch: Batch) -> Any:
        seen.append((batch.where.number, *np.asarray(batch.rows)))
        return step(batch)

    trainer.step = look  # type: ignore[method-assign]
    trainer.fit(digits(), updates=6)
    trainer.fit(digits(), 1)
    trainer.fit(digits(), updates=1)
    assert [number for number, *_ in seen] == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12]
    assert sorted(row for _, *rows in seen[6:10] for row in rows) == list(range(25))


def test_patience_in_updates(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Patience counts rows, and the best weights are restored."""
    trainer, coming = learner(world_of_one(), text()), iter([3.0, 2.0, 2.5, 2.0, 1.0])
    at: list[list[np.ndarray]] = []

    def validate(*_: Any) -> list[float]:
        at.append(values(trainer))
        return [next(coming)]

    monkeypatch.setattr(trainer, "validate", validate)
    history = trainer.fit(text(), updates=50, validation=text(), validate_every=10, patience=2)
    assert history.validation_loss == [3.0, 2.0, 2.5, 2.0] and trainer.updates == 40
    assert all(map(np.array_equal, values(trainer), at[1]))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("update 10/50  loss ") and said[0].endswith("validation loss 3.000")
    assert said[-2:] == [
        "stopped: no better validation loss in the 20 update(s) after update 20",
        "restored the weights of update 20, the best one",
    ]


def test_an_update_of_no_loader_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"^train is 3; it must be a loader"):
        next(learner(world_of_one(), digits()).each_update(3, 1))  # type: ignore[arg-type]


def test_patience_while_every_batch_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights to restore are those before the first update: the optimizer has made no masters yet."""
    always = StaticScaler(8.0, patience=99, agree=lambda overflow, world: True)
    trainer, coming = learner(world_of_one(), digits(), scaler=always), iter([1.0, 2.0])
    before = values(trainer)
    monkeypatch.setattr(trainer, "validate", lambda *_: [next(coming), 0.5])
    trainer.fit(digits(), epochs=9, validation=digits(), patience=1)
    assert trainer.history.validation_loss == [1.0, 2.0] and all(map(np.array_equal, values(trainer), before))


# Custom data ----------------------------------------------------------------------------------------------------------


class Halves:
    """Every batch twice: a minimal custom loader."""

    def __init__(self, inner: Loader) -> None:
        self.inner, self.batches = inner, 2 * inner.batches

    def batch(self, number: int) -> Batch:
        return self.inner.batch(number // 2)

    def validation(self) -> Iterator[Batch]:
        return self.inner.validation()


def test_a_loader_of_ones_own(make: Callable[..., Any]) -> None:
    data = make()
    true, found = (learner(world_of_one(), data) for _ in range(2))
    found.fit(Halves(data), 1, Halves(data))
    for number in range(2 * data.batches):
        true.step(data.batch(number // 2))
    assert equal(found, true)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "epochs is None and updates is None; exactly one must say how long to train"),
        ({"epochs": 2, "updates": 9}, "epochs is 2 and updates is 9; exactly one must say how long to train"),
        ({"epochs": 2, "validate_every": 9}, "validate_every is 9, but each epoch is validated"),
        ({"updates": 9, "patience": 2}, "patience is 2, which waits for a better validation loss"),
        ({"train": TextLoader, "epochs": 1}, "train is <class"),
        ({"epochs": 1, "validation": digits().batch(0)}, "validation is Batch"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant(wrong: dict[str, Any], said: str) -> None:
    trainer = learner(world_of_one(), digits())
    with pytest.raises(UserError, match=said):
        trainer.fit(**{"train": digits(), **wrong})
    assert trainer.batches == 0


def test_a_loader_without_batches() -> None:
    empty = Halves(digits())
    empty.batches = 0
    with pytest.raises(UserError, match=r"train\.batches is 0; it must be at least 1"):
        learner(world_of_one(), digits()).fit(empty, 1)


@pytest.mark.parametrize("differs", ["epochs", "patience", "train"])
def test_ranks_that_were_given_different_things(differs: str) -> None:
    """Refused before any rank waits for a batch that another never provides."""

    def program(world: Communicator) -> None:
        given: dict[str, Any] = {"train": digits(), "epochs": 3, "validation": digits(), "patience": 2}
        if world.rank == 1:
            given |= {"train": digits(50)} if differs == "train" else {differs: 1}
        trainer = learner(world, digits())
        with pytest.raises(UserError, match="ranks were given different values"):
            trainer.fit(**given)
        assert trainer.batches == 0

    threads.run(2, program, timeout=10)


def test_nothing_more_after_close() -> None:
    trainer = learner(world_of_one(), text())
    trainer.close()
    with pytest.raises(UserError, match="this trainer was closed"):
        trainer.fit(text(), updates=1)
