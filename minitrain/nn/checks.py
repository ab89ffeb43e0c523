"""What must hold of a model before it is trained."""

from typing import Any

from ..errors import UserError
from .layers import Dropout
from .module import Module


def check_paths(model: Module) -> None:
    """Raise UserError unless each path belongs to one parameter, and to one dropout: random numbers are keyed by it."""
    found: dict[str, Any] = {}
    keyed = [("parameters", p.placement.path, p) for p in model.parameters()]
    keyed += [("dropouts", m.path, m) for m in model.modules() if isinstance(m, Dropout)]  # type: ignore[misc]
    for kind, path, thing in keyed:
        if found.setdefault(f"{kind} {path}", thing) is not thing:
            raise UserError(
                f"two {kind} have the path {path!r}, which their random numbers are keyed by: they would be equal.\n"
                "Give each a path of its own, or use the same object twice to share it"
            )


def check_free(model: Module) -> None:
    """Raise UserError when a trainer (a reducer) holds the model's parameters already."""
    for p in model.parameters():
        if p.bucket is not None:
            raise UserError(
                f"{p.placement.path} belongs to a trainer already, and two would train against each other.\n"
                "Go on with that one, or gather its values and restore them into another model (train.checkpoint)"
            )
