"""Run a real update with ranks as threads of this process, to count what they do."""

from collections.abc import Callable
from typing import TypeVar

from ...comm import threads
from ...comm.communicator import Communicator
from ...errors import UserError
from ..config import TrainConfig
from ..train import TextTrainer

LIMIT = 600.0  # seconds
Result = TypeVar("Result")


def ranks_of(config: TrainConfig) -> int:
    """Return the number of ranks of the mesh. Raise UserError for invalid options."""
    config.check_each()
    if config.parallel.memory_mb is not None:
        raise UserError("--memory-mb limits a process, but here the ranks are threads of one; leave it out")
    p = config.parallel
    return (p.dp or 1) * p.pp * p.tp


def on_threads(ranks: int, program: Callable[[Communicator], Result]) -> list[Result]:
    """Return what the program returns on each rank. Raise the UserError of a rank."""
    try:
        return threads.run(ranks, program, LIMIT)
    except RuntimeError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def third_update(
    config: TrainConfig, world: Communicator, count: Callable[[Callable[[], object]], Result]
) -> tuple[int, Result]:
    """Return (number of parameters, count(update)), where update() makes the third update. All ranks call it.

    The first two include the set-up and the checks of how the model is divided.
    """
    text = TextTrainer(config, world)
    updates = text.updates(3)
    next(updates)
    next(updates)
    found = count(lambda: next(updates))
    text.close()
    return text.gpt_config.parameters, found
