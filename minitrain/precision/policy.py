"""Precision policies: which dtype each operation runs in, and how to apply one to a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..backend import FLOATS, bfloat16, xp
from ..errors import UserError, check_choice, check_state, shown
from ..nn import Module, check_free

NAMES = ("float32", "float16", "bfloat16")


class Dtypes(dict[str, np.dtype]):
    """The dtypes of NAMES that this Python has."""

    def __missing__(self, name: str) -> np.dtype:
        """Raise UserError for bfloat16 without ml_dtypes, KeyError for other names."""
        if name in NAMES:
            return bfloat16()
        raise KeyError(name)


DTYPES = Dtypes({name: dtype for name in NAMES for dtype in FLOATS if dtype.name == name})
POLICIES = {"float32": "float32", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}  # name -> dtype of layers


class Precision:
    """Base class: chooses the dtype of each operation. Modules consult it in every forward (Module.cast_input)."""

    half: np.dtype  # dtype of half weights
    layers: tuple[str, ...] = ()  # paths of the model's units, in order; set by `use`
    full = False  # everything in float32, to recheck a batch

    def dtype(self, path: str, operation: str, given: Any) -> np.dtype:
        """Return the dtype in which the module at `path` runs `operation` on activations of dtype `given`."""
        return DTYPES["float32"] if self.full else self.choose(path, operation, np.dtype(given))

    def choose(self, path: str, operation: str, given: np.dtype) -> np.dtype:
        """Return the dtype to use in training; subclasses implement it."""
        raise NotImplementedError

    def check(self, paths: set[str]) -> None:
        """Raise UserError if this policy does not fit a model with these paths."""

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Return what has changed during training; empty for a fixed policy."""
        return {}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Continue from a state. Raise UserError if it is not the state of this kind of policy."""
        check_state("the state of the precision", state, self.state_dict())

    @contextmanager
    def in_full(self) -> Iterator[None]:
        """Compute everything in float32 inside this context."""
        self.full = True
        try:
            yield
        finally:
            self.full = False


class StaticPolicy(Precision):
    """A dtype for each layer, by path, fixed before training.

    name: one of POLICIES, for all layers.
    layers: pattern -> "float32", "float16" or "bfloat16". A pattern, such as "head", "blocks.*.mlp" or "*.norm?",
    matches the path of a layer or of one of its parents. The first match wins.
    Raise UserError for an unknown name or dtype and, in `use`, for a pattern that matches nothing.
    """

    def __init__(self, name: str = "mixed_float16", layers: Mapping[str, str] | None = None) -> None:
        check_choice("the policy", name, tuple(POLICIES))
        self.half = DTYPES[POLICIES[name]]
        self.patterns = dict(layers or {})
        for pattern, dtype in self.patterns.items():
            check_choice(f"the dtype of {shown(pattern)}", dtype, NAMES)
            DTYPES[dtype]  # raises for bfloat16 without ml_dtypes
        self.found: dict[str, np.dtype] = {}  # path -> its dtype

    def choose(self, path: str, operation: str, given: np.dtype) -> np.dtype:
        """Return the dtype of the first pattern that matches the path, else the policy's half precision."""
        if path not in self.found:
            fitting = (dtype for pattern, dtype in self.patterns.items() if _fits(pattern, path))
            self.found[path] = DTYPES[name] if (name := next(fitting, None)) else self.half
        return self.found[path]

    def check(self, paths: set[str]) -> None:
        """Raise UserError for a pattern that matches none of these paths."""
        for pattern in self.patterns:
            if not any(_fits(pattern, path) for path in paths):
                raise UserError(
                    f"the pattern {shown(pattern)} matches no layer; the layers are {', '.join(self.layers[:9])}"
                    f"{', ...' if len(self.layers) > 9 else ''}, "
                    "and those inside them, e.g. " + ", ".join(sorted(paths - set(self.layers) - {""})[:3])
                )


def _fits(pattern: str, path: str) -> bool:
    """Return whether the pattern matches the path or one of its parents."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[: n + 1]), pattern) for n in range(len(parts)))


def use(model: Module, precision: Precision, half_weights: bool = False) -> None:
    """Make the model compute in this precision. Call it before the model is divided and initialized.

    half_weights: store parameters and gradients in the policy's half precision; the optimizer keeps float32 masters.
    Raise UserError if a parameter is not float32 or already belongs to a trainer, if it has values and half_weights is
    set, if a pattern matches nothing, and for bfloat16 on CuPy.
    """
    check_free(model)
    for p in model.parameters():
        if p.dtype != np.float32:
            raise UserError(f"{p.placement.path} is {p.dtype}; mixed precision starts from a float32 model")
    if xp is not np and precision.half.name == "bfloat16":
        raise UserError("CuPy has no bfloat16: use float16, or MINITRAIN_BACKEND=numpy")
    precision.layers = tuple(unit.path for unit in model.unrolled() if unit is not model)
    modules = [module for module in model.modules() if module is not model]
    precision.check({module.path for module in modules})
    if half_weights:
        for p in model.parameters():
            p.store_as(precision.half)
    for module in modules:
        module.precision = precision
