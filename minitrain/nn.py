"""Parameters that know their place in the logical model, and the layers that hold them.

Every layer is written for one process. It takes its path ("blocks.0.mlp.up") from the function that builds the model,
and reads sizes from the parameters that it holds, never from the config: so a transformation can cut a parameter, or
put another class in a layer's place, without any layer knowing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from . import functional, fused, rng
from .autograd import Tensor, WeightVjp
from .backend import FLOAT_NAMES, Array, is_float, is_masked, to_device, xp
from .data.batch import Batch
from .errors import UserError, check_number, check_seed, check_shape, check_text, check_whole, shown
from .observe import ledger
from .shares import share

if TYPE_CHECKING:
    from .parallel.plan import Plan

Coordinates = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Replicate:
    """Along an axis of the mesh: the same slice is held at each of these coordinates."""

    at: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """Along an axis of the mesh: each coordinate holds a share of dimension `dim`, in steps of `unit` elements."""

    dim: int
    unit: int = 1


@dataclass(frozen=True)
class Placement:
    """Where a parameter lies in the logical model, in the words of PyTorch's DTensor. Initialisation, gradient
    reduction, norms, gathering and checkpoints read this and nothing else.

    axes: axis of the mesh -> Replicate or Shard.
    partial: axis -> its coordinates over which the gradient is a partial sum, so that it has to be added up.
    """

    path: str
    shape: tuple[int, ...]  # of the logical parameter
    index: tuple[slice, ...]  # the slice that is held here
    axes: Mapping[str, Replicate | Shard] = field(default_factory=dict)
    partial: Coordinates = field(default_factory=dict)

    @property
    def copies(self) -> Coordinates:
        """Axis -> its coordinates that hold this same slice."""
        return {axis: how.at for axis, how in self.axes.items() if isinstance(how, Replicate)}

    @property
    def local(self) -> tuple[int, ...]:
        """The shape of the slice that is held here."""
        return tuple(cut.stop - cut.start for cut in self.index)

    def split(self, dim: int, lo: int, hi: int) -> "Placement":
        """Only lo..hi of dimension dim, counted within what is held here.

        Raises UserError or ValueError for a dimension or a range that is not there.
        """
        check_whole("dim", dim, 0, len(self.index) - 1)
        check_whole("lo", lo)
        check_whole("hi", hi)
        if not 0 <= lo <= hi <= self.local[dim]:
            raise ValueError(f"{self.path}: cannot hold {lo}..{hi} of dimension {dim}, which has {self.local[dim]}")
        start = self.index[dim].start
        index = (*self.index[:dim], slice(start + lo, start + hi), *self.index[dim + 1 :])
        return replace(self, index=index)

    def shard(self, axis: str, how: Shard, n: int, i: int) -> "Placement":
        """The i-th of n shares along this axis of the mesh."""
        own = share(self.local[how.dim] // how.unit, n, i)
        cut = self.split(how.dim, own.start * how.unit, own.stop * how.unit)
        return replace(cut, axes={**self.axes, axis: how})

    def held_at(self, axis: str, coordinates: tuple[int, ...]) -> "Placement":
        """Held whole at each of the coordinates, which all have the whole gradient (tensor parallel)."""
        return replace(self, axes={**self.axes, axis: Replicate(coordinates)})

    def replicate(self, axis: str, coordinates: tuple[int, ...]) -> "Placement":
        """Held whole at each of the coordinates, each of which contributes a part of the gradient (data parallel)."""
        return replace(self.held_at(axis, coordinates), partial={**self.partial, axis: coordinates})


class Parameter(Tensor):
    """A trained array with a path. Its values start as mean + std x normal, keyed by (seed, path).

    It is declared first and gets its values later: from a bucket, which also gives its gradient a place, or from
    `Module.draw`. `decay` says whether weight decay applies (not to biases and norms).
    """

    def __init__(
        self,
        path: str,
        shape: tuple[int, ...],
        mean: float = 0.0,
        std: float = 0.0,
        dtype: Any = np.float32,
        decay: bool = True,
    ) -> None:
        check_text("path", path)
        check_shape(f"{path}: shape", shape)
        check_number(f"{path}: mean", mean, "finite")
        check_number(f"{path}: std", std, "at least 0")
        self.requires_grad = True
        self.node = self.on_ready = self.segment = None  # as in Tensor.__init__, but for the values, which come later
        self.placement = Placement(path, shape, tuple(slice(0, n) for n in shape))
        self.mean, self.std, self.decay = mean, std, decay
        self.bucket: Any = None  # parallel.flat.Bucket, when one holds this parameter
        self._data: Array | None = None
        self._grad: Array | None = None
        self._dtype = _float_type(path, dtype)

    @property
    def data(self) -> Array:
        if self._data is None:
            raise RuntimeError(
                f"parameter {self.placement.path} has no values here: draw the model, make its trainer, or "
                "call init(seed) of its reducer.\n"
                "Layers are found in attributes, and in flat lists, tuples and dictionaries. In a pipeline another "
                "stage may have it: a unit uses layers of its own. "
                "Under ZeRO-3 use gather(model, world, gradients=trainer.gradients), and assign p.data = w"
            )
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        """Take these values; a parameter in a bucket copies them to its place there, which the optimizer updates.

        Raise UserError for another shape or dtype.
        """
        if value is self._data:  # p.data *= 2 has changed the values in their place
            return
        value = self._fitting("data", value)
        if self.bucket is None:
            self._data = value
        else:
            self.bucket.write(self, value)

    @property
    def drawn(self) -> bool:
        """Whether it has values: drawn ones, or others that it was given."""
        return self._data is not None

    @property
    def grad(self) -> Array | None:
        """What backward has written, and the ranks have added up: times the loss scale, not clipped, and under ZeRO-1 a
        sum only where this rank owns it.

        What the optimizer sees is trainer.gradients.gradient(p), and of the whole model, by the parameters' paths,
        gather(model, world, "grad", trainer.gradients).
        """
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        """Take this gradient; a parameter in a bucket copies it to its place there, which the optimizer reads.

        For after finish(); what the optimizer sees is `factor` times it, as of all gradients (see optim.py).
        Raise UserError for another shape or dtype, and where the bucket has no gradients to write to.
        """
        if value is self._grad:  # p.grad *= 2
            return
        if self.bucket is None and value is None:
            self._grad = None
            return
        if self.bucket is not None and (self._grad is None or value is None):
            raise UserError(
                f"{self.placement.path}.grad is set to {shown(value)}, and its bucket has no place for that now.\n"
                "Gradients live from backward to begin(), and under ZeRO-2 and -3 only until they are reduced"
            )
        value = self._fitting("grad", value)
        if self.bucket is None:
            self._grad = value
        else:
            self.bucket.take(self)[0][...] = value

    def _fitting(self, what: str, value: Any) -> Array:
        """The value, an array of this parameter's shape and dtype. Raise UserError for anything else."""
        array = xp.asarray(value) if isinstance(value, np.generic) else value  # sums of arrays without axes are such
        fits = isinstance(array, xp.ndarray) and array.shape == self.shape and array.dtype == self._dtype
        if not fits or is_masked(array):
            raise UserError(
                f"{self.placement.path}.{what} is set to {shown(value)}; "
                f"it must be an array of {self._dtype}, shape {self.shape}"
            )
        return array

    def view(self, values: Array | None) -> None:
        """Let the values be this array, a part of a bucket; None takes them away."""
        self._data = values

    def view_gradient(self, place: Array | None) -> None:
        """Let the gradient be this array, a part of a bucket; None takes it away."""
        self._grad = place

    def initial(self, seed: int) -> Array:
        """Return the values to start from, of the slice held here: those that it has, or else drawn ones."""
        if self._data is None:
            return to_device(self.draw(seed))
        return self._data if self._data.shape == self.shape else self._data[self.placement.index]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.placement.local

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    def store_as(self, dtype: Any) -> None:
        """From now on the values and the gradient have this dtype. Raises UserError when there are values already."""
        if self._data is not None:
            raise UserError(
                f"{self.placement.path} has {self._dtype} values already; choose its dtype before it is drawn"
            )
        self._dtype = _float_type(self.placement.path, dtype)

    def draw(self, seed: int) -> np.ndarray:
        """The initial values of the slice held here, on the host: the same numbers whatever the mesh."""
        check_seed(seed)
        where = self.placement
        if self.std == 0:
            return np.full(where.local, self.mean, self._dtype)
        values = rng.normal(rng.key(seed, where.path), where.shape, where.index)
        values *= self.std
        values += self.mean
        return values.astype(self._dtype)

    def accumulate(self, vjp: WeightVjp, g: Array) -> None:
        """Adds vjp(g) to the gradient: the first contribution of a step is written to its place in the bucket.

        Zeros that are added to would take 0.4% longer at 0.5 M parameters, 5% at 20 M.
        """
        if self.bucket is None:
            super().accumulate(vjp, g)
            return
        place, first = self.bucket.take(self)
        if not first:
            place += vjp(g)
        elif (gradient := vjp(g, out=place)) is not place:
            place[...] = gradient  # a vjp that has no use for `out`

    def __getstate__(self) -> dict[str, Any]:
        """What a copy (copy.deepcopy, pickle) takes along: the values, without the bucket and the gradient.

        Raise UserError when this rank does not hold the whole parameter.
        """
        where = self.placement
        if where.local != where.shape or (self._data is None and self.bucket is not None):
            raise UserError(
                f"{where.path} cannot be copied: this rank holds a part of it.\n"
                "Gather the model first, minitrain.train.checkpoint.gather, and restore it into a new one"
            )
        kept = {name: value for name, value in vars(self).items() if name not in ("_grad", "bucket")}
        kept |= {"requires_grad": self.requires_grad, "placement": Placement(where.path, where.shape, where.index)}
        kept["_data"] = None if self._data is None else self._data.copy()  # a view would take its whole bucket along
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._grad = self.node = self.segment = self.on_ready = self.bucket = None
        for name, value in state.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        return f"Parameter({self.placement.path}, {self.placement.local} of {self.placement.shape}, {self._dtype})"


