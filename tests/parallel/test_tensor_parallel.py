"""Tensor and sequence parallel: vocabulary slices, placements, activations saved by a block, and equality with the
serial run.

The matrix of tests/equivalence combines them with the other strategies. This file tests the parts, and other sizes.
"""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from minitrain import functional as F
from minitrain import fused
from minitrain.autograd import no_grad
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.data.batch import IGNORE, Batch, Where
from minitrain.errors import UserError
from minitrain.models import FeedForward, GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Embedding, Linear
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD, Adam
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.plan import Plan
from minitrain.parallel.sequence_parallel import SequenceIO, Shared
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.tensor_parallel import TensorIO
from minitrain.parallel.vocabulary import LOSS, own_rows, vocabulary_cross_entropy
from minitrain.sharding import even_shards, lengths, shard_of
from minitrain.tensor import Tensor
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients, train_step
from tests.equivalence.harness import Tensors, difference, toy_batch, toy_gpt
from tests.gradcheck import Array, as_activations, close, names_what_it_keeps

SEED = 3
BOUND = 1e-12  # float64
ranks = pytest.mark.parametrize("t", [2, 3, 4])
kinds = pytest.mark.parametrize("kind", [TensorIO, SequenceIO], ids=["tp", "sp"])
sequences = pytest.mark.parametrize("sequence", [False, True], ids=["tp", "sp"])


# The loss over a divided vocabulary -----------------------------------------------------------------------------------

SHIFTS = np.array([500.0, -500.0, 200.0, -200.0, 0.0])[:, None, None]  # row offsets: sums can underflow


def over_ranks(world: Communicator, x: Array, labels: Array) -> tuple[bytes, Tensor, Array]:
    """Return the bits of this rank's loss, the loss, and the gradient of this rank's logits."""
    V = x.shape[-1]
    own = shard_of(V, world.size, world.rank)
    logits = Tensor(np.ascontiguousarray(x[..., own]), requires_grad=True)
    loss = vocabulary_cross_entropy(logits, labels, labels.size + 1, own.start, V, world)
    loss.backward()
    assert logits.grad is not None and logits.grad.shape == logits.shape
    return loss.data.tobytes(), loss, logits.grad


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-6), (np.float16, 2e-3)])
@ranks
def test_ignored_labels_of_a_divided_vocabulary(t: int, dtype: Any, bound: float) -> None:
    """As with undivided rows of logits, even if every label is ignored. Their gradient is 0 on every rank."""
    x = (np.random.default_rng(0).standard_normal((5, 7, 7)) * 2 + SHIFTS).astype(dtype)
    some = np.broadcast_to(np.arange(7), (5, 7)).copy()
    some[1], some[::2, ::3] = IGNORE, IGNORE
    for labels in (some, np.full((5, 7), IGNORE)):
        whole = Tensor(x, requires_grad=True)
        true = fused.cross_entropy(whole, labels, labels.size + 1)
        true.backward()
        found = threads.run(t, lambda world: over_ranks(RingCommunicator(world), x, labels))  # noqa: B023 (ends here)
        bits, losses, parts = zip(*found, strict=True)
        assert len(set(bits)) == 1 and whole.grad is not None
        np.testing.assert_allclose(losses[0].item(), true.item(), rtol=bound)
        gradient = np.concatenate(parts, axis=-1)
        np.testing.assert_allclose(gradient.astype(float), whole.grad.astype(float), rtol=bound, atol=bound)
        assert not gradient[labels == IGNORE].any()


@pytest.mark.parametrize("labels", [[0, -1], [IGNORE, 7], [IGNORE, -2]])
def test_labels_outside_a_divided_vocabulary(labels: list[int]) -> None:
    def look(world: Communicator) -> None:
        with pytest.raises(IndexError, match=f"{labels[1]}.* 7 classes"):
            over_ranks(world, np.zeros((2, 7)), np.array(labels))

    threads.run(2, look)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-6), (np.float16, 2e-3)])
