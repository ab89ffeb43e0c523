"""Regions of a tensor against index arrays: which elements they are, where two overlap, whether some cover all."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitrain.sharding import even_shards, runs_of
from minitrain.train.regions import Region, cover, overlaps

Shape = tuple[int, ...]


@st.composite
def slices(draw: st.DrawFn, shape: Shape) -> tuple[slice, ...]:
    """Draw a slice of a tensor; often whole along an axis, sometimes empty."""
    places = []
    for n in shape:
        start = draw(st.one_of(st.just(0), st.integers(0, n)))
        places.append(slice(start, draw(st.one_of(st.just(n), st.integers(start, n)))))
    return tuple(places)


@st.composite
def regions(draw: st.DrawFn, shape: Shape) -> Region:
    held = draw(slices(shape))
    local = math.prod(place.stop - place.start for place in held)
    start = draw(st.integers(0, local))
    return Region(held, slice(start, draw(st.integers(start, local))))


def shapes() -> st.SearchStrategy[Shape]:
    return st.lists(st.integers(0, 4), max_size=4).map(tuple)


def elements(region: Region, shape: Shape) -> list[int]:
    """Return the numbers of a region's elements, in order: the second source of this file."""
    return np.arange(math.prod(shape)).reshape(shape)[region.held].reshape(-1)[region.run].tolist()


def everything(n: int) -> slice:
    return slice(0, n)


@given(st.data())
def test_runs_of_a_slice(data: st.DataObject) -> None:
    """The runs are the slice, in order, and none touches the next, with which it would be one run."""
    shape = data.draw(shapes())
    held = data.draw(slices(shape))
    starts, length = runs_of(shape, held)
    found = (starts[:, None] + np.arange(length)).reshape(-1).tolist()
    assert found == elements(Region(held, slice(None)), shape)
    if length:
        assert (starts[1:] > starts[:-1] + length).all()


@given(st.data())
def test_intervals(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    region = data.draw(regions(shape))
    starts, stops, places = region.intervals(shape)
    true = elements(region, shape)
    assert [i for start, stop in zip(starts, stops, strict=True) for i in range(start, stop)] == true
    assert (stops > starts).all() and len(starts) == len(stops) == len(places)
    for start, place in zip(starts.tolist(), places.tolist(), strict=True):
        assert true[place] == start
    assert region.size == len(true)
    of_slice = tuple(place.stop - place.start for place in region.held)
    assert region.shape == (of_slice if len(true) == math.prod(of_slice) else (len(true),))


@given(st.data())
def test_overlaps(data: st.DataObject) -> None:
    """Copying the overlaps moves exactly the elements that both have; neighbors are joined."""
    shape = data.draw(shapes())
    source, target = data.draw(regions(shape)), data.draw(regions(shape))
    given, wanted = elements(source, shape), elements(target, shape)
    found = [-1] * len(wanted)
    shared = list(overlaps(source, target, shape))
    for here, there, size in shared:
        assert size > 0 and found[there : there + size] == [-1] * size
        found[there : there + size] = given[here : here + size]
    assert found == [i if i in given else -1 for i in wanted]
    for before, after in pairwise(shared):
        assert after.target >= before.target + before.size, "in order"
        assert (after.source, after.target) != (before.source + before.size, before.target + before.size), "not joined"


@given(st.data())
def test_regions_that_cover(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    drawn = data.draw(st.lists(regions(shape), max_size=3))
    together = sorted(i for region in drawn for i in elements(region, shape))
    assert cover(drawn, shape) == (together == list(range(math.prod(shape))))


@given(st.data())
def test_a_division_covers(data: st.DataObject) -> None:
    """A tensor cut along one axis, and each slice's elements among ranks, with parts that are uneven or empty; without
    one of the parts, or with one twice, it does not."""
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple))
    axis, tp, dp = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    found = []
    for cut in even_shards(shape[axis], tp):
        held = tuple(cut if i == axis else everything(n) for i, n in enumerate(shape))
        found += [Region(held, run) for run in even_shards(math.prod(shape) // (shape[axis] or 1) * lengths(cut), dp)]
    found = data.draw(st.permutations(found))
    assert cover(found, shape)
    one = data.draw(st.integers(0, len(found) - 1))
    if found[one].size:
        assert not cover(found[:one] + found[one + 1 :], shape)
        assert not cover([*found, found[one]], shape)


def lengths(place: slice) -> int:
    return place.stop - place.start


SCALAR = Region((), slice(0, 1))


@pytest.mark.parametrize(
    ("source", "target", "shape", "true"),
    [
        (SCALAR, SCALAR, (), [(0, 0, 1)]),
        (SCALAR, Region((), slice(0, 0)), (), []),
        (Region((slice(0, 0),), slice(0, 0)), Region((slice(0, 0),), slice(0, 0)), (0,), []),
        (Region((slice(0, 3), slice(1, 3)), slice(1, 4)), Region((slice(0, 3), slice(0, 4)), slice(0, 12)), (3, 4),
         [(0, 2, 1), (1, 5, 2)]),
        (Region((slice(0, 3), slice(0, 4)), slice(2, 7)), Region((slice(0, 3), slice(1, 3)), slice(1, 4)), (3, 4),
         [(0, 0, 1), (3, 1, 2)]),
    ],
    ids=["no axes", "nothing of no axes", "empty", "the picture", "the picture, the other way round"],
)  # fmt: skip
def test_overlaps_by_hand(source: Region, target: Region, shape: Shape, true: list[tuple[int, int, int]]) -> None:
    assert list(overlaps(source, target, shape)) == true


def test_what_covers_by_hand() -> None:
    """The ends of the ranges: no axes, no elements, no regions."""
    assert cover([SCALAR], ()) and not cover([], ()) and not cover([SCALAR, SCALAR], ())
    assert cover([], (0, 3)) and cover([Region((slice(0, 0), slice(0, 3)), slice(0, 0))], (0, 3))
    assert not cover([], (1,)) and not cover([Region((slice(0, 2),), slice(0, 1))], (2,))
