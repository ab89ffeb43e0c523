"""The command `draw`: a subcommand for each figure."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import subcommand

from .buckets import Buckets
from .landscape import Landscape
from .loss import Loss
from .memory import MemoryOf
from .rates import Rates
from .same_run import SameRun
from .saw_tooth import SawTooth
from .scale import Scale
from .scaling import Scaling
from .schedules import PipelineSchedules
from .traffic import Traffic


@dataclass(frozen=True)
class Draw:
    """Draw a figure, as SVG and PNG, with its numbers as JSON."""

    what: (
        Annotated[SameRun, subcommand("same-run", prefix_name=False)]
        | Annotated[Loss, subcommand("loss", prefix_name=False)]
        | Annotated[Scale, subcommand("scale", prefix_name=False)]
        | Annotated[Rates, subcommand("rates", prefix_name=False)]
        | Annotated[PipelineSchedules, subcommand("schedules", prefix_name=False)]
        | Annotated[MemoryOf, subcommand("memory", prefix_name=False)]
        | Annotated[SawTooth, subcommand("saw-tooth", prefix_name=False)]
        | Annotated[Traffic, subcommand("traffic", prefix_name=False)]
        | Annotated[Buckets, subcommand("buckets", prefix_name=False)]
        | Annotated[Scaling, subcommand("scaling", prefix_name=False)]
        | Annotated[Landscape, subcommand("landscape", prefix_name=False)]
    )
    """What to draw."""

    def run(self) -> int:
        """Draw the chosen figure and return its exit status."""
        return self.what.run()