@pytest.mark.parametrize("V", [12, 7, 2, 1])
@ranks
def test_cross_entropy_of_every_label(t: int, V: int, dtype: Any, bound: float) -> None:
    """V divisible by t or not, and empty slices; all labels at once, and each label alone."""
    x = (np.random.default_rng(V).standard_normal((5, V, V)) * 2 + SHIFTS).astype(dtype)
    every = np.broadcast_to(np.arange(V), (5, V))
    for labels in (every, *(np.full((5, V), v) for v in range(V))):
        whole = Tensor(x, requires_grad=True)
        true = fused.cross_entropy(whole, labels, labels.size + 1)
        true.backward()
        found = threads.run(t, lambda world: over_ranks(RingCommunicator(world), x, labels))  # noqa: B023 (ends here)
        bits, losses, parts = zip(*found, strict=True)
        assert len(set(bits)) == 1
        assert losses[0].dtype == true.dtype and parts[0].dtype == dtype
        assert close(losses[0].data, true.data) <= bound
        assert close(np.concatenate(parts, -1), whole.grad) <= bound


@pytest.mark.parametrize("label", [-1, 7])
@ranks
def test_a_label_outside(t: int, label: int) -> None:
    """Every rank raises IndexError, and none waits for another."""

    def program(world: Communicator) -> None:
        with pytest.raises(IndexError, match=r"labels reach .* 7 classes"):
            over_ranks(world, np.zeros((1, 2, 7)), np.array([[3, label]]))

    threads.run(t, program)


@ranks
def test_of_each_row_three_numbers_travel(t: int) -> None:
    """Three all-reduces of one number per row, whatever V is: no rank can reconstruct a full row."""
    rows = 10

    def program(world: Communicator) -> None:
        labels = np.arange(rows).reshape(2, 5)
        with Ledger().open() as ledger:
            over_ranks(RingCommunicator(world), np.zeros((2, 5, 100)), labels)
        pieces = lengths(even_shards(rows, t))
        sent = 2 * rows - pieces[world.rank] - pieces[(world.rank + 1) % t]
        assert ledger.bytes == {LOSS: 3 * 8 * sent}

    threads.run(t, program)


@sequences
@pytest.mark.ranks(4)
def test_no_rank_has_the_logits(world: Communicator, sequence: bool) -> None:
    """Peak memory of a step is less than the logits (B, T, V) alone; a serial run holds several arrays of that size."""
    V = 4096
    where = Where(SEED, 0, 8, 8, slice(0, 8), slice(0, 8))
    ids = np.random.default_rng(0).integers(0, V, (8, 9))

    def most(group: Communicator) -> int:
        model = gpt(GPTConfig(V, 8, layers=1, heads=4, width=4, dtype="float64"))
        reducer = parallelize(model, Mesh(group, tp=group.size), Strategy(sp=sequence and group.size > 1))
        reducer.init(SEED)
        tracemalloc.start()
        compute_gradients(model, Batch(ids[:, :-1], ids[:, 1:], where), reducer)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    logits = 8 * 8 * V * 8
    assert most(world) < logits < most(world_of_one()) / 2


# The divided token table ----------------------------------------------------------------------------------------------


def divided_table(V: int, world: Communicator) -> Embedding:
    """Return an initialized table (V, 3) with its rows divided over the ranks."""
    layer = Embedding("t", V, 3, std=1.0, dtype="float64")
    Plan(TensorIO(world)).vocabulary(layer)
    layer.init(SEED)
    return layer


