"""What a rank holds during an update, against formulas and the planner's peaks."""

from pathlib import Path

import pytest

from minitrain.commands.draw.saw_tooth import KINDS, SawTooth
from minitrain.commands.options import DataOptions, ModelOptions, ParallelOptions, StrategyOptions
from minitrain.commands.plan_setup import setup_of
from minitrain.errors import UserError
from minitrain.planner.step import Rank
from tests.tiers import full

MODEL, DATA = ModelOptions(layers=2, heads=2, width=8, context=8), DataOptions(batch=4)


def saw_tooth(path: Path, zero: int = 3, against: int = 0, **parallel: int) -> SawTooth:
    """Return the options of a small figure."""
    p = ParallelOptions(comm="ring", **{"dp": 2, **parallel})
    return SawTooth(MODEL, DATA, parallel=p, strategy=StrategyOptions(zero=zero), to=path, against=against)


@pytest.mark.parametrize(("zero", "against"), [(3, 0), full(2, 1)])
def test_a_rank_holds_what_the_formulas_say(zero: int, against: int, tmp_path: Path) -> None:
    """16, 8 + 8/N, 4 + 12/N or 16/N bytes per parameter at the end of the update; and each kind's peak."""
    options = saw_tooth(tmp_path, zero, against)
    numbers = options.drawing().numbers
    for run, stage in zip(numbers["runs"], (against, zero), strict=True):
        P, N = run["parameter_count"], 2
        per_parameter = {0: 16, 1: 8 + 8 / N, 2: 4 + 12 / N, 3: 16 / N}[stage]
        assert sum(run[kind][-1] for kind in KINDS) == pytest.approx(P * per_parameter, abs=16 * 10), "a few odd sizes"
        assert run["formula"][0] + run["formula"][1] / N == per_parameter
        strategy = StrategyOptions(zero=stage)
        setup = setup_of(SawTooth(MODEL, DATA, parallel=options.parallel, strategy=strategy), 68, N)
        peak = Rank(setup, (0, 0, 0)).update().memory.peak
        assert {kind: max(run[kind]) for kind in KINDS} == {kind: peak[kind] for kind in KINDS}


def test_the_parameters_of_zero_3_are_teeth(tmp_path: Path) -> None:
    """Each of the four units is gathered in the forward and again in the backward, and freed to the shard between."""
    zero = saw_tooth(tmp_path).drawing().numbers["runs"][1]
    shard = min(zero["parameters"])
    units = setup_of(saw_tooth(tmp_path), 68, 2).sizes.units
    freed = [held for before, held in zip(zero["parameters"], zero["parameters"][1:], strict=False) if held < before]
    assert freed.count(shard) == 2 * units == 8
    assert shard == pytest.approx(4 * zero["parameter_count"] / 2, abs=4 * 10)


def test_data_parallel_holds_all_parameters_all_the_time(tmp_path: Path) -> None:
    plain = saw_tooth(tmp_path).drawing().numbers["runs"][0]
    assert {*plain["parameters"]} == {4 * plain["parameter_count"]}
    assert {*plain["optimizer"]} == {8 * plain["parameter_count"]}
    assert plain["gradients"][plain["backward"] - 1] == 0 < plain["gradients"][plain["backward"]]


def test_a_mistake_of_a_rank_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ZeRO-2 and -3"):
        saw_tooth(tmp_path, pp=2, accumulate=2).drawing()
    with pytest.raises(UserError, match="--against is 4"):
        saw_tooth(tmp_path, against=4).drawing()
    with pytest.raises(UserError, match="--memory-mb limits a process"):
        saw_tooth(tmp_path, memory_mb=50).drawing()
