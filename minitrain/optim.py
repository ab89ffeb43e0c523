"""Optimizers on flat pieces of the parameters, and clipping by the global norm.

What an optimizer updates are pairs of flat arrays (data, grad) that it `owned`: the whole model under data parallel,
this rank's shares of it under ZeRO, cut anywhere. There are three kinds of rules:

    Optimizer     element by element: where the cuts are makes no difference              SGD, Adam, AdamW
    Layerwise     with the norm of each parameter: squares are added up over its pieces   LARS, LAMB
    Matrixwise    with each matrix as a whole: ranks own whole parameters                 your own

The gradient is `factor` times what stands in grad: 1/S for a loss that was multiplied by S (precision.py), and what
clipping takes away. One number instead of another pass over all gradients; and in half precision, the array could not
hold the product. Parameters in half precision have a float32 master, which is what is updated:

    master = master - lr rule(factor grad)        data = master, rounded

An update is often smaller than half the distance to the next number that data can hold: alone, data would stand still.
The master is made at the first update, from what data holds then. An element of data that is no longer its master,
rounded, was set by somebody else (a checkpoint that was restored, say), and the master takes its value.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from .backend import Array, fingerprints, square, to_device, to_host, wide, xp
from .errors import UserError, check_names, check_number, check_whole, shown
from .nn import Parameter
from .observe import ledger
from .shares import Cuts

SMALL = 2.0**-96
BLOCK = 32 * 1024  # elements: w, g, m, v and two temporaries stay in the cache (1.5% of a step)

steps_begun = itertools.count()  # numbers the steps of all reducers, so that a scaler can tell what came before


class Piece(NamedTuple):
    """A run of the elements of a parameter (of what this rank holds of it, flat), and where they stand in an array."""

    parameter: Parameter
    run: slice
    place: slice


class Held(NamedTuple):
    """A flat array that this rank updates: its share of a bucket, or all of it. `decay`: whether weight decay applies.

    pieces: which parameters stand in it. cuts: the shares of a bucket that it holds.
    """

    data: Array
    decay: bool
    pieces: tuple[Piece, ...] = ()
    cuts: Cuts = ()


class Owned(NamedTuple):
    """And its gradient."""

    data: Array
    grad: Array
    decay: bool
    pieces: tuple[Piece, ...] = ()
    cuts: Cuts = ()


Found = Sequence[tuple[Parameter, np.ndarray]]  # what was found on the pieces of the parameters
Totals = dict[Parameter, np.ndarray]


class Slices(Protocol):
    """Whatever holds the gradients: parallel.reducer.Reducer, or Alone."""

    factor: float

    def held(self) -> list[Held]: ...

    def owned(self) -> list[Owned]: ...

    def norm(self) -> float: ...

    def over_pieces(self, found: Found) -> Totals: ...

    def logical(self, p: Parameter, flat: Array) -> Array: ...


class Alone:
    """The parameters of a model on one process, without a reducer: each one a piece."""

    factor = 1.0

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        """Raise UserError for what is no list of parameters, and for those that a reducer holds."""
        self.parameters = list(parameters) if isinstance(parameters, Iterable) else [parameters]
        for p in self.parameters:
            if not isinstance(p, Parameter) or p.bucket is not None:
                why = f"{p.placement.path} has a reducer" if isinstance(p, Parameter) else f"{shown(p)} is given"
                raise UserError(f"an optimizer takes a reducer, or model.parameters() of a model without one; {why}")

    def held(self) -> list[Held]:
        return [Held(*it) for it in self._arrays()]

    def owned(self) -> list[Owned]:
        """A parameter without a gradient has zeros."""
        grads = (xp.zeros(p.shape, p.dtype) if p.grad is None else p.grad for p in self._trained())
        return [Owned(it[0], grad.reshape(-1), *it[1:]) for it, grad in zip(self._arrays(), grads, strict=True)]

    def norm(self) -> float:
        return math.fsum(square(p.grad.reshape(-1)) for p in self._trained() if p.grad is not None) ** 0.5

    def over_pieces(self, found: Found) -> Totals:
        return dict(found)

    def logical(self, p: Parameter, flat: Array) -> Array:
        return flat.reshape(p.shape)

    def _trained(self) -> list[Parameter]:
        return [p for p in self.parameters if p.requires_grad]

    def _arrays(self) -> Iterator[tuple[Array, bool, tuple[Piece, ...], Cuts]]:
        for p in self._trained():
            if not p.data.flags.c_contiguous:  # a flat view would be a copy
                p.data = xp.ascontiguousarray(p.data)
            every = slice(0, p.data.size)
            yield p.data.reshape(-1), p.decay, (Piece(p, every, every),), (every,)


class Part(NamedTuple):
    """A part of an optimizer's state: elements `run` of the slice `held`, flat, of what belongs to a parameter."""

    array: np.ndarray
    held: tuple[slice, ...]
    run: slice


