"""What the planner needs for a figure, from plan's options."""

from rich.console import Console

from ...environment import launched
from ...errors import UserError
from ...planner.search import Request
from ..plan import Plan
from ..plan_options import PlannedMachine, PlannedModel, PlannedStrategy


def request_of(model: PlannedModel, machine: PlannedMachine, strategy: PlannedStrategy | None = None) -> Request:
    """Return the model, the ranks and the machine; with --measure, as measured here on one process.

    Raise UserError for invalid options.
    """
    plan = Plan(model, machine, strategy or PlannedStrategy())
    if not machine.measure:
        return plan.request()[0]
    if launched()[2] > 1:
        raise UserError(
            "--measure under mpirun: a figure is drawn by one process; measure with plan, and give its figures here: "
            "--gflops, --latency-us and --bandwidth-gb"
        )
    return plan.measured(*plan.request(), Console(highlight=False, soft_wrap=True))[0]
