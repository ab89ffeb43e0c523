"""Labels that do not count: in a batch's own count, in the trainer's losses and accuracy, at the end of a text."""

import math
from dataclasses import replace

import numpy as np
import pytest

import minitrain
from minitrain.autograd import no_grad
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.batch import IGNORE, Batch, Where
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, gpt, mlp
from minitrain.train.trainer import Trainer

LABELS = np.array([[2, IGNORE, 0], [IGNORE] * 3, [1, 1, IGNORE], [0, 0, 0], [IGNORE, 2, 2]])
IDS = np.arange(15).reshape(5, 3) % 3
WHERE = Where(1, 0, 5, 3, slice(0, 5), slice(0, 3))


# The batch ------------------------------------------------------------------------------------------------------------


def test_the_constant_is_one_and_pytorchs() -> None:
    assert minitrain.IGNORE is IGNORE and IGNORE == -100


def test_a_whole_batch_counts_its_labels_and_its_parts_know() -> None:
    batch = Batch(IDS, LABELS, WHERE)
    assert batch.where.count == batch.where.counted == 9
    micros = [micro for rank in range(3) for micro in batch.part(rank, 3).split(2)]
    assert {micro.where.count for micro in micros} == {9}
    own = [int((micro.labels != IGNORE).sum()) for micro in micros if micro.labels is not None]
    assert own == [2, 0, 2, 3, 2, 0] and sum(own) == 9
    assert Batch(IDS, LABELS % 3, WHERE).where.count == 15


@pytest.mark.parametrize("cut", [{"samples": slice(1, 3)}, {"time": slice(0, 2)}, {"B": 6}])
def test_a_part_with_ignored_labels_says_how_many_count(cut: dict) -> None:
    where = replace(WHERE, **cut)
    labels = LABELS[where.samples, where.time]
    with pytest.raises(UserError, match=r"ignores \d+ of its \d+ labels, .*where.counted is None"):
        Batch(IDS[where.samples, where.time], labels, where)
    assert Batch(IDS[where.samples, where.time], labels, replace(where, counted=7)).where.count == 7


def test_a_batch_in_which_nothing_counts() -> None:
    with pytest.raises(UserError, match="counted is 0 in batch 0: all labels of the global batch are IGNORE"):
        Batch(IDS, np.full_like(LABELS, IGNORE), WHERE)
    part = replace(WHERE, samples=slice(1, 2), counted=9)  # of one rank; the other ranks have labels
    assert Batch(IDS[1:2], LABELS[1:2], part).where.count == 9


def test_labels_in_a_list_count_alike() -> None:
    batch = Batch(IDS, LABELS.tolist(), WHERE)
    assert batch.where.count == 9 and isinstance(batch.labels, np.ndarray)
    with pytest.raises(TypeError, match=r"labels is .*whole numbers"):
        Batch(IDS, [0.5] * 5, WHERE)  # type: ignore[arg-type]


def test_labels_that_are_no_whole_numbers() -> None:
    for labels in (np.zeros((5, 3)), np.zeros((5, 3), bool)):
        model = gpt(GPTConfig(4, 3, layers=1, heads=2, width=8))
        model.init(1)
        with pytest.raises(TypeError, match=r"labels is an array of .*whole numbers"):
            model(Batch(IDS, labels, WHERE))


def test_labels_that_cannot_be_ignored_are_let_be() -> None:
    """Unsigned labels and float targets have no ignored value."""
    for labels in (np.full((5, 3), 156, np.uint8), np.full((5, 3), -100.0), None):
        assert Batch(IDS, labels, WHERE).where.counted is None


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("wrong", [3, 99])
def test_a_label_that_the_model_does_not_have_is_named(wrong: int, ranks: int) -> None:
    """The error gives the row in the data, for any batch and part."""
    labels = np.zeros(11, int)
    labels[7] = wrong
    loader = ArrayLoader(np.ones((11, 5)), labels, batch=4, seed=1)
    number = next(n for n in range(3) if wrong in np.asarray(loader.batch(n).labels))
    said = rf"a label of sample \d of batch {number} \(row 7 of the data\) is {wrong}; there are 3 classes.* -100"

    def look(world: Communicator) -> bool:
        mine = loader.batch(number).part(world.rank, world.size)
        model = mlp(MLPConfig(5, (6,), 3, "float64"))
        model.init(1)
        if wrong in np.asarray(mine.labels):
            with pytest.raises(UserError, match=said):
                model(mine)
            return True
        return model(mine).item() == 0

    assert sum(threads.run(ranks, look)) == 1


@pytest.mark.parametrize("tp", [1, 2])
def test_a_character_that_the_model_does_not_have_is_named(tp: int) -> None:
    """Also with a divided vocabulary. Only the label is wrong, since a wrong id would fail in the embedding."""

    def look(world: Communicator) -> None:
        model = gpt(GPTConfig(4, 3, layers=1, heads=2, width=8))
        trainer = Trainer(model, world, mesh=Mesh(world, tp=tp))
        batch = Batch(IDS, np.where(LABELS == 2, 4, LABELS), WHERE)
        with pytest.raises(UserError, match="a label of sample 0 of batch 0 is 4; there are 4 classes"):
            trainer.step(batch)

    threads.run(tp, look)


