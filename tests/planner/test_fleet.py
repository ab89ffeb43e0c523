"""All ranks followed at once have the times of timeline.py, and of real runs in which some ranks are slow."""

from dataclasses import replace
from fractions import Fraction as Q
from typing import Any

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.commands.plan_setup import setup_of
from minitrain.errors import UserError
from minitrain.observe.virtual_time import Link, Machine, Seconds
from minitrain.parallel.strategy import Strategy
from minitrain.planner.fleet import Fleet, Lump
from minitrain.planner.fleet_costs import place
from minitrain.planner.machines import COMPUTERS
from minitrain.planner.presets import MODELS
from minitrain.planner.setup import Setup
from minitrain.planner.step import Rank
from minitrain.planner.timeline import Timeline
from tests.planner.counted import Counted, of_text, on_ranks
from tests.planner.test_counted import CASES as COUNTED
from tests.planner.test_counted import DRAWN, MACHINE, config_of, name_of, ranks_of, vocabulary
from tests.tiers import full

EVEN = {"heads": 4, "width": 16}  # tp 2 divides heads, features and vocabulary
# each with its slow ranks
CASES: tuple[tuple[dict[str, Any], dict[int, Seconds]], ...] = (
    ({"dp": 2, "pp": 2, "tp": 2, "accumulate": 3, "batch": 13, "schedule": "gpipe", **EVEN}, {3: 2}),
    ({"dp": 2, "pp": 2, "tp": 2, "schedule": "interleaved", "chunks": 2, "accumulate": 2, "batch": 9, "sp": True,
      "context": 8, "zero": 1, **EVEN}, {0: Q(3, 2)}),
    ({"pp": 4, "accumulate": 5, "batch": 9}, {2: 5}),
    ({"pp": 4, "accumulate": 4, "batch": 9, "schedule": "zb-h1", "tied": False}, {3: 2, 0: 3}),
    ({"dp": 2, "pp": 2, "tp": 2, "accumulate": 3, "batch": 13, "schedule": "zb-v", "zero": 1, **EVEN}, {6: 3}),
    ({"pp": 4, "accumulate": 8, "batch": 17, "layers": 4, "schedule": "dualpipe"}, {1: 2, 3: Q(5, 4)}),
    ({"dp": 4, "batch": 11, "zero": 2, "accumulate": 2}, {2: 3}),
    ({"dp": 2, "tp": 2, "zero": 1, "precision": "fp16", **EVEN}, {1: 7}),
    ({"dp": 4, "reduce": "overlap", "accumulate": 2, "batch": 9}, {3: 2}),
    ({"dp": 2, "tp": 3, "reduce": "overlap", "recompute": 1}, {5: 4}),  # tp 3 does not divide the vocabulary
    ({"dp": 4, "zero": 3, "prefetch": True, "accumulate": 2, "batch": 13}, {1: 2}),
)  # fmt: skip


def fills(case: dict[str, Any]) -> bool:
    """Return whether tp divides the heads, and so ranks along tp have buckets that end at the same parameters."""
    return case.get("heads", 3) % case.get("tp", 1) == 0 or case.get("tp", 1) == 3


def planned(case: dict[str, Any]) -> Setup:
    return setup_of(config_of(case), vocabulary(), ranks_of(case))


def times(fleet: Fleet) -> list[Seconds]:
    """Return the time of every rank."""
    return [fleet.costs.unit.seconds(ticks) for ticks in fleet.times.reshape(-1)]


@pytest.mark.parametrize(
    "case", [*(case for case, _ in CASES), *(full(case) for case in (*COUNTED, *DRAWN) if fills(case))], ids=name_of
)
def test_without_slow_ranks_it_is_the_timeline(case: dict[str, Any]) -> None:
    setup = planned(case)
    ranks = [Rank(setup, place).update() for place in setup.places()]
    timeline = Timeline({rank.number: rank.events for rank in ranks}, MACHINE)
    found = Fleet(setup, MACHINE)
    seconds = found.costs.unit.seconds
    assert found.costs.unit.exact and found.time == timeline.time
    for number, lane in timeline.ranks.items():
        at = place(setup, number)
        assert seconds(found.times[at]) == lane.time > 0
        assert seconds(found.computed[at]) == lane.computed
        blocked = {axis: seconds(ticks[at]) for axis, ticks in found.blocked.items()}
        assert {axis: s for axis, s in blocked.items() if s} == {axis: s for axis, s in lane.blocked.items() if s}


