"""A policy that changes during training: a layer that keeps overflowing falls back to float32 for a while."""

from collections.abc import Iterable, Mapping
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from ..backend import is_finite, to_device
from ..errors import UserError, check_choice, check_whole, shown
from ..optim import Slices
from ..tensor import Tensor
from .policy import DTYPES, Precision

if TYPE_CHECKING:
    from ..comm.communicator import Communicator


LAYERS = ("mesh", "layers")
HALF, GIVEN = "half", "as given"

# What a forward casts, by operation. Other operations run in the dtype of their input.
CASTS = {
    "embedding": HALF,  # a lookup, no arithmetic
    "layer": HALF,  # the input of a layer, and the residual stream
    "linear": HALF,  # products, summed in float32
    "attention": HALF,  # products too; the softmax is in float32
    "layer_norm": GIVEN,  # mean and variance are in float32
    # cross_entropy has no entry: it is always in float32
}


class DynamicPolicy(Precision):
    """Chooses the dtype by operation, from the table `casts`; a layer that keeps overflowing falls back to float32.

    A layer (a unit of the model) overflows if its output is not finite although its input is. If no layer does and the
    loss scale is at its floor, the last layer with non-finite gradients is blamed. After `patience` such batches in a
    row, on any rank, all ranks move the layer to float32 for `rest` updates. patience=0: layers never move.
    Raise UserError for an unknown dtype or cast.
    """

    def __init__(
        self, half: str = "float16", casts: Mapping[str, str] = CASTS, patience: int = 3, rest: int = 500
    ) -> None:
        check_choice("half", half, ("float16", "bfloat16"))
        for operation, cast in casts.items():
            check_choice(f"the cast of {operation}", cast, (HALF, GIVEN, "float32"))
        check_whole("patience", patience)
        check_whole("rest", rest, 1)
        self.half, self.casts, self.patience, self.rest = DTYPES[half], dict(casts), patience, rest
        self.resting: dict[str, int] = {}  # layer in float32 -> updates until it is tried again
        self.blamed: dict[str, int] = {}  # layer -> number of batches in a row
        self.seen: set[str] = set()  # layers that overflowed in the forwards of this batch
        self.log: list[str] = []  # messages about what changed

    def choose(self, path: str, operation: str, given: np.dtype) -> np.dtype:
        """Return float32 for a layer that has fallen back, else the dtype that `casts` gives for the operation."""
        if any(path == layer or path.startswith(layer + ".") for layer in self.resting):
            return DTYPES["float32"]
        cast = self.casts.get(operation, GIVEN)
        return given if cast == GIVEN else self.half if cast == HALF else DTYPES[cast]

    def watch(self, path: str, x: Tensor | None, y: Tensor) -> None:
        """Record whether a unit overflowed; called on the input and output of every unit (nn.watching)."""
        if not is_finite(y.data) and (x is None or is_finite(x.data)):
            self.seen.add(path)

    def stepped(self) -> None:
        """Record a step that was not skipped: no layer overflowed."""
        self.seen.clear()
        self.blamed.clear()
        for layer in list(self.resting):
            self.resting[layer] -= 1
            if not self.resting[layer]:
                del self.resting[layer]
                self.log.append(f"layer {layer} is tried in half precision again")

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Return the layers in float32 with their remaining updates, and those blamed with their batches in a row."""
        return {"resting": dict(self.resting), "blamed": dict(self.blamed)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Continue from a state. Raise UserError if it does not fit this policy or this model."""
        super().load_state_dict(state)
        for name, counts in state.items():
            if not isinstance(counts, Mapping):
                raise UserError(f"{name} in the state of the precision is {shown(counts)}; it must be a dictionary")
            for layer, count in counts.items():
                check_choice(f"a layer of {name} in the state of the precision", layer, self.layers)
                check_whole(f"{name}[{layer!r}] in the state of the precision", count, 1)
        self.resting, self.blamed, self.seen = dict(state["resting"]), dict(state["blamed"]), set()

    def skipped(self, reducer: Slices, at_floor: bool) -> None:
        """Record a skipped step. All ranks of the mesh must call it.

        at_floor: the loss scale of this batch could not be lowered any further. If the last layer with non-finite
        gradients is already in float32, the next one that is not is blamed instead.
        """
        forward = _on_any_rank([layer in self.seen for layer in self.layers], reducer.world)
        self.seen.clear()
        layer = self._first_awake(compress(self.layers, forward))
        if layer is None and at_floor:
            bad = _layers_of(not_finite(reducer))
            backward = _on_any_rank([layer in bad for layer in self.layers], reducer.world)
            last = max((i for i, seen in enumerate(backward) if seen), default=len(self.layers))
            layer = self._first_awake(self.layers[last:])
        self.blamed = {} if layer is None else {layer: self.blamed.get(layer, 0) + 1}
        if layer is not None and 0 < self.patience <= self.blamed[layer]:
            self.resting[layer] = self.rest
            self.log.append(f"layer {layer} overflowed in {self.patience} batches in a row: float32 from now on")

    def _first_awake(self, layers: Iterable[str]) -> str | None:
        """Return the first of these layers that is not already in float32."""
        return next((layer for layer in layers if layer not in self.resting), None)


def not_finite(reducer: Slices) -> list[str]:
    """Return the paths of the parameters whose gradients are not finite on this rank."""
    pieces = ((owned.grad[piece.place], piece.parameter) for owned in reducer.owned() for piece in owned.pieces)
    return [p.placement.path for grad, p in pieces if not is_finite(grad)]


def _layers_of(paths: list[str]) -> set[str]:
    """Return the units the parameters belong to: "blocks.1" for "blocks.1.mlp.up.bias", "head" for "head.norm.bias"."""
    return {".".join(path.split(".")[: n + 1]) for path in paths for n in range(path.count("."))}


def _on_any_rank(flags: list[bool], world: "Communicator | None") -> list[bool]:
    """Return which flags are set on any rank."""
    found = to_device(np.array(flags, np.int32))
    if world is not None:
        world.all_reduce(found, LAYERS, op="max")
    return [bool(flag) for flag in found.tolist()]
