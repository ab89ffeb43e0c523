"""The search finds the fastest strategy that fits, by the virtual time of real runs, and says why others do not fit."""

import random
from dataclasses import replace
from fractions import Fraction
from itertools import product

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.models import GPTConfig, gpt
from minitrain.observe.virtual_time import Link, Machine, Seconds
from minitrain.parallel.pipeline_schedules import SCHEDULES
from minitrain.parallel.strategy import Strategy
from minitrain.planner.bounds import least_memory, least_time
from minitrain.planner.estimate import Estimate, estimate, exactly
from minitrain.planner.machines import COMPUTERS, GIB
from minitrain.planner.presets import MODELS
from minitrain.planner.search import Rejected, Request, Slower, runs, search
from minitrain.planner.setup import Setup
from minitrain.planner.sizes import Sizes
from tests.planner.counted import of_model, on_ranks

Q = Fraction
LINK = Link(Q(1, 10**5), Q(1, 10**9))
MACHINE = Machine(Q(1, 10**9), LINK)
SLOW = replace(MACHINE, between=Link(100 * LINK.alpha, 100 * LINK.beta), per_host=2)
SMALL = Sizes("gpt", 23, 8, layers=2, heads=4, width=16)


def fitting(request: Request) -> list[Estimate]:
    """Return what fits, the fastest first."""
    fits = [found for found in search(request) if isinstance(found, Estimate)]
    return sorted(fits, key=lambda found: found.time)


def measured(setup: Setup, machine: Machine) -> tuple[Seconds, int]:
    """Return the virtual time of a real update of a GPT with this setup, and the most bytes that a rank holds."""
    s = setup.sizes
    make = lambda: gpt(GPTConfig(s.vocabulary, s.context, s.layers, s.heads, s.width, tied=s.tied))
    counted = on_ranks(lambda world: of_model(make(), setup, world, machine), setup.ranks)
    return max(rank.time for rank in counted), max(rank.peak["total"] for rank in counted)


@pytest.mark.parametrize(
    ("machine", "limit", "fixed"),
    [
        pytest.param(MACHINE, 90_000, {"accumulate": 2, "recompute": 0}, marks=pytest.mark.full),
        (SLOW, 75_000, {"accumulate": 4, "zero": 1}),
        pytest.param(SLOW, 70_000, {"pp": 1, "accumulate": 2}, marks=pytest.mark.full),
    ],
    ids=["one host, little memory", "two hosts", "two hosts, no pipeline"],
)
def test_the_first_choice_is_the_fastest_that_fits(machine: Machine, limit: int, fixed: dict[str, object]) -> None:
    request = Request(SMALL, 4, limit, 8, machine, fixed=fixed)
    fits = fitting(request)
    times = {found.setup: measured(found.setup, machine) for found in fits}
    assert len(fits) > 5
    assert [times[found.setup][0] for found in fits] == [found.time for found in fits]
    assert times[fits[0].setup][0] == min(time for time, _ in times.values())
    assert times[fits[0].setup][1] <= limit
    assert any(isinstance(found, Rejected) and found.over > 0 for found in search(request))


@pytest.mark.ranks(4)
def test_the_first_choice_runs_within_its_limit_on_processes(world: Communicator) -> None:
    limit = 75_000
    first = fitting(Request(SMALL, 4, limit, 8, SLOW, fixed={"accumulate": 4}))[0]
    s = first.setup.sizes
    model = gpt(GPTConfig(s.vocabulary, s.context, s.layers, s.heads, s.width, tied=s.tied))
    counted = world.gather_objects(of_model(model, first.setup, world, SLOW))
    assert max(rank.peak["total"] for rank in counted) <= limit
    assert max(rank.time for rank in counted) == first.time


@pytest.mark.parametrize("seed", range(3))
def test_tensor_parallel_stays_inside_a_host_when_links_between_hosts_are_slow(seed: int) -> None:
    draw = random.Random(seed)
    per_host = draw.choice((2, 4))
    sizes = Sizes("gpt", 101, 16, layers=draw.randint(2, 3), heads=8, width=8 * draw.randint(4, 16))
    machine = replace(SLOW, per_host=per_host)
    fixed: dict[str, object] = {"accumulate": 2, "recompute": 0}
    fits = fitting(Request(sizes, 8, 10**9, 8 * draw.randint(1, 4), machine, fixed=fixed))
    first = fits[0]
    assert first.sent.get(("tp", "between"), 0) == 0
    assert any(found.sent.get(("tp", "between"), 0) > 0 for found in fits)  # it was tried