State = Mapping[str, "Part | np.ndarray | int"]


class Work(NamedTuple):
    """What an update works on: w, the master or the data itself; its gradient, not yet times the factor; its state."""

    w: Array
    owned: Owned
    state: list[Array]

    def runs(self) -> Iterator[tuple[Parameter, slice]]:
        """What stands of each parameter in each share of the bucket."""
        for p, _, place in self.owned.pieces:
            for cut in self.owned.cuts:
                lo, hi = max(place.start, cut.start), min(place.stop, cut.stop)
                if lo < hi:
                    yield p, slice(lo, hi)


def unscaled(stored: Array, dtype: Any, factor: float) -> Array:
    """A stored gradient in this dtype, times the factor; where that changes nothing, the same array."""
    g = stored.astype(dtype, copy=False)
    while 0 < factor < SMALL:  # float32 would round it: the gradients are as large as the factor is small
        g, factor = g * g.dtype.type(SMALL), factor / SMALL
    return g if factor == 1 else g * g.dtype.type(factor)


def blocks(run: slice) -> Iterator[slice]:
    """The run in parts that stay in the cache."""
    for lo in range(run.start, run.stop, BLOCK):
        yield slice(lo, min(lo + BLOCK, run.stop))


class Optimizer:
    """`step(lr)` updates every owned piece. This class is for rules that go element by element: write `update`."""

    states: tuple[str, ...] = ()  # names of the arrays, of the size of the parameters, that the rule remembers
    squares = False  # the rule squares the gradient
    elementwise = True  # the rule treats each element by itself
    owners = "elements"  # what ranks have to own under ZeRO: runs of elements, or whole "parameters"

    def __init__(self, gradients: Slices | Iterable[Parameter]) -> None:
        """gradients: a reducer, or on one process `model.parameters()`.

        Raise UserError for a rule that needs whole parameters where ranks own shares of them.
        """
        name = type(self).__name__
        if not self.elementwise and not isinstance(self, (Layerwise, Matrixwise)):
            raise UserError(
                f"{name} says that it is not element by element, and would be given runs of parameters, cut anywhere.\n"
                "Derive it from Layerwise if it needs norms, and from Matrixwise if it needs whole matrices"
            )
        self.gradients: Slices = gradients if hasattr(gradients, "owned") else Alone(gradients)  # type: ignore[assignment]
        if (
            getattr(gradients, "sharded", False)
            and getattr(gradients, "owners", "elements") != self.owners == "parameters"
        ):
            raise UserError(
                f"{name} needs whole parameters, and under ZeRO a rank owns shares, cut anywhere; "
                'give Strategy(owners="parameters")'
            )
        self.updates = 0
        self.state: list[list[Array]] = []
        self.masters: list[Array | None] = []  # the float32 values of pieces that are in half precision
        self.prints: dict[int, list[int]] = {}  # fingerprints of such pieces, as the last update left them

    def step(self, lr: float) -> None:
        """One update with this learning rate. Raises UserError for one that is negative or NaN."""
        check_number("lr", lr, "at least 0")
        self.updates += 1
        work = [Work(self.master(i, it.data), it, self.state[i]) for i, it in enumerate(self.gradients.owned())]
        self.apply(work, lr)
        for i, (w, it, _) in enumerate(work):
            if w is not it.data:
                self.prints[i] = fingerprints(it.data)

    def apply(self, work: Sequence[Work], lr: float) -> None:
        """Update all of it."""
        for it in work:
            for block in blocks(slice(0, len(it.w))):
                self.update(*self.given(it, block), lr, it.owned.decay)
                self.store(it, block)

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        """The rule, in place on w and state: flat arrays, a block of neighbours each."""
        raise NotImplementedError

    def given(self, it: Work, run: slice) -> tuple[Array, Array, list[Array]]:
        """w, the gradient, and the state there."""
        return it.w[run], self.gradient(it.owned.grad[run], it.w.dtype), [state[run] for state in it.state]

    def store(self, it: Work, run: slice) -> None:
        """The values are what the master is now, rounded."""
        if it.w is not it.owned.data:
            it.owned.data[run] = it.w[run]

    def master(self, i: int, data: Array) -> Array:
        """What is updated of piece i: its master, with the values that somebody has set since, or the data itself."""
        if i == len(self.state):
            self.remember(data)
        master = self.masters[i]
        if master is None:
            return data
        if fingerprints(data) != self.prints.get(i):
            changed = master.astype(data.dtype) != data
            master[changed] = data[changed]
        return master

    def check_norm(self, norm: float) -> None:
        """Raise UserError for a gradient of this length whose squares the state cannot hold: it would stay infinite.

        Called with the same norm, that of the step, on all ranks.
        """
        held = self.gradients.held() if self.squares else ()
        most = min((float(np.finfo(wide(it.data.dtype)).max) ** 0.5 for it in held), default=math.inf)
        if norm > most:
            raise UserError(
                f"the norm of the gradient is {norm:.1e}; {type(self).__name__} keeps squares, of up to {most:.1e}.\n"
                "Clip the gradient (clip=1.0), or give a smaller learning rate"
            )

    def gradient(self, stored: Array, dtype: Any) -> Array:
        """What the rule sees of a stored gradient: in the master's dtype, times the factor."""
        return unscaled(stored, dtype, self.gradients.factor)

    def remember(self, data: Array) -> None:
        """Makes the state of a piece, and its master."""
        dtype = wide(data.dtype)
        self.state.append([xp.zeros(data.shape, dtype) for _ in self.states])
        self.masters.append(None if data.dtype == dtype else data.astype(dtype))
        for array in (*self.state[-1], self.masters[-1]):
            ledger.hold(array, "optimizer", "optimizer")

    # State with names -------------------------------------------------------------------------------------------------

    def named(self) -> Iterator[tuple[str, Piece, Array]]:
        """("path.name", piece, its part of the state), for all that there is."""
        for held, state, master in zip(self.gradients.held(), self.state, self.masters, strict=True):
            arrays = dict(zip(self.states, state, strict=True)) | ({} if master is None else {"master": master})
            for piece in held.pieces:
                for name, array in arrays.items():
                    yield f"{piece.parameter.placement.path}.{name}", piece, array[piece.place]

    def state_dict(self) -> dict[str, Part | np.ndarray | int]:
        """Return a copy of all that the next update depends on, beside the parameters: what this rank has of it.

        "path.name", such as "head.weight.m" (a master is named "master"), -> Part, and "updates" -> how many were made.
        train.checkpoint.gather_state makes the arrays whole that belong to the logical parameters.
        """
        parts = self.named() if self.state else ()
        state: dict[str, Part | np.ndarray | int] = {"updates": self.updates}
        for name, piece, array in parts:
            state[name] = Part(to_host(array).copy(), piece.parameter.placement.index, piece.run)
        return state

    def of_this_rank(self, state: State) -> set[str]:
        """The names in a state, without those of whole arrays that other ranks need, and this one has nothing of."""
        here = {piece.parameter.placement.path for held in self.gradients.held() for piece in held.pieces}
        world = getattr(self.gradients, "world", None)
        several = world is not None and world.size > 1
        elsewhere = lambda name: isinstance(state[name], np.ndarray) and name.rpartition(".")[0] not in here
        return {name for name in state if name != "updates" and not (several and elsewhere(name))}

    def load_state_dict(self, state: State) -> None:
        """Take over such a state: of the same mesh and strategy, or whole arrays; also before the first update.

        Raise UserError, before anything has changed, for a state of another optimizer or of other parameters.
        """
        if not isinstance(state, Mapping) or "updates" not in state:
            raise UserError(f"the state is {shown(state)}; give what state_dict() of an optimizer has returned")
        check_whole("updates", state["updates"])
        fresh = len(state) == 1 and not state["updates"]  # of an optimizer that had remembered nothing yet
        for i, held in enumerate(self.gradients.held()):
            self.master(i, held.data)
        places = {} if fresh else {name: (piece, array) for name, piece, array in self.named()}
        cure = "Load it into the optimizer that it is of, on the same mesh, or gather it first; this is "
        check_names("state", "optimizer", self.of_this_rank(state), set(places), cure + type(self).__name__)
        found = {name: fitting(name, state[name], *it) for name, it in places.items()}
        for name, (_, array) in places.items():
            array[...] = to_device(found[name])
        if fresh:
            self.state, self.masters = [], []
        self.prints.clear()
        self.updates = int(state["updates"])  # type: ignore[arg-type]


