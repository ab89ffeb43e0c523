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
from . import tokenizers
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
    if path is None or {"-h", "--help"}.intersection(arguments):
        return config
    return from_weights(Path(path), config)


def from_weights(path: Path, config: "TrainConfig") -> "TrainConfig":
    """Return the options with which a model starts from the weights at a path. Raise UserError if there are none."""
    weights = look(path)
    c, about = weights.config, weights.tokenizer or {}
    model = replace(
        config.model, layers=c.layers, heads=c.heads, width=c.width, context=c.context, positions=c.context,
        tied=c.tied, epsilon=c.epsilon, dtype="float64" if c.dtype == "float64" else "float32",
    )  # fmt: skip
    characters = about.get("vocabulary")
    place = None if characters is not None else tokenizers.place_of(weights)
    data = replace(config.data, characters=characters, tokenizer=place or config.data.tokenizer)
    optimizer = replace(config.optimizer, lr=LR, lr_floor=LR / 10)
    checkpoints = replace(config.checkpoints, weights=path)
    return replace(config, model=model, data=data, optimizer=optimizer, checkpoints=checkpoints)


def check_sizes(weights: Weights, config: GPTConfig) -> None:
    """Raise UserError unless the options describe the model of the weights."""
    for field, flag in OPTIONS.items():
        given, there = getattr(config, field), getattr(weights.config, field)
        if given != there:
            raise UserError(
                f"{flag} is {shown(given)}, but the model in {weights.path} has {shown(there)}: leave it out"
            )
