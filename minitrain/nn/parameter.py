"""Parameters, which know their place in the logical model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import rng
from ..autograd import Tensor, WeightVjp
from ..backend import FLOAT_NAMES, Array, as_floats, is_float, is_masked, to_device, to_host, xp
from ..errors import UserError, check_number, check_seed, check_shape, check_text, check_whole, shown
from ..shares import share

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
    shape: or an array, which has the values to start from; they are converted to dtype, copied, and there at once.
    """

    def __init__(
        self,
        path: str,
        shape: tuple[int, ...] | Array,
        mean: float = 0.0,
        std: float = 0.0,
        dtype: Any = np.float32,
        decay: bool = True,
    ) -> None:
        check_text("path", path)
        check_number(f"{path}: mean", mean, "finite")
        check_number(f"{path}: std", std, "at least 0")
        dtype = _float_type(path, dtype)
        values: Array | None = None
        if isinstance(shape, (np.ndarray, xp.ndarray)):
            if mean or std:
                raise UserError(
                    f"{path}: its values are {shown(shape)}; with them, mean {mean} and std {std} must be 0"
                )
            values = as_floats(f"{path}: values", shape, dtype)
            shape = values.shape
        check_shape(f"{path}: shape", shape)
        self.requires_grad = True
        self.node = self.on_ready = self.segment = None  # as in Tensor.__init__, but for the values, which come later
        self.placement = Placement(path, tuple(shape), tuple(slice(0, n) for n in shape))
        self.init_mean, self.init_std, self.decay = mean, std, decay
        self.bucket: Any = None  # parallel.flat.Bucket, when one holds this parameter
        self._data: Array | None = None
        self._grad: Array | None = None
        self._dtype = dtype
        self.start: np.ndarray | None = None  # the values that were given to start from
        if values is not None:
            self.start = np.array(to_host(values))
            self._data = xp.array(values)

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

        For after finish(); what the optimizer sees is `factor` times it, as of all gradients (see optim/).
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
        """From now on the values and the gradient have this dtype. Raises UserError when there are values already.

        Those that an array gave to start from are converted.
        """
        if self.start is not None and self.bucket is None and self._data is not None:
            self._data = self._data.astype(_float_type(self.placement.path, dtype))
        elif self._data is not None:
            raise UserError(
                f"{self.placement.path} has {self._dtype} values already; choose its dtype before it is drawn"
            )
        self._dtype = _float_type(self.placement.path, dtype)

    def draw(self, seed: int) -> np.ndarray:
        """The initial values of the slice held here, on the host: the same numbers whatever the mesh."""
        check_seed(seed)
        where = self.placement
        if self.start is not None:
            return self.start[where.index].astype(self._dtype)
        if self.init_std == 0:
            return np.full(where.local, self.init_mean, self._dtype)
        values = rng.normal(rng.key(seed, where.path), where.shape, where.index)
        values *= self.init_std
        values += self.init_mean
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
