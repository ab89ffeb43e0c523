"""Where the time went, on records made by hand, in which every interval is known."""

from hypothesis import given
from hypothesis import strategies as st

from minitrain.observe.recorder import COMMUNICATION, COMPUTE, Recorded, Span
from minitrain.observe.trace_report import WIDTH, text
from minitrain.observe.trace_times import both, length, merged, times_of, without

MS = 10**6


def span(begin: int, end: int, kind: str, key: tuple = (), micro: int = 0) -> Span:
    """Return a span between two times, in ms."""
    name = "update 5" if kind == "update" else kind
    return Span(begin * MS, end * MS, name, kind, {"key": key, "micro": micro})


def in_ms(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(begin // MS, end // MS) for begin, end in intervals]


def test_a_collective_waits_for_the_last_rank() -> None:
    """Rank 0 comes at 4, rank 1 at 6; data move from 6 to 9. Then rank 1 waits for a message that leaves at 12."""
    first = [span(4, 9, "collective", (1,)), span(12, 13, "send", (2,))]
    second = [span(6, 9, "collective", (1,)), span(10, 15, "receive", (2,))]
    ranks = [
        Recorded(rank, {COMPUTE: [span(0, 20, "update")], COMMUNICATION: talks}, [])
        for rank, talks in enumerate((first, second))
    ]
    zero, one = times_of(ranks)
    assert in_ms(zero.computing) == [(0, 4), (9, 12), (13, 20)]
    assert (in_ms(zero.waiting), in_ms(zero.exposed)) == ([(4, 6)], [(6, 9), (12, 13)])
    assert in_ms(one.computing) == [(0, 6), (9, 10), (15, 20)]
    assert (in_ms(one.waiting), in_ms(one.exposed)) == ([(10, 12)], [(6, 9), (12, 15)])
    assert zero.hidden == one.hidden == []


def test_a_thread_hides_what_it_moves_while_the_main_thread_computes() -> None:
    """Rank 0's thread is in a collective from 2 to 12, and moves data from 5 on. Its main thread waits from 8 to 14."""
    lanes = {COMPUTE: [span(0, 20, "update")], COMMUNICATION: [span(8, 14, "wait")]}
    late = {COMPUTE: [span(0, 20, "update")], "reduce": [span(5, 12, "collective", (1,))]}
    zero, one = times_of([
        Recorded(0, lanes | {"reduce": [span(2, 12, "collective", (1,))]}, []), Recorded(1, late, [])
    ])  # fmt: skip
    assert (in_ms(zero.hidden), in_ms(zero.exposed), in_ms(zero.waiting)) == ([(5, 8)], [(8, 12)], [(12, 14)])
    assert in_ms(zero.moved["reduce"]) == [(5, 12)] and in_ms(zero.late["reduce"]) == [(2, 5)]
    assert in_ms(one.hidden) == [(5, 12)] and one.exposed == one.waiting == []
    assert (zero.fraction(zero.computing), one.fraction(one.computing)) == (14 / 20, 1)


def test_the_chart_shows_who_does_what() -> None:
    """64 ms in columns of about 1 ms: a quarter forward, backward, communication, optimizer."""
    work = [span(0, 16, "forward", micro=3), span(16, 32, "backward", micro=3), span(48, 64, "optimizer")]
    ranks = [
        Recorded(0, {COMPUTE: [*work, span(0, 64, "update")], COMMUNICATION: [span(32, 48, "collective", (1,))]}, []),
        Recorded(1, {COMPUTE: [*work, span(0, 64, "update")], COMMUNICATION: [span(40, 48, "collective", (1,))]}, []),
    ]
    lines = text(ranks).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    rows = {line[:15]: line[15:] for line in lines if line.startswith(("rank 0 c", "rank 1 c", "       c"))}
    assert list(rows) == ["rank 0 compute ", "       comm.   ", "rank 1 compute "]
    assert abs(rows["rank 0 compute "].count("3") - 16) <= 1 and abs(rows["rank 0 compute "].count("d") - 16) <= 1
    talks = [line[15:] for line in lines if line.startswith("       comm.")]
    assert abs(talks[0].count("-") - 8) <= 1 and abs(talks[0].count("=") - 8) <= 1
    assert talks[1].count("-") == 0 and abs(talks[1].count("=") - 8) <= 1
    assert ":" in rows["rank 1 compute "], "from 32 to 40 it computes, which is not said further"
    cells = [line.split() for line in lines if line.startswith(("rank 0  ", "rank 1  "))]
    assert [row[2:6] for row in cells] == [["75.0", "12.5", "12.5", "0.0"], ["87.5", "12.5", "0.0", "0.0"]]


points = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair))))


@given(points, points)
def test_intervals_are_sets_of_points(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    a, b = merged(some), merged(others)
    points_of = lambda intervals: {i for lo, hi in intervals for i in range(lo, hi)}
    assert points_of(a) == points_of(some) and length(a) == len(points_of(a))
    assert points_of(both(a, b)) == points_of(a) & points_of(b)
    assert points_of(without(a, b)) == points_of(a) - points_of(b)
    for found in (both(a, b), without(a, b)):
        assert length(found) == len(points_of(found)) and sorted(found) == found
