"""Users' own models, divided in every way: they match the serial run, or are refused by the layer's name.

Each is written as its author would write it, with or without a `shard` method.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest

from minitrain import functional as F
from minitrain import fused
from minitrain.autograd import no_grad
from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch, Where
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import Attention, Block, Embed, FeedForward, GPTConfig, Head, Model, gpt
from minitrain.nn import (
    CausalAttention,
    Classifier,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    loss_or_logits,
)
from minitrain.optim import SGD, Adam
from minitrain.parallel import divided_layers
from minitrain.parallel.divided_layers import ColumnLinear, check_linear, in_form
from minitrain.parallel.division_checks import Passed, cure, far
from minitrain.parallel.held_parameters import spoken
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.plan import Plan
from minitrain.parallel.sequence_parallel import SequenceIO
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.tensor_parallel import TensorIO
from minitrain.tensor import Tensor
from minitrain.train.checkpoint import gather
from minitrain.train.step import train_step
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import BUCKET_MB, SEED, STEPS, Run, T, V, difference, toy_batch
from tests.tiers import full

H, D = 3, 12  # heads, and the width: each head is 4 wide
WIDE = 19  # hidden width of a feed-forward
BOUND = 1e-12
DTYPE = np.dtype("float64")

# name -> (axes of the mesh, the strategy)
PLACES: dict[str, tuple[dict[str, int], Strategy]] = {
    "dp 2": ({"dp": 2}, Strategy()),
    "tp 2": ({"tp": 2}, Strategy()),
    "tp 3": ({"tp": 3}, Strategy()),
    "sp 2": ({"tp": 2}, Strategy(sp=True)),
    "sp 3": ({"tp": 3}, Strategy(sp=True)),
    "pp 2": ({"pp": 2}, Strategy()),
    "zero3": ({"dp": 2}, Strategy(zero=3)),
    "dp 2 pp 2 tp 2": ({"dp": 2, "pp": 2, "tp": 2}, Strategy()),
}
FIRST = ("tp 2", "sp 2")  # run in the first tier
EVERYWHERE = tuple(PLACES)
Make = Callable[[], Model]


def train(world: Communicator, make: Make, place: str, adam: bool = False) -> Run:
    """Train for three steps and record everything."""
    axes, strategy = PLACES[place] if world.size > 1 else ({}, Strategy())
    run, model, mesh = Run(), make(), Mesh(world, **axes)
    reducer = parallelize(model, mesh, replace(strategy, bucket_mb=BUCKET_MB))
    reducer.init(SEED)
    optimizer: Any = Adam(reducer, epsilon=1e-4) if adam else SGD(reducer, momentum=0.9)
    update = optimizer.step

    def step(lr: float) -> None:
        run.gradients.append(gather(model, world, "grad", reducer))
        update(lr)

    optimizer.step = step
    for number in range(STEPS):
        mine = toy_batch(number).part(mesh.coordinates["dp"], mesh.sizes["dp"])
        micros = 2 if mesh.sizes["pp"] > 1 else 1
        loss, _ = train_step(model, mine, reducer, optimizer, 0.01 if adam else 0.05, micros)
        run.losses.append(sum(mesh.group("dp", "pp").gather_objects(loss)))
    run.parameters = gather(model, world, "data", reducer)
    reducer.close()
    return run


@cache
def serial(make: Make, adam: bool) -> Run:
    return train(world_of_one(), make, "one", adam)


def on_ranks(make: Make, place: str, adam: bool = False) -> list[Run]:
    ranks = int(np.prod([*PLACES[place][0].values()]))
    return threads.run(ranks, lambda world: train(RingCommunicator(world), make, place, adam), timeout=30, wait=5)


def same(make: Make, place: str, adam: bool = False) -> None:
    """Assert that every rank has the serial run's loss, gradients and parameters."""
    true = serial(make, adam)
    for found in on_ranks(make, place, adam):
        np.testing.assert_allclose(found.losses, true.losses, rtol=BOUND)
        assert max(map(difference, found.gradients, true.gradients)) <= BOUND
        assert difference(found.parameters, true.parameters) <= BOUND


def refused(make: Make, place: str, said: str) -> None:
    """Assert that one process trains it, and that several raise UserError in the first step at the latest."""
    serial(make, False)
    with pytest.raises(RuntimeError, match=rf"(?s)raised UserError: .*{said}"):
        on_ranks(make, place)


def model(*blocks: Module, embed: Module | None = None, head: Module | None = None) -> Model:
    """Return a GPT with these blocks. Every parameter has init_std 0.3, large enough for errors to show."""
    first: Any = embed or Embed(V, T, D, 0.1, 0.3, DTYPE)
    made = Model([first, *blocks, head or Head(first.tokens.weight, D, DTYPE)])
    for p in made.parameters():
        p.init_std = 0.3
    return made


def block(i: int, attn: Module | None = None, mlp: Module | None = None, kind: type[Block] = Block) -> Block:
    """Return a GPT block with custom parts."""
    made = kind(f"blocks.{i}", D, H, 0.1, 0.3, 0.3, DTYPE)
    made.attn, made.mlp = attn or made.attn, mlp or made.mlp  # type: ignore[assignment]
    return made


def blocks(**parts: Callable[[str], Module]) -> Model:
    """Return a GPT with two blocks of such parts."""
    made = [{name: make(f"blocks.{i}.{name}") for name, make in parts.items()} for i in range(2)]
    return model(*(block(i, parts.get("attn"), parts.get("mlp")) for i, parts in enumerate(made)))


# A Llama --------------------------------------------------------------------------------------------------------------


class Matrix(Module):
    """A layer without a bias."""

    def __init__(self, path: str, fan_in: int, *out: int) -> None:
        self.path = path
        self.weight = Parameter(f"{path}.weight", (fan_in, *out), dtype=DTYPE)

    def __call__(self, x: Tensor) -> Tensor:
        return fused.linear(x, self.weight)


class RMSNorm(Module):
    per_position = True

    def __init__(self, path: str, width: int) -> None:
        self.path = path
        self.weight = Parameter(f"{path}.weight", (width,), mean=1.0, dtype=DTYPE, decay=False)

    def __call__(self, x: Tensor) -> Tensor:
        square = F.mean(x * x, axis=-1, keepdims=True) + 1e-5
        return x * F.exp(F.log(square) * -0.5) * self.weight