# The trainer ----------------------------------------------------------------------------------------------------------


def images(ignored: int, n: int = 23) -> ArrayLoader:
    """Return images whose first `ignored` labels are ignored."""
    draw = np.random.default_rng(n)
    labels = draw.integers(0, 3, n)
    labels[:ignored] = IGNORE
    return ArrayLoader(draw.standard_normal((n, 5)), labels, batch=8, seed=2)


def loss_or_logits(trainer: Trainer, batch: Batch) -> tuple[list[float], list[bool]]:
    """Return the losses of the counted labels, and whether each is the most probable class."""
    assert batch.labels is not None
    with no_grad():
        x = trainer.model(Batch(batch.inputs, None, batch.where)).data
    x, labels = x[batch.labels != IGNORE], batch.labels[batch.labels != IGNORE]
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    return (-np.log(p[np.arange(len(labels)), labels])).tolist(), (x.argmax(axis=-1) == labels).tolist()


def trained(world: Communicator) -> tuple[Trainer, list[float]]:
    trainer = Trainer(mlp(MLPConfig(5, (6,), 3, "float64")), world, schedule=0.01, accumulate=2)
    history = trainer.fit(images(8), 2, images(5))
    return trainer, [*history.loss, *history.validation_loss, *history.accuracy]


def test_epochs_and_validation_count_what_is_not_ignored() -> None:
    """Counting samples instead would weight all batches equally."""
    trainer = Trainer(mlp(MLPConfig(5, (6,), 3, "float64")), threads.world_of_one(), schedule=0.01)
    train: ArrayLoader = images(8)
    losses: list[float] = []
    for number in range(train.batches):
        losses += loss_or_logits(trainer, train.batch(number))[0]
        trainer.step(train.batch(number))
    assert len(losses) == 15
    found = Trainer(mlp(MLPConfig(5, (6,), 3, "float64")), threads.world_of_one(), schedule=0.01).fit(
        train, 1, images(5)
    )
    assert math.isclose(found.loss[0], sum(losses) / 15, rel_tol=1e-12)
    after = [loss_or_logits(trainer, batch) for batch in images(5).validation()]
    each = [loss for losses, _ in after for loss in losses]
    right = [one for _, found_right in after for one in found_right]
    assert len(each) == 18 and math.isclose(found.validation_loss[0], sum(each) / 18, rel_tol=1e-12)
    assert found.accuracy[0] == sum(right) / 18


@pytest.mark.parametrize("ranks", [2, 3])
def test_epochs_are_the_same_on_any_number_of_ranks(ranks: int) -> None:
    true = trained(threads.world_of_one())[1]
    for found in threads.run(ranks, lambda world: trained(world)[1]):
        np.testing.assert_allclose(found, true, rtol=1e-12)


def test_images_that_are_ignored_are_left_out() -> None:
    """So every batch has a label that counts; row numbers are those of the data."""
    loader = images(5)
    seen = [loader.batch(n) for n in range(loader.batches)]
    assert all(batch.labels is not None and not (batch.labels == IGNORE).any() for batch in seen)
    rows = np.concatenate([batch.rows for batch in seen if batch.rows is not None])
    assert sorted(rows.tolist()) == loader.rows.tolist() != list(range(len(rows)))


def test_images_of_which_none_counts() -> None:
    with pytest.raises(UserError, match="all labels are -100, which means ignore"):
        images(23)


# A text's end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [None, 3, 7])
@pytest.mark.parametrize("ranks", [1, 3])
def test_the_loss_of_a_text_is_that_of_all_its_predictions(ranks: int, most: int | None) -> None:
    """The tail, 5 ids that no whole window reaches, is unlike the rest. In float64, position by position."""
    ids, T = np.array([0, 1, 2] * 12 + [3] * 6), 6
    loader = TextLoader(ids, T, batch=4, seed=1)

    def validated(world: Communicator) -> tuple[float, Trainer]:
        model = gpt(GPTConfig(4, T, layers=1, heads=2, width=8, std=0.3, dtype="float64"))
        trainer = Trainer(model, world, schedule=0.01)
        for number in range(10):
            trainer.step(TextLoader(ids[:36], T, 4, 1).batch(number))
        return trainer.mean_loss(loader.validation(most)), trainer

    found = threads.run(ranks, validated)
    trainer, losses = found[0][1], []
    windows = range(7) if most in (None, 7) else [0, 2, 4]
    for window in windows:
        start = min(window * T, len(ids) - 1 - T)
        where = Where(1, 0, 1, T, slice(0, 1), slice(0, T), training=False)
        with no_grad():
            x = trainer.model(Batch(ids[None, start : start + T], None, where)).data[0]
        for position in range(window * T + 1, min((window + 1) * T + 1, len(ids))):
            row = x[position - 1 - start]
            losses.append(np.log(np.exp(row).sum()) - row[ids[position]])
    assert len(losses) == (18 if most == 3 else len(ids) - 1)
    for loss, _ in found:
        assert math.isclose(loss, np.mean(losses), rel_tol=1e-12)