def fitting(name: str, part: object, piece: Piece, array: Array) -> np.ndarray:
    """Return what a state has for this piece. Raise UserError for another slice, shape or dtype."""
    where = piece.parameter.placement
    if isinstance(part, np.ndarray) and part.shape == where.shape:
        found = part[where.index].reshape(-1)[piece.run]
    elif isinstance(part, Part) and (part.held, part.run) == (where.index, piece.run):
        found = part.array
    else:
        raise UserError(
            f"the state has {shown(part)} for {name}; this rank needs elements {piece.run.start} to {piece.run.stop} "
            f"of {where.index}.\nLoad it on the mesh where it was made, or gather it: train.checkpoint.gather_state"
        )
    if found.dtype != array.dtype or found.shape != array.shape:
        raise UserError(f"the state has {found.dtype}, shape {found.shape}, for {name}; it is {array.dtype} here")
    return found


class Layerwise(Optimizer):
    """For rules that need norms of each parameter of the logical model: write `direction` and `update_with`.

    Two passes over the parameters, and between them 16 bytes a parameter from each rank that has some of it:

        x = direction(w, g)                    |w|^2, |x|^2 = sums over all the pieces of a parameter
        w = update_with(w, g, |w|, |x|)
    """

    elementwise = False

    def direction(self, w: Array, g: Array, state: list[Array], decay: bool) -> Array:
        """Return what has the second norm that the rule needs; may change the state. Called once an update."""
        raise NotImplementedError

    def update_with(
        self, w: Array, g: Array, state: list[Array], lr: float, decay: bool, w_norm: float, x_norm: float
    ) -> None:
        """The rule, in place on w and state: flat arrays, a block of neighbours of one parameter each."""
        raise NotImplementedError

    def apply(self, work: Sequence[Work], lr: float) -> None:
        found = [(p, self.look(it, run)) for it in work for p, run in it.runs()]
        norms = {p: np.sqrt(squares).tolist() for p, squares in self.gradients.over_pieces(found).items()}
        for it in work:
            for p, run in it.runs():
                for block in blocks(run):
                    self.update_with(*self.given(it, block), lr, it.owned.decay, *norms[p])
                    self.store(it, block)

    def look(self, it: Work, run: slice) -> np.ndarray:
        """|w|^2 and |x|^2 of a run."""
        squares = np.zeros(2)
        for block in blocks(run):
            w, g, state = self.given(it, block)
            squares += square(w), square(self.direction(w, g, state, it.owned.decay))
        return squares