@pytest.mark.parametrize("V", [12, 7, 2])
@ranks
def test_embedding_of_every_id(t: int, V: int) -> None:
    """Each id is found on exactly one rank, including the first and last of each slice; the others contribute zeros."""
    ids = np.array([*range(V), 0, V - 1, *range(V)]).reshape(2, V + 1)  # (2, V+1); each id occurs at least twice
    c = np.random.default_rng(1).standard_normal((*ids.shape, 3))

    def program(world: Communicator) -> tuple[Array, Array]:
        layer = divided_table(V, RingCommunicator(world))
        y = layer(ids)
        np.testing.assert_array_equal(y.data, table[ids])
        own = shard_of(V, t, world.rank)
        here = (own.start <= ids) & (ids < own.stop)
        part = own_rows(ids, layer.weight).data
        np.testing.assert_array_equal(part[here], table[ids[here]])
        assert not part[~here].any()
        for wrong in (-1, V):
            with pytest.raises(IndexError, match=rf"rows 0 to {V - 1}"):
                layer(np.array([0, wrong]))
        y.backward(c)
        return here, layer.weight.grad  # type: ignore[return-value]

    serial = Embedding("t", V, 3, std=1.0, dtype="float64")
    serial.init(SEED)
    table = serial.weight.data.copy()
    serial(ids).backward(c)
    here, reducer = zip(*threads.run(t, program), strict=True)
    assert (np.sum(here, axis=0) == 1).all()
    assert close(np.concatenate(reducer), serial.weight.grad) <= BOUND


# Who holds what -------------------------------------------------------------------------------------------------------

HERE = {  # the toy GPT (V 11, T 5, 3 heads, D 9, F 36) on two ranks
    "embed.tokens.weight": ((6, 9), (5, 9)),
    "embed.positions.weight": ((5, 9), (5, 9)),
    "norm1.weight": ((9,), (9,)),
    "norm1.bias": ((9,), (9,)),
    "attn.qkv.weight": ((9, 3, 2, 3), (9, 3, 1, 3)),
    "attn.qkv.bias": ((3, 2, 3), (3, 1, 3)),
    "attn.proj.weight": ((6, 9), (3, 9)),
    "attn.proj.bias": ((9,), (9,)),
    "norm2.weight": ((9,), (9,)),
    "norm2.bias": ((9,), (9,)),
    "mlp.up.weight": ((9, 18), (9, 18)),
    "mlp.up.bias": ((18,), (18,)),
    "mlp.down.weight": ((18, 9), (18, 9)),
    "mlp.down.bias": ((9,), (9,)),
    "unused": ((5, 3), (5, 3)),
    "head.norm.weight": ((9,), (9,)),
    "head.norm.bias": ((9,), (9,)),
    "head.classifier.weight": ((6, 9), (5, 9)),
}


def divided(world: Communicator, tied: bool, sequence: bool) -> Model:
    """Return the initialized toy GPT on the ranks of `world`."""
    model = toy_gpt(tied=tied)
    parallelize(model, Mesh(world, tp=world.size), Strategy(sp=sequence)).init(SEED)
    return model


@kinds
@pytest.mark.parametrize("tied", [True, False])
def test_local_shapes(tied: bool, kind: type[TensorIO]) -> None:
    """Three heads on two ranks are divided into two and one."""

    def program(world: Communicator) -> Model:
        model = toy_gpt(tied=tied)
        Plan(kind(world)).follow(model)
        return model

    for rank, model in enumerate(threads.run(2, program)):
        shapes = {p.placement.path: p.shape for p in model.parameters()}
        names = {path: path.removeprefix("blocks.0.").removeprefix("blocks.1.") for path in shapes}
        assert shapes == {path: HERE[name][rank] for path, name in names.items()}
        assert set(names.values()) == HERE.keys() - ({"head.classifier.weight"} if tied else set())


