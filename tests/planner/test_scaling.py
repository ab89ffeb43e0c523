"""The rows behind the tables of `simulate`: what they add up to, and how a setup grows with the ranks."""

from dataclasses import replace
from fractions import Fraction as Q

import pytest

from minitrain.errors import UserError
from minitrain.observe.virtual_time import Link, Machine
from minitrain.parallel.strategy import Strategy
from minitrain.planner.machines import COMPUTERS
from minitrain.planner.rings import Closed, Ranks, hierarchical, ring
from minitrain.planner.scaling import check, ring_row, scaled, update_row
from minitrain.planner.setup import Setup
from minitrain.planner.sizes import Sizes

SIZES = Sizes("gpt", 64, 16, layers=2, heads=4, width=16)
SETUP = Setup(SIZES, 16, dp=2, pp=2, tp=2, accumulate=4)
MACHINE = Machine(1e-9, Link(1e-6, 1e-9), Link(7e-5, 1e-8), 4)


def test_the_shares_of_an_update_add_up_to_its_time() -> None:
    row = update_row(SETUP, MACHINE, {5: 3})
    for each in (row.alone, row.slowed):
        assert each.busy + each.bubble + each.exposed == pytest.approx(each.time, rel=1e-9)
        assert min(each.busy, each.bubble, each.exposed) > 0
    assert row.cost == row.slowed.time / row.alone.time - 1 > 0


def test_who_waits_for_a_slow_rank() -> None:
    """Free messages: everyone waits as much longer as the update takes longer, along the axis to the rank.

    Who waits for messages, or for the gradients of its replica's peers, also waits less in what comes after.
    """
    row = update_row(replace(SETUP, accumulate=1), Machine(1e-9), {0: 2})
    delay = row.slowed.time - row.alone.time
    for name, axis in (("tp group", "tp"), ("other stages", "pp"), ("other replicas", "dp")):
        assert sum(row.waiting[name].values()) == pytest.approx(delay)
        assert row.waiting[name][axis] > 0.3 * delay
    assert row.waiting["tp group"]["tp"] == pytest.approx(delay)


def test_weak_and_strong_scaling() -> None:
    """From 16 samples in 4 micro-batches of 2 on 2 replicas to 4, 8 and 16 replicas."""
    sizes = lambda weak: [(s.dp, s.batch, s.accumulate) for s in (scaled(SETUP, n, weak) for n in (8, 16, 32, 64))]
    assert sizes(True) == [(2, 16, 4), (4, 32, 4), (8, 64, 4), (16, 128, 4)]
    assert sizes(False) == [(2, 16, 4), (4, 16, 2), (8, 16, 1), (16, 16, 1)]
    with pytest.raises(UserError, match="a multiple of 4"):
        scaled(SETUP, 10, weak=True)


def test_weak_scaling_computes_the_same_and_strong_scaling_divides_it() -> None:
    setups = SETUP, scaled(SETUP, 16, weak=True), scaled(SETUP, 16, weak=False)
    first, weak, strong = (update_row(setup, MACHINE, {}) for setup in setups)
    assert weak.alone.busy == pytest.approx(first.alone.busy)
    assert strong.alone.busy == pytest.approx(first.alone.busy / 2)
    assert weak.slowed == weak.alone


def test_what_cannot_run_is_refused() -> None:
    for setup, message in (
        (replace(SETUP, batch=7), "a batch of at least 8"),
        (replace(SETUP, pp=8, dp=1), "there are 4: the embedding, 2 blocks"),
        (replace(SETUP, tp=8, dp=1), "give at most these"),
        (replace(SETUP, strategy=Strategy(zero=2)), "give zero=1"),
    ):
        with pytest.raises(UserError, match=message):
            check(setup)


def test_a_ring_row_is_that_of_its_rings() -> None:
    machine = Machine(0, Link(Q(1, 10**6), Q(1, 10**9)), Link(Q(7, 10**5), Q(1, 10**8)), 4)
    row = ring_row(machine, 16, 4 * 1000, {3: Q(1, 10)}, {5: 2})
    closed = Closed(0, machine.inside, machine.between, 4, 16)
    delayed = Ranks(closed, 16, {3: Q(1, 10)}, {5: 2}, one_at_a_time=True)
    assert row.flat == float(ring(Ranks(closed, 16, one_at_a_time=True), "all_reduce", 1000).last)
    assert row.flat_delayed == float(ring(delayed, "all_reduce", 1000).last)
    assert row.hierarchical_delayed == float(hierarchical(delayed, 1000).last) > 0.1
    alone = ring_row(machine, 3, 4 * 1000, {}, {})  # on one host both are one ring
    assert alone.flat == alone.hierarchical == alone.flat_delayed


@pytest.mark.full
def test_hierarchical_rings_win_where_latency_dominates() -> None:
    """100 MB on H100s: the flat ring is faster on 16 ranks, and more than twice as slow on 4,096."""
    few, many = (ring_row(COMPUTERS["h100"].machine, n, 10**8, {}, {}) for n in (16, 4096))
    assert few.flat < few.hierarchical and many.flat > 2 * many.hierarchical
