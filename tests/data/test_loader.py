"""A batch is a function of (seed, number), its parts cover it; validation and epochs omit nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrain.data.batch import IGNORE, Batch
from minitrain.data.loader import ArrayLoader, Loader, TextLoader
from minitrain.errors import UserError

IDS = np.random.default_rng(5).permutation(1000).astype(np.int32)  # each id gives its position in the text
PLACE = np.argsort(IDS)


def text(context: int = 5, batch: int = 7, seed: int = 1, ids: np.ndarray = IDS) -> TextLoader:
    return TextLoader(ids, context, batch, seed)


def same(a: Batch, b: Batch) -> bool:
    assert a.labels is not None and b.labels is not None
    return np.array_equal(a.inputs, b.inputs) and np.array_equal(a.labels, b.labels) and a.where == b.where


# Text -------------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_number_only() -> None:
    loader, other = text(), text()
    batches = [loader.batch(number) for number in range(4)]
    assert all(same(other.batch(number), batches[number]) for number in (3, 0, 0, 2, 1))
    inputs = {batch.inputs.tobytes() for batch in [*batches, *(text(seed=2).batch(n) for n in range(4))]}
    assert len(inputs) == 8


def test_a_batch_has_a_number() -> None:
    with pytest.raises(UserError, match=r"^number is -1"):
        text().batch(-1)


def test_labels_are_the_next_characters() -> None:
    batch = text().batch(3)
    assert batch.inputs.shape == (7, 5) and batch.labels is not None and batch.labels.shape == (7, 5)
    assert np.array_equal(PLACE[batch.labels], PLACE[batch.inputs] + 1)
    assert np.array_equal(np.diff(PLACE[batch.inputs], axis=1), np.ones((7, 4)))
    assert np.issubdtype(batch.inputs.dtype, np.integer)


def test_where_of_a_whole_batch() -> None:
    where = text(seed=9).batch(3).where
    assert (where.seed, where.number, where.B, where.T, where.training) == (9, 3, 7, 5, True)
    assert (where.samples, where.time, where.count) == (slice(0, 7), slice(0, 5), 35)


def test_training_reaches_every_place() -> None:
    """Training reaches the first and the last window, too."""
    loader = text(context=3, batch=50, ids=IDS[:8])
    starts = {int(PLACE[i]) for number in range(4) for i in loader.batch(number).inputs[:, 0]}
    assert starts == {0, 1, 2, 3, 4}


def test_a_text_of_one_window() -> None:
    batch = text(context=4, ids=IDS[:5]).batch(0)
    assert batch.labels is not None and (batch.labels == IDS[1:5]).all() and (batch.inputs == IDS[:4]).all()


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 9])
def test_parts_cover_the_batch(ranks: int) -> None:
    batch = text().batch(2)
    parts = [batch.part(rank, ranks) for rank in range(ranks)]
    assert np.array_equal(np.concatenate([part.inputs for part in parts]), batch.inputs)
    assert np.array_equal(np.concatenate([part.labels for part in parts]), np.array(batch.labels))
    lengths = [len(part.inputs) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    ends = np.cumsum([0, *lengths]).tolist()
    for part, lo, hi in zip(parts, ends, ends[1:], strict=False):
        assert part.where.samples == slice(lo, hi)
        assert (part.where.B, part.where.count, part.where.number) == (7, 35, 2)


def test_seven_samples_on_three_ranks_in_two_micro_batches() -> None:
    batch = text().batch(2)
    found = [micro.where.samples for rank in range(3) for micro in batch.part(rank, 3).split(2)]
    assert found == [slice(*border) for border in ((0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7))]
    for rank in range(3):
        for micro in batch.part(rank, 3).split(2):
            assert np.array_equal(micro.inputs, batch.inputs[micro.where.samples])


def test_a_batch_without_labels_has_parts() -> None:
    whole = text().batch(0)
    part = Batch(whole.inputs, None, whole.where).part(1, 3)
    assert part.labels is None and part.where.samples == slice(3, 5)


def test_validation_covers_the_text_once() -> None:
    """Validation has 166 windows of 6 predictions, and one that ends with the text, of which three are new."""
    batches = list(text(context=6, batch=4).validation())
    windows = -(-(len(IDS) - 1) // 6)
    assert [len(batch.inputs) for batch in batches] == [4] * 41 + [3] and windows == 167
    inputs = np.concatenate([b.inputs.reshape(-1) for b in batches])
    assert np.array_equal(inputs[: 6 * 166], IDS[: 6 * 166]) and np.array_equal(inputs[6 * 166 :], IDS[-7:-1])
    labels = np.concatenate([b.labels.reshape(-1) for b in batches if b.labels is not None])
    assert np.array_equal(labels[labels != IGNORE], IDS[1:])
    assert (labels[-6:-3] == IGNORE).all() and not (labels[:-6] == IGNORE).any()


def test_validation_losses_add_up_to_the_mean() -> None:
    """Each loss is a sum divided by `count`, the count over all windows, not over the batch."""
    batches = list(text(context=6, batch=4).validation())
    assert {batch.where.count for batch in batches} == {999}
    assert not any(batch.where.training for batch in batches)
    samples = [i for b in batches for i in range(b.where.samples.start, b.where.samples.stop)]
    assert samples == list(range(167))
    parts = [part.labels for b in batches for part in b.split(3) if part.labels is not None]
    assert sum(int((labels != IGNORE).sum()) for labels in parts) == batches[0].where.count


@pytest.mark.parametrize("context", [1, 3, 4, 5, 6, 12])
@pytest.mark.parametrize("n", [13, 14, 25])
def test_a_text_of_whole_windows_has_no_window_more(n: int, context: int) -> None:
    """12 predictions are 3 windows of 4; 13 are 4 windows, and the last starts early so as to end with the text."""
    loader = text(context, 2, ids=np.arange(n))
    batches = list(loader.validation())
    starts = [int(x) for b in batches for x in b.inputs[:, 0]]
    whole, rest = divmod(n - 1, context)
    assert starts == [i * context for i in range(whole)] + [n - 1 - context] * (rest > 0)
    assert loader.windows == len(starts) and batches[0].where.count == n - 1
    ignored = [int((b.labels == IGNORE).sum()) for b in batches if b.labels is not None]
    assert ignored == [0] * (len(batches) - 1) + [(context - rest) % context]


@settings(max_examples=200)
@given(st.integers(1, 9), st.integers(1, 5), st.data())
def test_every_position_is_predicted_once(context: int, batch: int, draw: st.DataObject) -> None:
    """In texts of any length and id dtype; with `most`, exactly the declared number, none twice."""
    n = draw.draw(st.integers(context + 1, 60))
    ids = np.arange(n).astype(draw.draw(st.sampled_from([np.int8, np.uint8, np.uint16, np.int32, np.uint64])))
    most = draw.draw(st.none() | st.integers(1, 70))
    batches = list(TextLoader(ids, context, batch, 1).validation(most))
    predicted: list[int] = []
    for b in batches:
        assert b.labels is not None and b.labels.shape == b.inputs.shape == (len(b.inputs), context)
        counts = b.labels != IGNORE
        assert (b.labels[counts] == b.inputs[counts] + 1).all()
        predicted += b.labels[counts].tolist()
    assert {b.where.counted for b in batches} == {len(predicted)} and len(set(predicted)) == len(predicted)
    windows = -(-(n - 1) // context)
    if most is None or most >= windows:
        assert predicted == list(range(1, n))
    else:
        assert len(predicted) == most * context


@pytest.mark.parametrize("most", [1, 5, 100, 166, 167, 10_000])
def test_quick_validation_is_spread_over_the_text(most: int) -> None:
    batches = list(text(context=6, batch=4).validation(most))
    windows = np.concatenate([-(-PLACE[b.inputs[:, 0]] // 6) for b in batches])  # the last starts before 6 x 166
    n = min(most, 167)
    assert len(windows) == n and windows[0] == 0
    gaps = np.diff([*windows, 167])
    assert gaps.min() >= 167 // n and gaps.max() <= -(-167 // n)
    assert {b.where.count for b in batches} == {min(n * 6, 999)}


@pytest.mark.parametrize(("n", "context", "batch"), [(1000, 6, 4), (1000, 999, 1), (7, 6, 5), (13, 6, 2), (14, 6, 2)])
def test_an_epoch_of_text_predicts_as_many_ids_as_there_are(n: int, context: int, batch: int) -> None:
    """There is not one batch more, and validation has the same number of batches."""
    loader = text(context=context, batch=batch, ids=IDS[:n])
    assert (loader.batches - 1) * batch * context < n - 1 <= loader.batches * batch * context
    assert len(list(loader.validation())) == loader.batches


def test_what_training_asks_of_data() -> None:
    assert isinstance(text(context=6, batch=4), Loader) and isinstance(arrays(), Loader)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_text_shorter_than_a_window(n: int) -> None:
    with pytest.raises(UserError, match=rf"{n} tokens .* = 6; .*--context"):
        text(context=5, ids=IDS[:n])


# Arrays -----------------------------------------------------------------------------------------------------


def arrays(n: int = 23, batch: int = 5, seed: int = 1) -> ArrayLoader:
    return ArrayLoader(np.arange(2.0 * n).reshape(n, 2), np.arange(n), batch, seed)


def test_epochs_are_permutations() -> None:
    loader = arrays()
    assert loader.batches == 5
    epochs = []
    for epoch in range(3):
        batches = [loader.batch(5 * epoch + i) for i in range(5)]
        assert [len(batch.inputs) for batch in batches] == [5, 5, 5, 5, 3]
        assert [batch.where.count for batch in batches] == [5, 5, 5, 5, 3]
        epochs.append(np.concatenate([batch.labels for batch in batches]).tolist())
        assert sorted(epochs[-1]) == list(range(23))
    assert len({tuple(epoch) for epoch in [*epochs, range(23)]}) == 4


def test_an_array_batch_depends_on_seed_and_number_only() -> None:
    loader = arrays()
    loader.batch(2)
    assert same(loader.batch(7), arrays().batch(7))
    assert not same(loader.batch(7), arrays(seed=2).batch(7))


def test_inputs_keep_their_labels() -> None:
    batch = arrays().batch(4)
    assert batch.labels is not None and batch.inputs.shape == (3, 2)
    assert np.array_equal(batch.inputs[:, 0], 2 * batch.labels)
    where = batch.where
    assert (where.number, where.B, where.T, where.samples) == (4, 3, 1, slice(0, 3))


def test_a_batch_larger_than_the_data() -> None:
    loader = arrays(n=4, batch=32)
    assert loader.batches == 1 and len(loader.batch(0).inputs) == len(loader.batch(9).inputs) == 4


def test_array_validation_is_everything_in_order() -> None:
    batches = list(arrays().validation())
    assert np.concatenate([batch.labels for batch in batches]).tolist() == list(range(23))
    assert {(batch.where.count, batch.where.training) for batch in batches} == {(23, False)}
    assert [batch.where.samples.stop for batch in batches] == [5, 10, 15, 20, 23]


@pytest.mark.parametrize(("inputs", "labels"), [(3, 4), (4, 3), (0, 0), (0, 1)])
def test_inputs_and_labels_must_match(inputs: int, labels: int) -> None:
    with pytest.raises(UserError, match=f"{inputs} inputs and {labels} labels"):
        ArrayLoader(np.zeros((inputs, 2)), np.zeros(labels, np.int64), 2, 1)
