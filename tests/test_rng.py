"""Random numbers depend only on a key and a position: a slice drawn alone equals that slice of the whole."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrain import rng

KEY = rng.key(1, "blocks.0.mlp.up.weight")
BITS = 2**64 - 1

GOLDEN_KEY = 0x87C7427255874634C2F7907BCAF0AFF2
GOLDEN_WORDS = [2473307543188786231, 6590600862521253993, 14389676080939304591]
GOLDEN_HALVES = [575861787, 3807797353, 1534493840]
GOLDEN_NORMAL = [0.1934692376767423, 1.0855347995997728, 0.5590459406365005]
GOLDEN_MASK = [0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1]
GOLDEN_PERMUTATION = [0, 4, 1, 6, 2, 7, 5, 3]
GOLDEN_INTEGERS = [1, 3, 7, 9, 2, 9]


def philox(counter: int, key: int) -> list[int]:
    """Philox4x64-10, section 3.3 of the paper: ten rounds of two multiplications, with the high halves crossed over."""
    c = [counter >> 64 * i & BITS for i in range(4)]
    k0, k1 = key & BITS, key >> 64
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [q >> 64 ^ c[1] ^ k0, q & BITS, p >> 64 ^ c[3] ^ k1, p & BITS]
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & BITS, k1 + 0xBB67AE8584CAA73B & BITS
    return c


def test_philox() -> None:
    """The paper's known answers; then ours: word i is number i % 4 of block i // 4 (NumPy counts blocks from 1)."""
    zeros = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    ones = [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]
    assert philox(0, 0) == zeros
    assert philox(2**256 - 1, 2**128 - 1) == ones
    for block in (0, 1, 10**12):
        assert rng.words(KEY, 4 * block, 4 * block + 4).tolist() == philox(block + 1, KEY)
    whole = np.random.Philox(key=KEY).random_raw(40)
    for lo, hi in [(0, 40), (3, 4), (5, 23), (8, 12), (7, 7), (0, 0)]:
        np.testing.assert_array_equal(rng.words(KEY, lo, hi), whole[lo:hi])


def test_the_numbers_stay_what_they_are() -> None:
    """The numbers never change: otherwise old checkpoints would resume with other data and dropout."""
    assert rng.key(1, "blocks.0.mlp.up.weight") == GOLDEN_KEY
    assert rng.words(KEY, 0, 3).tolist() == GOLDEN_WORDS
    assert rng.halfwords(KEY, 1, 4).tolist() == GOLDEN_HALVES
    np.testing.assert_allclose(rng.normal(KEY, (3,)), GOLDEN_NORMAL, rtol=1e-14)
    assert rng.mask(KEY, (12,), None, 0.5).astype(int).tolist() == GOLDEN_MASK
    assert rng.permutation(KEY, 8).tolist() == GOLDEN_PERMUTATION
    assert rng.integers(KEY, 6, 10).tolist() == GOLDEN_INTEGERS


def test_keys() -> None:
    """A key depends on its parts: their number, order, boundaries and kind (a number or a name)."""
    several: list[tuple[int | str, ...]] = [(), (1,), ("1",), (1, 1), (11,), (-1,), ("a", 1), ("a", "1"), (1, "a")]
    keys = [rng.key(*parts) for parts in [*several, ("a1",), ("a, 1",), ("a', 1",)]]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 2**128 for k in keys)
    numbers: list[Any] = [3, np.int64(3), np.uint8(3)]
    assert len({rng.key(number, name) for number in numbers for name in ("a", np.str_("a"))}) == 1


@st.composite
def slices(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """Draw a shape of up to 4 axes and a slice of it, which may be empty."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    borders = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    return shape, tuple(slice(lo, hi) for lo, hi in borders)


@settings(max_examples=200)
@given(slices())
def test_a_slice_drawn_alone(case: tuple[tuple[int, ...], tuple[slice, ...]]) -> None:
    shape, index = case
    whole, part = rng.normal(KEY, shape), rng.normal(KEY, shape, index)
    assert whole.shape == shape and part.dtype == np.float64
    np.testing.assert_array_equal(part, whole[index])
    kept, kept_part = rng.mask(KEY, shape, None, 0.4), rng.mask(KEY, shape, index, 0.4)
    assert kept.shape == shape and kept_part.dtype == np.bool_
    np.testing.assert_array_equal(kept_part, kept[index])
    flat = rng.normal(KEY, (whole.size,))
    np.testing.assert_array_equal(whole.reshape(-1), flat)  # by logical position, in C order


def test_a_slice_far_out_is_drawn_without_the_rest() -> None:
    shape = (2**40, 8)
    row = rng.normal(KEY, shape, (slice(2**40 - 1, 2**40), slice(0, 8)))
    np.testing.assert_array_equal(row[:, 3:5], rng.normal(KEY, shape, (slice(2**40 - 1, 2**40), slice(3, 5))))


def test_normal_is_normal() -> None:
    """Check moments, tails and neighbours of 200,000 numbers, each to within five standard errors."""
    n = 200_000
    z = rng.normal(KEY, (n,))
    for moment, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**moment).mean() - expected) <= 5 * np.sqrt(variance / n)
    for border, probability in [(-1.0, 0.158655), (1.959964, 0.975), (3.0, 0.998650)]:
        assert abs((z < border).mean() - probability) <= 5 * np.sqrt(probability * (1 - probability) / n)
    for lag in (1, 2, 3, 4):
        assert abs((z[lag:] * z[:-lag]).mean()) <= 5 / np.sqrt(n)
    assert len(np.unique(z)) == n


def test_different_keys_differ() -> None:
    n = 100_000
    a, b = rng.normal(rng.key(1, "a"), (n,)), rng.normal(rng.key(2, "a"), (n,))
    assert not (a == b).any()
    assert abs((a * b).mean()) <= 5 / np.sqrt(n)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_mask_is_false_with_probability_p(p: float) -> None:
    n = 200_000
    assert abs((~rng.mask(KEY, (n,), None, p)).mean() - p) <= 5 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation(n: int) -> None:
    order = rng.permutation(KEY, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    assert n < 1000 or not (order == rng.permutation(rng.key(2), n)).all()


@pytest.mark.parametrize("bound", [1, 2, 7, 10**6, 2**32])
def test_integers(bound: int) -> None:
    n = 20_000
    drawn = rng.integers(KEY, n, bound)
    assert drawn.dtype == np.int64 and 0 <= drawn.min() and drawn.max() < bound
    assert abs(drawn.mean() - (bound - 1) / 2) <= 5 * bound / np.sqrt(12 * n)
    assert bound > 7 or set(drawn.tolist()) == set(range(bound))
    assert rng.integers(KEY, 0, bound).shape == (0,)
