"""Bubbles and memory match the papers' formulas exactly, and the checker finds errors."""

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitrain.errors import UserError
from minitrain.observe.clock import Clock, Costs, Timeline
from minitrain.parallel.instructions import Do, Layout, Lists, Shape, source, target
from minitrain.parallel.pipeline_schedules import SCHEDULES, all_ranks, default_chunks, layout_of
from minitrain.parallel.pipeline_simulation import SENDS, check, simulate, simulated, stuck

COSTS = [
    Costs(F=1, I=1, W=1),
    Costs(F=2, I=3, W=1),
    Costs(F=3, I=1, W=1),
    Costs(F=1, I=1, W=10),
    Costs(F=Fraction(1, 3), I=Fraction(2, 7), W=Fraction(1, 5)),
]
SIZES = [(p, m) for p in (1, 2, 3, 4, 8) for m in sorted({1, 2, p, p + 1, 2 * p, 8, 3 * p + 2})]
sizes = st.tuples(st.integers(1, 6), st.integers(1, 14))
costs = st.builds(Costs, *[st.fractions(Fraction(1, 5), 5, max_denominator=5)] * 3)


Case = tuple[list[list[Do]], int, Layout]


@st.composite
def any_schedule(draw: st.DrawFn) -> Case:
    """Draw (lists of instructions, m, layout)."""
    name = draw(st.sampled_from(list(SCHEDULES)))
    p, m, v = draw(st.integers(1, 5)), draw(st.integers(1, 8)), default_chunks(name)
    if name == "interleaved":
        m, v = p * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if name == "dualpipe":
        p = 2 * draw(st.integers(1, 3))
        m = 2 * p + 2 * draw(st.integers(0, 3))
    return all_ranks(name, p, m, v), m, layout_of(name, p, v)


def checked(lists: Lists, m: int, layout: Layout, sends: str = "buffered") -> list[int]:
    return check(lists, m, layout.v, sends, shape=layout.shape)


# The formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS, ids=str)
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_bubble_of_gpipe_and_1f1b(name: str, cost: Costs) -> None:
    for p, m in SIZES:
        timeline = simulate(all_ranks(name, p, m), cost)
        assert timeline.idle == Fraction(p - 1, m + p - 1), (p, m)
        assert timeline.overhead == Fraction(p - 1, m), (p, m)
        assert timeline.makespan == (m + p - 1) * (cost.F + cost.B), (p, m)


@pytest.mark.parametrize("cost", COSTS, ids=str)
def test_naive_keeps_one_rank_busy_however_many_micro_batches(cost: Costs) -> None:
    for p, m in SIZES:
        timeline = simulate(all_ranks("naive", p, m), cost)
        assert timeline.idle == 1 - Fraction(1, p), (p, m)
        assert timeline.peaks == [1] * p


@pytest.mark.parametrize("cost", COSTS, ids=str)
@pytest.mark.parametrize("v", [1, 2, 3])
def test_interleaved(v: int, cost: Costs) -> None:
    for p, m in [(p, p * k) for p in (1, 2, 3, 4, 8) for k in (1, 2, 3)]:
        timeline = simulate(all_ranks("interleaved", p, m, v), cost)
        assert timeline.idle == Fraction(p - 1, v * m + p - 1), (p, m)
        assert timeline.peaks == [min(v * m, 2 * (p - r - 1) + (v - 1) * p + 1) for r in range(p)], (p, m)


@pytest.mark.parametrize("name", SCHEDULES)
def test_chunks_by_default(name: str) -> None:
    chunks = {"interleaved": 2, "zb-v": 2, "dualpipe": 2}.get(name, 1)
    assert SCHEDULES[name](1, 4, 8, chunks) == all_ranks(name, 4, 8)[1] == all_ranks(name, 4, 8, chunks)[1]


def test_memory_of_gpipe_and_1f1b() -> None:
    for p, m in SIZES:
        assert simulate(all_ranks("gpipe", p, m)).peaks == [m] * p
        assert simulate(all_ranks("1f1b", p, m)).peaks == [min(m, p - r) for r in range(p)]


