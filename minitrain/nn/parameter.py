"""Parameters, which know their place in the logical model."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import rng
from ..backend import FLOAT_NAMES, Array, is_float, to_device, to_host, xp
from ..errors import UserError, check_number, check_seed, check_shape, check_text, shown
from ..operands import as_floats, is_masked
from ..tensor import Tensor, WeightVjp
from .placement import Placement

if TYPE_CHECKING:
    from ..parallel.buckets import Bucket


class Stored(Protocol):
    """Values of a logical parameter that lie elsewhere, such as in a file, and are read when they are needed."""

    def read(self, out: Array, held: tuple[slice, ...], run: slice) -> None:
        """Write elements `run` of the slice `held`, flattened, into out (n), in its dtype."""


class Parameter(Tensor):
    """A trainable array with a path. Its initial values are mean + std * normal, keyed by (seed, path).

    A parameter is declared first and gets its values later: from `Module.init`, or from a bucket, which also stores its
    gradient.
    shape: the logical shape, or an array of initial values, which is copied, converted to dtype and available at once.
    decay: whether weight decay applies (False for biases and norms).
    Raise UserError for an invalid argument.
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
                    f"{path}: its values are {shown(shape)}; mean and std must be 0, but are {mean} and {std}"
                )
            values = as_floats(f"{path}: values", shape, dtype)
            shape = values.shape
        check_shape(f"{path}: shape", shape)
        self.requires_grad = True
        self.node = self.on_ready = self.segment = None  # as in Tensor.__init__, except that the values come later
        self.placement = Placement(path, tuple(shape), tuple(slice(0, n) for n in shape))
        self.init_mean, self.init_std, self.decay = mean, std, decay
        self.bucket: Bucket | None = None  # the bucket that holds this parameter
        self._dtype = dtype
        self._grad: Array | None = None
        self._data: Array | None = None if values is None else xp.array(values)
        self.start: np.ndarray | Stored | None = None if values is None else np.array(to_host(values))

    @property
    def data(self) -> Array:
        """The values of the slice held here. Raise RuntimeError if there are none yet."""
        if self._data is None:
            raise RuntimeError(
                f"parameter {self.placement.path} has no values here: call init(seed) of the model or its reducer, "
                "or create its trainer.\n"
                "Layers are found in attributes, and in flat lists, tuples and dictionaries. In a pipeline, another "
                "stage may hold it: a unit must use only its own layers. "
                "Under ZeRO-3, read with gather(model, world, reducer=trainer.reducer), and write with p.data = w"
            )
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        """Set the values. A parameter in a bucket copies them into the bucket, which the optimizer updates.

        Raise UserError if the shape or dtype differs.
        """
        if value is self._data:  # p.data *= 2 has already changed the values in place
            return
        value = self._fitting("data", value)
        if self.bucket is None:
            self._data = value
        else:
            self.bucket.write(self, value)

    @property
    def initialized(self) -> bool:
        """Whether the parameter has values."""
        return self._data is not None

    @property
    def grad(self) -> Array | None:
        """The gradient after backward and the sum over ranks: still times the loss scale, not yet clipped. Under ZeRO-1
        only the owner of an element has its sum.

        The optimizer sees trainer.reducer.gradient(p). For the gradients of the whole model, by path, call
        gather(model, world, "grad", trainer.reducer).
        """
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        """Set the gradient, after synchronize(). A parameter in a bucket copies it into the bucket.

        The optimizer multiplies it by `factor`, like every gradient (see optim/).
        Raise UserError if the shape or dtype differs, or if the bucket has no gradients to write to.
        """
        if value is self._grad:  # p.grad *= 2
            return
        if self.bucket is None and value is None:
            self._grad = None
            return
        if self.bucket is not None and (self._grad is None or value is None):
            raise UserError(
                f"{self.placement.path}.grad was set to {shown(value)}, but its bucket stores no gradients now.\n"
                "Gradients exist from backward to start_step(), and under ZeRO-2 and -3 only until they are reduced"
            )
        value = self._fitting("grad", value)
        if self.bucket is None:
            self._grad = value
        else:
            self.bucket.take(self)[0][...] = value

    def _fitting(self, what: str, value: Any) -> Array:
        """Return the value as an array of this parameter's shape and dtype. Raise UserError for anything else."""
        array = xp.asarray(value) if isinstance(value, np.generic) else value  # what two 0-d arrays add up to
        fits = isinstance(array, xp.ndarray) and array.shape == self.shape and array.dtype == self._dtype
        if not fits or is_masked(array):
            raise UserError(
                f"{self.placement.path}.{what} was set to {shown(value)}; "
                f"it must be an array of {self._dtype}, shape {self.shape}"
            )
        return array

    def view(self, values: Array | None) -> None:
        """Use this array, part of a bucket, as the values; None removes them."""
        self._data = values

    def view_gradient(self, place: Array | None) -> None:
        """Use this array, part of a bucket, as the gradient; None removes it."""
        self._grad = place

    def start_from(self, stored: Stored) -> None:
        """Take the initial values from `stored`, when they are needed. Raise UserError if there are values already."""
        if self._data is not None or self.bucket is not None:
            raise UserError(f"{self.placement.path} has values already; start from weights before init or a trainer")
        self.start = stored

    @property
    def stored(self) -> Stored | None:
        """Where the initial values lie, if they are neither drawn nor an array."""
        return None if isinstance(self.start, np.ndarray) else self.start

    def put_initial(self, out: Array, seed: int, run: slice) -> None:
        """Write elements `run` of `initial`, flattened, into out (n). Of stored values, no others are read."""
        if self._data is None and self.stored is not None:
            self.stored.read(out, self.placement.index, run)
        else:
            out[...] = self.initial(seed).reshape(-1)[run]

    def initial(self, seed: int) -> Array:
        """Return the existing values of the slice held here; if there are none, draw or read its initial values."""
        if self._data is None:
            return to_device(self.initial_values(seed))
        return self._data if self._data.shape == self.shape else self._data[self.placement.index]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the slice held here."""
        return self.placement.local

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the values and the gradient."""
        return self._dtype

    def store_as(self, dtype: Any) -> None:
        """Store the values and the gradient in this dtype. Initial values given as an array are converted.

        Raise UserError if the parameter already has other values, or if the dtype is not floating point.
        """
        if isinstance(self.start, np.ndarray) and self.bucket is None and self._data is not None:
            self._data = self._data.astype(_float_type(self.placement.path, dtype))
        elif self._data is not None:
            raise UserError(
                f"{self.placement.path} already has {self._dtype} values; choose its dtype before init(seed)"
            )
        self._dtype = _float_type(self.placement.path, dtype)

    def initial_values(self, seed: int) -> np.ndarray:
        """Return the initial values of the slice held here, on the host: the same numbers on any mesh.

        Raise UserError for an invalid seed.
        """
        check_seed(seed)
        where = self.placement
        if isinstance(self.start, np.ndarray):
            return self.start[where.index].astype(self._dtype)
        if self.stored is not None:
            stored = np.empty(where.local, self._dtype)
            self.stored.read(stored.reshape(-1), where.index, slice(0, stored.size))
            return stored
        if self.init_std == 0:
            return np.full(where.local, self.init_mean, self._dtype)
        values = rng.normal(rng.key(seed, where.path), where.shape, where.index)
        values *= self.init_std
        values += self.init_mean
        return values.astype(self._dtype)

    def accumulate(self, vjp: WeightVjp, g: Array) -> None:
        """Add vjp(g) to the gradient. The first contribution of a step is written straight to its place in the bucket.

        Adding to zeros instead would take 0.4% longer at 0.5 M parameters, 5% at 20 M.
        """
        if self.bucket is None:
            super().accumulate(vjp, g)
            return
        place, first = self.bucket.take(self)
        if not first:
            place += vjp(g)
        elif (gradient := vjp(g, out=place)) is not place:
            place[...] = gradient  # a vjp that ignores `out`

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy (copy.deepcopy, pickle) keeps: the values, without the bucket and the gradient.

        Raise UserError if this rank does not hold the whole parameter.
        """
        where = self.placement
        if where.local != where.shape or (self._data is None and self.bucket is not None):
            raise UserError(
                f"{where.path} cannot be copied: this rank holds only part of it.\n"
                "Gather the model first (minitrain.train.checkpoint.gather) and restore it into a new one"
            )
        kept = {name: value for name, value in vars(self).items() if name not in ("_grad", "bucket")}
        kept |= {"requires_grad": self.requires_grad, "placement": Placement(where.path, where.shape, where.index)}
        kept["_data"] = None if self._data is None else self._data.copy()  # a view would keep its whole bucket alive
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._grad = self.node = self.segment = self.on_ready = self.bucket = None
        for name, value in state.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        return f"Parameter({self.placement.path}, {self.placement.local} of {self.placement.shape}, {self._dtype})"


def _float_type(path: str, dtype: Any) -> np.dtype:
    """Return the dtype named by `dtype`. Raise UserError unless it is a supported floating-point type."""
    if not is_float(dtype):
        raise UserError(f"{path}: dtype is {shown(dtype)}; a parameter has a floating-point dtype: {FLOAT_NAMES}")
    return np.dtype(dtype)
