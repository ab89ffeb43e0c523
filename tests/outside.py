"""A user's file: a layer, a model and an optimizer, made with nothing but `import minitrain as mt` and NumPy."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import minitrain as mt


def rms_norm(x: mt.Tensor, weight: mt.Tensor, epsilon: float = 1e-5) -> mt.Tensor:
    """y = x / sqrt(mean of x^2 over the last axis + epsilon) w.  x (..., D), w (D) -> y (..., D).

    Zhang, Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """
    return x / ((x * x).mean(axis=-1, keepdims=True) + epsilon).sqrt() * weight


class RMSNorm(mt.Module):
    """Scale the last axis to mean square 1, then by weight (D)."""

    per_position = True

    def __init__(self, path: str, width: int, dtype: Any = np.float32) -> None:
        self.path = path
        self.weight = mt.Parameter(f"{path}.weight", (width,), mean=1.0, dtype=dtype, decay=False)

    def __call__(self, x: mt.Tensor) -> mt.Tensor:
        """Map x (..., D) to (..., D)."""
        x = self.cast_input("rms_norm", x)
        return rms_norm(x, self.weight if self.weight.dtype == x.dtype else self.weight.cast(x.dtype))


class Lion(mt.optim.Optimizer):
    """The sign of an average of gradients. 4 bytes of state per parameter in fp32.

        w = w - lr (sign(beta1 m + (1 - beta1) g) + weight_decay w)
        m = beta2 m + (1 - beta2) g

    Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2.
    """

    states = ("m",)

    def __init__(
        self,
        reducer: mt.optim.Slices | Iterable[mt.Parameter],
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(reducer)
        self.beta1, self.beta2, self.weight_decay = beta1, beta2, weight_decay

    def update(self, w: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], lr: float, decay: bool) -> None:
        (m,) = state
        direction = np.sign(self.beta1 * m + (1 - self.beta1) * g)
        w -= lr * (direction + self.weight_decay * w if decay else direction)
        m *= self.beta2
        m += (1 - self.beta2) * g


class Embed(mt.Module):
    """The first unit: a token table."""

    def __init__(self, vocabulary: int, width: int, dtype: Any) -> None:
        self.path, self.tokens = "embed", mt.nn.Embedding("embed.tokens", vocabulary, width, 0.3, dtype)

    def __call__(self, x: mt.Tensor | None, batch: mt.Batch) -> mt.Tensor:
        """Map batch.inputs (B, T) to (B, T, D)."""
        return self.tokens(batch.inputs)


class Block(mt.Module):
    """x = x + down(gelu(up(norm(x))))."""

    def __init__(self, path: str, width: int, dtype: Any) -> None:
        self.path = path
        self.norm = RMSNorm(f"{path}.norm", width, dtype)
        self.up = mt.nn.Linear(f"{path}.up", width, 3 * width, 0.3, dtype)
        self.down = mt.nn.Linear(f"{path}.down", 3 * width, width, 0.3, dtype)

    def shard(self, plan: Any) -> None:
        """Divide the columns of up and the rows of down; the norm sees the whole x."""
        plan.residual(self.norm)
        plan.column(self.up)
        plan.row(self.down)

    def __call__(self, x: mt.Tensor, batch: mt.Batch) -> mt.Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        return x + self.down(self.up(self.norm(x), gelu=True)).cast(x.dtype)


class Head(mt.Module):
    """The last unit: a norm and the classifier."""

    def __init__(self, vocabulary: int, width: int, dtype: Any) -> None:
        self.path, self.norm = "head", RMSNorm("head.norm", width, dtype)
        weight = mt.Parameter("head.weight", (vocabulary, width), std=0.3, dtype=dtype)
        self.classifier = mt.nn.Classifier("head.classifier", weight)

    def __call__(self, x: mt.Tensor, batch: mt.Batch) -> mt.Tensor:
        """Map x (B, T, D) to the loss, or to the logits (B, T, V) if the batch has no labels."""
        return self.classifier(self.norm(x), batch)


def make_model(dtype: str = "float64", vocabulary: int = 11, width: int = 6, layers: int = 2) -> mt.Model:
    """Build Embed, `layers` Blocks and Head."""
    blocks = [Block(f"blocks.{i}", width, dtype) for i in range(layers)]
    return mt.Model([Embed(vocabulary, width, dtype), *blocks, Head(vocabulary, width, dtype)])