def test_the_numbers_of_the_lesson() -> None:
    gpipe, one_f = simulate(all_ranks("gpipe", 4, 8)), simulate(all_ranks("1f1b", 4, 8))
    assert (gpipe.peaks, one_f.peaks) == ([8, 8, 8, 8], [4, 3, 2, 1])
    assert gpipe.idle == one_f.idle == Fraction(3, 11)
    assert simulate(all_ranks("naive", 4, 8)).idle == Fraction(3, 4)
    assert simulate(all_ranks("zb-h1", 4, 8)).idle == Fraction(1, 9)


@given(sizes, costs)
def test_zero_bubble(size: tuple[int, int], cost: Costs) -> None:
    """The bubble matches the paper where its conditions hold, and is never worse than 1F1B's."""
    p, m = size
    timeline = simulate(all_ranks("zb-h1", p, m), cost)
    bubble = timeline.makespan - m * (cost.F + cost.B)
    if m >= p and cost.W <= min(cost.F, cost.I):
        assert bubble == (p - 1) * (cost.F + cost.I - cost.W)
    assert bubble <= (p - 1) * (cost.F + cost.B)
    assert timeline.peaks == [min(m, p)] * p


def test_zero_bubble_where_the_condition_is_just_met() -> None:
    """With W = F = I the bubble is a third of 1F1B's; with slightly larger W it exceeds the formula."""
    for p, m in [(2, 2), (3, 3), (4, 8), (8, 8), (8, 17)]:
        for cost in (Costs(1, 1, 1), Costs(2, 3, 2), Costs(3, 2, 2)):
            expected = m * (cost.F + cost.B) + (p - 1) * (cost.F + cost.I - cost.W)
            assert simulate(all_ranks("zb-h1", p, m), cost).makespan == expected
    above = Costs(1, 1, Fraction(11, 10))
    assert simulate(all_ranks("zb-h1", 4, 8), above).makespan > 8 * (1 + above.B) + 3 * (2 - above.W)


@given(sizes, costs)
def test_zero_bubble_with_more_forwards(size: tuple[int, int], cost: Costs) -> None:
    """zb-h2: the paper's bubble of (p-1) (F+I-2W) on rank 0, and 2 p-1 micro-batches in flight."""
    p, m = size
    timeline = simulated("zb-h2", p, m, costs=cost)
    assert timeline.peaks == [min(m, 2 * p - 1)] * p
    if m >= 2 * p - 1 and cost.W <= min(cost.F, cost.I):
        bubble = (p - 1) * (cost.F + cost.I - 2 * cost.W)
        assert max(timeline.stalls) == timeline.stalls[0] == bubble
        assert timeline.makespan == m * (cost.F + cost.B) + max((p - 1) * cost.F, bubble)


def test_no_bubble_at_equal_costs() -> None:
    """With F = I = W, the ranks of zb-h2 and zb-v never wait once they have begun, and zb-v needs half the memory: 2 p
    halves of a stage. No schedule can end earlier: the last rank begins after p-1 forwards. With fewer micro-batches
    than 2 p-1, ranks do wait."""
    for p in range(1, 10):
        for m in (2 * p - 1, 2 * p, 3 * p + 1):
            h2, v = simulated("zb-h2", p, m), simulated("zb-v", p, m)
            assert h2.stalls == v.stalls == [0] * p
            assert [h2.makespan, v.makespan] == [3 * m + p - 1, 6 * m + p - 1]
            assert (h2.idle, v.idle) == (Fraction(p - 1, 3 * m + p - 1), Fraction(p - 1, 6 * m + p - 1))
            assert (h2.peaks, v.peaks) == ([2 * p - 1] * p, [2 * p] * p)
        for name in ("zb-h2", "zb-v") if p > 1 else ():
            assert max(simulated(name, p, 2 * p - 2).stalls) > 0