def rotate(x: Tensor, start: int) -> Tensor:
    """x (B, T, H, d)."""
    half = x.shape[-1] // 2
    angle = np.outer(np.arange(start, start + x.shape[1]), 100.0 ** -np.linspace(0, 1, half, endpoint=False))
    c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return F.concatenate([a * c - b * s, a * s + b * c], axis=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """q, k, v (B, T, H, d) -> (B, T, H d)."""
    parts = [F.reshape(x, (*x.shape[:2], 1, *x.shape[2:])) for x in (q, k, v)]
    return fused.causal_attention(F.concatenate(parts, axis=2), start)


class Rotary(Module):
    def __init__(self, path: str) -> None:
        self.path = path
        self.qkv = Matrix(f"{path}.qkv", D, 3, H, D // H)
        self.proj = Matrix(f"{path}.proj", D, D)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        qkv, start = self.qkv(x), batch.where.time.start
        return self.proj(attend(rotate(qkv[:, :, 0], start), rotate(qkv[:, :, 1], start), qkv[:, :, 2], start))


class DividedRotary(Rotary):
    def shard(self, plan: Plan) -> None:
        plan.heads(self.qkv)
        plan.row(self.proj, parts=H)


class SwiGLU(Module):
    def __init__(self, path: str) -> None:
        self.path = path
        self.gate, self.up = (Matrix(f"{path}.{name}", D, WIDE) for name in ("gate", "up"))
        self.down = Matrix(f"{path}.down", WIDE, D)

    def __call__(self, x: Tensor) -> Tensor:
        g = self.gate(x)
        return self.down(g / (F.exp(-g) + 1.0) * self.up(x))


class DividedSwiGLU(SwiGLU):
    def shard(self, plan: Plan) -> None:
        plan.column(self.gate, self.up)
        plan.row(self.down)


class LlamaBlock(Module):
    def __init__(self, path: str, attn: type[Rotary], mlp: type[SwiGLU]) -> None:
        self.path = path
        self.norm1, self.attn = RMSNorm(f"{path}.norm1", D), attn(f"{path}.attn")
        self.norm2, self.mlp = RMSNorm(f"{path}.norm2", D), mlp(f"{path}.mlp")

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        x = x + self.attn(self.norm1(x), batch)
        return x + self.mlp(self.norm2(x))


class LlamaEmbed(Module):
    def __init__(self) -> None:
        self.path = "embed"
        self.tokens = Embedding("embed.tokens", V, D, dtype=DTYPE)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        return self.tokens(batch.inputs)


class LlamaHead(Module):
    def __init__(self, weight: Parameter) -> None:
        self.path = "head"
        self.norm = RMSNorm("head.norm", D)
        self.classifier = Classifier("head.classifier", weight)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.classifier(self.norm(x), batch)


def llama_of(attn: type[Rotary], mlp: type[SwiGLU]) -> Model:
    embed = LlamaEmbed()
    layers = [LlamaBlock(f"layers.{i}", attn, mlp) for i in range(3)]  # layers need not be called blocks
    return model(*layers, embed=embed, head=LlamaHead(embed.tokens.weight))


def llama() -> Model:
    return llama_of(DividedRotary, DividedSwiGLU)


def whole_llama() -> Model:
    return llama_of(Rotary, SwiGLU)


# Parts of a GPT -------------------------------------------------------------------------------------------------------


class Gated(FeedForward):
    """SwiGLU of library layers. It inherits the library's `shard`, which does not name the gate."""

    def __init__(self, path: str) -> None:
        super().__init__(path, D, 0.3, 0.3, DTYPE)
        self.gate = Linear(f"{path}.gate", D, 4 * D, dtype=DTYPE)

    def __call__(self, x: Tensor) -> Tensor:
        g = self.gate(x)
        return self.down(g / (F.exp(-g) + 1.0) * self.up(x))


class NamedGate(Gated):
    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.column(self.gate)


class Relu(FeedForward):
    def __init__(self, path: str) -> None:
        super().__init__(path, D, 0.3, 0.3, DTYPE)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class Sharp(Attention):
    def __init__(self, path: str) -> None:
        super().__init__(path, D, H, 0.3, 0.3, DTYPE)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        scale = 3 * self.qkv.weight.shape[-1] ** -0.5
        return self.proj(fused.causal_attention(self.qkv(x), batch.where.time.start, scale=scale))


class Fused(Module):
    """Gate and up in one matrix (D, 2, F); each rank has the same columns of both."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.both = Linear(f"{path}.both", D, (2, WIDE), dtype=DTYPE)
        self.down = Linear(f"{path}.down", WIDE, D, dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        plan.column(self.both, axis=1)
        plan.row(self.down)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.both(x)
        return self.down(F.tanh(y[..., 0, :]) * y[..., 1, :])


class LoRA(Relu):
    """A low-rank matrix added to `up`."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.a, self.b = Matrix(f"{path}.a", D, 2), Matrix(f"{path}.b", 2, 4 * D)

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.column(self.b)
        plan.everywhere(self.a)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x) + self.b(self.a(x))))


class Parallel(Block):
    """x + attn(norm(x)) + mlp(norm(x))."""

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        n = self.norm1(x)
        return x + self.drop1(self.attn(n, batch), batch) + self.drop2(self.mlp(n), batch)


