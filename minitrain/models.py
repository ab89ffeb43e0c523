"""The two models, as lists of units: `unit(x, batch) -> x`.

    GPT   [Embed, Block, Block, ..., Head]        MLP   [Dense, Dense, DenseHead]

The last unit returns the loss, or the logits when the batch has no labels. Nothing here knows about ranks: a pipeline
stage is a slice of the list, and `shard` says how the layers inside the units may be divided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from . import functional as F
from .autograd import Tensor
from .backend import is_float, wide, xp
from .data.batch import Batch
from .errors import UserError, check_choice, check_memory, check_number, check_shape, check_whole, shown
from .nn import (
    Block,
    Classifier,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    check_heads,
    check_paths,
    judged,
    pass_through,
)

if TYPE_CHECKING:
    from .parallel.plan import Plan
    from .parallel.reducer import Reducer

Loop = Callable[["Model", Sequence[Batch], "Reducer", Callable[[Tensor], Tensor]], float]  # see train/step.py
DTYPES = ("float32", "float64")  # in which models can be trained


class Units(Module):
    """Units applied one after the other: a whole model, or a segment of one (recompute.py)."""

    def __init__(self, units: list[Module]) -> None:
        self.units = units

    def through(self, x: Tensor | None, batch: Batch) -> Tensor:
        """What the units make of x; nothing goes into the first unit of a whole model."""
        return pass_through(self.units, x, batch)

    def children(self):  # type: ignore[no-untyped-def]
        """(position, unit)."""
        yield from ((str(i), unit) for i, unit in enumerate(self.units))

    def parameters(self) -> list[Parameter]:
        """In the order of first use in the forward, a shared one once."""
        return list(dict.fromkeys(p for unit in self.units for p in unit.parameters()))


class Model(Units):
    """A whole model, or a stage of a pipeline. Raises UserError for two layers, or two parameters, with one path."""

    def __init__(self, units: list[Module]) -> None:
        for unit in units:
            if not isinstance(unit, Module):
                raise UserError(f"a unit of the model is {shown(unit)}; units are Modules, called as unit(x, batch)")
        super().__init__(units)
        check_paths(self)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of the batch (its part of the global mean), or the logits when it has no labels."""
        return self.through(None, batch)

    def trial(self, batch: Batch) -> Tensor:
        """The same, in a forward that leaves no trace in the model."""
        return self(batch)

    def parts(self) -> list["Model"]:
        """What micro-batches go through at one go: the model itself, or each of the chunks of a pipeline."""
        return [self]

    def train(
        self, loop: Loop, micros: Sequence[Batch], gradients: "Reducer", scale: Callable[[Tensor], Tensor]
    ) -> float:
        """Forwards and backwards of these micro-batches, by the loop of train/step.py; returns the loss of all.

        scale: what is done to a loss before backward (precision.Scaler).
        """
        return loop(self, micros, gradients, scale)


class Embed(Module):
    """The first unit of a GPT: a row for the token plus a row for its position."""

    def __init__(self, vocabulary: int, context: int, width: int, dropout: float, std: float, dtype: Any) -> None:
        self.path = "embed"
        self.tokens = Embedding("embed.tokens", vocabulary, width, std, dtype)
        self.positions = Embedding("embed.positions", context, width, std, dtype)
        self.drop = Dropout("embed.drop", dropout)

    def shard(self, plan: "Plan") -> None:
        """Rows of the token table. The positions are few."""
        plan.vocabulary(self.tokens)
        plan.residual(self.positions, self.drop)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """x is nothing; batch.inputs (B, T) -> (B, T, D)."""
        where, context = batch.where.time, self.positions.weight.placement.shape[0]
        if where.stop > context:
            raise UserError(
                f"the batch has positions 0 to {where.stop - 1}, and the model's context is {context}.\n"
                "Give a loader of that context, or a model of a longer one"
            )
        time = xp.arange(where.start, where.stop)
        x = self.at("layer", self.tokens(batch.inputs)) + self.at("layer", self.positions(time))
        return self.drop(x, batch)


