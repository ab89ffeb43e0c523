"""The command `draw`: a subcommand for each figure."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from .loss import Loss
from .rates import Rates
from .scale import Scale
from .schedules import PipelineSchedules

FIGURES = (Loss, PipelineSchedules, Rates, Scale)


@dataclass(frozen=True)
class Draw:
    """Draw a figure, as SVG and PNG, with its numbers as JSON."""

    what: (
        Annotated[Loss, tyro.conf.subcommand("loss", prefix_name=False)]
        | Annotated[PipelineSchedules, tyro.conf.subcommand("schedules", prefix_name=False)]
        | Annotated[Rates, tyro.conf.subcommand("rates", prefix_name=False)]
        | Annotated[Scale, tyro.conf.subcommand("scale", prefix_name=False)]
    )
    """What to draw."""

    def run(self) -> int:
        """Draw the chosen figure and return its exit status."""
        return self.what.run()
