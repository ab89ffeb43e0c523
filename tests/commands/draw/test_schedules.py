"""The drawn timelines against the formulas of parallel/pipeline_schedules.py, and against the picture in text."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from minitrain.commands.draw.schedules import PipelineSchedules
from minitrain.errors import UserError
from minitrain.parallel.pipeline_schedules import SCHEDULES

P, M = 4, 8
IDLE = {
    "naive": 1 - Fraction(1, P), "gpipe": Fraction(P - 1, M + P - 1), "1f1b": Fraction(P - 1, M + P - 1),
    "interleaved": Fraction(P - 1, 2 * M + P - 1), "zb-h1": Fraction(P - 1, 3 * M + P - 1),
    "zb-h2": Fraction(P - 1, 3 * M + P - 1), "zb-v": Fraction(P - 1, 6 * M + P - 1),
    "dualpipe": Fraction(P // 2 - 1, 3 * M + P // 2 - 1),
}  # fmt: skip
IN_FLIGHT = {
    "naive": [1] * P, "gpipe": [M] * P, "1f1b": [P - r for r in range(P)],
    "interleaved": [2 * (P - r - 1) + P + 1 for r in range(P)], "zb-h1": [P] * P,
    "zb-h2": [2 * P - 1] * P, "zb-v": [2 * P] * P, "dualpipe": [P + 1] * P,
}  # fmt: skip


def test_timelines_are_those_of_the_formulas(tmp_path: Path) -> None:
    made = PipelineSchedules(tmp_path, P, M, schedules=tuple(IDLE)).drawing()
    assert {*IDLE} == {*SCHEDULES}
    for one in made.numbers["schedules"]:
        name = one["schedule"]
        assert Fraction(one["idle_exactly"]) == IDLE[name] and one["in_flight"] == IN_FLIGHT[name]
        assert one["time"] == pytest.approx(float(3 * M / (1 - IDLE[name])), rel=1e-12), "each rank works for 3 m units"
        for lane in one["ranks"]:
            boxes = sorted((do["start"], do["end"]) for do in lane)
            assert all(end <= start for (_, end), (start, _) in pairwise(boxes)), "none overlap"
            assert sum(end - start for start, end in boxes) == 3 * M
            assert sorted(do["micro"] for do in lane if do["kind"] == "F") == sorted(
                [*range(M)] * round(1 / one["part"])
            )
        assert f"idle {one['idle_exactly']} of the time" in made.text


def test_by_default_every_schedule_that_fits(tmp_path: Path) -> None:
    """Interleaving needs whole groups of micro-batches; naive is too long. The text says why each is left out."""
    made = PipelineSchedules(tmp_path, 4, 6).drawing()
    drawn = [one["schedule"] for one in made.numbers["schedules"]]
    left_out = [name for name in SCHEDULES if f"left out: {name}" in made.text]
    assert {*drawn} | {*left_out} == set(SCHEDULES) and not {*drawn} & {*left_out}
    assert max(map(len, made.text.splitlines())) <= 80
    assert {"gpipe", "1f1b", "zb-h1"} <= {*drawn} and {"naive", "interleaved"} <= {*left_out}


def test_costs_change_the_timeline(tmp_path: Path) -> None:
    """GPipe with a forward of 2, and gradients that take 1 and 0.5: (m + p - 1) (F + I + W)."""
    made = PipelineSchedules(tmp_path, P, M, schedules=("gpipe",), costs=(2.0, 1.0, 0.5)).drawing()
    assert made.numbers["schedules"][0]["time"] == (M + P - 1) * 3.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"schedules": ("fifo",)}, "fifo"),
        ({"schedules": ("interleaved",), "accumulate": 6}, "multiple of 4"),
        ({"pp": 1}, "--pp is 1"),
        ({"costs": (1.0, 0.0, 1.0)}, "--costs is 0"),
    ],
)
def test_bad_options(options: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        PipelineSchedules(tmp_path, **options).drawing()