class Normed(Attention):
    """A norm over each head of q and k, and a gate per head."""

    def __init__(self, path: str) -> None:
        super().__init__(path, D, H, 0.3, 0.3, DTYPE)
        self.norm_q, self.norm_k = (LayerNorm(f"{path}.norm_{name}", D // H, DTYPE) for name in "qk")
        self.gate = Parameter(f"{path}.gate", (H,), mean=1.0, dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.inside(self.norm_q, self.norm_k)
        plan.split(self.gate, 0)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        qkv = self.qkv(x)
        q, k, v = self.norm_q(qkv[:, :, 0]), self.norm_k(qkv[:, :, 1]), qkv[:, :, 2]
        gate = F.reshape(self.gate, (*self.gate.shape, 1))
        return self.proj(attend(q, k, v * gate, batch.where.time.start))


class Core(Module):
    """Everything between qkv and proj, as a module with its own parameter and layer."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sharpness = Parameter(f"{path}.sharpness", (), mean=1.0, dtype=DTYPE)
        self.norm = RMSNorm(f"{path}.norm", D // H)

    def __call__(self, qkv: Tensor, start: int) -> Tensor:
        return attend(self.norm(qkv[:, :, 0]) * self.sharpness, qkv[:, :, 1], qkv[:, :, 2], start)


class WithCore(Attention):
    def __init__(self, path: str) -> None:
        super().__init__(path, D, H, 0.3, 0.3, DTYPE)
        self.middle = Core(f"{path}.middle")

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.inside(self.middle)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.proj(self.middle(self.qkv(x), batch.where.time.start))


class Separate(Module):
    """Separate layers for q, k and v."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.q, self.k, self.v = (Linear(f"{path}.{name}", D, (H, D // H), dtype=DTYPE) for name in "qkv")
        self.out = Linear(f"{path}.out", D, D, dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        plan.heads(self.q, self.k, self.v)
        plan.row(self.out, parts=H)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.out(attend(self.q(x), self.k(x), self.v(x), batch.where.time.start))


class Grouped(Module):
    """Two heads of q for each head of k and v; the latter are what is divided."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.q = Matrix(f"{path}.q", D, H, 2, 2)
        self.kv = Matrix(f"{path}.kv", D, 2, H, 2)
        self.out = Matrix(f"{path}.out", 4 * H, D)

    def shard(self, plan: Plan) -> None:
        plan.column(self.q)
        plan.heads(self.kv)
        plan.row(self.out, parts=H)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        q, kv = self.q(x), self.kv(x)
        heads = [attend(q[:, :, :, i], kv[:, :, 0], kv[:, :, 1], batch.where.time.start) for i in range(2)]
        groups = [F.reshape(y, (*y.shape[:2], y.shape[2] // 2, 1, 2)) for y in heads]
        y = F.concatenate(groups, axis=3)
        return self.out(F.reshape(y, (*y.shape[:2], 4 * y.shape[2])))


class Twice(Block):
    """Calls its feed-forward twice."""

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return super().__call__(x + self.mlp(self.norm2(x)), batch)


class OneTable(FeedForward):
    """Two feed-forwards; the second has the first one's weights."""

    def __init__(self, path: str) -> None:
        super().__init__(path, D, 0.3, 0.3, DTYPE)
        self.up2 = Linear(f"{path}.up2", D, 4 * D, dtype=DTYPE)
        self.down2 = Linear(f"{path}.down2", 4 * D, D, dtype=DTYPE)
        self.up2.weight, self.down2.weight = self.up.weight, self.down.weight

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.column(self.up2)
        plan.row(self.down2)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + self.down2(F.tanh(self.up2(x)))


class ScalarFirst(Block):
    """A learned scalar, the block's first parameter."""

    def __init__(self, path: str, *sizes: Any) -> None:
        self.gate = Parameter(f"{path}.gate", (1,), mean=1.0, dtype=DTYPE)
        super().__init__(path, *sizes)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return super().__call__(x, batch) * self.gate


class Positions(Module):
    """A scale for each of the positions given here."""

    per_position = True

    def __init__(self, path: str) -> None:
        self.path = path
        self.scale = Parameter(f"{path}.scale", (T, D), mean=1.0, dtype=DTYPE)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return x * self.scale[batch.where.residual]


class Scaled(Block):
    def __init__(self, path: str, *sizes: Any) -> None:
        super().__init__(path, *sizes)
        self.positions = Positions(f"{path}.positions")

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return super().__call__(self.positions(x, batch), batch)


class Biased(Classifier):
    """Logits with a bias."""

    def __init__(self, path: str) -> None:
        super().__init__(path, Parameter(f"{path}.weight", (V, D), dtype=DTYPE))
        self.bias = Parameter(f"{path}.bias", (V,), dtype=DTYPE, decay=False)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return loss_or_logits(fused.linear_transposed(x, self.weight) + self.bias, batch)


class GatheredBiased(Biased):
    def shard(self, plan: Plan) -> None:
        plan.gather(self)


class Strong(Embedding):
    """A table whose rows are multiplied by a number."""

    def shard(self, plan: Plan) -> None:
        plan.everywhere(self)

    def __call__(self, ids: Array) -> Tensor:
        return Embedding.__call__(self, ids) * D**0.5


class WholeHead(Classifier):
    def shard(self, plan: Plan) -> None:
        plan.gather(self)


class OwnEmbed(Module):
    """Tokens and positions, by an author unaware of ranks."""

    def __init__(self) -> None:
        self.path = "embed"
        self.tokens = Embedding("embed.tokens", V, D, dtype=DTYPE)
        self.positions = Embedding("embed.positions", T, D, dtype=DTYPE)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        time = batch.where.time
        return self.tokens(batch.inputs) + self.positions(np.arange(time.start, time.stop))


class FirstEverywhere(OwnEmbed):
    """The same with dropout, whole on every rank."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = Dropout("embed.drop", 0.1)

    def shard(self, plan: Plan) -> None:
        plan.everywhere(self)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        return self.drop(super().__call__(x, batch), batch)


class Unsaid(Module):
    """Attention without a `shard` method, with its own dropout."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.qkv = Linear(f"{path}.qkv", D, (3, H, D // H), dtype=DTYPE)
        self.drop = Dropout(f"{path}.drop", 0.1)
        self.proj = Linear(f"{path}.proj", D, D, dtype=DTYPE)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        y = fused.causal_attention(self.qkv(x), batch.where.time.start)
        return self.proj(self.drop(y, batch))


class Everywhere(Block):
    """A block that declares its attention to be whole on every rank."""

    def __init__(self, path: str, *sizes: Any) -> None:
        super().__init__(path, *sizes)
        self.attn = Unsaid(f"{path}.attn")  # type: ignore[assignment]

    def shard(self, plan: Plan) -> None:
        plan.everywhere(self.attn)
        self.mlp.shard(plan)


class MultiQuery(Module):
    """One head of k and v for all heads of q, and one gate for their columns: whole layers that meet divided heads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.q = Linear(f"{path}.q", D, (H, D // H), dtype=DTYPE)
        self.kv = Linear(f"{path}.kv", D, (2, 1, D // H), dtype=DTYPE)
        self.gate = Matrix(f"{path}.gate", D, 1, D // H)
        self.out = Linear(f"{path}.out", D, D, dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        plan.heads(self.q)
        plan.enter(self.kv, self.gate)
        plan.row(self.out, parts=H)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        q, kv, gate = self.q(x), self.kv(x), F.tanh(self.gate(x))
        k, v = (F.concatenate([kv[:, :, i]] * q.shape[2], axis=2) for i in range(2))
        return self.out(attend(q, k, v * gate, batch.where.time.start))


class Shift(Module):
    """Adds the previous position to each position."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.weight = Parameter(f"{path}.weight", (D,), mean=1.0, dtype=DTYPE)
        self.drop = Dropout(f"{path}.drop", 0.1)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        first = Tensor(np.zeros((len(x), 1, D), x.dtype))
        return self.drop(x + F.concatenate([first, x[:, :-1]], axis=1), batch) * self.weight


class Shifted(Block):
    """A block with a shift, which is given its batch by keyword."""

    def __init__(self, path: str, *sizes: Any) -> None:
        super().__init__(path, *sizes)
        self.shift = Shift(f"{path}.shift")

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.everywhere(self.shift)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return super().__call__(self.shift(x, batch=batch), batch)


class HeadGate(Module):
    def __init__(self, path: str) -> None:
        self.path = path
        self.scale = Parameter(f"{path}.scale", (H, 1), mean=1.0, dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        plan.split(self.scale, 0)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.scale


class Sloped(Separate):
    """A constant per head, as a frozen parameter: each rank has those of its own heads."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.slopes = Parameter(f"{path}.slopes", (H, 1), dtype=DTYPE)
        self.slopes.data, self.slopes.requires_grad = 2.0 ** -np.arange(H)[:, None], False

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.split(self.slopes, 0)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.out(attend(self.q(x), self.k(x), self.v(x) * self.slopes, batch.where.time.start))


class GatedHeads(Separate):
    """A layer is the gate of each head."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.gate = HeadGate(f"{path}.gate")

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        self.gate.shard(plan)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.out(attend(self.q(x), self.k(x), self.gate(self.v(x)), batch.where.time.start))


class OwnHead(Module):
    """Computes the loss directly from the token table."""

    def __init__(self, weight: Parameter) -> None:
        self.path = "head"
        self.norm = LayerNorm("head.norm", D, DTYPE)
        self.weight = weight

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return loss_or_logits(fused.linear_transposed(self.norm(x), self.weight), batch)


def with_head(classifier: Classifier) -> Model:
    head = Head(classifier.weight, D, DTYPE)
    head.classifier = classifier
    return model(block(0), block(1), head=head)


def named_gate() -> Model:
    return blocks(mlp=NamedGate)


def unnamed_gate() -> Model:
    return blocks(mlp=Gated)


def subclasses() -> Model:
    return blocks(mlp=Relu, attn=Sharp)


def fused_columns() -> Model:
    return blocks(mlp=Fused, attn=Grouped)


def low_rank() -> Model:
    return blocks(mlp=LoRA)


def separate() -> Model:
    return blocks(attn=Separate)


def normed_heads() -> Model:
    return blocks(attn=Normed)


def module_inside() -> Model:
    return blocks(attn=WithCore)


def parallel() -> Model:
    return model(block(0, kind=Parallel), block(1, kind=Parallel))


def twice() -> Model:
    return model(block(0, kind=Twice), block(1))


def shared_nearby() -> Model:
    """Two blocks of the first of two stages share."""
    one = Relu("mlp")
    return model(block(0, mlp=one), block(1, mlp=one), block(2), block(3))


def shared_afar() -> Model:
    """Blocks of both stages share."""
    one, other = Relu("mlp"), Relu("other")
    return model(block(0, mlp=one), block(1, mlp=other), block(2, mlp=other), block(3, mlp=one))


def unit_twice() -> Model:
    """One block is in both stages."""
    one = block(0)
    return model(one, one, one)


def one_table() -> Model:
    return blocks(mlp=OneTable)


def head_with_bias() -> Model:
    return with_head(GatheredBiased("head.classifier"))


def scalar_first() -> Model:
    return model(block(0, kind=ScalarFirst), block(1, kind=ScalarFirst))


def per_position() -> Model:
    return model(block(0, kind=Scaled), block(1, kind=Scaled))


def strong_table() -> Model:
    """Tied, with a table that overrides __call__: both uses are whole."""
    embed = LlamaEmbed()
    embed.tokens = Strong("embed.tokens", V, D, dtype=DTYPE)
    head = Head(embed.tokens.weight, D, DTYPE)
    head.classifier = WholeHead("head.classifier", embed.tokens.weight)
    return model(block(0), block(1), embed=embed, head=head)


def own_embed() -> Model:
    return model(block(0), block(1), embed=OwnEmbed())


def first_everywhere() -> Model:
    own = Parameter("head.classifier.weight", (V, D), dtype=DTYPE)
    return model(block(0), block(1), embed=FirstEverywhere(), head=Head(own, D, DTYPE))


def attention_everywhere() -> Model:
    return model(block(0, kind=Everywhere), block(1))


def gated_heads() -> Model:
    return blocks(attn=GatedHeads)


def multi_query() -> Model:
    return blocks(attn=MultiQuery)


def sloped() -> Model:
    return blocks(attn=Sloped)


def shifted() -> Model:
    return model(block(0, kind=Shifted), block(1))


class GatheredHead(OwnHead):
    """A head with its own weight and a bias."""

    def __init__(self) -> None:
        super().__init__(Parameter("head.weight", (V, D), dtype=DTYPE))
        self.bias = Parameter("head.bias", (V,), dtype=DTYPE, decay=False)

    def shard(self, plan: Plan) -> None:
        plan.gather(self)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return loss_or_logits(fused.linear_transposed(self.norm(x), self.weight) + self.bias, batch)


def gathered_head() -> Model:
    return model(block(0), block(1), head=GatheredHead())


def own_head() -> Model:
    embed = Embed(V, T, D, 0.1, 0.3, DTYPE)
    return model(block(0), block(1), embed=embed, head=OwnHead(embed.tokens.weight))


EQUAL: list[Make] = [
    llama, whole_llama, named_gate, subclasses, fused_columns, low_rank, separate, normed_heads, module_inside,
    parallel, twice, shared_nearby, shared_afar, unit_twice, one_table, head_with_bias, scalar_first, per_position,
    strong_table, own_embed, first_everywhere, attention_everywhere, gated_heads, gathered_head, multi_query, shifted,
    sloped,
]  # fmt: skip
OTHERS: dict[str, tuple[dict[str, int], Strategy]] = {
    "pp 3 zero1": ({"pp": 3}, Strategy(zero=1)),
    "pp 2 interleaved": ({"pp": 2}, Strategy(schedule="interleaved", chunks=2)),
    "dp 2 pp 2 overlap": ({"dp": 2, "pp": 2}, Strategy(reduce="overlap")),
    "dp 2 tp 2 zero3": ({"dp": 2, "tp": 2}, Strategy(zero=3)),
    "recompute 1": ({"dp": 2}, Strategy(recompute=1)),
    "recompute 6": ({"dp": 2}, Strategy(recompute=6)),
    "sp 2 recompute": ({"tp": 2}, Strategy(sp=True, recompute=2)),
}
PLACES |= OTHERS
ADAM = (llama, normed_heads, shared_afar, head_with_bias)
# In the first tier, each model is divided by "sp 2", which divides it as "tp 2" does, and the sequence; by "tp 2" some.
WITHOUT_SP = (*ADAM, whole_llama, fused_columns, gathered_head, multi_query)
FEW = {(make, place) for make in EQUAL for place in FIRST if place != "tp 2" or make in WITHOUT_SP}


@pytest.mark.parametrize(
    ("make", "place"),
    [(make, place) if (make, place) in FEW else full(make, place) for make in EQUAL for place in EVERYWHERE],
    ids=[f"{make.__name__}-{place}" for make in EQUAL for place in EVERYWHERE],
)
def test_own_model(make: Make, place: str) -> None:
    if place.startswith("sp") and make is whole_llama:
        refused(make, place, r"layers\.0\.attn\.qkv a shard of the sequence.* class Matrix.*per_position = True")
    else:
        same(make, place)


@pytest.mark.parametrize("place", [full(place) if place[0] in "ds" else place for place in OTHERS if place[0] != "r"])
@pytest.mark.parametrize("make", [shared_afar, unit_twice])
def test_shared_by_stages_and_segments(make: Make, place: str) -> None:
    """Ranks that hold shared weights in different places add gradients in one order; so do two chunks on one rank."""
    same(make, place)


@pytest.mark.parametrize("place", [place if place == FIRST[-1] else full(place) for place in list(PLACES)[:8]])
@pytest.mark.parametrize("make", ADAM, ids=lambda make: make.__name__)
def test_own_model_with_adam(make: Make, place: str) -> None:
    same(make, place, adam=True)


# Wrong declarations ---------------------------------------------------------------------------------------------------


def said(part: type[Module], shard: Callable[[Any, Any], None], *, attn: bool = False) -> Make:
    """Return a GPT whose feed-forward (or attention) is of class `part` and has this `shard`."""
    kind = type(part.__name__, (part,), {"shard": shard})

    def make() -> Model:
        return blocks(attn=kind) if attn else blocks(mlp=kind)

    return make


def block_that(shard: Callable[[Any, Any], None]) -> Make:
    """Return a GPT whose blocks have this `shard`."""
    kind = type("OwnBlock", (Block,), {"shard": shard})
    return lambda: model(block(0, kind=kind), block(1, kind=kind))


def row_first(self: Any, plan: Plan) -> None:
    plan.row(self.up, self.down)


def column_last(self: Any, plan: Plan) -> None:
    plan.column(self.up, self.down)


def norms_named(word: str) -> Callable[[Any, Any], None]:
    """Return a `shard` that names everything in a block, and its first norm by `word`."""

    def shard(self: Any, plan: Plan) -> None:
        Module.shard(self, plan)
        getattr(plan, word)(self.norm1)
        plan.residual(self.norm2, self.drop1, self.drop2)

    return shard


def residual_inside(self: Any, plan: Plan) -> None:
    Attention.shard(self, plan)
    plan.residual(self.norm_q, self.norm_k)
    plan.split(self.gate, 0)


def split_wrongly(axis: int) -> Callable[[Any, Any], None]:
    def shard(self: Any, plan: Plan) -> None:
        Attention.shard(self, plan)
        plan.inside(self.norm_q, self.norm_k)
        plan.split(self.gate, axis)

    return shard


class WideGate(Normed):
    """A gate per head and channel."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.gate = Parameter(f"{path}.gate", (H, D // H), mean=1.0, dtype=DTYPE)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        q, k, v = (self.qkv(x)[:, :, i] for i in range(3))
        return self.proj(attend(self.norm_q(q), self.norm_k(k), v * self.gate, batch.where.time.start))


class Dropping(Attention):
    """A dropout between columns and rows that `shard` does not name."""

    def __init__(self, path: str) -> None:
        super().__init__(path, D, H, 0.3, 0.3, DTYPE)
        self.drop = Dropout(f"{path}.drop", 0.1)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.proj(self.drop(fused.causal_attention(self.qkv(x)), batch))


def drop_residual(self: Any, plan: Plan) -> None:
    Attention.shard(self, plan)
    plan.residual(self.drop)


def without_a_plan(self: Any) -> None:  # the mistake
    pass


class Curved(Matrix):
    """A layer that does more than a matrix product."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(F.tanh(x))


class Affine(Matrix):
    """A layer with its own bias."""

    def __init__(self, path: str, fan_in: int, *out: int) -> None:
        super().__init__(path, fan_in, *out)
        self.bias = Parameter(f"{path}.bias", out, dtype=DTYPE, decay=False)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + self.bias


def swiglu_with(kind: type[Matrix]) -> type[SwiGLU]:
    class Other(DividedSwiGLU):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            self.down = kind(f"{path}.down", WIDE, D)

    return Other


class Mirrored(FeedForward):
    """down is up transposed."""

    def __init__(self, path: str) -> None:
        super().__init__(path, D, 0.3, 0.3, DTYPE)
        self.up = Matrix(f"{path}.up", D, D)  # type: ignore[assignment]
        self.down = Matrix(f"{path}.down", D, D)  # type: ignore[assignment]
        self.down.weight = self.up.weight

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class Borrowing(Block):
    """A second feed-forward, by hand, that uses the first one's weights."""

    def __init__(self, path: str, *sizes: Any) -> None:
        super().__init__(path, *sizes)
        self.again = Linear(f"{path}.again", D, 4 * D, dtype=DTYPE)
        self.again.weight = self.mlp.up.weight

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return super().__call__(x + F.mean(self.again(x), axis=-1, keepdims=True), batch)


def dropout_inside(self: Any, plan: Plan) -> None:
    Attention.shard(self, plan)
    plan.inside(self.drop)


def heads_of_a_flat_matrix(self: Any, plan: Plan) -> None:
    plan.heads(self.gate)
    plan.column(self.up)
    plan.row(self.down)


def rows_without_heads(self: Any, plan: Plan) -> None:
    plan.heads(self.qkv)
    plan.row(self.proj)


def rows_in_wrong_parts(self: Any, plan: Plan) -> None:
    plan.heads(self.qkv)
    plan.row(self.proj, parts=7)


def wrong_axis(self: Any, plan: Plan) -> None:
    plan.column(self.up, axis=-1)
    plan.row(self.down)


def core_residual(self: Any, plan: Plan) -> None:
    Attention.shard(self, plan)
    plan.residual(self.middle)


def row_forgotten(self: Any, plan: Plan) -> None:
    plan.column(self.up)


def row_called_residual(self: Any, plan: Plan) -> None:
    plan.column(self.up)
    plan.residual(self.down)


def borrowing() -> Model:
    return model(block(0, kind=Borrowing), block(1))


def plain_bias() -> Model:
    return with_head(Biased("head.classifier"))


def strong_by_default() -> Model:
    embed = LlamaEmbed()
    embed.tokens = type("Strong", (Embedding,), {"__call__": Strong.__call__})("embed.tokens", V, D, dtype=DTYPE)
    own = Parameter("head.classifier.weight", (V, D), dtype=DTYPE)
    return model(block(0), block(1), embed=embed, head=Head(own, D, DTYPE))


class Queries(Separate):
    """Two heads of q for each head of k and v, as layers with different numbers of heads."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.q = Linear(f"{path}.q", D, (2 * H, 2), dtype=DTYPE)
        self.k, self.v = (Linear(f"{path}.{name}", D, (H, 2), dtype=DTYPE) for name in "kv")

    def shard(self, plan: Plan) -> None:
        plan.heads(self.q, self.k, self.v)
        plan.row(self.out, parts=2 * H)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        times = q.shape[2] // k.shape[2]
        heads = [i // times for i in range(q.shape[2])]
        k, v = (F.concatenate([y[:, :, i : i + 1] for i in heads], axis=2) for y in (k, v))
        return self.out(attend(q, k, v, batch.where.time.start))


class ByHand(Module):
    """A feed-forward of two parameters whose partial sums nobody adds up."""

    per_position = True

    def __init__(self, path: str) -> None:
        self.path = path
        self.up = Parameter(f"{path}.up", (D, WIDE), dtype=DTYPE)
        self.down = Parameter(f"{path}.down", (WIDE, D), dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        plan.split(self.up, 1)
        plan.split(self.down, 0)

    def __call__(self, x: Tensor) -> Tensor:
        return fused.linear(F.tanh(fused.linear(x, self.up)), self.down)


class TwoMatrices(Linear):
    """A layer with a low-rank matrix inside."""

    def __init__(self, path: str) -> None:
        super().__init__(path, D, 4 * D, dtype=DTYPE)
        self.a, self.b = (Parameter(f"{path}.{n}", s, dtype=DTYPE) for n, s in (("a", (D, 2)), ("b", (2, 4 * D))))

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        y = super().__call__(x) + fused.linear(fused.linear(x, self.a), self.b)
        return fused.gelu(y) if gelu else y


class WithTwo(Relu):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.up = TwoMatrices(f"{path}.up")


def unsaid_units() -> Model:
    made = blocks(attn=Unsaid)
    for unit in made.units:
        unit.path = ""
    return made


def parameter_named(self: Any, plan: Plan) -> None:
    plan.column(self.up.weight)


def list_named(self: Any, plan: Plan) -> None:
    plan.column([self.up, self.down])  # type: ignore[arg-type]


def inside_instead_of_enter(self: Any, plan: Plan) -> None:
    plan.heads(self.q)
    plan.inside(self.kv, self.gate)
    plan.row(self.out, parts=H)


def training(make: Make, *paths: str) -> Make:
    """Return the same model with everything else frozen, so that no norm's or bias's gradient reveals the error."""

    def made() -> Model:
        model = make()
        for p in model.parameters():
            p.requires_grad = any(path in p.placement.path for path in paths)
        return model

    return made


class Squeezed(Module):
    """x times a mean over divided columns that nobody sums."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.up = Linear(f"{path}.up", D, WIDE, dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        plan.column(self.up)

    def __call__(self, x: Tensor) -> Tensor:
        return x * F.tanh(F.mean(self.up(x), axis=-1, keepdims=True))


def unknown_word(self: Any, plan: Plan) -> None:
    cast(Any, plan).columns(self.up)  # the mistake


class ByName(Matrix):
    def __call__(self, h: Tensor) -> Tensor:
        return super().__call__(h)


class OfMany(Matrix):
    def __call__(self, xs: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().__call__(F.concatenate(xs, axis=-1))


class CalledByName(Relu):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.up = ByName(f"{path}.up", D, 4 * D)  # type: ignore[assignment]

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(h=x)))  # type: ignore[call-arg]


class CalledWithMany(Relu):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.up = OfMany(f"{path}.up", 2 * D, 4 * D)  # type: ignore[assignment]

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up([x, x])))  # type: ignore[arg-type]


class EnteredByName(MultiQuery):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.gate = ByName(f"{path}.gate", D, 1, D // H)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return super().__call__(x, batch) * F.mean(self.gate(h=x))  # type: ignore[call-arg]


class Looking(Module):
    """A first unit that looks up ids by itself."""

    def __init__(self) -> None:
        self.path, self.table = "embed", Parameter("embed.table", (V, D), dtype=DTYPE)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        return self.table[batch.inputs]


class PlainHead(OwnHead):
    """Computes the loss from its own weight, without a `shard` method."""

    def __init__(self) -> None:
        super().__init__(Parameter("head.weight", (V, D), dtype=DTYPE))


def plain_head() -> Model:
    return model(block(0), block(1), head=PlainHead())


def looking() -> Model:
    own = Parameter("head.classifier.weight", (V, D), dtype=DTYPE)
    return model(block(0), block(1), embed=Looking(), head=Head(own, D, DTYPE))


BESIDE = r"does not name blocks\.0\.{}: name it in `shard`"


def both(make: Make, message: str) -> tuple[Make, str | None, str | None]:
    return make, message, message


# name -> (model, the message under tensor parallel and under sequence parallel; None: same as the serial run)
WRONG: dict[str, tuple[Make, str | None, str | None]] = {
    "row instead of column": both(said(Relu, row_first), r"plan\.row\(blocks\.0\.mlp\.up\).*use plan\.column"),
    "column instead of row": both(said(Relu, column_last), r"plan\.column\(blocks\.0\.mlp\.down\).*use plan\.row"),
    "inside on a residual norm": (block_that(norms_named("inside")), r"norm1\.\w+ has the same.*plan\.residual", None),
    "residual on a norm of heads": (
        said(Normed, residual_inside, attn=True),
        r"norm_\w\.\w+ has a different gradient.*plan\.inside",
        None,
    ),
    "a dropout unnamed": both(said(Dropping, Attention.shard, attn=True), BESIDE.format(r"attn\.drop")),
    "a dropout inside": both(
        said(Dropping, dropout_inside, attn=True), r"plan\.inside\(blocks\.0\.attn\.drop\).*after the row"
    ),
    "everywhere on a norm": (block_that(norms_named("everywhere")), None, None),
    "gather on a norm": (
        block_that(norms_named("gather")),
        None,
        r"blocks\.0.*plan\.gather and plan\.enter are whole; plan\.everywhere",
    ),
    "row of a curve": both(
        lambda: blocks(mlp=swiglu_with(Curved)), r"plan\.row\(blocks\.0\.mlp\.down\): the layer is not linear"
    ),
    "row with a bias": both(
        lambda: blocks(mlp=swiglu_with(Affine)), r"plan\.row\(blocks\.0\.mlp\.down\): Affine adds .*down\.bias"
    ),
    "vocabulary of one's own": both(plain_bias, r"plan\.vocabulary\(head\.classifier\): Biased .*plan\.gather\(self\)"),
    "a table of one's own": both(
        strong_by_default, r"plan\.vocabulary\(embed\.tokens\): Strong .*plan\.everywhere\(self\)"
    ),
    "heads of a flat matrix": both(
        said(Gated, heads_of_a_flat_matrix), r"plan\.heads\(blocks\.0\.mlp\.gate\) needs .*or use plan\.column"
    ),
    "one weight as column and row": both(
        lambda: blocks(mlp=Mirrored),
        r"up\.weight is divided along axis 1 into 12 in .*axis 0 into 12 in .*Name both the same way",
    ),
    "a weight divided and unnamed": both(borrowing, r"mlp\.up\.weight is divided along axis 1 .*again.*of its own"),
    "a table divided and used": both(
        own_head, r"embed\.tokens\.weight is divided along axis 0 into 11 in embed\.tokens .*in head,.*of its own"
    ),
    "split along no axis": both(
        said(Normed, split_wrongly(1), attn=True), r"plan\.split\(blocks\.0\.attn\.gate\).*axis is 1"
    ),
    "split along a wrong axis": both(
        said(WideGate, split_wrongly(1), attn=True),
        r"blocks\.0, with its layers .*plan\.split\(blocks\.0\.attn\.gate\)",
    ),
    "column along a wrong axis": both(said(Relu, wrong_axis), r"plan\.column\(blocks\.0\.mlp\.up\): axis is -1"),
    "row without heads": both(
        said(Sharp, rows_without_heads, attn=True), r"plan\.row\(blocks\.0\.attn\.proj\).*parts=heads"
    ),
    "row in wrong parts": both(said(Sharp, rows_in_wrong_parts, attn=True), r"attn\.proj\.weight .*into 7 equal parts"),
    "a module of heads residual": (
        said(WithCore, core_residual, attn=True),
        r"middle\.\S+ has a different gradient.*plan\.inside",
        None,
    ),
    "row forgotten": both(said(Relu, row_forgotten), BESIDE.format(r"mlp\.down")),
    "row called residual": both(
        said(Relu, row_called_residual), r"blocks\.0, with its layers divided: .*plan\.column\(blocks\.0\.mlp\.up"
    ),
    "gate unnamed": both(unnamed_gate, BESIDE.format(r"mlp\.gate")),
    "attention unsaid": (
        lambda: blocks(attn=Unsaid),
        None,
        r"under sequence parallel blocks\.0 computes a different result from shards.* stored, which is a shard",
    ),
    "groups of heads": both(lambda: blocks(attn=Queries), r"attn has layers of 3 and of 6 heads, .*divide the groups"),
    "units without a path": (unsaid_units, None, r"under sequence parallel units\.1 computes a different result"),
    "a parameter as a layer": both(said(Relu, parameter_named), r"plan\.column got .*it takes layers.*plan\.split"),
    "matrices by hand": both(lambda: blocks(mlp=ByHand), r"the output of blocks\.0 differs between the ranks"),
    "no row behind frozen norms": (
        training(lambda: blocks(mlp=Squeezed), "mlp.up"),
        r"the output of blocks\.0 differs between the ranks along tp",
        "blocks.0, with its layers divided",
    ),
    "a whole layer that meets heads": (
        said(MultiQuery, inside_instead_of_enter, attn=True),
        r"the gradient of the input of blocks\.1 differs between the ranks along tp.*plan\.enter",
        r"blocks\.0, with its layers divided",
    ),
    "a whole layer that meets heads behind frozen norms": (
        training(said(MultiQuery, inside_instead_of_enter, attn=True), "attn.q", "blocks.0.mlp.up"),
        r"the gradient of the input of blocks\.1 differs between the ranks along tp.*plan\.enter",
        r"blocks\.0, with its layers divided",
    ),
    "enter on a norm": (
        block_that(norms_named("enter")),
        r"norm1\.\w+ has the same.*plan\.residual",
        r"blocks\.0.*is not this rank's shard .*plan\.enter are whole",
    ),
    "an unknown word": both(
        said(Relu, unknown_word),
        r"plan\.columns, at line \d+ of test_own_models\.py, does not.* column, heads, row",
    ),
    "a column called by name": both(lambda: blocks(mlp=CalledByName), r"plan\.column\(blocks\.0\.mlp\.up\).*got none"),
    "a column of a list": both(lambda: blocks(mlp=CalledWithMany), r"plan\.column\(blocks\.0\.mlp\.up\).*got a list"),
    "enter called by name": both(lambda: blocks(attn=EnteredByName), r"plan\.enter\(blocks\.0\.attn\.gate\).*first"),
    "a table by hand": (looking, None, r"embed a shard of the sequence.*in its own class: .*plan\.everywhere\(self\)"),
    "a loss by hand": (plain_head, None, r"head, with its layers divided: .*divides no layer.*plan\.gather\(self\)"),
    "two matrices": both(lambda: blocks(mlp=WithTwo), r"plan\.column\(blocks\.0\.mlp\.up\).*one matrix each"),
    "a dropout of columns residual": (
        said(Dropping, drop_residual, attn=True),
        r"plan\.residual\(blocks\.0\.attn\.drop\): its input differs.*after the row",
        r"blocks\.0, with its layers divided",
    ),
    "a shard without a plan": both(
        said(Relu, cast(Any, without_a_plan)), r"blocks\.0\.mlp: .* takes \(\).*; write def shard\(self, plan\)"
    ),
    "a list of layers": both(said(Relu, list_named), r"plan\.column got \[.*one by one"),
}


def wrong_places() -> list[object]:
    """Return (name, place). Sequence parallel is in the first tier only if its message differs."""
    found: list[object] = []
    for name, (_, tensor, sequence) in WRONG.items():
        found += [pytest.param(name, "tp 2"), full(name, "dp 2 pp 2 tp 2")]
        later = tensor == sequence and name != "matrices by hand"  # compared in the second forward, on all positions
        found.append(full(name, "sp 2") if later else pytest.param(name, "sp 2"))
    return found


@pytest.mark.parametrize(("name", "place"), wrong_places())
def test_said_wrongly(name: str, place: str) -> None:
    """Refused with the layer's name and a fix, or equal to the serial run."""
    make, tensor, sequence = WRONG[name]
    message = sequence if place.startswith("sp") else tensor
    same(make, place) if message is None else refused(make, place, message)


# Behind a branch that starts at 0 -------------------------------------------------------------------------------------


class FromZero(FeedForward):
    """x + a mlp(x) with a = 0 at first. `inner` is between column and row, but is declared as if it were not."""

    right = False

    def __init__(self, path: str, *sizes: Any) -> None:
        super().__init__(path, *sizes)
        self.inner = Parameter(f"{path}.inner", (1,), mean=1.0, dtype=DTYPE)
        self.alpha = Parameter(f"{path}.alpha", (1,), dtype=DTYPE)

    def shard(self, plan: Plan) -> None:
        super().shard(plan)
        plan.inside(self.inner) if self.right else plan.residual(self.inner)
        plan.residual(self.alpha)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.up(x, gelu=True) * self.inner) * self.alpha


class RightFromZero(FromZero):
    right = True


@pytest.mark.parametrize("kind", [FromZero, RightFromZero])
def test_a_gradient_that_is_zero_at_first_is_looked_at_again(kind: type[FromZero]) -> None:
    def program(world: Communicator) -> str:
        model = gpt(GPTConfig(11, 5, layers=1, heads=2, width=8, dtype="float64", std=0.3))
        block: Any = model.units[1]
        block.mlp = kind(block.mlp.path, 8, 0.3, 0.3, DTYPE)
        made = Trainer(model, world, mesh=Mesh(world, tp=2), optimizer=SGD, schedule=0.1)
        ids = np.random.default_rng(0).integers(0, 11, (3, 6))
        batch = Batch(ids[:, :-1], ids[:, 1:], Where(1, 0, 3, 5, slice(0, 3), slice(0, 5)))
        made.step(batch)
        try:
            made.step(batch)
        except UserError as error:
            return str(error)
        assert made.reducer.checks is None, "all has been seen"
        return ""

    for said in threads.run(2, program):
        assert not said if kind.right else "mlp.inner has a different gradient" in said and "plan.inside" in said


# Between the units --------------------------------------------------------------------------------------------------


BETWEEN: dict[str, tuple[dict[str, int], Strategy]] = {
    "tp 2 recompute": ({"tp": 2}, Strategy(recompute=2)),
    "pp 2 tp 2": ({"pp": 2, "tp": 2}, Strategy()),
    "pp 2 tp 2 zero bubble": ({"pp": 2, "tp": 2}, Strategy(schedule="zb-h1")),
    "pp 2 tp 2 interleaved": ({"pp": 2, "tp": 2}, Strategy(schedule="interleaved", chunks=2)),
}
PLACES |= BETWEEN
WHOLE_ON_X = said(MultiQuery, inside_instead_of_enter, attn=True)


@pytest.mark.parametrize("place", ["pp 2 tp 2", *map(full, BETWEEN), full("dp 2 tp 2 zero3")])
def test_gradients_between_units_in_any_place(place: str) -> None:
    """Every rank reports the last unit that is wrong."""

    def program(world: Communicator) -> str:
        with pytest.raises(UserError, match=r"the gradient of the input of blocks\.1 differs") as caught:
            train(RingCommunicator(world), WHOLE_ON_X, place)
        return str(caught.value)

    ranks = int(np.prod([*PLACES[place][0].values()]))
    assert len(set(threads.run(ranks, program, timeout=30, wait=5))) == 1


@pytest.mark.parametrize("place", ["pp 2 tp 2", *map(full, BETWEEN)])
def test_a_whole_layer_enters_in_any_place(place: str) -> None:
    same(multi_query, place)


def test_the_looks_are_over_after_the_first_step() -> None:
    """What passes between the units is recorded once, in the first step, and not in the next."""

    def program(world: Communicator) -> None:
        made = blocks(attn=MultiQuery)
        reducer = parallelize(made, Mesh(world, tp=2), Strategy(bucket_mb=BUCKET_MB))
        reducer.init(SEED)
        io = cast(Any, made.units[0]).io
        for number in range(2):
            reducer.start_step(2)
            reducer.look(toy_batch(number))
            for micro in toy_batch(number).split(2):
                made(micro).backward()
                reducer.end_backward()
            if number == 0:
                units = [unit.path for unit in made.units]
                assert [*io.borders.made] == units and [*io.borders.gradients] == units[:0:-1]
            reducer.synchronize()
            assert io.borders is None and reducer.checks is None

    threads.run(2, program)


class SmallShift(Block):
    """A block with a shift wrongly declared `per_position`, in a branch that a small factor scales."""

    def __init__(self, path: str, *sizes: Any) -> None:
        super().__init__(path, *sizes)
        self.shift = Shift(f"{path}.shift")
        self.shift.per_position, self.shift.drop.p = True, 0.0

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return x + self.shift(self.mlp(self.norm2(x)), batch) * 1e-5


@pytest.mark.parametrize("dtype", ["float32", full("float64")])
def test_a_branch_that_adds_little_looks_at_several_positions(dtype: str) -> None:
    def made() -> Model:
        own = model(block(0), block(1, kind=SmallShift))
        for p in own.parameters():
            p.store_as(np.dtype(dtype))
        return own

    refused(made, "sp 2", r"under sequence parallel blocks\.1 computes a different result from shards")


@pytest.mark.parametrize(
    ("dtype", "off", "expected"),
    [("float16", 0.04, False), ("float32", 1e-6, False), ("float32", 1e-5, True), ("float64", 1e-14, False),
     ("float64", 1e-10, True), ("float32", np.nan, True)],
)  # fmt: skip
def test_how_far_shares_may_be_from_the_whole(dtype: str, off: float, expected: bool) -> None:
    """The tolerance is y's rounding. x is 1, and a unit adds 1e-4 of it, or 1e-10."""
    x = np.ones((2, 6, 3), dtype)
    y = (x * (1 + (1e-4 if dtype == "float32" else 1e-10))).astype(dtype)
    own, wrong = slice(0, 3), y[:, :3].copy()
    wrong[0, 0, 0] += np.dtype(dtype).type(off)
    whole = Passed("unit", Tensor(x), Tensor(y))
    assert far(Passed("unit", Tensor(x[:, own]), Tensor(wrong)), whole, own) is expected
    assert not far(Passed("unit", Tensor(x[:, own]), Tensor(y[:, own])), whole, own)
    narrow = y[:, own, :1]
    assert far(Passed("unit", Tensor(x[:, own]), Tensor(narrow)), whole, own), "another shape"


class Stored(Module):
    """A unit with a side output: y = x + tanh(x), and tanh(x) for others to read."""

    per_position = True

    def __init__(self, path: str) -> None:
        self.path, self.weight = path, Parameter(f"{path}.weight", (D,), mean=1.0, dtype=DTYPE)
        self.kept: Tensor | None = None

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        self.kept = F.tanh(x * self.weight)
        return x + self.kept


class Reading(Stored):
    """A unit that reads what another one has stored."""

    def __init__(self, path: str, first: Stored) -> None:
        super().__init__(path)
        self.first = lambda: first.kept

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        kept = self.first()
        assert kept is not None
        return super().__call__(x, batch) + kept


class Watched(FeedForward):
    """A feed-forward that first previews its output, off the tape."""

    def __call__(self, x: Tensor) -> Tensor:
        with no_grad():
            self.seen = float(abs(self.up(x).data).max())
        return self.down(self.up(x, gelu=True))


def watched() -> Model:
    return model(*(block(i, mlp=Watched(f"blocks.{i}.mlp", D, 0.3, 0.3, DTYPE)) for i in range(2)))


@pytest.mark.parametrize("place", ["tp 2", full("sp 2"), full("dp 2 pp 2 tp 2")])
def test_what_entered_off_the_tape_is_not_taken_for_what_is_on_it(place: str) -> None:
    """The same x enters twice. One all-reduce of its gradient is enough, but not one that is never made."""
    same(watched, place)


def skipping() -> Model:
    """A connection between two blocks that no unit knows of."""
    first = Stored("first")
    return model(block(0), first, block(1), Reading("last", first))


@pytest.mark.parametrize("place", ["tp 2", "dp 2"])
def test_a_connection_past_the_units(place: str) -> None:
    same(skipping, place)


@pytest.mark.parametrize(
    ("place", "said"), [("zero3", "first, but is called in last"), ("recompute 1", "first, but is called in last")]
)
def test_a_connection_past_the_units_is_refused_in_segments(place: str, said: str) -> None:
    """A segment returns only the gradient of x: that of the connection would be lost."""
    refused(skipping, place, rf"computed in {said}.*return this tensor too")


def test_a_connection_within_a_segment() -> None:
    same(skipping, "recompute 6")


def test_a_mesh_that_divides_nothing_is_refused() -> None:
    """Otherwise each rank would silently hold and compute everything."""
    refused(undivided, "tp 2", r"--tp is 2, but no layer of the model is divided.*def shard\(self, plan\)")


class UndividedHead(Module):
    """Logits and their loss, by an author unaware of `shard`."""

    def __init__(self) -> None:
        self.path, self.proj = "head", Linear("head.proj", D, V, dtype=DTYPE)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return loss_or_logits(self.proj(x), batch)


class UndividedEmbed(Module):
    """A one-hot matrix product."""

    def __init__(self) -> None:
        self.path, self.weight = "embed", Parameter("embed.weight", (V, D), dtype=DTYPE)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        return F.matmul(Tensor(np.eye(V)[batch.inputs]), self.weight)


def undivided() -> Model:
    return model(embed=UndividedEmbed(), head=UndividedHead())


@pytest.mark.parametrize(
    "word", ["column", "heads", "row", "vocabulary", "inside", "enter", "residual", "gather", "everywhere"]
)
def test_each_word_is_about_layers_one_by_one(word: str) -> None:
    """Other arguments would otherwise be silently ignored."""
    for wrong in ([Linear("a", 4, 4)], "a", None):
        with pytest.raises(UserError, match=rf"plan\.{word} got .*; it takes layers.*, one by one"):
            getattr(Plan(TensorIO(world_of_one())), word)(wrong)


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        (
            lambda plan: plan.vocabulary(Linear("a", 4, 4)),
            r"vocabulary\(a\) is for an nn.Embedding .* is a Linear",
        ),
        (lambda plan: plan.column(Embedding("a", 4, 4)), r"column\(a\) is for layers that multiply; use plan.vocab"),
        (lambda plan: plan.row(Classifier("a", Parameter("w", (4, 4)))), r"row\(a\) is for layers that multiply; use"),
        (
            lambda plan: plan.split(Parameter("a", (3, 4)), 1, 3),
            r"split\(a\): axis 1 has size 4, .* multiple of 3",
        ),
    ],
)
def test_what_a_word_is_not_for(shard: Callable[[Plan], None], said: str) -> None:
    def program(world: Communicator) -> None:
        with pytest.raises(UserError, match=rf"plan\.{said}"):
            shard(Plan(TensorIO(world)))

    threads.run(2, program)