@given(st.integers(1, 4), st.integers(0, 4), costs)
def test_dualpipe(half: int, more: int, cost: Costs) -> None:
    """The bubble and the memory are the paper's. The paper's pairs of a forward and a backward take F&B together, and
    the output of the forward leaves at the end."""
    p, m = 2 * half, 4 * half + 2 * more
    lists = all_ranks("dualpipe", p, m)
    timeline = simulate(lists, cost, shape="two-way")
    assert timeline.peaks == [p + 1] * p
    W, F, I = sorted((cost.F, cost.I, cost.W))
    level = simulate(lists, Costs(F, F, W), shape="two-way")
    assert level.makespan == m * (2 * F + W) + (half - 1) * (2 * F - W)
    pairs = F + I + W
    assert time_with_pairs(lists, Costs(F, I, W)) == m * pairs + (half - 1) * (pairs + I + W - 3 * W)


def time_with_pairs(lists: Lists, cost: Costs) -> Fraction:
    """Return when the last rank ends if an F and the B after it, of the other direction, run as one."""
    p, clocks, next_ = len(lists), [Fraction(0)] * len(lists), [0] * len(lists)
    ends: dict[tuple[int, Do], Fraction] = {}
    while any(next_[r] < len(lists[r]) for r in range(p)):
        for r in range(p):
            todo = lists[r][next_[r] :]
            paired = [do.kind for do in todo[:2]] == ["F", "B"] and todo[0].chunk != todo[1].chunk
            dos = todo[: 1 + paired]
            wanted = [need for do in dos for need in needs(do, r, Layout(p, 2, "two-way")) if need[0] != r]
            wanted = [(rank, replace(do, kind="I") if do.kind == "B" else do) for rank, do in wanted]
            if not dos or any(need not in ends for need in wanted):
                continue
            clocks[r] = max([clocks[r], *(ends[need] for need in wanted)])
            clocks[r] += sum(getattr(cost, do.kind) for do in dos)
            ends |= {(r, replace(do, kind="I") if do.kind == "B" else do): clocks[r] for do in dos}
            next_[r] += len(dos)
    return max(clocks)


@given(sizes, costs)
def test_a_v_never_holds_more_than_1f1b(size: tuple[int, int], cost: Costs) -> None:
    p, m = size
    assert max(simulated("zb-v", p, m, costs=cost).peaks) <= min(2 * m, 2 * p)


def test_stalls_are_between_the_first_and_the_last_instruction() -> None:
    cost = Costs(F=1, I=1, W=1)
    assert simulated("gpipe", 3, 4, costs=cost).stalls == [6, 3, 0]
    assert simulated("1f1b", 3, 4, costs=cost).stalls == [6, 3, 0]
    assert simulated("zb-h1", 3, 4, costs=cost).stalls == [2, 1, 0]
    assert Timeline([[]]).stalls == [0]


def test_the_layouts() -> None:
    """As in the picture of Layout."""
    first = [0, 1, 2, 3]
    picture: dict[Shape, list[list[int]]] = {
        "looped": [first, [4, 5, 6, 7]], "V": [first, [7, 6, 5, 4]], "two-way": [first, [3, 2, 1, 0]],
    }  # fmt: skip
    for shape, rows in picture.items():
        layout = Layout(4, 2, shape)
        assert [[layout.stage(r, c) for r in range(4)] for c in range(2)] == rows
        assert layout.stages == 1 + max(map(max, rows)) == 8 // layout.replicas
        for stage in range(layout.stages):
            assert layout.places(stage) == [(row.index(stage), c) for c, row in enumerate(rows) if stage in row]
    shapes = {"zb-v": "V", "dualpipe": "two-way"}
    assert all(layout_of(name, 4, 2).shape == shapes.get(name, "looped") for name in SCHEDULES)


# The checker accepts correct schedules ----------------------------------------------------------------------


@given(any_schedule())
def test_all_schedules_are_right(case: Case) -> None:
    lists, m, layout = case
    timeline = simulate(lists, shape=layout.shape)
    assert checked(lists, m, layout) == timeline.peaks
    ends = {(r, do): end for r, lane in enumerate(timeline.lanes) for _, end, do in lane}
    for r, lane in enumerate(timeline.lanes):
        for start, _, do in lane:
            assert isinstance(do, Do)
            for other, needed in needs(do, r, layout):
                assert start >= min(ends[other, kind] for kind in either(needed) if (other, kind) in ends)


