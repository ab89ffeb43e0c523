"""A GPT: [Embed, Block, Block, ..., Head]."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import functional
from ..backend import xp
from ..data.batch import Batch
from ..errors import UserError, check_choice, check_memory, check_number, check_whole, shown
from ..nn import CausalAttention, Classifier, Dropout, Embedding, LayerNorm, Linear, Module, Parameter
from ..tensor import Tensor
from .model import DTYPES, Model

if TYPE_CHECKING:
    from ..parallel.plan import Plan


class Attention(Module):
    """Causal self-attention with H heads: qkv.weight (D, 3, H, D/H), proj.weight (D, D). Raise UserError unless H
    divides D."""

    def __init__(self, path: str, width: int, heads: int, std: float, out_std: float, dtype: Any) -> None:
        check_heads(heads, width)
        self.path = path
        self.qkv = Linear(f"{path}.qkv", width, (3, heads, width // heads), std, dtype)
        self.core = CausalAttention(f"{path}.core")
        self.proj = Linear(f"{path}.proj", width, width, out_std, dtype)

    def shard(self, plan: "Plan") -> None:
        """Divide qkv by heads, and proj by the rows that multiply them."""
        heads = self.qkv.weight.shape[2]
        plan.heads(self.qkv)
        plan.row(self.proj, parts=heads)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        return self.proj(self.core(self.qkv(x), batch))


def check_heads(heads: int, width: int) -> None:
    """Raise UserError unless the number of heads divides the width."""
    check_whole("heads", heads, 1)
    check_whole("width", width, 1)
    if width % heads:
        allowed = [h for h in range(1, min(width, 1024) + 1) if width % h == 0]  # capped for large widths
        raise UserError(f"heads is {heads}, which does not divide the width {width}; allowed: {allowed}")


class FeedForward(Module):
    """y = W_down gelu(W_up x), with hidden width F = 4 D."""

    def __init__(self, path: str, width: int, std: float, out_std: float, dtype: Any) -> None:
        self.path = path
        self.up = Linear(f"{path}.up", width, 4 * width, std, dtype)
        self.down = Linear(f"{path}.down", 4 * width, width, out_std, dtype)

    def shard(self, plan: "Plan") -> None:
        """Divide the columns of up, and the rows of down that multiply them."""
        plan.column(self.up)
        plan.row(self.down)

    def __call__(self, x: Tensor) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        return self.down(self.up(x, gelu=True))


class Block(Module):
    """One pre-norm GPT layer: x = x + attention(norm(x)), then x = x + mlp(norm(x)).

    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.
    """

    def __init__(
        self,
        path: str,
        width: int,
        heads: int,
        dropout: float,
        std: float,
        out_std: float,
        dtype: Any,
        epsilon: float = 1e-5,
    ) -> None:
        self.path = path
        self.norm1 = LayerNorm(f"{path}.norm1", width, dtype, epsilon)
        self.attn = Attention(f"{path}.attn", width, heads, std, out_std, dtype)
        self.drop1 = Dropout(f"{path}.drop1", dropout)
        self.norm2 = LayerNorm(f"{path}.norm2", width, dtype, epsilon)
        self.mlp = FeedForward(f"{path}.mlp", width, std, out_std, dtype)
        self.drop2 = Dropout(f"{path}.drop2", dropout)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        x = self.cast_input("layer", x)
        x = x + like(x, self.drop1(self.attn(self.norm1(x), batch), batch))
        return x + like(x, self.drop2(self.mlp(self.norm2(x)), batch))


def like(x: Tensor, y: Tensor) -> Tensor:
    """Return y, of any shape, in x's dtype."""
    return y if y.dtype == x.dtype else functional.cast(y, x.dtype)