@pytest.mark.parametrize(("size", "unit", "sizes"), [(5, (), [3, 2]), (9, (3,), [6, 3])])
def test_an_axis_is_divided_in_steps_of_a_unit(size: int, unit: tuple[int, ...], sizes: list[int]) -> None:
    """The default is a step of one: 5 columns are no multiple of 2."""

    def program(world: Communicator) -> list[int]:
        p = Parameter("a", (2, size))
        Plan(TensorIO(world)).split(p, 1, *unit)
        return list(p.shape)

    assert threads.run(2, program) == [[2, size] for size in sizes]


def test_a_layer_may_be_named_twice_by_one_word() -> None:
    """Two modules that share a layer both name it; it is changed once."""
    plan, norm = Plan(SequenceIO(world_of_one())), LayerNorm("norm", D, DTYPE)
    plan.everywhere(norm)
    form = type(norm)
    plan.everywhere(norm)
    assert type(norm) is form and form is not LayerNorm
    with pytest.raises(UserError, match=r"norm is named twice: plan\.everywhere and plan\.residual; remove one"):
        plan.residual(norm)


def test_a_layer_that_a_shard_does_not_find_is_not_a_word_of_the_plan() -> None:
    def shard(self: Any, plan: Plan) -> None:
        plan.column(self.upper)  # the mistake

    with pytest.raises(AttributeError, match=r"^'Relu' object has no attribute 'upper'"):
        Plan(TensorIO(world_of_one())).follow(said(Relu, shard)())


