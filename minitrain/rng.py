"""Random numbers that depend only on a key and a position.

The usual generator is a stream: to get the millionth number, first draw the 999,999 before it; two ranks that draw in
different orders get different numbers. A counter-based generator (Salmon, Moraes, Dror, Shaw, "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011) is a hash instead: number i of key k is philox(k, i). So a rank that holds
rows 100 to 200 of a matrix draws only those, and gets the numbers that a single process would have drawn.

The numbers are generated on the host, so NumPy and CuPy see the same ones.
"""

import hashlib
from collections.abc import Callable
from numbers import Integral

import numpy as np

from .errors import UserError, check_memory, check_number, check_shape, check_whole, shown
from .sharding import runs_of

Index = tuple[slice, ...]


def key(*parts: int | str) -> int:
    """Return a 128-bit key from any mix of whole numbers and names: key(seed, "blocks.0.mlp.up.weight").

    Raise UserError for anything else: a seed of 1.0 would silently differ from 1.
    """
    for part in parts:
        if not isinstance(part, (Integral, str)) or isinstance(part, bool):
            raise UserError(f"a key cannot be made from {shown(part)}: seeds are whole numbers, names are strings")
    plain = repr(tuple(int(part) if isinstance(part, Integral) else str(part) for part in parts))
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=16).digest(), "little")


def words(k: int, lo: int, hi: int) -> np.ndarray:
    """Return words lo to hi - 1 of key k, uint64 (hi - lo). Philox makes four at a time: word i is in block i // 4.

    Raise UserError for arguments that are not whole numbers in range.
    """
    check_whole("k", k, most=2**128 - 1)
    check_whole("lo", lo)
    check_whole("hi", hi)
    check_memory(f"an array of {hi - lo} random words", 8 * (hi - lo))
    first = lo // 4
    blocks = -(-hi // 4) - first
    raw = np.random.Philox(key=k, counter=first).random_raw(4 * max(blocks, 0))
    return raw[lo - 4 * first : hi - 4 * first]


def halfwords(k: int, lo: int, hi: int) -> np.ndarray:
    """Return halfwords lo to hi - 1 of key k, uint32 (hi - lo): the halves of the words, low half first."""
    first = lo // 2
    halves = words(k, first, -(-hi // 2)).astype("<u8").view("<u4")
    return halves[lo - 2 * first : hi - 2 * first]


def normal(k: int, shape: tuple[int, ...], index: Index | None = None) -> np.ndarray:
    """Return the slice `index` (default: all) of a standard normal float64 tensor of logical shape `shape`.

    Box and Muller (1958): z = sqrt(-2 ln u) cos(2 pi v), where u and v are the halves of one 64-bit word.
    Raise UserError unless `index` has one slice of step 1 per axis.
    """

    def draw(lo: int, hi: int) -> np.ndarray:
        word = words(k, lo, hi)
        u = ((word >> np.uint64(32)).astype(np.float64) + 1.0) / 2**32  # in (0, 1], so the logarithm is finite
        v = (word & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
        return np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)

    return _collect(draw, shape, index, np.float64)


def mask(k: int, shape: tuple[int, ...], index: Index | None, p: float) -> np.ndarray:
    """Return the slice `index` of a boolean tensor of logical shape `shape`: False with probability p.

    Raise UserError unless 0 <= p <= 1, and for an invalid index.
    """
    check_number("p", p, "between 0 and 1")
    threshold = np.uint32(min(round(p * 2**32), 2**32 - 1))
    return _collect(lambda lo, hi: halfwords(k, lo, hi) >= threshold, shape, index, np.bool_)


def integers(k: int, count: int, bound: int) -> np.ndarray:
    """Return `count` random integers in 0..bound-1, int64. Raise ValueError for a bound outside 1..2^32."""
    if isinstance(bound, bool) or not (isinstance(bound, Integral) and 1 <= bound <= 2**32):
        raise ValueError(f"integers: the bound is {bound}; allowed: 1 to 2^32")
    high = words(k, 0, count) >> np.uint64(32)
    return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permutation(k: int, n: int) -> np.ndarray:
    """Return the numbers 0..n-1 in random order, int64 (n)."""
    return np.argsort(words(k, 0, n), kind="stable")


def _collect(
    draw: Callable[[int, int], np.ndarray], shape: tuple[int, ...], index: Index | None, dtype: type
) -> np.ndarray:
    """Call draw(lo, hi) for every contiguous run of the slice, and join the results."""
    check_shape("shape", shape)
    index = tuple(slice(0, n) for n in shape) if index is None else index
    if not isinstance(index, tuple) or [getattr(s, "step", 0) in (None, 1) for s in index] != [True] * len(shape):
        raise UserError(f"index is {shown(index)}; it must be a tuple of {len(shape)} slices of step 1, one per axis")
    index = tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, shape, strict=True))
    local = tuple(max(s.stop - s.start, 0) for s in index)
    if 0 in local:
        return np.empty(local, dtype)
    starts, length = runs_of(shape, index)
    pieces = [draw(start, start + length) for start in starts.tolist()]
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(local)