@given(sizes, st.sampled_from(["naive", "gpipe", "1f1b", "zb-h1"]))
def test_with_synchronous_sends(size: tuple[int, int], name: str) -> None:
    """1F1B works if each send is paired with the next receive; with plain blocking sends, two neighbors deadlock."""
    p, m = size
    lists = all_ranks(name, p, m)
    check(lists, m, sends="paired")
    if name in ("naive", "gpipe") or p == 1 or m == 1:
        check(lists, m, sends="blocking")
    else:
        with pytest.raises(UserError, match="sending after F"):
            check(lists, m, sends="blocking")


def test_crossed_sends() -> None:
    """Messages are matched by name, so their order matters only if a send waits for its receiver."""
    crossed = [all_ranks("gpipe", 2, 2)[0], [Do("F", 1), Do("F", 0), Do("B", 0), Do("B", 1)]]
    assert check(crossed, 2) == [2, 2]
    for sends in ("paired", "blocking"):
        message = "rank 0, sending after F0, waits until rank 1 receives for F0; rank 1 at F1 waits for F1 on rank 0"
        with pytest.raises(UserError, match=message):
            check(crossed, 2, sends=sends)


def test_interleaved_needs_sends_that_do_not_wait() -> None:
    check(all_ranks("interleaved", 4, 4, 2), 4, 2, sends="paired")
    with pytest.raises(UserError, match="rank 0, sending after B0 of chunk 1, waits until rank 1 receives for I0;"):
        check(all_ranks("interleaved", 2, 4, 2), 4, 2, sends="paired")


def test_a_v_needs_sends_that_do_not_wait() -> None:
    for name, m, ok in [("zb-h2", 7, True), ("zb-h2", 8, False), ("zb-v", 4, True), ("zb-v", 5, False)]:
        lists, layout = all_ranks(name, 4, m), layout_of(name, 4, 1 + (name == "zb-v"))
        if ok:
            checked(lists, m, layout, "paired")
        else:
            with pytest.raises(UserError, match="the ranks wait for each other, with paired sends"):
                checked(lists, m, layout, "paired")


@given(st.integers(1, 5), st.integers(1, 3), st.sampled_from(get_args(Shape)), st.data())
def test_source_and_target_are_inverse(p: int, v: int, shape: Shape, data: st.DataObject) -> None:
    v = 2 if shape == "two-way" else v
    layout = Layout(p, v, shape)
    r, chunk = data.draw(st.integers(0, p - 1)), data.draw(st.integers(0, v - 1))
    for kind in "FI":
        do = Do(kind, 3, chunk)
        require = target(do, r, layout)
        assert (require is None) == (layout.stage(r, chunk) == (layout.stages - 1 if kind == "F" else 0))
        assert require is None or source(require[1], require[0], layout) == (r, do)
        assert source(Do("B", 3, chunk), r, layout) == source(Do("I", 3, chunk), r, layout)
    assert source(Do("W", 3, chunk), r, layout) is None is target(Do("W", 3, chunk), r, layout)


# ... and finds errors ---------------------------------------------------------------------------------------


def planted(name: str, r: int, change: list[Do], p: int = 4, m: int = 8) -> Lists:
    """Return the schedule with rank r's list replaced."""
    lists = all_ranks(name, p, m)
    assert lists[r] != change
    return [*lists[:r], change, *lists[r + 1 :]]


def warmed_up(warmup: int, m: int = 8) -> list[Do]:
    """Return 1F1B with `warmup` forwards first."""
    steady = [do for i in range(m - warmup) for do in (Do("F", warmup + i), Do("B", i))]
    return [Do("F", i) for i in range(warmup)] + steady + [Do("B", i) for i in range(m - warmup, m)]


def test_too_many_forwards_first() -> None:
    """One extra forward costs memory; two on one rank wait for a forward that comes after their own backward."""
    one = planted("1f1b", 1, warmed_up(3))
    assert check(one, 8) == [4, 4, 2, 1]
    with pytest.raises(UserError, match="rank 1 has 4 activations in flight; at most 3 are allowed"):
        check(one, 8, most=[4, 3, 2, 1])
    with pytest.raises(UserError, match="rank 0 at B0 waits for I0 on rank 1; rank 1 at F4 waits for F4 on rank 0"):
        check(planted("1f1b", 1, warmed_up(4)), 8)
    with pytest.raises(UserError, match="wait for each other"):
        check(all_ranks("1f1b", 4, 8)[::-1], 8)


