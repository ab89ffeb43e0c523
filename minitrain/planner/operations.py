"""What each operation of a model costs on one rank, in formulas: FLOPs, bytes sent, bytes kept for backward.

An operation lists its work as steps: a number of FLOPs, or a collective over the ranks along tp. Units are lists of
operations (units.py).

    operation           FLOPs forward     of the input       of the weights            keeps, in elements
    linear (I -> O)     2 R I O           2 R I O            2 R I O + 2 R O (bias)    R I, with GELU also R O
    attention           4 B H T T d       8 B H T T d                                  3 R H d + B H T T
    layer norm                                               2 R D + 2 R D             R D + R
    cross-entropy                                                                      R V (the probabilities)

R = B T is the number of rows on this rank, d = D/H; sums over rows, such as the gradient of a bias, are products with
ones and count as such. Under tensor parallel, H, F and V are the rank's own, and under sequence parallel T is its own
outside the divided layers. These are the formulas that the tests compare with the ledger of real runs.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from ..backend import CHUNK
from ..comm.communicator import Tag
from ..sharding import shard_of
from .sizes import Sizes

Kind = Literal["all_reduce", "all_gather", "reduce_scatter"]
BLOCK, EMBEDDING, HEAD, LOSS = (("tp", purpose) for purpose in ("block", "embedding", "head", "loss"))


@dataclass(frozen=True)
class Collective:
    """A collective on `rows` rows of `width` bytes, which are divided over the ranks as evenly as possible."""

    kind: Kind
    tag: Tag
    rows: int
    width: int

    def sent(self, ranks: int, rank: int) -> int:
        """Return the bytes that a rank of a ring sends: all shards but its own, all but the next rank's, or both."""
        own = (lambda ahead: self.rows - length(self.rows, ranks, (rank + ahead) % ranks)) if ranks > 1 else lambda _: 0
        scatter, gather = self.kind != "all_gather", self.kind != "reduce_scatter"
        return self.width * (scatter * own(0) + gather * own(1))

    def largest(self, ranks: int) -> int:
        """Return the bytes of the largest shard, for which every step of a ring waits."""
        return self.width * -(-self.rows // ranks)

    def hops(self, ranks: int) -> int:
        """Return the number of steps of a ring."""
        return (ranks - 1) * (2 if self.kind == "all_reduce" else 1)


Step = int | Collective  # FLOPs, or a collective along tp


@dataclass(frozen=True)
class Op:
    """One operation on one rank.

    forward, inputs: the steps of the forward and of the gradient of the inputs.
    weights: pairs (parameter, the steps of its gradient, or None where that comes from elsewhere).
    kept, kept_for_weights: bytes kept until the gradient of the inputs, or those of the weights, are computed.
    room, room_back: bytes of buffers in forward and backward: its input and its result, or their gradients.
    waits: bytes of the gradient of its result, if those of weights wait for it.
    taken: bytes of its input, a buffer until then, that it keeps.
    unkept: bytes of an earlier input that exist beside it as a buffer, if nothing is kept.
    """

    forward: tuple[Step, ...] = ()
    inputs: tuple[Step, ...] = ()
    weights: tuple[tuple[str, tuple[Step, ...] | None], ...] = ()
    kept: int = 0
    kept_for_weights: int = 0
    room: int = 0
    room_back: int = 0
    waits: int = 0
    taken: int = 0
    unkept: int = 0


def length(n: int, parts: int, i: int) -> int:
    """Return the length of the i-th of `parts` shards of n items."""
    cut = shard_of(n, parts, i)
    return cut.stop - cut.start


@dataclass(frozen=True)
class Local:
    """What one rank sees of a micro-batch: `samples` of it, and its part of every matrix.

    t, r: the ranks along tp, and this one's index. sequence: whether time is divided. flash: FlashAttention. item,
    acc_item, id: bytes of an activation, of a sum of activations, and of a token's id.
    """

    sizes: Sizes
    samples: int
    t: int = 1
    r: int = 0
    sequence: bool = False
    flash: bool = False
    item: int = 4
    acc_item: int = 4
    id: int = 4

    def own(self, n: int) -> int:
        """Return this rank's share of n columns, heads or rows of a matrix."""
        return length(n, self.t, self.r)

    @cached_property
    def rows(self) -> int:
        """B T, the rows that divided layers see."""
        return self.samples * self.sizes.length

    @cached_property
    def kept_rows(self) -> int:
        """The rows on the residual path: all, or this rank's share of the time."""
        return self.samples * self.time

    @cached_property
    def time(self) -> int:
        """The positions on the residual path."""
        return self.own(self.sizes.length) if self.sequence else self.sizes.length

    @property
    def windows(self) -> bool:
        """Whether flat labels are a view of the windows of the batch, instead of a copy."""
        return self.samples == 1 or self.sizes.length == 1

    @property
    def whole(self) -> int:
        """Bytes of (B, T, D)."""
        return self.rows * self.sizes.width * self.item

    @property
    def stream(self) -> int:
        """Bytes of this rank's share of (B, T, D), which passes from unit to unit."""
        return self.kept_rows * self.sizes.width * self.item

    @property
    def half(self) -> bool:
        """Whether products are computed in a wider dtype than they are stored in."""
        return self.item < self.acc_item

    def along_time(self, kind: Kind, tag: Tag) -> Collective:
        """Return a collective of sequence parallel on (B, T, D), cut along T. Sums are sent in the wide dtype."""
        item = self.item if kind == "all_gather" else self.acc_item
        return Collective(kind, tag, self.sizes.length, self.samples * self.sizes.width * item)

    def all_reduce(self, tag: Tag, columns: int = 1) -> Collective:
        """Return the sum over ranks of an array of `columns` numbers per row."""
        return Collective("all_reduce", tag, self.rows * columns, self.acc_item)

    def enter(self, tag: Tag = BLOCK) -> list[Op]:
        """Return how x enters divided layers: its gradient is summed; sequence parallel first gathers x."""
        if self.t == 1:
            return []
        if self.sequence:
            gather, scatter = self.along_time("all_gather", tag), self.along_time("reduce_scatter", tag)
            return [Op((gather,), (scatter,), room=2 * self.whole, room_back=2 * self.whole)]
        return [Op(inputs=(self.all_reduce(tag, self.sizes.width),), room=self.whole, room_back=2 * self.whole)]

    def leave(self, tag: Tag = BLOCK) -> list[Op]:
        """Return how the partial results of divided layers are summed."""
        if self.t == 1:
            return []
        if self.sequence:
            scatter, gather = self.along_time("reduce_scatter", tag), self.along_time("all_gather", tag)
            return [Op((scatter,), (gather,), room=2 * self.whole, room_back=self.stream + self.whole)]
        return [Op((self.all_reduce(tag, self.sizes.width),), room=2 * self.whole, room_back=self.whole)]


# The operations -------------------------------------------------------------------------------------------------------


def linear(s: Local, path: str, I: int, O: int, *, bias: bool = True, gelu: bool = False, keeps: bool = True) -> Op:
    """Return y = x W + b, or gelu of it: fused.linear. It keeps x, unless another does, and, with GELU, the derivative.

    bias: whether there is a b. gelu: whether GELU follows. keeps: whether it keeps x.
    """
    product, x, y = 2 * s.rows * I * O, s.rows * I, s.rows * O
    weights = [(f"{path}.weight", (product,))] + [(f"{path}.bias", (2 * y,))] * bias
    kept = keeps * x + gelu * y
    room = x * s.item + y * s.acc_item  # in half precision, products are computed in float32
    back = max(x * s.acc_item + y * s.item, (x + y) * s.item + s.half * I * O * s.acc_item)
    return Op((product,), (product,), tuple(weights), 0, kept * s.item, room, back, y * s.item, keeps * x * s.item)


def columns(s: Local, I: int, *matrices: tuple[str, int], bias: bool = False, gelu: bool = False) -> list[Op]:
    """Return matrices (path, O) of one x, divided by columns. Sequence parallel keeps only a share of x, and gathers it
    for each product. bias, gelu: those of `linear`."""
    ops = [linear(s, path, I, O, bias=bias, gelu=gelu, keeps=i == 0) for i, (path, O) in enumerate(matrices)]
    return [gathering(s, op, I) for op in ops] if s.t > 1 and s.sequence else [*s.enter(), *ops]


def gathering(s: Local, whole: Op, I: int) -> Op:
    """Return a product whose x (B, T, I) is divided along time: gathered in forward, and again for the weights."""
    gather, scatter = s.along_time("all_gather", BLOCK), s.along_time("reduce_scatter", BLOCK)
    (weight, steps), *bias = whole.weights
    kept = whole.kept_for_weights - (s.rows - s.kept_rows) * I * s.item * (whole.taken > 0)
    return Op(
        (gather, *whole.forward), (*whole.inputs, scatter), ((weight, (gather, *(steps or ()))), *bias), 0, kept,
        room=s.stream + max(s.whole, whole.waits), room_back=s.stream + whole.room_back, waits=whole.waits,
        taken=s.stream * (whole.taken > 0),
    )  # fmt: skip


def row(s: Local, path: str, I: int, O: int, *, bias: bool = False) -> list[Op]:
    """Return a matrix divided by rows: the sum over ranks, and then the bias."""
    if s.t == 1:
        return [linear(s, path, I, O, bias=bias)]
    added = Op(weights=((f"{path}.bias", (2 * s.kept_rows * O,)),), room=2 * s.stream, room_back=s.stream)
    after = [replace(op, unkept=s.rows * I * s.item) for op in (*s.leave(), *[added] * bias)]
    return [linear(s, path, I, O, bias=False), *after]


def attention(s: Local, H: int, K: int, d: int) -> Op:
    """Attention of H heads to K heads of keys and values: fused.attention, and causal_attention with K = H. It keeps q,
    k, v and the probabilities, whose products it computes in full. FlashAttention keeps a sum for each of their rows
    instead, and computes the scores again in backward."""
    T = s.sizes.length
    product, scores = 2 * s.samples * H * T * T * d, s.samples * H * T * T
    y, qkv = s.rows * H * d * s.item, s.rows * (H + 2 * K) * d * s.item
    if s.flash:
        return Op((2 * product,), (5 * product,), (), qkv + s.rows * H * 4, 0, qkv + y, qkv + y, taken=qkv)
    room = qkv + y + s.half * min(scores, CHUNK) * s.acc_item  # products in float32, of some heads at a time
    return Op((2 * product,), (4 * product,), (), qkv + scores * s.item, 0, room, room, taken=qkv)


def layer_norm(s: Local, path: str) -> Op:
    """fused.layer_norm keeps the normalized rows, and 1/deviation of each in the wide dtype."""
    D, R = s.sizes.width, s.kept_rows
    sums = tuple((f"{path}.{name}", (2 * R * D,)) for name in ("weight", "bias"))
    return Op((), (), sums, R * s.acc_item, s.stream, 2 * s.stream, 2 * s.stream, waits=s.stream)


def rms_norm(s: Local, path: str) -> Op:
    """Return a norm without mean and bias, otherwise as layer_norm."""
    norm = layer_norm(s, path)
    return replace(norm, weights=norm.weights[:1])


def elementwise(s: Local, columns: int, inputs: int = 1, kept: int = 0) -> Op:
    """Return an operation on each element of `inputs` arrays (B, T, columns), of which it keeps `kept`."""
    size = s.rows * columns * s.item
    return Op(kept=kept * size, room=(inputs + 1) * size, room_back=(inputs + 1) * size, taken=kept * size)


def dropout(s: Local) -> list[Op]:
    """Dropout keeps a mask of one byte per element."""
    return [Op(kept=s.kept_rows * s.sizes.width, room=2 * s.stream, room_back=2 * s.stream)] if s.sizes.dropout else []


def cross_entropy(s: Local, classes: int) -> Op:
    """Return the loss. It keeps the probabilities, or half-precision logits, and the labels. A divided vocabulary sends
    three numbers per row: the maximum, the sum of e^x and the label's logit."""
    labels = 0 if s.windows else s.rows * s.id
    logits = s.rows * classes * s.item
    others = labels + s.rows * (8 if s.t == 1 else 2 * s.acc_item if s.half else 0)  # 8: the number of each row
    steps = (s.all_reduce(LOSS),) * 3 if s.t > 1 else ()
    if s.half:
        return Op(steps, kept=logits + others, room=logits, room_back=logits)
    return Op(steps, kept=others, kept_for_weights=logits, room=logits)  # the gradient overwrites the probabilities