class Embed(Module):
    """The first unit of a GPT: token embedding plus position embedding."""

    def __init__(self, vocabulary: int, context: int, width: int, dropout: float, std: float, dtype: Any) -> None:
        self.path = "embed"
        self.tokens = Embedding("embed.tokens", vocabulary, width, std, dtype)
        self.positions = Embedding("embed.positions", context, width, std, dtype)
        self.drop = Dropout("embed.drop", dropout)

    def shard(self, plan: "Plan") -> None:
        """Divide the rows of the token table; the position table is small and stays whole."""
        plan.vocabulary(self.tokens)
        plan.residual(self.positions, self.drop)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Map batch.inputs (B, T) to (B, T, D); x is None. Raise UserError if the batch is longer than the context."""
        where, context = batch.where.time, self.positions.weight.placement.shape[0]
        if where.stop > context:
            raise UserError(
                f"the batch has positions 0 to {where.stop - 1}, but the model's context is {context}.\n"
                "Give the loader that context, or the model a longer one"
            )
        time = xp.arange(where.start, where.stop)
        x = self.cast_input("layer", self.tokens(batch.inputs)) + self.cast_input("layer", self.positions(time))
        return self.drop(x, batch)


class Head(Module):
    """The last unit of a GPT: a LayerNorm and the classifier. `weight` is the token table if the two are tied."""

    def __init__(self, weight: Parameter, width: int, dtype: Any, epsilon: float = 1e-5) -> None:
        self.path = "head"
        self.norm = LayerNorm("head.norm", width, dtype, epsilon)
        self.classifier = Classifier("head.classifier", weight)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """Map x (B, T, D) to the loss, or to the logits (B, T, V) if the batch has no labels."""
        return self.classifier(self.norm(self.cast_input("layer", x)), batch)


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT. Raise UserError for invalid sizes."""

    vocabulary: int
    context: int = 64  # T, positions
    layers: int = 4
    heads: int = 4  # H
    width: int = 128  # D
    dropout: float = 0.0
    tied: bool = True  # the classifier's weight is the token table
    std: float = 0.02  # of the initial weights
    dtype: str = "float32"
    epsilon: float = 1e-5  # added to the variances in layer norms

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "layers", "heads", "width"):
            check_whole(name, getattr(self, name), 1)
        check_heads(self.heads, self.width)
        check_number("dropout", self.dropout, "at least 0 and less than 1")
        check_number("std", self.std, "at least 0")
        check_number("epsilon", self.epsilon, "at least 0")
        check_choice("dtype", self.dtype, DTYPES)
        if not isinstance(self.tied, (bool, np.bool_)):
            raise UserError(f"tied is {shown(self.tied)}; it must be True or False")

    @property
    def declared(self) -> int:
        """Bytes taken by the Python objects that describe the model, before it has any values."""
        return self.layers * 10_000  # a Block, its layers and parameters: measured with tracemalloc

    @property
    def parameters(self) -> int:
        """Number of parameters: the embedding tables; 12 D^2 of matrices, 9 D of biases and 4 D of norms per block; the
        final norm."""
        V, T, D = self.vocabulary, self.context, self.width
        return (V if self.tied else 2 * V) * D + T * D + self.layers * (12 * D * D + 13 * D) + 2 * D


def gpt(config: GPTConfig) -> Model:
    """Build a GPT: pre-norm blocks, GELU, learned positions, optionally tied embeddings.

    With L layers, the weights that write into the residual stream are initialized smaller by a factor of sqrt(2 L),
    since 2 L outputs are summed. Raise UserError if there are more layers than memory allows.
    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    check_memory(f"a model of {config.layers} layers", config.declared, "give fewer layers")
    c, dtype = config, np.dtype(config.dtype)
    out_std = c.std / (2 * c.layers) ** 0.5
    embed = Embed(c.vocabulary, c.context, c.width, c.dropout, c.std, dtype)
    sizes = (c.width, c.heads, c.dropout, c.std, out_std, dtype, c.epsilon)
    blocks = [Block(f"blocks.{i}", *sizes) for i in range(c.layers)]
    weight = embed.tokens.weight
    if not c.tied:
        weight = Parameter("head.classifier.weight", (c.vocabulary, c.width), std=c.std, dtype=dtype)
    return Model([embed, *blocks, Head(weight, c.width, dtype, c.epsilon)])