def test_not_once() -> None:
    right, split = all_ranks("1f1b", 4, 8)[2], all_ranks("zb-h1", 4, 8)[2]
    for change, message in [
        ([*right, Do("B", 5)], "rank 2, micro-batch 5, chunk 0: F 1 times, B 2 times"),
        (right[1:], "rank 2, micro-batch 0, chunk 0: F 0 times"),
        ([*right, Do("W", 3)], "rank 2, micro-batch 3, .*B 1 times, I 0 times, W 1 times"),
        (split[:-1], "rank 2, micro-batch 7, .*I 1 times, W 0 times"),
        ([*right, Do("F", 8)], r"rank 2: Do\(kind='F', micro=8, chunk=0\); there are 8 micro-batches, 1 chunks"),
        ([*right, Do("B", 0, 1)], "rank 2: Do.*chunk=1"),
        ([*right, Do("X", 0)], "rank 2: Do.*kind='X'"),
    ]:
        with pytest.raises(UserError, match=message):
            check(planted("1f1b", 2, change), 8)


def test_before_its_own() -> None:
    right, split = all_ranks("gpipe", 4, 8)[3], all_ranks("zb-h1", 4, 8)[0]
    with pytest.raises(UserError, match="rank 3, instruction 0, B2: waits for F2, which comes later"):
        check(planted("gpipe", 3, [Do("B", 2), *(do for do in right if do != Do("B", 2))]), 8)
    with pytest.raises(UserError, match="rank 0, instruction 1, W0: waits for I0, which comes later"):
        check(planted("zb-h1", 0, [split[0], Do("W", 0), *(do for do in split[1:] if do != Do("W", 0))]), 8)


@given(any_schedule(), st.data())
def test_any_instruction_that_is_left_out_or_doubled(case: Case, data: st.DataObject) -> None:
    lists, m, layout = case
    r = data.draw(st.integers(0, len(lists) - 1))
    i = data.draw(st.integers(0, len(lists[r]) - 1))
    for change in (lists[r][:i] + lists[r][i + 1 :], [*lists[r], lists[r][i]]):
        with pytest.raises(UserError, match=f"rank {r}, micro-batch {lists[r][i].micro}, chunk {lists[r][i].chunk}: "):
            checked([*lists[:r], change, *lists[r + 1 :]], m, layout)


def needs(do: Do, r: int, layout: Layout) -> Iterator[tuple[int, Do]]:
    """Yield the instructions that `do` depends on: an independent version, by a list of the stages' places."""
    rows = [[(rank, chunk) for rank in range(layout.p)] for chunk in range(layout.v)]
    rows = [row[::-1] if layout.shape != "looped" and i % 2 else row for i, row in enumerate(rows)]
    places = rows[do.chunk] if layout.shape == "two-way" else [place for row in rows for place in row]
    stage = places.index((r, do.chunk))
    if do.kind == "F" and stage > 0:
        rank, chunk = places[stage - 1]
        yield rank, Do("F", do.micro, chunk)
    if do.kind in "BI":
        yield r, Do("F", do.micro, do.chunk)
        if stage + 1 < len(places):
            rank, chunk = places[stage + 1]
            yield rank, Do("B", do.micro, chunk)
    if do.kind == "W":
        yield r, Do("I", do.micro, do.chunk)


def either(do: Do) -> list[Do]:
    """Return the instruction, and for a backward also its other name."""
    return [do, replace(do, kind="I")] if do.kind == "B" else [do]


