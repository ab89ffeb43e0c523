"""Training from the weights of a model: `train --from build/gpt2`.

The model's sizes and tokenizer are those of the weights. Its learning rate is low by default: at the rate with which a
small model learns from random values, what a trained one has learned would be lost in a few updates.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, shown
from ..models import GPTConfig
from ..train.weights import Weights, look
from . import model_tokenizer
from .run_checkpoints import value_of

if TYPE_CHECKING:
    from .config import TrainConfig

LR = 1e-4  # of fine-tuning, unless another one is given
OPTIONS = {
    "layers": "--layers", "heads": "--heads", "width": "--width", "context": "--positions", "tied": "--tied",
    "epsilon": "--epsilon",
}  # fmt: skip


def started(arguments: list[str], config: "TrainConfig") -> "TrainConfig":
    """Return the options that hold where the command line of `train` gives none: with --from, those of the weights.

    Raise UserError if there are no weights.
    """
    path = value_of("--from", arguments)
    if path is None or path.startswith("-") or {"-h", "--help"}.intersection(arguments):
        return config
    optimizer = replace(config.optimizer, lr=LR, lr_floor=LR / 10)
    return from_weights(Path(path), replace(config, optimizer=optimizer))


def from_weights(path: Path, config: "TrainConfig") -> "TrainConfig":
    """Return the options with which a model starts from the weights at a path. Raise UserError if there are none."""
    weights = look(path)
    c, about = weights.config, weights.tokenizer or {}
    model = replace(
        config.model, layers=c.layers, heads=c.heads, width=c.width, context=c.context, positions=c.context,
        tied=c.tied, epsilon=c.epsilon, dtype="float64" if c.dtype == "float64" else "float32",
    )  # fmt: skip
    characters: str | None = about.get("vocabulary")
    place = None if characters is not None else model_tokenizer.place_of(weights)
    data = replace(config.data, characters=characters, tokenizer=place or config.data.tokenizer)
    return replace(config, model=model, data=data, checkpoints=replace(config.checkpoints, weights=path))


def check_sizes(weights: Weights, config: GPTConfig) -> None:
    """Raise UserError unless the options describe the model of the weights."""
    both = {flag: (getattr(config, field), getattr(weights.config, field)) for field, flag in OPTIONS.items()}
    wrong = [
        f"{flag} is {shown(given)} instead of {shown(there)}" for flag, (given, there) in both.items() if given != there
    ]
    if wrong:
        raise UserError(f"the model in {weights.path} has other sizes: {', '.join(wrong)}; leave them out")