class Heads(Module):
    """Attention made of library layers, without a `shard` method."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.qkv = Linear(f"{path}.qkv", D, (3, H, D // H), dtype=DTYPE)
        self.core = CausalAttention(f"{path}.core")
        self.proj = Linear(f"{path}.proj", D, D, dtype=DTYPE)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.proj(self.core(self.qkv(x), batch))


def test_how_a_parameter_is_held_in_the_words_of_a_shard() -> None:
    assert spoken("whole", "mlp.down") == "the bias after plan.row(mlp.down)"
    assert spoken("divided along axis 1 into 2", "mlp.up") == "divided along axis 1 into 2"
    assert spoken("everywhere", "norm") == "plan.everywhere"


def test_a_row_of_no_samples_is_linear() -> None:
    check_linear("down", Tensor(np.zeros((0, 3))), Tensor(np.zeros((0, 3))))


def test_attention_refuses_a_share_of_the_time() -> None:
    """Attention raises before the checks of the first step would detect it."""
    same(lambda: blocks(attn=Heads), "tp 2")
    refused(lambda: blocks(attn=Heads), "sp 2", r"blocks\.0\.attn\.core received \d positions, .*plan\.heads")


def test_attention_on_a_batch_that_has_no_time() -> None:
    """ArrayLoader makes such batches of ids: it does not treat a sample as a sequence."""
    batch = ArrayLoader(np.zeros((2, 5), np.int64), [0, 1], 2, seed=1).batch(0)
    with pytest.raises(UserError, match=r"(?s)core received 5 positions, .* where\.T = 1.*ArrayLoader"):
        CausalAttention("core")(Tensor(np.zeros((2, 5, 3, H, D // H))), batch)


@pytest.mark.parametrize(
    ("dtype", "off", "refused"), [("float64", 1e-6, True), ("float32", 1e-6, False), ("float32", 0.1, True)]
)
def test_how_linear_a_row_has_to_be(dtype: str, off: float, refused: bool) -> None:
    """The tolerance is the dtype's rounding."""
    y = np.linspace(-1, 1, 7).astype(dtype)
    other = Tensor((-2 * y * (1 + off)).astype(dtype))
    if not refused:
        check_linear("down", Tensor(y), other)
        return
    with pytest.raises(UserError, match=r"plan.row\(down\): the layer is not linear"):
        check_linear("down", Tensor(y), other)


