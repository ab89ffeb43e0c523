"""Live memory on demand agrees with the ledger, which follows every array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitrain.errors import UserError
from minitrain.observe.ledger import KINDS, Ledger
from minitrain.observe.live_memory import LiveMemory

# (which array, of what kind it is reported, or None: it is freed; whether a view is reported; whether to measure)
STEPS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([*KINDS, None]), st.booleans(), st.booleans()))


@given(STEPS)
def test_it_agrees_with_the_ledger(steps: list[tuple[int, str | None, bool, bool]]) -> None:
    exact, lazy = Ledger(), LiveMemory()
    arrays: dict[int, np.ndarray] = {}
    for place, kind, view, now in steps:
        if kind is None:
            arrays.pop(place, None)
        else:
            array = arrays.setdefault(place, np.zeros(10 * place + 2))
            for ledger in (exact, lazy):
                ledger.hold(array[1:] if view else array, kind)
            del array
        if now:
            assert lazy.measure() == {kind: exact.live[kind] for kind in KINDS}
    assert lazy.measure() == {kind: exact.live[kind] for kind in KINDS}


def test_what_is_no_array_is_not_counted() -> None:
    memory = LiveMemory()
    for thing in (None, 3, np.float32(1), np.zeros(()), np.zeros(0)):
        memory.hold(thing, "buffers")
    assert not any(memory.measure().values())


def test_dead_arrays_are_forgotten() -> None:
    memory = LiveMemory()
    for _ in range(100):
        memory.hold(np.zeros(3), "buffers")
    assert len(memory.reported) == 100
    memory.measure()
    assert memory.reported == [] and memory.known == {}


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="kind is 'heap'"):
        LiveMemory().hold(np.zeros(3), "heap")