def has_an_order(lists: Lists, layout: Layout, sends: str) -> bool:
    """Return whether the dependency graph is acyclic. Nodes: (rank, i, False) done, (rank, i, True) sent."""
    graph: TopologicalSorter[tuple[int, int, bool]] = TopologicalSorter()
    at = {(r, do): i for r, mine in enumerate(lists) for i, do in enumerate(mine)}
    for (r, do), i in at.items():
        graph.add((r, i, True), (r, i, False))
        if i:
            graph.add((r, i, False), (r, i - 1, True))
        for other, needed in needs(do, r, layout):
            j = next(at[other, kind] for kind in either(needed) if (other, kind) in at)
            graph.add((r, i, False), (other, j, False))
            if sends != "buffered" and other != r and i:
                graph.add((other, j, True), (r, i - 1, sends == "blocking"))
    try:
        graph.prepare()
    except CycleError:
        return False
    return True


@given(any_schedule(), st.sampled_from(sorted(SENDS)), st.data())
def test_deadlocks_are_the_circles_of_the_graph(case: Case, sends: str, data: st.DataObject) -> None:
    """In schedules with some instructions moved, the checker reports a deadlock exactly if the graph has a cycle."""
    lists, m, layout = case
    for _ in range(data.draw(st.integers(0, 3))):
        mine = lists[data.draw(st.integers(0, len(lists) - 1))]
        index = st.integers(0, len(mine) - 1)
        mine.insert(data.draw(index), mine.pop(data.draw(index)))
    if has_an_order(lists, layout, sends):
        checked(lists, m, layout, sends)
    else:
        with pytest.raises(UserError, match=r"wait for each other|comes later"):
            checked(lists, m, layout, sends)


# What is refused --------------------------------------------------------------------------------------------