def test_a_divided_layer_is_still_of_the_class_that_its_author_wrote() -> None:
    """Its class has the same name, module and docstring, so what is shown of it is familiar; two layers share it."""

    class Scaled(Linear):
        """A user's layer."""

    form = in_form(ColumnLinear, Scaled)
    assert issubclass(form, Scaled) and issubclass(form, ColumnLinear) and form is in_form(ColumnLinear, Scaled)
    assert (form.__name__, form.__module__, form.__doc__) == ("Scaled", __name__, "A user's layer.")


@pytest.mark.parametrize("form", ("Column", "ColumnLinear", "Row", "RowLinear", "Gathered", "Entered", "Everywhere"))
def test_a_refusal_names_the_word_of_the_plan(form: str) -> None:
    """A layer that is called without a tensor is refused with the word that its `shard` has used."""
    assert callable(getattr(Plan, getattr(divided_layers, form).word))


def test_an_output_without_a_time_axis_cannot_be_divided() -> None:
    with pytest.raises(UserError, match=r"returns \(3,\), without a time axis.*\n.*use plan\.gather"):
        SequenceIO(world_of_one()).own(Tensor(np.ones(3)))


def test_the_advice_for_a_bias_after_a_row() -> None:
    """It is added to the sum over ranks, so plan.inside cannot be what is missing."""
    assert "plan.inside" not in cure("whole", "mlp.down") and "plan.inside" in cure("residual", "norm")
