"""Checks on a model before it is trained."""

from typing import Any

from ..errors import UserError
from .layers import Dropout
from .module import Module


def check_paths(model: Module) -> None:
    """Raise UserError if two parameters, or two dropouts, have the same path: the path keys their random numbers."""
    found: dict[str, Any] = {}
    keyed = [("parameters", p.placement.path, p) for p in model.parameters()]
    keyed += [("dropouts", m.path, m) for m in model.modules() if isinstance(m, Dropout)]  # type: ignore[misc]
    for kind, path, thing in keyed:
        if found.setdefault(f"{kind} {path}", thing) is not thing:
            raise UserError(
                f"two {kind} have the path {path!r}, which keys their random numbers: both would draw the same ones.\n"
                "Give each its own path, or use the same object twice to share it"
            )


def check_free(model: Module) -> None:
    """Raise UserError if a trainer (its reducer) already holds the model's parameters."""
    for p in model.parameters():
        if p.bucket is not None:
            raise UserError(
                f"{p.placement.path} belongs to a trainer already, and two would overwrite each other's updates.\n"
                "Use that trainer, or gather its values and restore them into another model"
            )
