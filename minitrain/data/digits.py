"""Images of handwritten digits, 8 x 8 pixels: small enough to ship, large enough to learn from."""

from pathlib import Path

import numpy as np

from ..errors import UserError, check_seed
from ..rng import key, permutation
from .sample_checks import as_row, as_samples
from .text import count_held_out

BUNDLED = Path(__file__).with_name("digits.npz")

Examples = tuple[np.ndarray, np.ndarray]


def load_digits() -> Examples:
    """Return images, float64 (1797, 64), 8 rows of 8 pixels in 0..1, and labels, int64 (1797,)."""
    with np.load(BUNDLED) as file:
        return file["images"] / 16.0, file["labels"].astype(np.int64)


def split_digits(
    images: np.ndarray, labels: np.ndarray, seed: int, validation: float = 0.2
) -> tuple[Examples, Examples]:
    """Return ((images, labels) for training, (images, labels) held out), in an order that depends only on the seed.

    Raise UserError if the numbers of images and labels differ, or if the fraction leaves either side empty.
    """
    check_seed(seed)
    images, labels = as_samples("images", images), as_row("labels", labels)
    if len(images) != len(labels):
        raise UserError(f"there are {len(images)} images and {len(labels)} labels; the numbers must be equal")
    order = permutation(key(seed, "digits split"), len(images))
    border = len(images) - count_held_out(len(images), validation)
    train, held_out = order[:border], order[border:]
    return (images[train], labels[train]), (images[held_out], labels[held_out])
