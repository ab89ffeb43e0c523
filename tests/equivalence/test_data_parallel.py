"""Data parallel equals the serial run: under MPI, on our ring, and on threads."""

from collections.abc import Sequence

import pytest

from minitrain import debug
from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.observe import ledger
from minitrain.parallel.data_parallel import sync_gradients
from tests.equivalence.cover import AXES, RANKS, cases, name, pairwise
from tests.equivalence.harness import Case, same_as_serial, wrong
from tests.tiers import full

CASES = cases(full=False)


def in_both_tiers(rows: list[tuple[int, Case]]) -> list[tuple[int, Case]]:
    """One case on 4 ranks for each way to divide the model, and for ranks without samples."""
    kinds = {(case.layout, case.pp > 1 and case.schedule, case.B < n): (n, case) for n, case in rows if n == 4}
    return list(kinds.values())


@pytest.mark.parametrize(
    ("world", "case"),
    [row if row in in_both_tiers(CASES) else full(*row) for row in CASES],
    indirect=["world"],
    ids=[name(*row) for row in CASES],
)
def test_mpi(world: Communicator, case: Case) -> None:
    row = same_as_serial(world, case)
    assert row.ok, row


@pytest.mark.parametrize("strategy", AXES["strategy"])
@pytest.mark.ranks(3)
def test_one_row(world: Communicator, strategy: str) -> None:
    """The hardest setting of each strategy: enough to try another MPI implementation."""
    row = same_as_serial(world, Case(strategy, "mpi", "sgd", accumulate=3, clip=0.5))
    assert row.ok, row


@pytest.mark.parametrize("strategy", AXES["strategy"])
@pytest.mark.parametrize("comm", AXES["comm"])
@pytest.mark.parametrize("size", [n if n == 3 else full(n) for n in RANKS])
def test_threads(size: int, comm: str, strategy: str) -> None:
    for row in threads.run(size, lambda world: same_as_serial(world, Case(strategy, comm, "adam", 3, 0.5))):
        assert row.ok, row


IN_DEBUG_MODE = [Case(strategy, "ring", accumulate=2, clip=0.5) for strategy in AXES["strategy"]] + [
    Case(comm="ring", layout=layout, pp=2 if "pp" in layout else 1, accumulate=2)
    for layout in ("tp", "sp", "pp", "pp+tp", "pp+sp")
]


@pytest.mark.parametrize("case", IN_DEBUG_MODE, ids=lambda case: f"{case.strategy} {case.layout}")
def test_in_debug_mode(case: Case) -> None:
    """Debug mode lets ranks that do the same thing proceed, and adds no traffic."""
    with debug.enabled():
        for row in threads.run(4 if "+" in case.layout else 2, lambda world: same_as_serial(world, case)):
            assert row.ok, row


@pytest.mark.parametrize("case", [Case("dp-naive", "ring"), Case("dp-bucketed", "ring", accumulate=3)])
def test_three_ranks(case: Case) -> None:
    """Three ranks, SGD and a batch size that 3 does not divide: enough to detect a wrong sum. Used by the museum."""
    rows = threads.run(3, lambda world: same_as_serial(world, case))
    assert not wrong(rows[0], case), f"not as on one process: {', '.join(wrong(rows[0], case))}"


@pytest.mark.ranks(full=(8,))
def test_more_ranks_than_samples(world: Communicator) -> None:
    row = same_as_serial(world, Case(accumulate=2, comm="ring"))
    assert row.ok, row


@pytest.mark.ranks(3)
def test_the_harness_sees_a_missing_sum(world: Communicator) -> None:
    """Without this test, a harness that compared nothing would pass everything above."""
    row = same_as_serial(world, Case(hooks={"sync": lambda reducer, group: None}))
    assert not row.ok
    assert row.max_dgradient > 1e-3
    assert row.bytes == 0


@pytest.mark.ranks(2)
def test_the_harness_sees_traffic_under_another_tag(world: Communicator) -> None:
    def twice(gradients: Sequence[Array], group: Communicator) -> None:
        sync_gradients(gradients, group)
        for gradient in gradients:
            group.all_reduce(gradient.copy(), ("dp", "another"))

    case = Case(hooks={"sync": twice})
    assert wrong(same_as_serial(world, case), case) == ["bytes"]


@pytest.mark.ranks(2)
def test_the_harness_sees_more_work(world: Communicator) -> None:
    def with_one_more(gradients: Sequence[Array], group: Communicator) -> None:
        sync_gradients(gradients, group)
        ledger.flops(1)

    case = Case(hooks={"sync": with_one_more})
    assert wrong(same_as_serial(world, case), case) == ["flops"]


def test_pairwise_covers_all_pairs() -> None:
    chosen = pairwise(AXES)
    for a in AXES:
        for b in AXES:
            if a != b:
                assert {(c[a], c[b]) for c in chosen} == {(x, y) for x in AXES[a] for y in AXES[b]}
    assert len(chosen) < 50