def _float_type(path: str, dtype: Any) -> np.dtype:
    """The dtype that this names. Raises UserError unless it is one that is computed with."""
    if not is_float(dtype):
        raise UserError(f"{path}: dtype is {shown(dtype)}; parameters are floating point: {FLOAT_NAMES}")
    return np.dtype(dtype)


_changes = count(1)


class Module:
    """Something with parameters, found by looking through its attributes in the order they were set.

    changes: a number that is another one after any module has had a member set or taken away.
    """

    changes = 0
    path: str = ""
    precision: Any = None  # precision.Precision, which chooses dtypes; without one all is computed as it is given
    per_position = False  # each position is treated by itself: the module may be given a share of the time

    def shard(self, plan: "Plan") -> None:
        """Say how the layers below are divided among the ranks of a tp axis, in the words of parallel/plan.py.

        By default each child says so itself, and a layer that says nothing is whole on every rank.
        """
        for _, child in self.children():
            child.shard(plan)

    def chosen(self, operation: str, given: Any) -> np.dtype:
        """The dtype in which this module does the operation, on activations of dtype `given`."""
        return np.dtype(given) if self.precision is None else self.precision.dtype(self.path, operation, given)

    def at(self, operation: str, x: Tensor) -> Tensor:
        """x in the dtype in which this module does the operation."""
        dtype = self.chosen(operation, x.dtype)
        return x if x.dtype == dtype else functional.cast(x, dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        """Raise UserError where a parameter would be replaced by its result: it would not be found, nor trained."""
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter):
            raise UserError(
                f"{self.path or type(self).__name__}.{name} is a parameter, and is set to {shown(value)}.\n"
                f"Change its values instead: {name}.data *= 0.5, or {name}.data = an array"
            )
        super().__setattr__(name, value)
        Module.changes = next(_changes)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        Module.changes = next(_changes)

    def members(self) -> Iterator[tuple[str, Any]]:
        """(name, thing) for the attributes, and for what is in lists, tuples and dictionaries: "layers.0"."""
        for name, value in vars(self).items():
            if isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", thing) for i, thing in enumerate(value))
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", thing) for key, thing in value.items())
            else:
                yield name, value

    def put(self, name: str, child: "Module") -> None:
        """Put a module in the place of the member with this name."""
        holder, _, key = name.partition(".")
        place = getattr(self, holder)
        if not key:
            setattr(self, name, child)
        elif isinstance(place, dict):
            place[next(k for k in place if str(k) == key)] = child
        else:
            setattr(self, holder, type(place)(child if str(i) == key else thing for i, thing in enumerate(place)))

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) for the members that are modules."""
        yield from ((name, value) for name, value in self.members() if isinstance(value, Module))

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def parameters(self) -> list[Parameter]:
        """In the order of first use in the forward, a shared one once."""
        found: dict[Parameter, None] = {}
        for _, value in self.members():
            if isinstance(value, Parameter):
                found[value] = None
            elif isinstance(value, Module):
                found.update(dict.fromkeys(value.parameters()))
        return list(found)

    def draw(self, seed: int) -> None:
        """Gives every parameter its initial values, without buckets."""
        for p in self.parameters():
            values = to_device(p.draw(seed))
            p.data = values  # also where there are values already
            if p.bucket is None:
                ledger.hold(values, "parameters", "set-up")


def check_paths(model: Module) -> None:
    """Raise UserError unless each path belongs to one parameter, and to one dropout: random numbers are keyed by it."""
    found: dict[str, Any] = {}
    keyed = [("parameters", p.placement.path, p) for p in model.parameters()]
    keyed += [("dropouts", m.path, m) for m in model.modules() if isinstance(m, Dropout)]  # type: ignore[misc]
    for kind, path, thing in keyed:
        if found.setdefault(f"{kind} {path}", thing) is not thing:
            raise UserError(
                f"two {kind} have the path {path!r}, which their random numbers are keyed by: they would be equal.\n"
                "Give each a path of its own, or use the same object twice to share it"
            )


def check_free(model: Module) -> None:
    """Raise UserError when a trainer (a reducer) holds the model's parameters already."""
    for p in model.parameters():
        if p.bucket is not None:
            raise UserError(
                f"{p.placement.path} belongs to a trainer already, and two would train against each other.\n"
                "Go on with that one, or gather its values and restore them into another model (train.checkpoint)"
            )