def real(case: dict[str, Any], slow: dict[int, Seconds]) -> list[Seconds]:
    """Return the time of every rank in a real update, in which slow ranks have a machine with slower FLOPs."""
    config = config_of(case)

    def count(world: Communicator) -> Counted:
        return of_text(config, world, replace(MACHINE, flop=MACHINE.flop * slow.get(world.rank, 1)))

    return [counted.time for counted in on_ranks(count, ranks_of(case))]


@pytest.mark.parametrize(("case", "slow"), CASES, ids=map(str, range(len(CASES))))
def test_with_slow_ranks_it_is_the_real_run(case: dict[str, Any], slow: dict[int, Seconds]) -> None:
    assert times(Fleet(planned(case), MACHINE, slow)) == real(case, slow)


def test_a_slow_rank_in_step_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted mistake: where ranks of a tp group wait for each other, the delay of the slow one is added again."""
    case, slow = CASES[0]
    expected = real(case, slow)

    def lump(self: Fleet, stage: int, events: list[Any]) -> Lump | None:
        made = original(self, stage, events)
        return made and made._replace(after=made.after + made.before - made.before.min(axis=1, keepdims=True))

    original = Fleet.lump
    assert times(Fleet(planned(case), MACHINE, slow)) == expected
    monkeypatch.setattr(Fleet, "lump", lump)
    assert times(Fleet(planned(case), MACHINE, slow)) != expected


def test_a_slow_rank_by_hand() -> None:
    """Two replicas of one stage, messages free: the update takes as long as the slow rank computes."""
    case = {"dp": 2, "batch": 8, "accumulate": 2}
    free = Machine(Q(1, 1000))
    alone, slowed = Fleet(planned(case), free), Fleet(planned(case), free, {1: Q(5, 4)})
    assert slowed.time == alone.time * Q(5, 4)
    assert (slowed.computed[0] == alone.computed[0] * slowed_by(alone, slowed)).all()
    assert slowed.costs.unit.seconds(slowed.blocked["dp"][0, 0, 0]) == alone.time / 4


def slowed_by(a: Fleet, b: Fleet) -> Q:
    """Return how many ticks of b are one of a."""
    return a.costs.unit.tick / b.costs.unit.tick


def test_shares_that_change_what_ranks_do_are_refused() -> None:
    """3 heads on 2 ranks make other buckets; a rank without samples leaves collectives out."""
    for case in ({"dp": 2, "tp": 2}, {"dp": 2, "batch": 3, "accumulate": 2}):
        with pytest.raises(UserError, match="the ranks of a stage do different things"):
            Fleet(planned(case), MACHINE)


def test_ranks_that_do_not_exist_and_times_that_overflow_are_refused() -> None:
    setup = planned({"dp": 2})
    with pytest.raises(UserError, match="at most 1"):
        Fleet(setup, MACHINE, {2: 2})
    with pytest.raises(UserError, match="above 0"):
        Fleet(setup, MACHINE, {1: 0})
    with pytest.raises(UserError, match=r"more than 2\^62 ticks"):
        Fleet(setup, replace(MACHINE, flop=Q(1, 2**61)))


def test_floats_are_rounded_to_picoseconds() -> None:
    setup = planned(CASES[0][0])
    links = (Link(1e-6, 1e-9), Link(7e-5, 1e-7))
    found = Fleet(setup, Machine(1e-9, *links, 2), {3: 1.5})
    assert isinstance(found.time, float)
    assert found.time == pytest.approx(float(Fleet(setup, MACHINE, {3: Q(3, 2)}).time), rel=1e-9)


@pytest.mark.full
def test_thousands_of_ranks_of_a_large_model() -> None:
    """16,384 ranks: the time without slow ranks is that of representatives; one slow rank delays all."""
    model, machine = MODELS["gpt3-175b"], COMPUTERS["h100"].machine
    setup = Setup(model.sizes, 1536, 128, 16, 8, Strategy(reduce="overlap"), 12, "bf16", half_weights=True)
    ranks = [Rank(setup, (0, stage, 0)).update() for stage in range(16)]
    alone = Fleet(setup, machine)
    assert alone.time == pytest.approx(Timeline({rank.number: rank.events for rank in ranks}, machine).time, rel=1e-6)
    slowed, (dp, stage, tp) = Fleet(setup, machine, {5000: 2}), place(setup, 5000)
    delay = slowed.times.max() - alone.times.max()
    assert 0 < delay <= alone.computed[dp, stage, tp]  # which is what the slow rank needs more
    assert slowed.times.min() == slowed.times.max()
