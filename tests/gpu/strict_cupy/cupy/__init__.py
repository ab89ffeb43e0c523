"""A strict stand-in for CuPy, on NumPy: it refuses what CuPy refuses, and lacks what CuPy lacks.

It replaces `cupy` only in processes that the tests start with this folder's parent on PYTHONPATH. It tells nothing
about a GPU's numbers or speed; it catches code that would fail on one:

    a NumPy array mixed in        x + numpy_array, x[...] = numpy_array     TypeError, ValueError
    implicit conversion           np.asarray(x)                         TypeError: use x.get()
    a function CuPy lacks         cupy.vecdot, cupy.geomspace               AttributeError: only what is listed exists
    a keyword CuPy lacks          x.max(initial=0), cupy.sum(x, where=m)    TypeError
    an alias of host memory       cupy.asarray(numpy_array) is a copy
    a misaligned address          x[1:].view(np.uint64) of a float32 array  CUDARuntimeError
    pinned memory reused early    x.set(pinned) is complete after stream.synchronize(), and garbage until then
    a device array given to MPI   AttributeError, unless MPI_READS_DEVICES is set
    scalars                       a reduction gives an array of shape ()

As in CuPy, Python and NumPy scalars mix with arrays, an index may be a list or a NumPy array, and NumPy functions
called with a stand-in array dispatch here. test_signatures.py compares the parameter lists with the real package.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

SCALARS = (bool, int, float, complex, np.generic)
AT = ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor")  # ufuncs with `at`
AT_DTYPES = ("float16", "float32", "float64", "int32", "uint32", "uint64")  # the GPU's atomic operations

# Parameters in CuPy 14. What is not listed does not exist here: add what the library needs and CuPy has.
CREATION = {
    "arange": "start stop step dtype",
    "array": "obj dtype copy order subok ndmin blocking",
    "asarray": "a dtype order copy blocking",
    "ascontiguousarray": "a dtype",
    "empty": "shape dtype order",
    "empty_like": "prototype dtype order subok shape",
    "full": "shape fill_value dtype order",
    "full_like": "a fill_value dtype order subok shape",
    "ones": "shape dtype order",
    "ones_like": "a dtype order subok shape",
    "zeros": "shape dtype order",
    "zeros_like": "a dtype order subok shape",
}
FUNCTIONS = {
    "all": "a axis out keepdims",
    "any": "a axis out keepdims",
    "argmax": "a axis dtype out keepdims",
    "argmin": "a axis dtype out keepdims",
    "argsort": "a axis kind",
    "broadcast_to": "array shape",
    "clip": "a a_min a_max out",
    "concatenate": "tup axis out dtype casting",
    "cumsum": "a axis dtype out",
    "dot": "a b out",
    "expand_dims": "a axis",
    "flip": "a axis",
    "max": "a axis out keepdims",
    "mean": "a axis dtype out keepdims",
    "min": "a axis out keepdims",
    "moveaxis": "a source destination",
    "nonzero": "a",
    "outer": "a b out",
    "prod": "a axis dtype out keepdims",
    "repeat": "a repeats axis",
    "split": "ary indices_or_sections axis",
    "squeeze": "a axis",
    "stack": "tup axis out dtype casting",
    "std": "a axis dtype out ddof keepdims",
    "sum": "a axis dtype out keepdims",
    "swapaxes": "a axis1 axis2",
    "take": "a indices axis out",
    "tensordot": "a b axes",
    "tril": "m k",
    "var": "a axis dtype out ddof keepdims",
    "where": "condition x y",
}
UFUNCS = (
    "absolute add bitwise_and bitwise_or bitwise_xor ceil cos divide equal exp expm1 floor floor_divide greater "
    "greater_equal invert isfinite isinf isnan left_shift less less_equal log log1p logical_and logical_not "
    "logical_or maximum minimum multiply negative not_equal positive power remainder right_shift rint sign sin sqrt "
    "square subtract tanh true_divide"
)
METHODS = {
    "all": "axis out keepdims",
    "any": "axis out keepdims",
    "argmax": "axis out dtype keepdims",
    "argmin": "axis out dtype keepdims",
    "argsort": "axis kind",
    "clip": "min max out",
    "copy": "order",
    "cumsum": "axis dtype out",
    "dot": "b out",
    "flatten": "order",
    "max": "axis out keepdims",
    "mean": "axis dtype out keepdims",
    "min": "axis out keepdims",
    "prod": "axis dtype out keepdims",
    "ravel": "order",
    "repeat": "repeats axis",
    "reshape": "*shape order copy",
    "sort": "axis kind",
    "squeeze": "axis",
    "std": "axis dtype out ddof keepdims",
    "sum": "axis dtype out keepdims",
    "swapaxes": "axis1 axis2",
    "take": "indices axis out",
    "transpose": "*axes",
    "var": "axis dtype out ddof keepdims",
    "view": "dtype type",
}
OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater"}
COMPARISONS["ge"] = "greater_equal"
UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}
TYPES = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"


COPIES: Counter = Counter()  # arrays copied "to host" and "to device", from or to memory "pinned" or "pageable"
MPI_READS_DEVICES = False  # whether mpi4py may read an array's address


class PinnedMemory(bytearray):
    """Memory returned by alloc_pinned_memory."""


def _kind(array: Any) -> str:
    """Return the kind of an array's host memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return "pinned" if isinstance(array, PinnedMemory) else "pageable"