Watch = Callable[[str, Tensor | None, Tensor], None]  # (path of a unit, what goes in, what comes out)
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Watch | None) -> Iterator[None]:
    """`watch` is shown what every unit makes, in this thread."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def pass_through(units: Sequence[Any], x: Tensor | None, batch: Batch) -> Tensor:
    """What the units make of x, one after the other; nothing goes into the first unit of a whole model."""
    watch = _watch.get()
    for unit in units:
        before, x = x, unit(x, batch)
        if not isinstance(x, Tensor):
            name = getattr(unit, "path", "") or type(unit).__name__
            raise TypeError(f"unit {name} returned {shown(x)}; a unit returns a Tensor")
        if watch is not None and unit.path and x is not None:  # a segment has no path; its units have
            watch(unit.path, before, x)
    assert x is not None
    return x


class Linear(Module):
    """y = x W + b, W (I, *O), b (*O)."""

    per_position = True

    def __init__(
        self,
        path: str,
        fan_in: int,
        fan_out: int | tuple[int, ...],
        std: float = 0.02,
        dtype: Any = np.float32,
    ) -> None:
        self.path = path
        out = fan_out if isinstance(fan_out, tuple) else (fan_out,)
        self.weight = Parameter(f"{path}.weight", (fan_in, *out), std=std, dtype=dtype)
        self.bias = Parameter(f"{path}.bias", out, dtype=dtype, decay=False)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """x (..., I) -> (..., *O), with GELU on top if asked for."""
        return fused.linear(self.at("linear", x), self.weight, self.bias, gelu)


class LayerNorm(Module):
    """See fused.layer_norm."""

    per_position = True

    def __init__(self, path: str, width: int, dtype: Any = np.float32) -> None:
        self.path = path
        self.weight = Parameter(f"{path}.weight", (width,), mean=1.0, dtype=dtype, decay=False)
        self.bias = Parameter(f"{path}.bias", (width,), dtype=dtype, decay=False)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        return fused.layer_norm(self.at("layer_norm", x), self.weight, self.bias)


class Embedding(Module):
    """A table with one row per id, weight (V, D)."""

    def __init__(self, path: str, rows: int, width: int, std: float = 0.02, dtype: Any = np.float32) -> None:
        self.path = path
        self.weight = Parameter(f"{path}.weight", (rows, width), std=std, dtype=dtype)

    def shard(self, plan: "Plan") -> None:
        plan.vocabulary(self)

    def __call__(self, ids: Array) -> Tensor:
        """ids (...) -> (..., D)."""
        return fused.embedding(ids, self.weight, self.chosen("embedding", self.weight.dtype))


class Dropout(Module):
    """Zeroes elements with probability p in training, by a mask that depends on seed, batch number, path and the
    logical position of the element: the same on any mesh, and again in a replay."""

    per_position = True

    def __init__(self, path: str, p: float) -> None:
        check_number(f"{path}: p", p, "at least 0 and less than 1")
        self.path, self.p = path, p

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        where = batch.where
        if self.p == 0 or not where.training:
            return x
        width = x.shape[-1]
        shape, index = (where.B, where.T, width), (where.samples, where.residual, slice(0, width))
        keep = rng.mask(rng.key(where.seed, "dropout", where.number, self.path), shape, index, self.p)
        return fused.dropout(x, to_device(keep), self.p)


class CausalAttention(Module):
    """What heads do with q, k and v: a layer without parameters, of the heads that are held here."""

    def __init__(self, path: str, scale: float | None = None) -> None:
        self.path, self.scale = path, scale

    def __call__(self, qkv: Tensor, batch: Batch) -> Tensor:
        """qkv (B, T, 3, H, D/H) -> (B, T, D). Raises UserError for a share of the time: it looks at all of it."""
        time = batch.where.time
        if qkv.ndim > 1 and qkv.shape[1] != time.stop - time.start:
            given = f"{self.path} is given {qkv.shape[1]} positions, and"
            if batch.where.T == 1:
                raise UserError(
                    f"{given} the batch says that its samples are no sequences: where.T is 1.\n"
                    "An ArrayLoader makes such batches; for sequences with one label each make Batch(ids, labels, "
                    "Where(seed, number, B, T, slice(0, B), slice(0, T), counted=B))"
                )
            raise UserError(
                f"{given} the batch has {time.stop - time.start}: attention needs all of them.\n"
                "Under sequence parallel divide the layer before it (plan.heads), in `shard`"
            )
        return fused.causal_attention(self.at("attention", qkv), time.start, self.scale)


class Attention(Module):
    """Causal self-attention with H heads: qkv.weight (D, 3, H, D/H), proj.weight (D, D)."""

    def __init__(self, path: str, width: int, heads: int, std: float, out_std: float, dtype: Any) -> None:
        check_heads(heads, width)
        self.path = path
        self.qkv = Linear(f"{path}.qkv", width, (3, heads, width // heads), std, dtype)
        self.core = CausalAttention(f"{path}.core")
        self.proj = Linear(f"{path}.proj", width, width, out_std, dtype)

    def shard(self, plan: "Plan") -> None:
        """Heads of qkv, and the rows of proj that multiply them."""
        heads = self.qkv.weight.shape[2]
        plan.heads(self.qkv)
        plan.row(self.proj, parts=heads)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        return self.proj(self.core(self.qkv(x), batch))


def check_heads(heads: int, width: int) -> None:
    """Raises UserError unless the heads divide the width."""
    check_whole("heads", heads, 1)
    check_whole("width", width, 1)
    if width % heads:
        allowed = [h for h in range(1, min(width, 1024) + 1) if width % h == 0]  # a list that ends for any width
        raise UserError(f"heads is {heads}, which does not divide the width {width}; allowed: {allowed}")


class FeedForward(Module):
    """y = W_down gelu(W_up x), F = 4 D wide inside."""

    def __init__(self, path: str, width: int, std: float, out_std: float, dtype: Any) -> None:
        self.path = path
        self.up = Linear(f"{path}.up", width, 4 * width, std, dtype)
        self.down = Linear(f"{path}.down", 4 * width, width, out_std, dtype)

    def shard(self, plan: "Plan") -> None:
        """Columns of up, and the rows of down that multiply them."""
        plan.column(self.up)
        plan.row(self.down)

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        return self.down(self.up(x, gelu=True))


class Classifier(Module):
    """logits = x W^T, and their cross-entropy. W (V, D) has the layout of the token table, and may be that table."""

    def __init__(self, path: str, weight: Parameter) -> None:
        self.path = path
        self.weight = weight

    def shard(self, plan: "Plan") -> None:
        plan.vocabulary(self)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> the loss, or the logits (B, T, V) of a batch without labels."""
        logits = fused.linear_transposed(self.at("linear", x), self.weight)
        return judged(logits, batch)