class Matrixwise(Optimizer):
    """For rules that need matrices as a whole: write `direction`, `whole` and `update_with`.

    Under ZeRO each rank owns whole parameters (owners="parameters"), and updates those. Where tensor parallel divides
    one, its direction is gathered, and every rank computes what is made of it:

        x = direction(w, g)                    (n), this rank's slice, flat
        y = whole(x)                           of the logical shape, such as (D, 3, H, D/H)
        w = update_with(w, y)                  (n), with this rank's slice of y
    """

    elementwise = False
    owners = "parameters"

    def direction(self, w: Array, g: Array, state: list[Array], decay: bool) -> Array:
        """Return what is to be made whole, such as the momentum; may change the state."""
        raise NotImplementedError

    def whole(self, x: Array) -> Array:
        """Return an array of the same shape. x: of the logical parameter's shape, which may have one axis only."""
        raise NotImplementedError

    def update_with(self, w: Array, y: Array, lr: float, decay: bool) -> None:
        """The rule, in place on w."""
        raise NotImplementedError

    def apply(self, work: Sequence[Work], lr: float) -> None:
        for it in work:
            for p, _, place in it.owned.pieces:
                w, g, state = self.given(it, place)
                x = self.gradients.logical(p, self.direction(w, g, state, it.owned.decay))
                self.update_with(w, self.whole(x)[p.placement.index].reshape(-1), lr, it.owned.decay)
                self.store(it, place)