class _OfThread(threading.local):
    """CUDA's state of one thread: the current device, and the copies started but not yet made."""

    def __init__(self) -> None:
        self.device = 0
        self.started: list[tuple[np.ndarray, np.ndarray]] = []


_here = _OfThread()


class ndarray:
    """An array "on the device": a NumPy array hidden from NumPy."""

    __slots__ = ("__weakref__", "_host", "base")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float) -> None:
        self._host: np.ndarray = np.empty(shape, dtype)
        self.base: ndarray | None = None

    # What NumPy would do implicitly -----------------------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        here = HERE.get(function.__name__)
        if method != "__call__" or here is None:
            return NotImplemented
        if "out" in options:
            (options["out"],) = options["out"]
        return here(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        here = HERE.get(function.__name__) if function.__module__ == "numpy" else None
        return NotImplemented if here is None else here(*args, **kwargs)

    # Attributes -------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self._host.strides

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def ndim(self) -> int:
        return self._host.ndim

    @property
    def size(self) -> int:
        return self._host.size

    @property
    def nbytes(self) -> int:
        return self._host.nbytes

    @property
    def itemsize(self) -> int:
        return self._host.itemsize

    @property
    def flags(self) -> Any:
        return self._host.flags

    @property
    def T(self) -> "ndarray":
        return _wrap(self._host.T, self)

    # Conversion -------------------------------------------------------------------------------------------------------

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if not MPI_READS_DEVICES:
            raise AttributeError("this MPI cannot read a device's memory")
        place = (self._host.ctypes.data, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": place, "version": 3}

    def get(self, stream: Any = None, order: Any = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        """Return a copy in host memory."""
        COPIES["to host", _kind(out)] += 1
        if out is None:
            return np.array(self._host, order=order)
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype:
            raise TypeError("an array is copied into a numpy.ndarray of the same dtype")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        out[...] = self._host
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Fill from a host array of the same shape and dtype; from pinned memory, some time later."""
        if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype:
            raise TypeError("only a numpy.ndarray of the same dtype can be set to a cupy.ndarray")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        COPIES["to device", _kind(arr)] += 1
        if _kind(arr) == "pageable":
            self._host[...] = arr
        else:
            self._host.reshape(-1).view(np.uint8)[...] = 255
            _here.started.append((self._host, arr))

    def item(self) -> Any:
        return self._host.item()

    def tolist(self) -> Any:
        return self._host.tolist()

    def fill(self, value: Any) -> None:
        if not (isinstance(value, SCALARS) or getattr(value, "shape", None) == ()):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        self._host.fill(_unwrap(value) if isinstance(value, ndarray) else value)

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if not copy and self.dtype == dtype:
            return self
        return _wrap(self._host.astype(dtype))

    def __copy__(self) -> "ndarray":
        return _wrap(self._host.copy())

    def __deepcopy__(self, memo: Any) -> "ndarray":
        return _wrap(self._host.copy())

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __complex__(self) -> complex:
        return complex(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator["ndarray"]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self._host)

    def __str__(self) -> str:
        return str(self._host)

    def __format__(self, spec: str) -> str:
        return format(self._host, spec)

    # Indexing ---------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> "ndarray":
        where, basic = _index(index)
        return _wrap(self._host[where], self) if basic else _wrap(self._host[where])

    def __setitem__(self, index: Any, value: Any) -> None:
        where, basic = _index(index)
        if isinstance(value, ndarray):
            value = value._host
        elif not isinstance(value, SCALARS) and basic and getattr(value, "shape", None) != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        self._host[where] = value


class ufunc:
    """NumPy's ufunc of the same name on stand-in arrays. CuPy's has no `where`."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.function: np.ufunc = getattr(np, name)

    def __call__(self, *args: Any, out: ndarray | None = None, **options: Any) -> Any:
        _refuse(self.__name__, options, ("dtype", "casting") + (("axes", "axis") if self.function.signature else ()))
        if len(args) > self.function.nin:
            *args, out = args  # type: ignore[assignment]
        if out is not None and not isinstance(out, ndarray):
            raise TypeError(f"{self.__name__}: Unsupported type {type(out)} for out")
        given = [_unwrap(x) for x in args]
        if self.function.signature and not all(isinstance(x, ndarray) for x in args):
            raise TypeError(f"{self.__name__}: both operands must be cupy.ndarray")
        result = self.function(*given, out=None if out is None else out._host, **options)
        return _wrap(result) if out is None else out

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        """Do a[indices] += b, for the functions and dtypes for which the GPU has atomic operations."""
        if self.__name__ not in AT:
            raise NotImplementedError(f"`{self.__name__}.at` is not supported yet")
        if not isinstance(a, ndarray) or (isinstance(b, np.ndarray) and b.ndim and _index(indices)[1]):
            raise TypeError(f"{self.__name__}.at: Unsupported type {type(a)}, {type(b)}")
        if a.dtype.name not in AT_DTYPES:
            raise TypeError(f"scatter_add only supports {', '.join(AT_DTYPES)}, as data type")
        self.function.at(a._host, _index(indices)[0], b._host if isinstance(b, ndarray) else b)

    def reduce(self, array: ndarray, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return _call(self.function.reduce, (array, axis, dtype), {"out": out, "keepdims": keepdims})

    def outer(self, A: ndarray, B: ndarray) -> ndarray:
        return _call(self.function.outer, (A, B), {})


def _wrap(result: Any, viewed: ndarray | None = None) -> Any:
    """Wrap NumPy results as stand-in arrays; `viewed` is the array that a result may be a view of."""
    if isinstance(result, (list, tuple)):
        return type(result)([_wrap(x, viewed) for x in result])
    array = ndarray.__new__(ndarray)
    array._host = np.asarray(result)
    shared = viewed is not None and array._host.base is not None and np.may_share_memory(array._host, viewed._host)
    array.base = None if not shared or viewed is None else viewed if viewed.base is None else viewed.base
    return array


def _unwrap(x: Any) -> Any:
    """Return the operand for NumPy. Raise TypeError for what CuPy refuses: NumPy arrays, lists."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, SCALARS):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _index(index: Any) -> tuple[tuple, bool]:
    """Return the index for NumPy, and whether it is basic and so makes a view, even of a single element."""

    def plain(part: Any) -> Any:
        if isinstance(part, (list, tuple)):
            return [plain(x) for x in part]
        return part._host if isinstance(part, ndarray) else part

    parts = tuple(map(plain, index)) if isinstance(index, tuple) else (plain(index),)
    basic = not any(isinstance(part, (list, np.ndarray, bool, np.bool_)) for part in parts)
    return (parts if not basic or any(part is Ellipsis for part in parts) else (*parts, ...)), basic


def _refuse(name: str, options: Any, allowed: Any) -> None:
    for keyword in options:
        if keyword not in allowed:
            raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}")


def _call(function: Callable[..., Any], args: tuple, options: dict[str, Any]) -> Any:
    """Call a NumPy function on stand-in arrays. Raise TypeError for a NumPy array."""
    seen: list[ndarray] = []

    def plain(x: Any) -> Any:
        if isinstance(x, ndarray):
            seen.append(x)
            return x._host
        if isinstance(x, np.ndarray):
            raise TypeError(f"{function.__name__}: Unsupported type {type(x)}")
        return type(x)([plain(part) for part in x]) if isinstance(x, (list, tuple)) else x

    out = options.get("out")
    if out is None:
        options.pop("out", None)
    result = function(*map(plain, args), **{name: plain(x) for name, x in options.items()})
    return out if out is not None else _wrap(result, seen[0] if seen else None)


def _checked(name: str, parameters: str, args: tuple, options: dict[str, Any]) -> None:
    names = parameters.split()
    if len(args) > len(names) and not parameters.startswith("*"):
        raise TypeError(f"{name}() takes at most {len(names)} positional arguments ({len(args)} given)")
    _refuse(name, options, names)


def _creation(name: str, parameters: str) -> Callable[..., Any]:
    def create(*args: Any, **options: Any) -> Any:
        _checked(name, parameters, args, options)
        options.pop("blocking", None)
        first = args[0] if args else None
        if name in ("asarray", "ascontiguousarray") and isinstance(first, ndarray):
            dtype = args[1] if len(args) > 1 else options.get("dtype")
            if (dtype is None or first.dtype == dtype) and (name == "asarray" or first.flags.c_contiguous):
                return first
        if name in ("array", "asarray", "ascontiguousarray", "full", "full_like"):
            COPIES["to device", "pageable"] += isinstance(first, np.ndarray)
            args = tuple(_from_host(x) for x in args)
            return _wrap(np.array(getattr(np, name)(*args, **options)))  # the device has separate memory
        return _wrap(_call(getattr(np, name), args, options)._host)

    return create


def _from_host(x: Any) -> Any:
    if isinstance(x, ndarray):
        return x._host
    return [_from_host(part) for part in x] if isinstance(x, list) else x


def _function(name: str, parameters: str) -> Callable[..., Any]:
    def function(*args: Any, **options: Any) -> Any:
        _checked(name, parameters, args, options)
        arrays = args[0] if args and isinstance(args[0], (list, tuple)) else args[:1]
        if name != "where" and not all(isinstance(x, ndarray) for x in arrays):
            raise TypeError(f"{name}: only cupy.ndarray, got {', '.join(str(type(x)) for x in arrays)}")
        return _call(getattr(np, name), args, options)

    return function


def _method(name: str, parameters: str) -> Callable[..., Any]:
    def method(self: ndarray, *args: Any, **options: Any) -> Any:
        _checked(name, parameters, args, options)
        result = _call(getattr(self._host, name), args, options)
        if name == "view" and result.size and result._host.ctypes.data % result.dtype.itemsize:
            raise CUDARuntimeError("cudaErrorMisalignedAddress: misaligned address")
        if isinstance(result, ndarray) and options.get("out") is None:
            return _wrap(result._host, self)
        return result

    return method


def _operator(function: Callable[..., Any], reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
    def operate(self: ndarray, other: Any) -> Any:
        if not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", True) is None:
            return NotImplemented
        if in_place:
            return function(self, other, out=self)
        return function(other, self) if reflected else function(self, other)

    return operate


def einsum(*operands: Any, **options: Any) -> Any:
    """Do what NumPy's einsum does."""
    _refuse("einsum", options, ("dtype", "out", "optimize"))
    return _call(np.einsum, operands, options)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    """Return a copy in host memory."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def tensordot_core_v11(
    transa: int, transb: int, m: int, n: int, k: int,
    a: ndarray, lda: int, b: ndarray, ldb: int, c: ndarray, ldc: int,
) -> None:  # fmt: skip
    """Write op(a) op(b), (m, k) (k, n), to c as cuBLAS does: all three are stored column by column."""
    left = _columns(a, lda, k, m).T if transa else _columns(a, lda, m, k)
    right = _columns(b, ldb, n, k).T if transb else _columns(b, ldb, k, n)
    _columns(c, ldc, m, n)[...] = left.astype(np.float32) @ right.astype(np.float32)


def _columns(x: ndarray, step: int, rows: int, columns: int) -> np.ndarray:
    """Return the matrix whose columns begin `step` elements apart in x's memory."""
    memory = x._host.reshape(-1) if x.flags.c_contiguous else x._host.T.reshape(-1)
    assert memory.base is not None and rows <= step and (columns - 1) * step + rows <= memory.size, "outside its memory"
    size = memory.itemsize
    return np.lib.stride_tricks.as_strided(memory, (rows, columns), (size, step * size))


_core = SimpleNamespace(_routines_linalg=SimpleNamespace(tensordot_core_v11=tensordot_core_v11))


# Module cupy.cuda -----------------------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    """An error from CUDA."""


def getDeviceCount() -> int:
    """Return the number of devices, STRICT_CUPY_DEVICES (default 1)."""
    count = int(os.environ.get("STRICT_CUPY_DEVICES", "1"))
    if not count:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return count


class Device:
    """The device with this number, or this thread's current device."""

    def __init__(self, device: int | None = None) -> None:
        self.id = _here.device if device is None else device

    def use(self) -> None:
        if not 0 <= self.id < getDeviceCount():
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        _here.device = self.id


class Stream:
    """Work of the device for this thread, in order."""

    def synchronize(self) -> None:
        """Make the copies that were started."""
        for target, source in _here.started:
            target[...] = source
        _here.started.clear()


def alloc_pinned_memory(size: int) -> PinnedMemory:
    """Return reused memory: its bytes are not zero."""
    return PinnedMemory(b"\xff" * size)


class MemoryHook:
    """A hook of the memory pool, which the stand-in lacks: it is never called."""

    def __enter__(self) -> "MemoryHook":
        return self

    def __exit__(self, *_: Any) -> None: ...


class MemoryPool:
    """An empty pool: the arrays are in the host's memory."""

    def used_bytes(self) -> int:
        """Return 0."""
        return 0

    def free_all_blocks(self) -> None:
        """Do nothing."""


def get_default_memory_pool() -> MemoryPool:
    """Return the pool."""
    return MemoryPool()


def getDeviceProperties(device: int) -> dict[str, Any]:
    """Return the properties that `make gpu` shows."""
    return {"name": b"strict stand-in for CuPy on NumPy, no GPU", "totalGlobalMem": 0, "major": 0, "minor": 0}


def runtimeGetVersion() -> int:
    """Return 0: there is no CUDA."""
    return 0


__version__ = "strict stand-in"
cuda = SimpleNamespace(
    Device=Device,
    MemoryHook=MemoryHook,
    Stream=Stream,
    alloc_pinned_memory=alloc_pinned_memory,
    get_current_stream=Stream,
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=getDeviceCount,
        getDeviceProperties=getDeviceProperties,
        runtimeGetVersion=runtimeGetVersion,
    ),
)


def __getattr__(name: str) -> Any:
    """Look up cupy.name here, so that `sum` in this file stays Python's."""
    try:
        return HERE[name]
    except KeyError:
        raise AttributeError(
            f"module 'cupy' has no attribute {name!r}. (The strict stand-in has only what the library has needed; "
            "if the real package has it, add it to tests/gpu/strict_cupy.)"
        ) from None


HERE: dict[str, Any] = {name: _creation(name, parameters) for name, parameters in CREATION.items()}
HERE |= {name: _function(name, parameters) for name, parameters in FUNCTIONS.items()}
HERE |= {name: ufunc(name) for name in [*UFUNCS.split(), "matmul"]}
HERE |= {name: getattr(np, name) for name in TYPES.split()}
HERE |= {"abs": HERE["absolute"], "dtype": np.dtype, "newaxis": None, "inf": np.inf, "nan": np.nan, "pi": np.pi}

for _name, _parameters in METHODS.items():
    setattr(ndarray, _name, _method(_name, _parameters))
for _name, _full in OPERATORS.items():
    setattr(ndarray, f"__{_name}__", _operator(HERE[_full]))
    setattr(ndarray, f"__r{_name}__", _operator(HERE[_full], reflected=True))
    if _name != "matmul":  # CuPy has no __imatmul__
        setattr(ndarray, f"__i{_name}__", _operator(HERE[_full], in_place=True))
for _name, _full in COMPARISONS.items():
    setattr(ndarray, f"__{_name}__", _operator(HERE[_full]))
for _name, _full in UNARY.items():
    setattr(ndarray, f"__{_name}__", lambda self, _function=HERE[_full]: _function(self))
