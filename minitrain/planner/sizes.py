"""The sizes of a model, and from them its parameters: what formulas need to know of it."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..errors import UserError, check_choice, check_number, check_whole
from ..models.gpt import check_heads
from ..sharding import shard_of

Family = Literal["gpt", "llama"]


@dataclass(frozen=True)
class Sizes:
    """A GPT or a Llama. Raise UserError for invalid sizes.

    kv_heads: of keys and values, if there are fewer than heads. hidden: of the feed-forward layer, by default 4 D.
    length: of the sequences it is trained on, if shorter than its context.
    """

    family: Family = "gpt"
    vocabulary: int = 65
    context: int = 64
    layers: int = 4
    heads: int = 4
    width: int = 128
    kv_heads: int = 0
    hidden: int = 0
    tied: bool = True
    dropout: float = 0.0
    length: int = 0

    def __post_init__(self) -> None:
        check_choice("family", self.family, ("gpt", "llama"))
        for name in ("vocabulary", "context", "layers", "heads", "width"):
            check_whole(name, getattr(self, name), 1)
        for name, default in (("kv_heads", self.heads), ("hidden", 4 * self.width), ("length", self.context)):
            check_whole(name, getattr(self, name), 0)
            object.__setattr__(self, name, getattr(self, name) or default)
        check_heads(self.heads, self.width)
        check_number("dropout", self.dropout, "at least 0 and less than 1")
        if self.heads % self.kv_heads:
            raise UserError(f"kv_heads is {self.kv_heads}, which does not divide heads, {self.heads}")
        if self.length > self.context:
            raise UserError(f"length is {self.length}, but the context is {self.context}; give a shorter one")

    @property
    def units(self) -> int:
        """Number of units: the embedding, the blocks, the head."""
        return self.layers + 2

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        every = {w.path: w for unit in range(self.units) for w in self.weights(unit)}
        return sum(math.prod(w.shape) for w in every.values())

    def name(self, unit: int) -> str:
        """Return the path of a unit."""
        return "embed" if unit == 0 else "head" if unit == self.layers + 1 else f"blocks.{unit - 1}"

    def weights(self, unit: int) -> "tuple[Weight, ...]":
        """Return the parameters of a unit, in the order of their first use."""
        return _weights(self, unit)


@dataclass(frozen=True)
class Weight:
    """A parameter: its logical shape, whether it decays, and how tensor parallel holds it.

    cut: the axis that is divided, and into how many equal parts; None: each rank holds it whole. trained: whether it
    has a gradient. users: the units that use it.
    """

    path: str
    shape: tuple[int, ...]
    users: tuple[int, ...]
    decay: bool = True
    cut: tuple[int, int] | None = None
    trained: bool = True

    def local(self, t: int, r: int) -> int:
        """Return the number of elements on rank r of t along tp."""
        size = math.prod(self.shape)
        if self.cut is None or t == 1:
            return size
        part = shard_of(self.cut[1], t, r)
        return size // self.cut[1] * (part.stop - part.start)


@lru_cache(maxsize=10_000)
def _weights(s: Sizes, unit: int) -> tuple[Weight, ...]:
    return (gpt_weights if s.family == "gpt" else llama_weights)(s, unit)


def _vector(path: str, n: int, unit: int, parts: int = 0) -> Weight:
    return Weight(path, (n,), (unit,), False, (0, parts) if parts else None)


def _table(s: Sizes) -> Weight:
    """Return the token table, which the head uses too if the two are tied."""
    users = (0, s.layers + 1) if s.tied else (0,)
    return Weight("embed.tokens.weight", (s.vocabulary, s.width), users, cut=(0, s.vocabulary))


def _classifier(s: Sizes) -> Weight:
    last = s.layers + 1
    own = Weight("head.classifier.weight", (s.vocabulary, s.width), (last,), cut=(0, s.vocabulary))
    return _table(s) if s.tied else own


def gpt_weights(s: Sizes, unit: int) -> tuple[Weight, ...]:
    """Return the parameters of a unit of a GPT (models/gpt.py)."""
    D, H, F, name, u = s.width, s.heads, s.hidden, s.name(unit), (unit,)
    if unit == 0:
        return _table(s), Weight("embed.positions.weight", (s.context, D), u)
    if unit == s.layers + 1:
        return _vector("head.norm.weight", D, unit), _vector("head.norm.bias", D, unit), _classifier(s)
    return (
        _vector(f"{name}.norm1.weight", D, unit),
        _vector(f"{name}.norm1.bias", D, unit),
        Weight(f"{name}.attn.qkv.weight", (D, 3, H, D // H), u, cut=(2, H)),
        _vector(f"{name}.attn.qkv.bias", 3 * D, unit, H),
        Weight(f"{name}.attn.proj.weight", (D, D), u, cut=(0, H)),
        _vector(f"{name}.attn.proj.bias", D, unit),
        _vector(f"{name}.norm2.weight", D, unit),
        _vector(f"{name}.norm2.bias", D, unit),
        Weight(f"{name}.mlp.up.weight", (D, F), u, cut=(1, F)),
        _vector(f"{name}.mlp.up.bias", F, unit, F),
        Weight(f"{name}.mlp.down.weight", (F, D), u, cut=(0, F)),
        _vector(f"{name}.mlp.down.bias", D, unit),
    )


def llama_weights(s: Sizes, unit: int) -> tuple[Weight, ...]:
    """Return the parameters of a unit of a Llama: no biases and no table of positions, a third matrix per block."""
    D, H, K, F, name, u = s.width, s.heads, s.kv_heads, s.hidden, s.name(unit), (unit,)
    if unit == 0:
        return (_table(s),)
    if unit == s.layers + 1:
        return _vector("head.norm.weight", D, unit), _classifier(s)
    d = D // H
    return (
        _vector(f"{name}.norm1.weight", D, unit),
        Weight(f"{name}.attn.query.weight", (D, K, H // K, d), u, cut=(1, K)),  # heads that share keys stay together
        Weight(f"{name}.attn.key.weight", (D, K, d), u, cut=(1, K)),
        Weight(f"{name}.attn.value.weight", (D, K, d), u, cut=(1, K)),
        Weight(f"{name}.attn.proj.weight", (D, D), u, cut=(0, K)),
        _vector(f"{name}.norm2.weight", D, unit),
        Weight(f"{name}.mlp.gate.weight", (D, F), u, cut=(1, F)),
        Weight(f"{name}.mlp.up.weight", (D, F), u, cut=(1, F)),
        Weight(f"{name}.mlp.down.weight", (F, D), u, cut=(0, F)),
    )
