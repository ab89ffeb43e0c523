import numpy as np
import pytest

from minitrain.data.digits import load_digits, split_digits
from minitrain.errors import UserError


def test_images_and_labels() -> None:
    images, labels = load_digits()
    assert images.shape == (1797, 64) and images.dtype == np.float64
    assert images.min() == 0.0 and images.max() == 1.0
    assert np.array_equal(images * 16, np.rint(images * 16))
    assert labels.shape == (1797,) and labels.dtype == np.int64
    # The counts that the data set's authors give for its test set.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_images_belong_to_their_labels() -> None:
    images, labels = load_digits()
    centres = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    nearest = np.linalg.norm(images[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.9


def test_split_sizes_and_pairs() -> None:
    images, labels = load_digits()
    (train, train_labels), (held_out, held_out_labels) = split_digits(images, labels, seed=1)
    assert len(train) == len(train_labels) == 1438 and len(held_out) == len(held_out_labels) == 359
    before = sorted(zip(map(bytes, images), labels.tolist(), strict=True))
    pairs = [*zip(map(bytes, train), train_labels.tolist(), strict=True)]
    pairs += zip(map(bytes, held_out), held_out_labels.tolist(), strict=True)
    assert sorted(pairs) == before
    assert np.bincount(held_out_labels, minlength=10).min() > 15  # every digit also occurs in the held-out part


def test_split_depends_on_the_seed_only() -> None:
    images, labels = load_digits()
    first, again, other = (split_digits(images, labels, seed)[1][1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("validation", [0, 1, -1, 2.5])
def test_split_refuses_other_fractions(validation: float) -> None:
    with pytest.raises(UserError, match=f"{validation} is not between 0 and 1"):
        split_digits(*load_digits(), seed=1, validation=validation)