class Head(Module):
    """The last unit of a GPT: a norm and the classifier. `weight` is the token table when the two are tied."""

    def __init__(self, weight: Parameter, width: int, dtype: Any) -> None:
        self.path = "head"
        self.norm = LayerNorm("head.norm", width, dtype)
        self.classifier = Classifier("head.classifier", weight)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> the loss, or the logits (B, T, V) of a batch without labels."""
        return self.classifier(self.norm(self.at("layer", x)), batch)


class Dense(Module):
    """A unit of the MLP: relu(x W + b)."""

    def __init__(self, path: str, fan_in: int, fan_out: int, dtype: Any) -> None:
        self.path = path
        self.linear = Linear(f"{path}.linear", fan_in, fan_out, (2 / fan_in) ** 0.5, dtype)  # He et al., 1502.01852

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """x (B, I), or nothing in the first unit, which reads batch.inputs -> (B, O)."""
        return F.relu(self.at("layer", self.linear(as_input(batch, self.linear) if x is None else x)))


class DenseHead(Module):
    """The last unit of the MLP: one logit a class."""

    def __init__(self, path: str, fan_in: int, classes: int, dtype: Any) -> None:
        self.path = path
        self.linear = Linear(f"{path}.linear", fan_in, classes, (1 / fan_in) ** 0.5, dtype)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """x (B, I) -> the loss, or the logits (B, classes) of a batch without labels."""
        return judged(self.linear(as_input(batch, self.linear) if x is None else x), batch)


def as_input(batch: Batch, linear: Linear) -> Tensor:
    """batch.inputs (B, I), for the first layer of an MLP.

    Raises UserError for another number of features, for whole numbers, which have no gradient, and for floats of
    another dtype than the layer's, unless its precision casts them: NumPy would compute in the wider one.
    """
    x, weight = batch.inputs, linear.weight
    features, dtype = weight.shape[0], wide(weight.dtype)  # of half weights, float32
    if not x.ndim or x.shape[-1] != features:
        raise UserError(
            f"the inputs are {shown(x)}; {linear.path} takes {features} features a sample: "
            f"give inputs of shape (B, {features}), or a model of that size"
        )
    used = x.dtype if linear.precision is None else wide(linear.chosen("linear", x.dtype))
    if used != dtype or not is_float(x.dtype):
        other = f", or a model with dtype={str(x.dtype)!r}" if str(x.dtype) in DTYPES else ""
        raise UserError(
            f"the inputs are {shown(x)}, and {linear.path} holds {dtype}: "
            f"give ArrayLoader(inputs.astype(np.{dtype}), ...){other}"
        )
    return Tensor(x)


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT. Raises UserError for sizes that make no model."""

    vocabulary: int
    context: int = 64  # T, positions
    layers: int = 4
    heads: int = 4  # H
    width: int = 128  # D
    dropout: float = 0.0
    tied: bool = True  # the classifier's weight is the token table
    std: float = 0.02  # of the initial weights
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "layers", "heads", "width"):
            check_whole(name, getattr(self, name), 1)
        check_heads(self.heads, self.width)
        check_number("dropout", self.dropout, "at least 0 and less than 1")
        check_number("std", self.std, "at least 0")
        check_choice("dtype", self.dtype, DTYPES)
        if not isinstance(self.tied, (bool, np.bool_)):
            raise UserError(f"tied is {shown(self.tied)}; it must be True or False")

    @property
    def declared(self) -> int:
        """Bytes of the Python objects that say what the model is, before it has any values."""
        return self.layers * 10_000  # a Block, its layers and parameters: measured with tracemalloc

    @property
    def parameters(self) -> int:
        """Their number: in the tables; 12 D^2 of matrices, 9 D of biases, 4 D of norms a block; in the last norm."""
        V, T, D = self.vocabulary, self.context, self.width
        return (V if self.tied else 2 * V) * D + T * D + self.layers * (12 * D * D + 13 * D) + 2 * D


def gpt(config: GPTConfig) -> Model:
    """A GPT: pre-norm blocks, GELU, learned positions, optionally tied embedding.

    The weights that write into the residual stream start smaller by sqrt(2 layers), since that many are added up.
    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    check_memory(f"a model of {config.layers} layers", config.declared, "give fewer layers")
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
    """Sizes of an MLP classifier. Raises UserError for sizes that make no model."""

    inputs: int = 64
    hidden: tuple[int, ...] = (128, 128)
    classes: int = 10
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_shape("hidden", self.hidden)
        for name, n in (("inputs", self.inputs), ("classes", self.classes)):
            check_whole(name, n, 1)
        for n in self.hidden:
            check_whole(f"a size in hidden {self.hidden}", n, 1)
        check_choice("dtype", self.dtype, DTYPES)


def mlp(config: MLPConfig | None = None) -> Model:
    """inputs -> hidden, relu -> ... -> classes: by default 64 -> 128 -> 128 -> 10."""
    c = config or MLPConfig()
    dtype, sizes = np.dtype(c.dtype), (c.inputs, *c.hidden)
    units: list[Module] = [Dense(f"dense.{i}", n, m, dtype) for i, (n, m) in enumerate(pairwise(sizes))]
    return MLP([*units, DenseHead("head", sizes[-1], c.classes, dtype)])


class MLP(Model):
    """Dense layers, which take turns when they are divided: columns, rows, columns, and so on."""

    def shard(self, plan: "Plan") -> None:
        """The head has rows if it follows columns, and is whole otherwise: its logits are few."""
        if plan.sequence:
            raise UserError("sequence parallel divides the time of a GPT; give tensor parallel alone, sp=False")
        for i, unit in enumerate(self.units):
            linear: Linear = unit.linear  # type: ignore[attr-defined]
            if i % 2:
                plan.row(linear)
            elif i < len(self.units) - 1:
                plan.column(linear)