@sequences
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("t", [2, 3])
def test_placements(t: int, tied: bool, sequence: bool) -> None:
    """Slices cover the logical parameter once. Whole parameters have replicas; if time is divided, their gradients are
    partial."""
    serial = toy_gpt(tied=tied)
    serial.init(SEED)
    models = threads.run(t, lambda world: divided(RingCommunicator(world), tied, sequence))
    for one, *pieces in zip(serial.parameters(), *(m.parameters() for m in models), strict=True):
        held = np.zeros(one.shape, int)
        for p in pieces:
            assert p.placement.path == one.placement.path and p.placement.shape == one.shape
            held[p.placement.index] += 1
            np.testing.assert_array_equal(p.data, one.data[p.placement.index])
        replicated = pieces[0].shape == one.shape
        assert (held == (t if replicated else 1)).all()
        for p in pieces:
            assert p.placement.replicas.get("tp") == (tuple(range(t)) if replicated else None)
            assert p.placement.partial.get("tp") == (tuple(range(t)) if replicated and sequence else None)


@sequences
def test_more_ranks_than_heads(sequence: bool) -> None:
    def program(world: Communicator) -> None:
        with pytest.raises(UserError, match=r"--tp is 4, .*attn has 3 heads; allowed: 1 to 3"):
            divided(world, True, sequence)

    threads.run(4, program)


@pytest.mark.parametrize("make", [
    lambda: mlp(MLPConfig(6, (1,), classes=5)),
    lambda: mlp(MLPConfig(6, (4, 4, 1), classes=5)),
    lambda: gpt(GPTConfig(1, 5, layers=1, heads=4, width=4)),
])  # fmt: skip
@ranks
def test_one_column_is_not_divided(t: int, make: Callable[[], Model]) -> None:
    """Its only holder would mistake it for a replicated parameter and wait for the other ranks indefinitely."""

    def program(world: Communicator) -> None:
        with pytest.raises(UserError, match=r"--tp is .* has size 1 along the divided axis; allowed: 1$"):
            parallelize(make(), Mesh(world, tp=t)).init(SEED)

    threads.run(t, program, timeout=20)


# What a block saves for backward --------------------------------------------------------------------------------------

B, T, D, H = 2, 8, 16, 4


def kept(world: Communicator, kind: type[TensorIO] | None, dropout: float) -> int:
    """Return the bytes that a block's operations save."""
    model = gpt(GPTConfig(16, T, layers=1, heads=H, width=D, dropout=dropout))
    if kind:
        Plan(kind(world)).follow(model)
    model.init(SEED)
    block: Any = model.units[1]
    time = shard_of(T, world.size, world.rank) if kind is SequenceIO else slice(0, T)
    x = Tensor(np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)[:, time], requires_grad=True)
    batch = Batch(np.zeros((B, T), int), None, Where(SEED, 0, B, T, slice(0, B), slice(0, T)))
    with Ledger().open() as ledger:
        y = block(x, batch)
        assert y.shape == x.shape
        return ledger.live["activations"]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_saved_activations(dropout: float) -> None:
    """a + b/t under tensor parallel, (a + b)/t under sequence parallel, with a and b measured on one and two ranks.

    In units of B T D numbers of 4 bytes: a = 4 + 2/D, plus 1/4 for each of the two masks; b = 12 + H T/D. (a: each
    norm's n and r, and its result, the input of a matrix product. b: q, k, v, the scores, the input of proj; GELU's
    derivative and the input of down, 4 each.)
    """

    def on(t: int, kind: type[TensorIO]) -> int:
        found = set(threads.run(t, lambda world: kept(RingCommunicator(world), kind, dropout)))
        assert len(found) == 1, "ranks that hold the same sizes keep the same"
        return found.pop()

    serial = kept(world_of_one(), None, dropout)
    assert on(1, TensorIO) == on(1, SequenceIO) == serial
    b = 2 * (serial - on(2, TensorIO))
    a = serial - b
    assert 4 * on(4, TensorIO) == 4 * a + b
    for t in (2, 4):
        assert t * on(t, SequenceIO) == a + b
    unit = B * T * D * 4
    assert a / unit == 4 + 2 / D + (2 / 4 if dropout else 0)
    assert b / unit == 12 + H * T / D


