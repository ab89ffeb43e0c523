"""The timeline of one update of a pipeline, in virtual time: what each rank did, and when."""

from dataclasses import dataclass
from pathlib import Path

from ..comm.communicator import Communicator
from ..errors import UserError
from ..observe.clock import Clock, Costs, Stamps, Timeline
from ..observe.observer import observing
from ..runtime.launch import launch
from ..train.progress import Progress
from .config import TrainConfig
from .train import TextTrainer


def record(config: TrainConfig, world: Communicator, costs: Costs | None = None) -> Timeline:
    """Return the timeline of one pipeline in a real update, timed by `costs`. Raise UserError without a pipeline."""
    progress = Progress(world)
    with progress.task("setting up"):
        text = TextTrainer(config, world)
    if text.mesh.parts("layers") == 1:
        raise UserError("a timeline needs a pipeline: give, for example, --pp 4 --accumulate 8")
    clock, stages = Clock(costs or Costs()), text.mesh.over("layers")
    with progress.task("an update"), observing(Stamps(clock, stages)):
        next(text.updates(1))
    text.close()
    return Timeline(stages.gather_objects(clock.lane))


def show(config: TrainConfig, world: Communicator, svg: Path | None = None) -> str:
    """Return the drawing and its numbers. All ranks call it. svg: a file for the picture.

    Raise UserError for an unwritable file, or without a pipeline.
    """
    timeline = record(config, world)
    if svg is not None and world.rank == 0:
        try:
            svg.write_text(timeline.svg(), "utf-8")
        except OSError as error:
            raise UserError(f"cannot write {svg}: {error.strerror}; give another file with --svg") from error
    p = config.parallel
    s = config.strategy
    stages = f"{s.schedule}, {p.pp * s.v} stages, {p.accumulate} micro-batches"
    lines = [
        f"{stages}; digits: forward, letters: backward, dots: idle",
        timeline.draw(),
        f"idle {timeline.idle} of the time; activations in flight {timeline.peaks}",
    ]
    if any(do.kind == "W" for _, _, do in timeline.lanes[0]):  # a zero-bubble schedule
        lines.append(f"idle between a rank's first and last instruction: {', '.join(map(str, timeline.stalls))}")
    return "\n".join(lines)


@dataclass(frozen=True)
class TimelineOf(TrainConfig):
    """Draw a pipeline's update in virtual time, rank by rank; takes train's options."""

    svg: Path | None = None
    """Also write the drawing to this SVG file."""

    def run(self) -> int:
        """Run one update and print its timeline."""
        with launch() as world:
            text = show(self, world, self.svg)
            if world.rank == 0:
                print(text, flush=True)
        return 0