def judged(logits: Tensor, batch: Batch) -> Tensor:
    """The cross-entropy of logits (..., V), or the logits themselves when the batch has no labels.

    Raises UserError for labels outside 0..V-1, with the batch and the row of the data.
    """
    if batch.labels is None:
        return logits
    try:
        return fused.cross_entropy(logits, batch.labels, batch.where.count)
    except IndexError as error:
        raise batch.mislabelled(logits.shape[-1]) from error


class Block(Module):
    """One layer of a GPT, normalised before each half: x + attention(norm(x)), then x + mlp(norm(x)).

    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.
    """

    def __init__(
        self, path: str, width: int, heads: int, dropout: float, std: float, out_std: float, dtype: Any
    ) -> None:
        self.path = path
        self.norm1 = LayerNorm(f"{path}.norm1", width, dtype)
        self.attn = Attention(f"{path}.attn", width, heads, std, out_std, dtype)
        self.drop1 = Dropout(f"{path}.drop1", dropout)
        self.norm2 = LayerNorm(f"{path}.norm2", width, dtype)
        self.mlp = FeedForward(f"{path}.mlp", width, std, out_std, dtype)
        self.drop2 = Dropout(f"{path}.drop2", dropout)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        x = self.at("layer", x)
        x = x + like(x, self.drop1(self.attn(self.norm1(x), batch), batch))
        return x + like(x, self.drop2(self.mlp(self.norm2(x)), batch))


def like(x: Tensor, y: Tensor) -> Tensor:
    """y in x's dtype."""
    return y if y.dtype == x.dtype else functional.cast(y, x.dtype)