def test_refused() -> None:
    for name, numbers, message in [
        ("2f2b", (2, 2), "allowed: 'naive', 'gpipe', '1f1b', 'interleaved', 'zb-h1'"),
        ("interleaved", (4, 6, 2), "6 micro-batches on 4 stages: .* a multiple of 4, such as 4 or 8"),
        ("interleaved", (4, 3, 2), "such as 4 or 8"),
        ("1f1b", (2, 2, 2), "2 chunks per rank: the 1f1b schedule has 1"),
        ("zb-h2", (2, 2, 2), "2 chunks per rank: the zb-h2 schedule has 1"),
        ("zb-v", (2, 2, 1), "1 chunks per rank: the zb-v schedule has 2"),
        ("dualpipe", (2, 4, 1), "1 chunks per rank: the dualpipe schedule has 2"),
        ("dualpipe", (3, 8), "8 micro-batches on 3 stages: dualpipe needs an even number of both, and 6 micro-batches"),
        ("dualpipe", (2, 5), "5 micro-batches on 2 stages: dualpipe needs an even number of both"),
        ("dualpipe", (4, 6), "6 micro-batches on 4 stages: .* 8 micro-batches or more"),
        ("gpipe", (2, 0), "micro-batches is 0; it must be at least 1"),
        ("gpipe", (0, 2), "stages is 0; it must be at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            all_ranks(name, *numbers)
    with pytest.raises(UserError, match="sends is 'late'; allowed: 'buffered', 'paired', 'blocking'"):
        check(all_ranks("gpipe", 2, 2), 2, sends="late")


# Time -------------------------------------------------------------------------------------------------------


def test_a_message_carries_its_time() -> None:
    cost = Costs(F=1, I=1, W=1, alpha=Fraction(1, 3), beta=Fraction(1, 100))
    timeline = simulate(all_ranks("gpipe", 2, 1), cost, nbytes=50)
    late = Fraction(1, 3) + Fraction(1, 2)
    assert timeline.lanes == [
        [(0, 1, Do("F", 0)), (4 + 2 * late, 6 + 2 * late, Do("B", 0))],
        [(1 + late, 2 + late, Do("F", 0)), (2 + late, 4 + late, Do("B", 0))],
    ]
    assert simulate(all_ranks("interleaved", 1, 1, 2), cost, nbytes=50).makespan == 6, "one rank sends no messages"
    assert simulate(all_ranks("gpipe", 2, 1), cost).lanes[1][0][0] == 1 + Fraction(1, 3), "no bytes unless told"


def test_clock() -> None:
    clock = Clock(Costs(F=Fraction(1, 10), I=1, W=2))
    for _ in range(3):
        clock.run(Do("F", 0))
    assert clock.time == Fraction(3, 10)  # 0.1 + 0.1 + 0.1 is not 0.3
    clock.receive(Fraction(1, 5))
    assert clock.time == Fraction(3, 10), "it was there already"
    clock.receive(Fraction(1, 2))
    clock.run(Do("B", 0))
    assert clock.lane[-1] == (Fraction(1, 2), Fraction(7, 2), Do("B", 0))


# Pictures ---------------------------------------------------------------------------------------------------


def test_the_picture_of_the_lesson() -> None:
    assert simulate(all_ranks("1f1b", 4, 4)).draw().splitlines() == [
        "rank 0 0123......aa.bb.cc.dd",
        "rank 1 .012....aa3bb.cc.dd..",
        "rank 2 ..01..aa2bb3cc.dd....",
        "rank 3 ...0aa1bb2cc3dd......",
    ]


def test_the_unit_is_the_largest_that_fits_all_times() -> None:
    half = Costs(F=Fraction(1, 2), I=Fraction(1, 2), W=1)
    assert simulate(all_ranks("zb-h1", 2, 2), half).draw().splitlines() == ["rank 0 01.aAAbBB", "rank 1 .0a1bAABB"]
    assert simulate(all_ranks("gpipe", 1, 1), Costs(6, 3, 6)).draw() == "rank 0 00aaa"


@given(any_schedule(), costs, st.integers(20, 100))
def test_pictures_fit(case: Case, cost: Costs, width: int) -> None:
    timeline = simulate(case[0], cost, shape=case[2].shape)
    rows = timeline.draw(width).splitlines()
    shortened = len(rows) > len(case[0])
    assert shortened == rows[-1].startswith("(a column is ")
    assert len({len(row) for row in rows[: len(case[0])]}) == 1
    assert len(rows[0]) <= width
    if not shortened:
        assert sum(row[7:].count(".") for row in rows) == timeline.idle * len(rows) * len(rows[0][7:])


def test_a_long_one_says_what_a_column_is() -> None:
    """Each column shows what runs in its middle: here 15 units in 8 columns of 2."""
    assert simulate(all_ranks("gpipe", 2, 4)).draw(15).splitlines() == [
        "rank 0 13.abcd.",
        "rank 1 02abcd..",
        "(a column is 2; shorter instructions may be missing)",
    ]


def test_ten_ranks_are_aligned_and_symbols_can_be_others() -> None:
    rows = simulate(all_ranks("naive", 11, 1)).draw().splitlines()
    assert rows[0] == "rank 0  0" + 30 * "." + "aa"
    assert rows[10] == "rank 10 " + 10 * "." + "0aa" + 20 * "."
    by_chunk = simulate(all_ranks("interleaved", 1, 1, 2)).draw(symbol=lambda do: str(do.chunk))
    assert by_chunk == "rank 0 011100"


def test_after_ten_micro_batches_symbols_begin_anew() -> None:
    assert simulate(all_ranks("zb-h1", 1, 11)).draw() == "rank 0 0aA1bB2cC3dD4eE5fF6gG7hH8iI9jJ0aA"
    assert Timeline([[]]).draw() == "rank 0 "


DRAWN = {
    "naive": (2, 2), "gpipe": (2, 4), "1f1b": (2, 4), "interleaved": (2, 2), "zb-h1": (3, 4), "zb-h2": (3, 6),
    "zb-v": (2, 3), "dualpipe": (4, 8),
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), DRAWN.items())
def test_the_pictures_of_the_docstrings_are_true(name: str, size: tuple[int, int]) -> None:
    shown = re.findall(r"rank (\d) (\S+)", SCHEDULES[name].__doc__ or "")
    initialized = simulated(name, *size, costs=Costs(F=1, I=1, W=1)).draw().splitlines()
    assert shown
    for rank, picture in shown:
        assert initialized[int(rank)].split()[-1].rstrip(".") == picture.rstrip(".")


def test_a_rank_that_has_ended_waits_for_nobody() -> None:
    lists = all_ranks("gpipe", 2, 2)
    (said,) = stuck(lists, Layout(2), [2 * len(lists[0]), 0])
    assert said.startswith("rank 1 at ") and said.endswith(" on rank 0")
