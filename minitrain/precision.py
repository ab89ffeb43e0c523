"""Mixed precision: activations in 16 bits, sums and masters in 32, and a loss scale that keeps gradients in range.

                   bits: sign, exponent, fraction     largest     smallest normal, subnormal     next to 1
    float32        1, 8, 23                           3.4e38      1.2e-38   1.4e-45              1 + 1.2e-7
    float16        1, 5, 10                           65504       6.1e-5    6.0e-8               1 + 9.8e-4
    bfloat16       1, 8, 7                            3.4e38      1.2e-38   9.2e-41              1 + 7.8e-3

Half the bytes of activations, and of what is gathered from ranks or passed between stages; sums over ranks are made in
float32 and travel in it, unless parallel/half_wire.py carries them. On a GPU products are many times faster. (On a CPU
nothing is gained: NumPy converts. A product of halves is summed in float32 and rounded once, as in a tensor core.)

Three things go wrong in float16, and each has its remedy here:

    gradients are small, and become 0      the loss is multiplied by S, and so is every gradient; the optimizer's are
                                           divided by S again, in float32. "Loss scaling": StaticScaler, DynamicScaler
    updates are small against weights      the optimizer has the weights in float32 (a master), see optim.py
    sums and large numbers overflow        sums are made in float32; layers can be kept in it: Static, Dynamic

bfloat16 has the range of float32 and needs no scale; it has fewer digits.

What is stored, in bytes a parameter with Adam, on N ranks (zero.py):

                   weights  gradients  optimizer                 data parallel   stage 1   stage 2   stage 3
    autocast       4        4          4 + 4                     16              8 + 8/N   4 + 12/N  16/N
    half weights   2        2          4 + 4, and the master 4   16              4 + 12/N  2 + 14/N  16/N

`use` arranges the one or the other. Autocast rounds the float32 weights where they are used. With half weights ranks
hold and gather 2 bytes; gradients that several micro-batches add to have 4 bytes at stages 2 and 3 (2 + 16/N, 18/N), in
the owner's share, and are added up in half otherwise.

Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, sections 3.1 to 3.3. That the scale moves
by itself is only sketched there; the numbers 2^16, x 2, x 1/2, 2000 are PyTorch's. Bytes: Rajbhandari et al., "ZeRO",
arXiv:1910.02054, section 3.1.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from itertools import compress
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from .autograd import Tensor, no_grad
from .backend import Array, is_finite, square, to_device, xp
from .data.batch import Batch
from .errors import UserError, check_choice, check_number, check_state, check_whole, shown
from .nn import Module, check_free, watching
from .optim import steps_begun

if TYPE_CHECKING:
    from .comm.communicator import Communicator

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
POLICIES = {"float32": "float32", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}  # name -> dtype of layers
OVERFLOW = ("mesh", "overflow")
LAYERS = ("mesh", "layers")


# Which dtype ----------------------------------------------------------------------------------------------------------


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
    precision.layers = tuple(unit.path for unit in getattr(model, "units", ()))
    modules = [module for module in model.modules() if module is not model]
    precision.check({module.path for module in modules})
    if half_weights:
        for p in model.parameters():
            p.store_as(precision.half)
    for module in modules:
        module.precision = precision


# The loss scale -------------------------------------------------------------------------------------------------------


def agree(overflow: bool, world: "Communicator | None") -> bool:
    """Whether there is an overflow on any rank of `world`: all step, or none does. Without a world: on this rank.

    An all-reduce of one int32, labelled OVERFLOW.
    """
    flag = to_device(np.array([overflow], np.int32))
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])


def next_scale(
    scale: float, good: int, overflow: bool, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> tuple[float, int]:
    """(scale, good steps in a row) after one more batch.

    scale, good: before it. overflow: its gradients overflowed, and the step was skipped. Then the scale is multiplied
    by backoff. When `interval` good steps have come, this one included, it is multiplied by growth, unless float32
    cannot hold the product (2^128 and above). In both cases counting begins again, at 0. Powers of two change exponents
    only, so that no bit of a gradient is lost.
    """
    if overflow:
        return scale * backoff, 0
    if good + 1 < interval:
        return scale, good + 1
    return (scale * growth if scale * growth < 2.0**128 else scale), 0


class Scaler:
    """No scale, no check: for float32 and bfloat16. What the training step calls, in this order:

    scaler.scale(loss).backward()       gradients are S times what they are
    ...                                 they are added up over all ranks
    if scaler.unscale(gradients):       the same answer on every rank of the mesh
        clip, step                      on gradients without S

    Several models may share a scaler, each with a reducer of its own. Those whose steps began before S moved carry the
    S from before: together they are one round, after which S has moved once.
    """

    value = 1.0  # S
    skips = 0  # batches that were skipped

    def scale(self, loss: Tensor) -> Tensor:
        """S x loss."""
        return loss if self.value == 1 else loss * self.value

    def unscale(self, gradients: Any) -> bool:
        """Takes S out of the gradients (a reducer's, after finish()). False: do not step."""
        return True

    def at_floor(self) -> bool:
        """Whether the scale cannot come down any more."""
        return True

    def expecting(self) -> AbstractContextManager[Any]:
        """Around what may overflow: no warnings of what will be looked for."""
        return nullcontext()

    def state_dict(self) -> dict[str, float]:
        """What has moved since training began, by name; nothing without a scale."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there; between two steps. Raise UserError for a state that is none of this kind of scaler."""
        check_state("the state of the scaler", state, self.state_dict())


class StaticScaler(Scaler):
    """A constant S. A batch whose gradients overflow is skipped, by all ranks.

    agree: (overflow on this rank, all ranks) -> overflow anywhere. Raises UserError when `patience` batches in a row
    overflow: S, or the model's own numbers, are too large.
    """

    moving: tuple[str, ...] = ("value", "in_a_row")  # what a round changes

    def __init__(
        self,
        value: float = 2.0**12,
        patience: int = 20,
        agree: Callable[[bool, Any], bool] = agree,
    ) -> None:
        check_scale(value)
        check_whole("patience", patience, 1)
        self.value, self.patience, self.agree = float(value), patience, agree
        self.in_a_row = self.skips = 0
        self.round: list[Any] = []  # the gradients that were unscaled with the same S
        self.moved = self.scaled = -1  # when S moved last, and was used last: in the count of the reducers' steps
        self.before: dict[str, Any] = {}  # S, and what moves with it, as the round found them
        self.overflowed = False  # any of the round

    def scale(self, loss: Tensor) -> Tensor:
        self.scaled = next(steps_begun)
        return super().scale(loss)

    def unscale(self, gradients: Any) -> bool:
        """Checked after the reduction, when an inf of one rank has reached those that add with it, and agreed upon with
        the others (which hold other parts of the model); before anything has changed."""
        self.enter(gradients)
        with self.expecting():
            here = not all(all_finite(owned.grad) for owned in gradients.owned())
        overflow = self.agree(here, gradients.world)
        gradients.factor /= self.value
        self.skips += overflow
        self.overflowed |= overflow
        self.in_a_row = self.in_a_row + 1 if self.overflowed and self.at_floor() else 0
        if self.in_a_row >= self.patience:
            raise UserError(
                f"{self.in_a_row} batches in a row overflowed with the loss scale {self.value:g}: give a smaller scale "
                "or learning rate, bfloat16, or keep the layers that overflow in float32"
            )
        self.update(self.overflowed)
        return not overflow

    def enter(self, gradients: Any) -> None:
        """Take S back to what these gradients carry, if it has moved since their step began; else begin a new round.

        Raise UserError for gradients that were unscaled already.
        """
        if getattr(gradients, "begun", math.inf) > self.moved:  # without a reducer: a round of their own
            self.moved = next(steps_begun)
            self.before = {name: vars(self)[name] for name in self.moving}
            self.round, self.overflowed = [gradients], False
            return
        if any(other is gradients for other in self.round):
            raise UserError(
                "unscale was called twice in one step: the gradients would be divided by the loss scale twice.\n"
                "Call it once, after finish()"
            )
        if self.scaled > self.moved:
            raise UserError(
                "a loss was scaled after the scale had moved, for gradients whose step had begun before: which scale "
                "they have is not known.\nCall begin() of each reducer right before its own loss is scaled"
            )
        vars(self).update(self.before)
        self.round.append(gradients)

    def expecting(self) -> AbstractContextManager[Any]:
        return np.errstate(over="ignore", invalid="ignore")

    def update(self, overflow: bool) -> None:
        """The scale for the next batch."""

    def state_dict(self) -> dict[str, float]:
        return {name: vars(self)[name] for name in (*self.moving, "skips")}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        super().load_state_dict(state)
        for name, number in state.items():
            if name == "value":
                check_scale(number)
            else:
                check_whole(f"{name} in the state of the scaler", number)
        vars(self).update(state, value=float(state["value"]))
        self.round, self.moved, self.scaled = [], -1, -1  # what comes is a new round


def check_scale(value: Any) -> None:
    """Raise UserError unless this can be a loss scale."""
    check_number("the loss scale", value, "above 0")
    if not 2.0**-126 <= value < 2.0**128:
        raise UserError(f"the loss scale is {value}; float32 must hold it and 1 / it: give 2^-126 to 2^127")


class DynamicScaler(StaticScaler):
    """S moves: down at once when gradients overflow, up after a long time without. See next_scale.

    Raises UserError when `patience` batches in a row overflow with S at `floor`, where it stays.
    """

    def __init__(
        self,
        value: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
        floor: float = 1.0,
        patience: int = 20,
        agree: Callable[[bool, Any], bool] = agree,
        rule: Callable[..., tuple[float, int]] = next_scale,
    ) -> None:
        super().__init__(value, patience, agree)
        check_number("growth", growth, "above 0")
        check_number("backoff", backoff, "above 0")
        check_number("floor", floor, "above 0")
        check_whole("interval", interval, 1)
        if growth <= 1 or backoff >= 1 or floor > value:
            raise UserError(
                f"growth is {growth}, backoff {backoff}, floor {floor} and the first scale {value}: growth must be "
                "above 1, backoff below 1, and the floor at most the first scale"
            )
        self.growth, self.backoff, self.interval, self.floor, self.rule = growth, backoff, interval, floor, rule
        self.good = 0  # steps in a row

    moving = ("value", "in_a_row", "good")

    def at_floor(self) -> bool:
        return self.value <= self.floor

    def update(self, overflow: bool) -> None:
        value, self.good = self.rule(self.value, self.good, overflow, self.growth, self.backoff, self.interval)
        self.value = max(value, self.floor)


def all_finite(gradient: Array) -> bool:
    """Whether no element is infinite or NaN. A finite sum of squares proves it, and takes a tenth of the time."""
    return math.isfinite(square(gradient)) or is_finite(gradient)


# A loss that is no number ---------------------------------------------------------------------------------------------


def first_bad_layer(model: Module, batch: Batch) -> str | None:
    """The first unit whose output on this batch is not finite in float32, though its input was; None if all are finite.

    On this rank; called by all ranks that hold a part of the model.
    """
    found: list[str] = []

    def watch(path: str, x: Tensor | None, y: Tensor) -> None:
        if not found and not is_finite(y.data):
            found.append(path)

    used = next((module.precision for module in model.modules() if module.precision is not None), Precision())
    with no_grad(), watching(watch), used.in_full(), np.errstate(over="ignore", invalid="ignore"):
        model(batch)  # type: ignore[operator]
    return found[0] if found else None
