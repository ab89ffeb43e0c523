"""Which dtype an operation is done in: a policy, and how a model is given one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import ml_dtypes
import numpy as np

from ..backend import xp
from ..errors import UserError, check_choice, check_state, shown
from ..nn import Module, check_free

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
POLICIES = {"float32": "float32", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}  # name -> dtype of layers


class Precision:
    """Chooses the dtype of an operation. Modules ask it, by `Module.at`, for each operation of each forward."""

    half: np.dtype  # what half weights are stored in
    layers: tuple[str, ...] = ()  # the paths of the model's units, in their order; set by `use`
    full = False  # everything in float32, for a second look at a batch

    def dtype(self, path: str, operation: str, given: Any) -> np.dtype:
        """The dtype in which the module with this path does the operation on activations of dtype `given`."""
        return DTYPES["float32"] if self.full else self.choose(path, operation, np.dtype(given))

    def choose(self, path: str, operation: str, given: np.dtype) -> np.dtype:
        """The same, in training."""
        raise NotImplementedError

    def check(self, paths: set[str]) -> None:
        """Raises UserError when this does not suit a model with these paths."""

    def state_dict(self) -> dict[str, dict[str, int]]:
        """What was learned since training began; nothing where all is fixed before."""
        return {}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Go on from there. Raise UserError for a state that is none of this precision."""
        check_state("the state of the precision", state, self.state_dict())

    @contextmanager
    def in_full(self) -> Iterator[None]:
        """All in float32."""
        self.full = True
        try:
            yield
        finally:
            self.full = False


class Static(Precision):
    """Fixed before training: a dtype for each layer, by its path.

    name: one of POLICIES, for all layers. layers: pattern -> "float32", "float16" or "bfloat16", for those whose path,
    or the path of something around them, has this form: "head", "blocks.*.mlp", "*.norm?". The first that fits counts.
    Raises UserError for an unknown name, and in `use` for a pattern that fits nothing.
    """

    def __init__(self, name: str = "mixed_float16", layers: Mapping[str, str] | None = None) -> None:
        check_choice("the policy", name, tuple(POLICIES))
        self.half = DTYPES[POLICIES[name]]
        self.patterns = dict(layers or {})
        for pattern, dtype in self.patterns.items():
            check_choice(f"the dtype of {shown(pattern)}", dtype, tuple(DTYPES))
        self.found: dict[str, np.dtype] = {}  # path -> its dtype

    def choose(self, path: str, operation: str, given: np.dtype) -> np.dtype:
        if path not in self.found:
            fitting = (dtype for pattern, dtype in self.patterns.items() if _fits(pattern, path))
            self.found[path] = DTYPES[name] if (name := next(fitting, None)) else self.half
        return self.found[path]

    def check(self, paths: set[str]) -> None:
        for pattern in self.patterns:
            if not any(_fits(pattern, path) for path in paths):
                raise UserError(
                    f"the pattern {shown(pattern)} fits no layer; the layers are {', '.join(self.layers[:9])}"
                    f"{', ...' if len(self.layers) > 9 else ''}, "
                    "and what is inside them, such as " + ", ".join(sorted(paths - set(self.layers) - {""})[:3])
                )


def _fits(pattern: str, path: str) -> bool:
    """Whether the pattern describes the path or the path of something around it."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[: n + 1]), pattern) for n in range(len(parts)))


def use(model: Module, precision: Precision, half_weights: bool = False) -> None:
    """From now on the model computes as `precision` says; called before it is divided and drawn.

    half_weights: parameters and gradients are stored in the half precision of `precision`, and the optimizer has the
    masters. Raises UserError for parameters that are not float32, or belong to a trainer already, or have values where
    half weights are asked for, and for patterns that fit nothing.
    """
    check_free(model)
    for p in model.parameters():
        if p.dtype != np.float32:
            raise UserError(f"{p.placement.path} is {p.dtype}; mixed precision starts from a float32 model")
    if xp is not np and precision.half == DTYPES["bfloat16"]:
        raise UserError("CuPy has no bfloat16: use float16, or MINITRAIN_BACKEND=numpy")
    precision.layers = tuple(unit.path for unit in model.unrolled() if unit is not model)
    modules = [module for module in model.modules() if module is not model]
    precision.check({module.path for module in modules})
    if half_weights:
        for p in model.parameters():
            p.store_as(precision.half)
    for module in modules:
        module.precision = precision