def test_operations_name_what_they_keep() -> None:
    """The divided loss, the divided table, a separate bias, and a matrix that saves a shard of its input."""
    initialized = np.random.default_rng(0).standard_normal((2, 5, 7))
    labels = np.arange(10).reshape(2, 5) % 7
    matrix, bias = initialized[0].T.copy(), initialized[0, :, 0].copy()  # (7, 5), (5)

    def program(world: Communicator) -> None:
        columns, time = shard_of(7, 2, world.rank), shard_of(5, 2, world.rank)
        table = divided_table(7, world)
        loss = lambda x: vocabulary_cross_entropy(x, labels, 10, columns.start, 7, world)
        plain, gelu = (partial(fused.linear, gelu=gelu, spread=Shared(world, 5)) for gelu in (False, True))
        for y in (
            as_activations(loss, [initialized[..., columns]]),
            own_rows(labels, table.weight),
            as_activations(fused.add_bias, [initialized.swapaxes(1, 2), bias]),
            as_activations(plain, [initialized[:, time], matrix, bias]),
            as_activations(gelu, [initialized[:, time], matrix, bias]),
        ):
            assert y.node is not None
            names_what_it_keeps(y.node, limit=8)

    threads.run(2, program)


# The serial run -------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    losses: list[float]
    gradients: list[Tensors]
    parameters: Tensors