class SGD(Optimizer):
    """w -= lr v with v = momentum v + g (without momentum, v is g)."""

    def __init__(
        self, gradients: Slices | Iterable[Parameter], *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(gradients)
        check_number("momentum", momentum, "at least 0 and less than 1")
        check_number("weight_decay", weight_decay, "at least 0")
        self.momentum, self.weight_decay = momentum, weight_decay
        self.states = ("velocity",) if momentum else ()

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        if decay and self.weight_decay:
            g = g + self.weight_decay * w
        if self.momentum:
            (v,) = state
            v *= self.momentum
            v += g
            g = v
        w -= lr * g


def adam_step(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Adam's update number t (from 1), in place on w, m and v, all of shape (n).

        m = beta1 m + (1 - beta1) g        m_hat = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2      v_hat = v / (1 - beta2^t)
        w = w - lr m_hat / (sqrt(v_hat) + epsilon)

    m and v start at 0 and are too small at first; the two divisors mend that. (For speed: lr and the corrections are
    single numbers. Joined first, they cost fewer passes over arrays.) Kingma, Ba, "Adam", arXiv:1412.6980, algorithm 1.
    """
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    denominator = xp.sqrt(v)
    denominator *= (1 - beta2**t) ** -0.5
    denominator += epsilon
    w -= (lr / (1 - beta1**t)) * m / denominator


def adamw_step(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    adam: Callable[..., None] = adam_step,
) -> None:
    """Update number t of Adam, and beside it w shrinks by lr x weight_decay. In place, all arrays of shape (n).

        w = w - lr weight_decay w - lr m_hat / (sqrt(v_hat) + epsilon)

    On the right stands the w from before the update, both times. The decay goes past m and v. Added to the gradient it
    would be divided by sqrt(v_hat), too: weights with large gradients would hardly decay. For the other part, call the
    argument `adam`, with the arguments of adam_step.
    Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.
    """
    if weight_decay:
        w *= 1 - lr * weight_decay
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)


class Adam(Optimizer):
    """See adam_step. 8 bytes a parameter in fp32."""

    states, squares = ("m", "v"), True

    def __init__(
        self,
        gradients: Slices | Iterable[Parameter],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        rule: Callable[..., None] = adam_step,
    ) -> None:
        super().__init__(gradients)
        check_number("beta1", beta1, "at least 0 and less than 1")
        check_number("beta2", beta2, "at least 0 and less than 1")
        check_number("epsilon", epsilon, "at least 0")
        self.beta1, self.beta2, self.epsilon, self.rule = beta1, beta2, epsilon, rule

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        self.rule(w, g, *state, self.updates, lr, self.beta1, self.beta2, self.epsilon)


class AdamW(Adam):
    """See adamw_step. Only pieces that say so decay."""

    def __init__(
        self,
        gradients: Slices | Iterable[Parameter],
        *,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        rule: Callable[..., None] = adamw_step,
    ) -> None:
        super().__init__(gradients, beta1=beta1, beta2=beta2, epsilon=epsilon, rule=rule)
        check_number("weight_decay", weight_decay, "at least 0")
        self.weight_decay = weight_decay

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        rate = self.weight_decay if decay else 0.0
        self.rule(w, g, *state, self.updates, lr, self.beta1, self.beta2, self.epsilon, rate)


class LARS(Layerwise):
    """SGD with momentum, and a learning rate for each parameter w that goes with |w|: 4 bytes a parameter in fp32.

        rate = lr eta |w| / (|g| + weight_decay |w|)            lr, where |w| or |g| is 0
        v = momentum v + rate (g + weight_decay w)
        w = w - v

    You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv:1708.03888, algorithm 1.
    """

    states = ("velocity",)

    def __init__(
        self,
        gradients: Slices | Iterable[Parameter],
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
    ) -> None:
        super().__init__(gradients)
        check_number("momentum", momentum, "at least 0 and less than 1")
        check_number("weight_decay", weight_decay, "at least 0")
        check_number("eta", eta, "above 0")
        self.momentum, self.weight_decay, self.eta = momentum, weight_decay, eta

    def direction(self, w: Array, g: Array, state: list[Array], decay: bool) -> Array:
        return g

    def update_with(
        self, w: Array, g: Array, state: list[Array], lr: float, decay: bool, w_norm: float, x_norm: float
    ) -> None:
        weight_decay = self.weight_decay if decay else 0.0
        ratio = self.eta * w_norm / (x_norm + weight_decay * w_norm) if w_norm and x_norm else 1.0
        (v,) = state
        v *= self.momentum
        v += lr * ratio * (g + weight_decay * w if weight_decay else g)
        w -= v


class LAMB(Layerwise, Adam):
    """Adam's direction, as long as |w| for each parameter w: 8 bytes a parameter in fp32.

        x = m_hat / (sqrt(v_hat) + epsilon) + weight_decay w        m, v as in adam_step
        w = w - lr |w| / |x| x                                      lr x, where |w| or |x| is 0

    You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv:1904.00962,
    algorithm 2.
    """

    def __init__(
        self,
        gradients: Slices | Iterable[Parameter],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(gradients, beta1=beta1, beta2=beta2, epsilon=epsilon)
        check_number("weight_decay", weight_decay, "at least 0")
        self.weight_decay = weight_decay

    def direction(self, w: Array, g: Array, state: list[Array], decay: bool) -> Array:
        m, v = state
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * (g * g)
        x, scale = self.adam(m, v)
        x *= scale
        if decay and self.weight_decay:
            x += self.weight_decay * w
        return x

    def adam(self, m: Array, v: Array) -> tuple[Array, float]:
        """m_hat / (sqrt(v_hat) + epsilon), but for a factor: (array, factor).

        Made twice in an update: kept until its norm is known, it would take as much memory as m.
        """
        root = (1 - self.beta2**self.updates) ** 0.5
        x = xp.sqrt(v)
        x += self.epsilon * root
        return xp.divide(m, x, out=x), root / (1 - self.beta1**self.updates)

    def update_with(
        self, w: Array, g: Array, state: list[Array], lr: float, decay: bool, w_norm: float, x_norm: float
    ) -> None:
        rate = lr * (w_norm / x_norm if w_norm and x_norm else 1.0)
        x, scale = self.adam(*state)
        x *= rate * scale
        if decay and self.weight_decay:
            w *= 1 - rate * self.weight_decay
        w -= x


def clip_grad_norm(gradients: Slices | Iterable[Parameter], limit: float) -> float:
    """Shortens the gradient of the whole logical model to `limit` if it is longer: g = g min(1, limit / |g|).

    Returns the length it had. One factor for all, so the direction stays, and it is all that is noted: see the top of
    this file. (A list of parameters has no place for it: their gradients are multiplied.) After the loss scale has been
    taken out. Raises UserError unless limit is above 0.
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063.
    """
    check_number("limit", limit, "above 0")
    if isinstance(gradients, Iterable):
        alone = Alone(gradients)
        norm = alone.norm()
        for p in alone.parameters if norm > limit else ():
            p.grad = None if p.grad is None else p.grad * p.dtype.type(limit / norm)
        return norm
    norm = gradients.norm()
    if norm > limit:
        gradients.factor *= limit / norm
    return norm
