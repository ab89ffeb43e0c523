"""The bytes from each rank to each rank, against ledgers and formulas."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from minitrain.commands.draw.traffic import Traffic, classes, kilobytes, matrix
from minitrain.commands.options import DataOptions, ModelOptions, ParallelOptions, StrategyOptions
from minitrain.commands.plan_setup import setup_of
from minitrain.errors import UserError
from minitrain.observe.palette import FILLS
from minitrain.observe.virtual_time import Machine
from minitrain.planner.step import Rank
from tests.planner.counted import of_text, on_ranks
from tests.tiers import full

MODEL, DATA = ModelOptions(layers=2, heads=2, width=8, context=8), DataOptions(batch=8)


def traffic(path: Path, strategy: StrategyOptions | None = None, **parallel: Any) -> Traffic:
    """Return the options of a small figure."""
    p, s = ParallelOptions(**{"comm": "ring", **parallel}), strategy or StrategyOptions()
    return Traffic(MODEL, DATA, parallel=p, strategy=s, to=path)


CASES = (
    ({"dp": 2, "pp": 2, "tp": 2, "accumulate": 2}, StrategyOptions(zero=1)),
    full({"dp": 3}, StrategyOptions(zero=3, prefetch=True)),
    full({"dp": 2, "tp": 2}, StrategyOptions(reduce="overlap", sp=True)),
)


@pytest.mark.parametrize(("parallel", "strategy"), CASES)
def test_rows_are_what_ledger_and_planner_count(parallel: dict, strategy: StrategyOptions, tmp_path: Path) -> None:
    options = traffic(tmp_path, strategy, **parallel)
    rows = matrix(options)["bytes"]
    counted = on_ranks(lambda world: of_text(options, world, Machine(Fraction(1, 10**9))), len(rows))
    assert [sum(row) for row in rows] == [sum(rank.sent.values()) for rank in counted]
    setup = setup_of(options, 68, len(rows))
    planned = [Rank(setup, place).update().sent.total() for place in setup.places()]
    assert [sum(row) for row in rows] == planned
    assert all(rows[rank][rank] == 0 for rank in range(len(rows)))


def test_a_ring_sends_to_the_next_rank_only(tmp_path: Path) -> None:
    """Along dp, 2 (N - 1)/N of the gradients go to the next rank, and a few bytes about the loss."""
    rows = matrix(traffic(tmp_path, dp=3))["bytes"]
    sends = {(source, to) for source, row in enumerate(rows) for to, nbytes in enumerate(row) if nbytes}
    assert sends == {(0, 1), (1, 2), (2, 0)}
    parameters = setup_of(traffic(tmp_path, dp=3), 68, 3).sizes.parameters
    assert sum(map(sum, rows)) == pytest.approx(2 * 2 * 4 * parameters, rel=0.01)


def test_a_pipeline_sends_activations_down_and_gradients_up(tmp_path: Path) -> None:
    """(B/2, T, D) float32 from each stage to the next and back; tied weights and norms go around rings."""
    numbers = matrix(traffic(tmp_path, dp=2, pp=2, accumulate=2))
    stream = 4 * 8 * 8 * 4
    assert numbers["places"] == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
    assert numbers["axes"][0] == ["", "pp", "dp", "dp pp"]
    ring = (
        2 * 3 / 4 * 4 * 68 * 8
    )  # bytes of the tied table that each of the four ranks passes on to the next: 0, 1, 2, 3
    bytes = numbers["bytes"]
    norms = 200
    for source, to, expected in (
        (0, 1, stream + ring),
        (1, 0, stream),
        (1, 2, ring),
        (2, 3, stream + ring),
        (3, 2, stream),
    ):
        assert expected <= bytes[source][to] <= expected + norms, (source, to)


def test_a_fill_for_each_quarter() -> None:
    assert classes([1000, 20, 20_000, 300]) == dict(zip((20, 300, 1000, 20_000), FILLS, strict=True))
    assert len({*classes([797_000, 829_000, 801_000]).values()}) == 1, "their first digits agree"


@pytest.mark.parametrize(
    ("nbytes", "shown"), [(0, "."), (56, "0.06"), (26_100, "26.1"), (393_472, "393"), (3_539_000, "3539")]
)
def test_kilobytes(nbytes: int, shown: str) -> None:
    assert kilobytes(nbytes) == shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dp": 2, "comm": "mpi"}, "give --comm ring"),
        ({"dp": 1}, "make 1 ranks; give 2 to 32"),
        ({"dp": 16}, "--batch is 8, but 16 ranks"),
        ({"dp": 2, "tp": 3}, "attention has 2 heads|heads"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        traffic(tmp_path, **options).drawing()
