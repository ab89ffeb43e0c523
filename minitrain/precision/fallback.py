"""A policy that changes while training runs: a layer that keeps overflowing falls back to float32 for a while."""

from collections.abc import Iterable, Mapping
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Tensor
from ..backend import is_finite, to_device
from ..errors import UserError, check_choice, check_whole, shown
from .policy import DTYPES, Precision

if TYPE_CHECKING:
    from ..comm.communicator import Communicator


LAYERS = ("mesh", "layers")
HALF, GIVEN = "half", "as given"

# What a forward casts, operation by operation. Operations that are not here work on what they are given.
CASTS = {
    "embedding": HALF,  # rows are only looked up
    "layer": HALF,  # what a layer takes in, and what its halves add to it
    "linear": HALF,  # products, which sum in float32
    "attention": HALF,  # products as well; its softmax is in float32
    "layer_norm": GIVEN,  # mean and variance are in float32
    # cross_entropy has no row, since it is in float32 whatever it is given
}


class Dynamic(Precision):
    """Chosen while training runs: by operation, from the table `casts`; and a layer that keeps overflowing goes back to
    float32 for a while.

    A layer (a unit of the model) is blamed when its output is not finite though its input was, `patience` batches in a
    row; or, when the loss scale has reached its floor, when it is the last one with gradients that are not finite. All
    ranks agree on it. After `rest` updates in float32 it is tried again. patience 0: layers never go back.
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
        self.resting: dict[str, int] = {}  # layers in float32 -> updates until they are tried again
        self.blamed: dict[str, int] = {}  # layer -> batches in a row
        self.seen: set[str] = set()  # layers that overflowed in the forwards of this batch
        self.log: list[str] = []  # what was changed, in words

    def choose(self, path: str, operation: str, given: np.dtype) -> np.dtype:
        if any(path == layer or path.startswith(layer + ".") for layer in self.resting):
            return DTYPES["float32"]
        cast = self.casts.get(operation, GIVEN)
        return given if cast == GIVEN else self.half if cast == HALF else DTYPES[cast]

    def watch(self, path: str, x: Tensor | None, y: Tensor) -> None:
        """Is shown what every unit makes (nn.watching)."""
        if not is_finite(y.data) and (x is None or is_finite(x.data)):
            self.seen.add(path)

    def stepped(self) -> None:
        """An update was made: nobody overflowed."""
        self.seen.clear()
        self.blamed.clear()
        for layer in list(self.resting):
            self.resting[layer] -= 1
            if not self.resting[layer]:
                del self.resting[layer]
                self.log.append(f"layer {layer} is tried in half precision again")

    def state_dict(self) -> dict[str, dict[str, int]]:
        return {"resting": dict(self.resting), "blamed": dict(self.blamed)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        super().load_state_dict(state)
        for name, counts in state.items():
            if not isinstance(counts, Mapping):
                raise UserError(f"{name} in the state of the precision is {shown(counts)}; it must be a dictionary")
            for layer, count in counts.items():
                check_choice(f"a layer of {name} in the state of the precision", layer, self.layers)
                check_whole(f"{name}[{layer!r}] in the state of the precision", count, 1)
        self.resting, self.blamed, self.seen = dict(state["resting"]), dict(state["blamed"]), set()

    def skipped(self, gradients: Any, at_floor: bool) -> None:
        """The step was skipped; called by all ranks of the mesh, with the reducer.

        at_floor: the loss scale of this batch could not have come down any more. When the last layer with bad gradients
        rests already, what it was given was infinite: the next layer's doing.
        """
        forward = _on_any_rank([layer in self.seen for layer in self.layers], gradients.world)
        self.seen.clear()
        layer = self._first_awake(compress(self.layers, forward))
        if layer is None and at_floor:
            bad = _layers_of(not_finite(gradients))
            backward = _on_any_rank([layer in bad for layer in self.layers], gradients.world)
            last = max((i for i, seen in enumerate(backward) if seen), default=len(self.layers))
            layer = self._first_awake(self.layers[last:])
        self.blamed = {} if layer is None else {layer: self.blamed.get(layer, 0) + 1}
        if layer is not None and 0 < self.patience <= self.blamed[layer]:
            self.resting[layer] = self.rest
            self.log.append(f"layer {layer} overflowed in {self.patience} batches in a row: float32 from now on")

    def _first_awake(self, layers: Iterable[str]) -> str | None:
        """The first of these that does not rest in float32 already."""
        return next((layer for layer in layers if layer not in self.resting), None)


def not_finite(gradients: Any) -> list[str]:
    """The paths of the parameters that have gradients on this rank which are not finite."""
    pieces = ((owned.grad[piece.place], piece.parameter) for owned in gradients.owned() for piece in owned.pieces)
    return [p.placement.path for grad, p in pieces if not is_finite(grad)]


def _layers_of(paths: list[str]) -> set[str]:
    """The units that parameters belong to: "blocks.1" for "blocks.1.mlp.up.bias", "head" for "head.norm.bias"."""
    return {".".join(path.split(".")[: n + 1]) for path in paths for n in range(path.count("."))}


def _on_any_rank(flags: list[bool], world: "Communicator | None") -> list[bool]:
    """Which flags are set anywhere."""
    found = to_device(np.array(flags, np.int32))
    if world is not None:
        world.all_reduce(found, LAYERS, op="max")
    return [bool(flag) for flag in found.tolist()]