def test_a_limit_that_nothing_satisfies_is_explained() -> None:
    request = Request(SMALL, 4, 1000, 8, MACHINE)
    every = list(search(request))
    assert every and all(isinstance(found, Rejected) for found in every)
    over = [found for found in every if isinstance(found, Rejected) and found.over > 0]
    closest = min(over, key=lambda found: found.over)
    assert closest.setup is not None and closest.reason in ("parameters", "gradients", "optimizer", "activations")
    enough = replace(request, memory=float(exactly(closest.setup, MACHINE).memory["total"]))
    assert closest.setup in [found.setup for found in fitting(enough)]
    tp = [found for found in search(replace(request, ranks=8)) if isinstance(found, Rejected) and found.tp == 8]
    assert tp and "attention has 4 heads; tp at most 4" in tp[0].reason


@pytest.mark.full
def test_bounds_are_below_what_an_update_takes() -> None:
    for sizes in (SMALL, Sizes("llama", 31, 8, 3, 4, 16, 2, 40, tied=False)):
        for found in fitting(Request(sizes, 8, 10**9, 17, SLOW, ("fp32", "bf16-weights"), fixed={"accumulate": 4})):
            assert least_time(found.setup, SLOW) <= found.time * (1 + 1e-12), found.setup
            assert sum(least_memory(found.setup).values()) <= found.memory["total"], found.setup


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bounds_of_a_pipeline_in_which_messages_are_free(schedule: str) -> None:
    """Zero-bubble schedules come close to them: a rank computes weight gradients while others end the backward."""
    deep, machine = replace(SMALL, layers=14), Machine(Fraction(1, 10**12))
    for pp, k in product((2, 3, 4), (4, 12, 24)):
        setup = Setup(deep, k, 1, pp, 1, Strategy(schedule=schedule), k)
        if not runs(setup):  # interleaved and dualpipe do not take every number
            continue
        found = estimate(setup, machine)
        assert least_time(setup, machine) <= found.time * (1 + 1e-12)
        assert sum(least_memory(setup).values()) <= found.memory["total"]


@pytest.mark.full
def test_an_update_of_many_micro_batches_is_extended_exactly() -> None:
    deep = replace(SMALL, layers=8)
    for schedule in ("1f1b", "gpipe", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe"):
        for found in fitting(Request(deep, 2, 10**9, 2 * 40, MACHINE, fixed={"accumulate": 40, "schedule": schedule})):
            assert exactly(found.setup, MACHINE) == found, found.setup


@pytest.mark.full
def test_a_long_search_finds_the_same_first_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(SMALL, 8, 60_000, 16, SLOW, top=3)
    first = fitting(request)[0]
    monkeypatch.setattr("minitrain.planner.search.THOROUGH", 4)
    found = list(search(request))
    fast = sorted((one for one in found if isinstance(one, Estimate)), key=lambda one: one.time)
    assert fast[0].time == first.time
    assert any(isinstance(one, Slower) for one in found)


def test_presets_have_the_published_numbers_of_parameters() -> None:
    exact = {
        "gpt2-124m": 124_439_808, "gpt2-1.5b": 1_557_611_200, "gpt3-175b": 174_604_259_328,
        "llama3-8b": 8_030_261_248, "llama3-70b": 70_553_706_496, "llama3-405b": 405_853_388_800,
    }  # fmt: skip
    assert {name: MODELS[name].sizes.parameters for name in exact} == exact
    billions = {"megatron-1.7b": 1.7, "megatron-39b": 39.1, "megatron-530b": 529.6, "megatron-1t": 1008.0}
    assert {name: round(MODELS[name].sizes.parameters / 1e9, 1) for name in billions} == billions


@pytest.mark.full
def test_a_preset_of_a_large_model_is_planned() -> None:
    c, model = COMPUTERS["h100"], MODELS["llama3-70b"]
    request = Request(model.sizes, 64, 80 * GIB, 64, c.machine, c.precisions, {"tp": 8, "accumulate": 8}, overlap=True)
    found = [one for one in search(request) if isinstance(one, Estimate)]
    assert found and all(one.memory["total"] <= 80 * GIB for one in found)
    assert estimate(found[0].setup, c.machine).time == found[0].time
