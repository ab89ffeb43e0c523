"""The two models, as lists of units: `unit(x, batch) -> x`.

    GPT   [Embed, Block, Block, ..., Head]        MLP   [Dense, Dense, DenseHead]

The last unit returns the loss, or the logits when the batch has no labels. Nothing here knows about ranks: a pipeline
stage is a slice of the list, and the other transformations replace layers inside the units.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from . import functional as F
from . import fused
from .autograd import Tensor
from .backend import xp
from .data.batch import Batch
from .errors import UserError
from .nn import Block, Classifier, Dropout, Embedding, LayerNorm, Linear, Module, Parameter


class Model(Module):
    """Units applied one after the other."""

    def __init__(self, units: list[Module]) -> None:
        self.units = units

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of the batch (its part of the global mean), or the logits when it has no labels."""
        x = None
        for unit in self.units:
            x = unit(x, batch)  # type: ignore[operator]
        assert x is not None
        return x

    def children(self):  # type: ignore[no-untyped-def]
        """(position, unit)."""
        yield from ((str(i), unit) for i, unit in enumerate(self.units))

    def parameters(self) -> list[Parameter]:
        """In the order of first use in the forward, a shared one once."""
        return list(dict.fromkeys(p for unit in self.units for p in unit.parameters()))


class Embed(Module):
    """The first unit of a GPT: a row for the token plus a row for its position."""

    def __init__(self, vocabulary: int, context: int, width: int, dropout: float, std: float, dtype: Any) -> None:
        self.path = "embed"
        self.tokens = Embedding("embed.tokens", vocabulary, width, std, dtype)
        self.positions = Embedding("embed.positions", context, width, std, dtype)
        self.drop = Dropout("embed.drop", dropout)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """x is nothing; batch.inputs (B, T) -> (B, T, D)."""
        time = xp.arange(batch.where.time.start, batch.where.time.stop)
        return self.drop(self.tokens(batch.inputs) + self.positions(time), batch)


class Head(Module):
    """The last unit of a GPT: a norm and the classifier. `weight` is the token table when the two are tied."""

    def __init__(self, weight: Parameter, width: int, dtype: Any) -> None:
        self.path = "head"
        self.norm = LayerNorm("head.norm", width, dtype)
        self.classifier = Classifier("head.classifier", weight)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> the loss, or the logits (B, T, V) of a batch without labels."""
        return self.classifier(self.norm(x), batch)


class Dense(Module):
    """A unit of the MLP: relu(x W + b)."""

    def __init__(self, path: str, fan_in: int, fan_out: int, dtype: Any) -> None:
        self.path = path
        self.linear = Linear(f"{path}.linear", fan_in, fan_out, (2 / fan_in) ** 0.5, dtype)  # He et al., 1502.01852

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """x (B, I), or nothing in the first unit, which reads batch.inputs -> (B, O)."""
        return F.relu(self.linear(Tensor(batch.inputs) if x is None else x))


class DenseHead(Module):
    """The last unit of the MLP: one logit a class."""

    def __init__(self, path: str, fan_in: int, classes: int, dtype: Any) -> None:
        self.path = path
        self.linear = Linear(f"{path}.linear", fan_in, classes, (1 / fan_in) ** 0.5, dtype)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """x (B, I) -> the loss, or the logits (B, classes) of a batch without labels."""
        logits = self.linear(Tensor(batch.inputs) if x is None else x)
        return logits if batch.labels is None else fused.cross_entropy(logits, batch.labels, batch.where.count)


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT."""

    vocabulary: int
    context: int = 64  # T, positions
    layers: int = 4
    heads: int = 4  # H
    width: int = 128  # D
    dropout: float = 0.0
    tied: bool = True  # the classifier's weight is the token table
    std: float = 0.02  # of the initial weights
    dtype: str = "float32"

    def check(self) -> None:
        """Raises UserError for sizes that make no model."""
        for name in ("vocabulary", "context", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            allowed = [h for h in range(1, self.width + 1) if self.width % h == 0]
            raise UserError(f"heads is {self.heads}, which does not divide the width {self.width}; allowed: {allowed}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; it must be at least 0 and less than 1")
        check_dtype(self.dtype)


def gpt(config: GPTConfig) -> Model:
    """A GPT: pre-norm blocks, GELU, learned positions, optionally tied embedding.

    The weights that write into the residual stream start smaller by sqrt(2 layers), since that many are added up.
    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    config.check()
    c, dtype = config, np.dtype(config.dtype)
    out_std = c.std / (2 * c.layers) ** 0.5
    embed = Embed(c.vocabulary, c.context, c.width, c.dropout, c.std, dtype)
    blocks = [Block(f"blocks.{i}", c.width, c.heads, c.dropout, c.std, out_std, dtype) for i in range(c.layers)]
    weight = embed.tokens.weight
    if not c.tied:
        weight = Parameter("head.classifier.weight", (c.vocabulary, c.width), std=c.std, dtype=dtype)
    return Model([embed, *blocks, Head(weight, c.width, dtype)])


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of an MLP classifier."""

    inputs: int = 64
    hidden: tuple[int, ...] = (128, 128)
    classes: int = 10
    dtype: str = "float32"

    def check(self) -> None:
        """Raises UserError for sizes that make no model."""
        if min(self.inputs, self.classes, *self.hidden) < 1:
            raise UserError(
                f"all sizes must be at least 1: inputs {self.inputs}, hidden {self.hidden}, classes {self.classes}"
            )
        check_dtype(self.dtype)


def mlp(config: MLPConfig | None = None) -> Model:
    """inputs -> hidden, relu -> ... -> classes: by default 64 -> 128 -> 128 -> 10."""
    c = config or MLPConfig()
    c.check()
    dtype, sizes = np.dtype(c.dtype), (c.inputs, *c.hidden)
    units: list[Module] = [Dense(f"dense.{i}", n, m, dtype) for i, (n, m) in enumerate(pairwise(sizes))]
    return Model([*units, DenseHead("head", sizes[-1], c.classes, dtype)])


def check_dtype(name: str) -> None:
    """Raises UserError unless models can be trained in this dtype."""
    if name not in ("float32", "float64"):
        raise UserError(f"dtype is {name!r}; allowed: 'float32', 'float64'")