def train(
    world: Communicator,
    make: Callable[[], Model],
    batch: Callable[[int], Batch],
    tp: int = 1,
    sequence: bool = False,
    steps: int = 3,
    optimizer: Callable[..., Any] = SGD,
) -> Result:
    """Train on dp x tp ranks. Losses are of the global batch, which every tp rank has whole."""
    model, mesh = make(), Mesh(world, dp=world.size // tp, tp=tp)
    reducer = parallelize(model, mesh, Strategy(bucket_mb=0.003, sp=sequence))
    reducer.init(SEED)
    step = optimizer(reducer)
    result = Result([], [], {})
    for number in range(steps):
        mine = batch(number).part(mesh.coordinates["dp"], mesh.sizes["dp"])
        loss, _ = train_step(model, mine, reducer, step, 0.05)
        result.losses.append(sum(world.gather_objects(loss)) / tp)
        result.gradients.append(gather(model, world, "grad", reducer))
    result.parameters.update(gather(model, world, "data", reducer))
    return result


def same(found: Result, true: Result, bound: float = BOUND) -> None:
    np.testing.assert_allclose(found.losses, true.losses, rtol=bound)
    assert max(map(difference, found.gradients, true.gradients)) <= bound
    assert difference(found.parameters, true.parameters) <= bound


def digits(number: int) -> Batch:
    """Return seven samples for an MLP."""
    rng = np.random.default_rng(number)
    where = Where(SEED, number, 7, 1, slice(0, 7), slice(0, 1))
    return Batch(rng.standard_normal((7, 6)), rng.integers(0, 5, 7), where)


MLPS = [(), (5,), (5, 4), (5, 4, 7), (2, 2, 2)]  # widths that 2 or 3 do not divide, and fewer columns than ranks


@pytest.mark.parametrize("hidden", MLPS, ids=str)
@pytest.mark.parametrize("t", [2, 3])
def test_mlp(t: int, hidden: tuple[int, ...]) -> None:
    """Layers alternate between columns and rows; the head is divided into rows only if it follows columns."""
    make = lambda: mlp(MLPConfig(6, hidden, classes=5, dtype="float64"))

    def program(world: Communicator) -> tuple[Result, dict[str, tuple[int, ...]]]:
        model = make()
        Plan(TensorIO(world)).follow(model)
        shapes = {p.placement.path: p.shape for p in model.parameters()}
        return train(RingCommunicator(world), make, digits, t), shapes

    serial = train(world_of_one(), make, digits)
    sizes = (6, *hidden, 5)
    for rank, (found, shapes) in enumerate(threads.run(t, program)):
        same(found, serial)
        for i, path in enumerate([*(f"dense.{i}" for i in range(len(hidden))), "head"]):
            I, O = sizes[i : i + 2]
            columns, rows = i % 2 == 0 and path != "head", i % 2 == 1
            mine = (lengths(even_shards(I, t))[rank] if rows else I, lengths(even_shards(O, t))[rank] if columns else O)
            assert (shapes[f"{path}.linear.weight"], shapes[f"{path}.linear.bias"]) == (mine, mine[1:])


def short(length: int) -> Callable[[int], Batch]:
    """Return a function that makes the toy's batches with `length` positions."""

    def batch(number: int) -> Batch:
        whole = toy_batch(number)
        assert whole.labels is not None
        where = replace(whole.where, T=length, time=slice(0, length))
        return Batch(whole.inputs[:, :length], whole.labels[:, :length], where)

    return batch


@pytest.mark.parametrize(("t", "length"), [(2, 5), (3, 5), (2, 1), (3, 2), (3, 1)])
@sequences
def test_time_that_ranks_do_not_divide(t: int, length: int, sequence: bool) -> None:
    """Shards of 3 and 2 positions, of 2, 2 and 1, and ranks without positions on the residual path."""
    serial = train(world_of_one(), toy_gpt, short(length))
    for found in threads.run(t, lambda world: train(RingCommunicator(world), toy_gpt, short(length), t, sequence)):
        same(found, serial)


@sequences
@pytest.mark.ranks(2, 3, 4)
def test_under_mpi(world: Communicator, sequence: bool) -> None:
    """MPI's own collectives. Four ranks are dp 2 x tp 2."""
    tp = 3 if world.size == 3 else 2
    same(train(world, toy_gpt, toy_batch, tp, sequence), train(world_of_one(), toy_gpt, toy_batch))


@pytest.mark.ranks(2, 3)
def test_mlp_under_mpi(world: Communicator) -> None:
    make = lambda: mlp(MLPConfig(6, (5, 4, 7), classes=5, dtype="float64"))
    same(train(world, make, digits, world.size), train(world_of_one(), make, digits))


@kinds
@pytest.mark.parametrize("t", [2, 3])
def test_logits_without_labels(t: int, kind: type[TensorIO]) -> None:
    """Every rank gets the whole logits."""
    batch = toy_batch(0)
    asked = Batch(batch.inputs, None, replace(batch.where, training=False))

    def logits(world: Communicator) -> Array:
        model = toy_gpt()
        if world.size > 1:
            Plan(kind(world)).follow(model)
        model.init(SEED)
        with no_grad():
            return model(asked).data

    true = logits(world_of_one())
    assert true.shape == (7, 5, 11)
    for found in threads.run(t, lambda world: logits(RingCommunicator(world))):
        assert close(found, true) <= BOUND


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@sequences
def test_float32_on_a_mesh(sequence: bool, optimizer: Callable[..., Any]) -> None:
    """dp 2 x tp 2: the losses of five steps on one repeated batch, which decrease."""
    make = lambda: gpt(GPTConfig(11, 5, layers=2, heads=2, width=8, std=0.1))
    run = partial(train, make=make, batch=lambda number: toy_batch(0), steps=5, optimizer=optimizer)
    serial = run(world_of_one()).losses
    assert serial == sorted(serial, reverse=True) and serial[-1] < 0.99 * serial[0]
    for found in threads.run(4, lambda world: run(RingCommunicator(world), tp=2, sequence=sequence)):
        np.testing.assert_allclose(found.losses, serial, rtol=1e-5)


# Bytes sent by a block ------------------------------------------------------------------------------------------------


class SwiGLU(FeedForward):
    """Two column-parallel layers with the same input x."""

    def __init__(self, path: str, width: int, dtype: Any) -> None:
        super().__init__(path, width, 0.3, 0.3, dtype)
        self.gate = Linear(f"{path}.gate", width, 4 * width, 0.3, dtype)

    def shard(self, plan: Plan) -> None:
        plan.column(self.gate)
        super().shard(plan)

    def __call__(self, x: Tensor) -> Tensor:
        g = self.gate(x)
        return self.down(g / (F.exp(-g) + 1.0) * self.up(x))


@pytest.mark.parametrize(("kind", "gated", "units"), [
    (TensorIO, False, 8), (TensorIO, True, 8), (SequenceIO, False, 10), (SequenceIO, True, 13),
])  # fmt: skip
def test_bytes_of_a_block(kind: type[TensorIO], gated: bool, units: int) -> None:
    """In units of (t-1)/t x B T D elements. Under tensor parallel two column layers share the communication of x; under
    sequence parallel each gathers x in forward and in backward, and scatters its own gradient."""

    def program(world: Communicator) -> int:
        model = gpt(GPTConfig(16, 8, layers=1, heads=4, width=16, dtype="float64"))
        block: Any = model.units[1]
        if gated:
            block.mlp = SwiGLU(block.mlp.path, 16, np.float64)
        reducer = parallelize(model, Mesh(world, tp=2), Strategy(sp=kind is SequenceIO))
        reducer.init(SEED)
        ids = np.random.default_rng(0).integers(0, 16, (3, 9))
        with Ledger().open() as ledger:
            where = Where(SEED, 0, 3, 8, slice(0, 3), slice(0, 8))
            compute_gradients(model, Batch(ids[:, :-1], ids[:, 1:], where), reducer)
        return ledger.bytes["tp", "block"]

    found = threads.run(2, lambda world: program(RingCommunicator(world)))
    assert found == [units * 3 * 8 * 16 * 8 // 2] * 2


def test_an_activation_after_rows_comes_after_the_sum() -> None:
    """gelu(a + b) is not gelu(a) + gelu(b)."""
    x = np.random.default_rng(0).standard_normal((2, 5, 6))

    def layer() -> Linear:
        made = Linear("row", 6, 4, std=1.0, dtype=np.float64)
        assert made.bias is not None
        made.bias.init_mean = 0.5
        return made

    def program(world: Communicator) -> Array:
        made = layer()
        Plan(TensorIO(world)).row(made)
        made.init(SEED)
        return made(Tensor(x[..., shard_of(6, world.size, world.rank)].copy()), gelu=True).data

    serial = layer()
    serial.init(SEED)
    for found in threads.run(3, program):
        assert close(found, serial(Tensor(x), gelu=True).data) <= BOUND


# A shard of the time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "pieces"), [(0, [(0, 3), (3, 5), (5, 7)]), (3, [(3, 6), (6, 8), (8, 10)])])
def test_a_share_of_the_time_is_counted_from_where_the_batch_begins(start: int, pieces: list[tuple[int, int]]) -> None:
    """Positions 3 to 9 are seven; the first rank has 3, 4 and 5."""
    where = Where(1, 0, 2, 12, slice(0, 2), slice(start, start + 7))
    batch = Batch(np.zeros((2, 7), int), None, where)
    found = threads.run(3, lambda world: SequenceIO(world).unit(batch).where)
    assert [(where.residual.start, where.residual.stop) for where in found] == pieces
    assert all(where.time == batch.where.time and where.samples == slice(0, 2) for where in found)


@pytest.mark.parametrize(
    ("inputs", "T", "said"),
    [
        (np.ones((2, 7)), 7, r"shape \(2, 7\), float64"),
        (np.zeros(2, int), 1, r"shape \(2,\), int64"),
    ],
)
def test_only_ids_have_a_time_to_share(inputs: Array, T: int, said: str) -> None:
    batch = Batch(inputs, np.zeros(2, int), Where(1, 0, 2, T, slice(0, 2), slice(0, T)))
    with pytest.raises(UserError, match=rf"divides a batch of ids \(B, T\) along time.* {said}: use .* sp=False"):
        SequenceIO(world_of_one()).unit(batch)
