"""The units of a GPT and of a Llama as lists of operations, in the order of the forward. Backward reverses it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from .operations import (
    EMBEDDING,
    HEAD,
    Local,
    Op,
    attention,
    columns,
    cross_entropy,
    dropout,
    elementwise,
    layer_norm,
    linear,
    rms_norm,
    row,
)


@lru_cache(maxsize=10_000)
def operations(s: Local, unit: int) -> Sequence[Op]:
    """Return the operations of unit number `unit` on one rank."""
    name, is_gpt = s.sizes.name(unit), s.sizes.family == "gpt"
    if unit == 0:
        return gpt_embed(s) if is_gpt else [embedding(s), *s.leave(EMBEDDING)]
    if unit == s.sizes.units - 1:
        tokens = "embed.tokens" if s.sizes.tied else "head.classifier"
        return [(layer_norm if is_gpt else rms_norm)(s, "head.norm"), *classifier(s, f"{tokens}.weight")]
    return (gpt_block if is_gpt else llama_block)(s, name)


def embedding(s: Local) -> Op:
    """Return the rows of the token table."""
    return Op(weights=(("embed.tokens.weight", ()),), waits=s.stream)


def gpt_embed(s: Local) -> list[Op]:
    """Return the embedding: the rows of two tables, added."""
    numbers, rows = 8 * s.sizes.length, s.time * s.sizes.width * s.item  # of the positions
    table = (("embed.positions.weight", ()),)
    positions = Op(weights=table, kept_for_weights=numbers, room=rows, room_back=rows, waits=rows)
    return [embedding(s), *s.leave(EMBEDDING), positions, residual(s), *dropout(s)]


def residual(s: Local) -> Op:
    """Return a sum of two arrays (B, T, D)."""
    return Op(room=2 * s.stream, room_back=s.stream)


def gpt_block(s: Local, path: str) -> list[Op]:
    """Return a block: attention, then the feed-forward layer, each behind a norm."""
    D, H, F = s.sizes.width, s.own(s.sizes.heads), s.own(s.sizes.hidden)
    d = D // s.sizes.heads
    return [
        layer_norm(s, f"{path}.norm1"),
        *columns(s, D, (f"{path}.attn.qkv", 3 * H * d), bias=True),
        attention(s, H, H, d),
        *row(s, f"{path}.attn.proj", H * d, D, bias=True),
        *dropout(s),
        residual(s),
        layer_norm(s, f"{path}.norm2"),
        *columns(s, D, (f"{path}.mlp.up", F), bias=True, gelu=True),
        *row(s, f"{path}.mlp.down", F, D, bias=True),
        *dropout(s),
        residual(s),
    ]


def llama_block(s: Local, path: str) -> list[Op]:
    """Return a block with rotary positions, fewer heads of keys and values, and SwiGLU, y = W_down (silu(g) u)."""
    D, K, F = s.sizes.width, s.own(s.sizes.kv_heads), s.own(s.sizes.hidden)
    H = K * (s.sizes.heads // s.sizes.kv_heads)
    d = D // s.sizes.heads
    q, k, v = ((f"{path}.attn.{name}", n * d) for name, n in (("query", H), ("key", K), ("value", K)))
    return [
        rms_norm(s, f"{path}.norm1"),
        *columns(s, D, q, k, v),
        elementwise(s, H * d),  # the rotation of q, then of k
        elementwise(s, K * d),
        attention(s, H, K, d),
        *row(s, f"{path}.attn.proj", H * d, D),
        residual(s),
        rms_norm(s, f"{path}.norm2"),
        *columns(s, D, (f"{path}.mlp.gate", F), (f"{path}.mlp.up", F)),
        elementwise(s, F, inputs=2, kept=2),
        *row(s, f"{path}.mlp.down", F, D),
        residual(s),
    ]


def classifier(s: Local, weight: str) -> list[Op]:
    """Return the logits and the loss."""
    V = s.own(s.sizes.vocabulary)
    logits = linear(s, "", s.sizes.width, V, bias=False)
    logits = replace(logits, weights=((weight, logits.inputs),))
    if not s.half:  # their gradient is in the memory of the probabilities
        logits = replace(logits, room_back=s.whole, waits=0)
    return [*s.enter(HEAD), logits, cross_entropy(s, V)]
