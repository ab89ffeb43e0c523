"""The pictures in README.md show what their commands compute today: their numbers are next to them."""

import json
from pathlib import Path

import pytest

from minitrain.comm.threads import world_of_one
from minitrain.commands.draw.drawing import Picture
from minitrain.commands.draw.landscape import Landscape
from minitrain.commands.draw.same_run import BOUND, SameRun, losses
from minitrain.commands.draw.saw_tooth import SawTooth
from minitrain.commands.draw.schedules import PipelineSchedules
from minitrain.commands.plan_options import PlannedModel
from tests.tiers import full

ROOT = Path(__file__).resolve().parents[3]
FIGURES: dict[str, Picture] = {
    "schedules": PipelineSchedules(),
    "saw-tooth": SawTooth(),
    "landscape": Landscape(model=PlannedModel("gpt2-124m", batch=16)),
}


def shown(name: str) -> dict:
    """Return the numbers of a picture that README.md shows."""
    path = ROOT / "lessons" / "figures" / f"{name}.json"
    assert f"({path.relative_to(ROOT).with_suffix('.svg')})" in (ROOT / "README.md").read_text("utf-8")
    assert path.with_suffix(".svg").exists()
    return json.loads(path.read_text("utf-8"))


def test_all_pictures_are_known() -> None:
    assert {path.stem for path in (ROOT / "lessons" / "figures").iterdir()} == {*FIGURES, "same-run"}


@pytest.mark.parametrize("name", ["schedules", "saw-tooth", full("landscape")])
def test_a_picture_is_what_its_command_draws(name: str) -> None:
    assert shown(name) == json.loads(json.dumps(FIGURES[name].drawing().numbers))


def test_the_runs_begin_with_the_losses_in_the_picture() -> None:
    runs = shown("same-run")["runs"]
    options = SameRun()
    assert [run["name"] for run in runs] == [*options.configs()]
    assert all(len(run["loss"]) == options.updates for run in runs)
    first = losses(options.configs()[runs[0]["name"]], 5, world_of_one())
    assert runs[0]["loss"][:5] == pytest.approx(first, rel=1e-9)
    assert max(apart for run in runs for apart in run["apart"]) < BOUND
