"""Base classes of the three kinds of optimizers: element by element, with norms, with whole matrices."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import CHUNK, Array, accumulation_dtype, fingerprints, square, to_device, to_host, xp
from ..errors import UserError, check_names, check_number, check_whole, shown
from ..nn import Parameter
from ..observe import ledger
from ..observe.recorder import span
from .pieces import Alone, Owned, Piece, Slices, unscaled
from .state import Part, State, fitting

# Elements: w, g, m, v and two temporaries fit in a CPU's cache (saves 2% of a step).
BLOCK = 2**16 if xp is np else CHUNK


class Work(NamedTuple):
    """The input of an update: w (n), the master or the data itself, with its gradient and state."""

    w: Array
    owned: Owned
    state: Sequence[Array]

    def runs(self) -> Iterator[tuple[Parameter, slice]]:
        """Yield each parameter and its slice of w, once per shard of the bucket."""
        for p, _, place in self.owned.pieces:
            for shard in self.owned.shards:
                lo, hi = max(place.start, shard.start), min(place.stop, shard.stop)
                if lo < hi:
                    yield p, slice(lo, hi)

    def strips(self) -> Iterator[list[tuple[Parameter, slice, slice]]]:
        """Yield lists of (parameter, run, block of the run): consecutive blocks, together at most BLOCK elements.

        Small parameters share a strip, since the calls would cost more than their arithmetic.
        """
        strip: list[tuple[Parameter, slice, slice]] = []
        for p, run in self.runs():
            for block in blocks(run):
                if strip and (block.stop - strip[0][2].start > BLOCK or block.start != strip[-1][2].stop):
                    yield strip
                    strip = []
                strip.append((p, run, block))
        if strip:
            yield strip


def read_only(x: Array) -> Array:
    """Return a read-only view of x, since a rule's input may be the bucket itself, or its own momentum."""
    view = x[...]
    if xp is np:
        view.flags.writeable = False
    return view


def blocks(run: slice, most: int = 0) -> Iterator[slice]:
    """Split a run into slices of at most `most` elements, by default BLOCK, which fit in the cache."""
    most = most or BLOCK
    for lo in range(run.start, run.stop, most):
        yield slice(lo, min(lo + most, run.stop))


class Optimizer:
    """Base class of optimizers. `step(lr)` updates every owned piece. Elementwise rules override `update`."""

    states: tuple[str, ...] = ()  # names of the rule's state arrays, each as large as the parameters
    squares = False  # whether the rule squares the gradient
    elementwise = True  # whether the rule treats each element independently
    block = 0  # elements that `update` gets at most; 0: BLOCK
    owners = "elements"  # what ranks must own under ZeRO: runs of elements, or whole "parameters"

    def __init__(self, reducer: Slices | Iterable[Parameter]) -> None:
        """reducer: a Reducer or, on one process, `model.parameters()`.

        Raise UserError if the rule needs whole parameters but ranks own parts of them, or if `states` is invalid.
        """
        name = type(self).__name__
        if not self.elementwise and not isinstance(self, (Layerwise, Matrixwise)):
            raise UserError(
                f"{name} sets elementwise=False but is a plain Optimizer, which updates runs cut at any element.\n"
                "Derive it from Layerwise if it needs norms, or from Matrixwise if it needs whole matrices"
            )
        named = isinstance(self.states, tuple) and len(set(self.states)) == len(self.states)
        if not named or not all(isinstance(state, str) and state not in ("", "master") for state in self.states):
            raise UserError(f'{name}.states is {self.states!r}; give a tuple of different names: ("momentum",)')
        self.reducer: Slices = reducer if hasattr(reducer, "owned") else Alone(reducer)  # type: ignore[assignment]
        world = getattr(reducer, "world", None)
        if world is not None and world.size > 1 and getattr(reducer, "owners", "") != self.owners == "parameters":
            raise UserError(
                f"{name} needs whole parameters, but ranks own shards cut at any element; "
                'use Strategy(owners="parameters")'
            )
        self.updates = 0
        self.works = False  # an update has changed a weight
        self.state: list[list[Array]] = []
        self.masters: list[Array | None] = []  # float32 copies of the pieces in half precision
        self.prints: dict[int, list[int]] = {}  # fingerprints of these pieces after the last update

    def step(self, lr: float) -> None:
        """Update all owned pieces with learning rate lr.

        Raise UserError if lr is negative or not finite, or if the first update changes nothing.
        """
        check_number("lr", lr, "at least 0")
        work = [Work(self.master(i, it.data), it, self.state[i]) for i, it in enumerate(self.reducer.owned())]
        self.updates += 1
        with span("optimizer", "optimizer"):
            (self.apply if self.works else self.apply_first)(work, lr)
        for i, (w, it, _) in enumerate(work):
            if w is not it.data:
                self.prints[i] = fingerprints(it.data)

    def apply_first(self, work: Sequence[Work], lr: float) -> None:
        """Apply the rule, until it has changed a weight. Raise UserError if it changes none but should."""
        before = [fingerprints(it.w) for it in work]
        self.apply(work, lr)
        self.works = [fingerprints(it.w) for it in work] != before
        if lr and not self.works and any(it.owned.grad.any() for it in work):
            raise UserError(
                f"the first update of {type(self).__name__} changed no weight, although the gradient is not zero.\n"
                "Change w in place: w -= lr * g. The line w = w - lr * g only makes a new array. Or give a larger "
                f"learning rate: this one may be too small for {work[0].w.dtype}"
            )

    def apply(self, work: Sequence[Work], lr: float) -> None:
        """Apply the rule to all pieces."""
        for it in work:
            for block in blocks(slice(0, len(it.w)), self.block):
                self.update(*self.given(it, block), lr, it.owned.decay)
                self.store(it, block)

    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
        """Apply the rule in place to w (n) and state (n), a block of consecutive elements. g (n) is read-only."""
        raise NotImplementedError

    def given(self, it: Work, run: slice) -> tuple[Array, Array, tuple[Array, ...]]:
        """Return (w, gradient, state) of a run, the gradient read-only and times the factor."""
        g = read_only(self.gradient(it.owned.grad[run], it.w.dtype))
        return it.w[run], g, tuple([state[run] for state in it.state])

    def store(self, it: Work, run: slice) -> None:
        """Write the master, rounded, to the data."""
        if it.w is not it.owned.data:
            it.owned.data[run] = it.w[run]

    def master(self, i: int, data: Array) -> Array:
        """Return the array that updates of piece i change: the data or its master, which adopts values set outside."""
        if i == len(self.state):
            self.remember(data)
        master = self.masters[i]
        if master is None:
            return data
        if fingerprints(data) != self.prints.get(i):
            changed = master.astype(data.dtype) != data
            master[changed] = data[changed]
        return master

    def read_masters(self) -> None:
        """Take the masters of parameters that start from stored values from there: halves lack their last digits."""
        held = self.reducer.held()
        half = any(accumulation_dtype(it.data.dtype) != it.data.dtype for it in held)
        if not half or not any(p.stored for it in held for p, *_ in it.pieces):
            return  # the first update makes the state
        for i, it in enumerate(held):
            self.master(i, it.data)
            for p, run, place in it.pieces:
                if (master := self.masters[i]) is not None and p.stored is not None:
                    p.stored.read(master[place], p.placement.index, run)

    def check_norm(self, norm: float) -> None:
        """Raise UserError if squares of a gradient with this norm overflow the state, which would stay infinite.

        All ranks call it with the same norm, that of the whole gradient.
        """
        held = self.reducer.held() if self.squares else ()
        most = min((float(np.finfo(accumulation_dtype(it.data.dtype)).max) ** 0.5 for it in held), default=math.inf)
        if norm > most:
            raise UserError(
                f"the norm of the gradient is {norm:.1e}; {type(self).__name__} stores squares, which overflow "
                f"above {most:.1e}.\n"
                "Clip the gradient (clip=1.0), or lower the learning rate"
            )

    def gradient(self, stored: Array, dtype: Any) -> Array:
        """Return a stored gradient as the rule sees it: in dtype (the master's), times the factor."""
        return unscaled(stored, dtype, self.reducer.factor)

    def remember(self, data: Array) -> None:
        """Allocate the state of a piece (zeros) and its master."""
        dtype = accumulation_dtype(data.dtype)
        self.state.append([xp.zeros(data.shape, dtype) for _ in self.states])
        self.masters.append(None if data.dtype == dtype else data.astype(dtype))
        for array in (*self.state[-1], self.masters[-1]):
            ledger.hold(array, "optimizer", "optimizer")

    # State with names -------------------------------------------------------------------------------------------------

    def named(self) -> Iterator[tuple[str, Piece, Array]]:
        """Yield ("path.name", piece, its part of the state) for every state array and master; none before the first
        update."""
        if not self.state:
            return
        for held, state, master in zip(self.reducer.held(), self.state, self.masters, strict=True):
            arrays = dict(zip(self.states, state, strict=True)) | ({} if master is None else {"master": master})
            for piece in held.pieces:
                for name, array in arrays.items():
                    yield f"{piece.parameter.placement.path}.{name}", piece, array[piece.place]

    def state_dict(self) -> dict[str, Part | np.ndarray | int]:
        """Return a copy of this rank's part of the optimizer state.

        It maps "path.name", such as "head.weight.m" (a master is named "master"), to a Part, and "updates" to the
        number of updates made. train.checkpoint.gather_state joins the parts into arrays of the logical shapes.
        """
        state: dict[str, Part | np.ndarray | int] = {"updates": self.updates}
        for name, piece, array in self.named():
            state[name] = Part(to_host(array).copy(), piece.parameter.placement.index, piece.run)
        return state

    def of_this_rank(self, state: State) -> set[str]:
        """Return the names in a state, except those of whole arrays for parameters that only other ranks hold."""
        here = {piece.parameter.placement.path for held in self.reducer.held() for piece in held.pieces}
        others = self.reducer.paths() - here
        elsewhere = lambda name: isinstance(state[name], np.ndarray) and name.rpartition(".")[0] in others
        return {name for name in state if name != "updates" and not elsewhere(name)}

    def parts_of(self, state: State) -> dict[str, np.ndarray]:
        """Return the part of a state that this rank needs, changing nothing. Raise UserError if it does not fit."""
        if not isinstance(state, Mapping) or "updates" not in state:
            raise UserError(f"the state is {shown(state)}; expected the result of an optimizer's state_dict()")
        check_whole("updates", state["updates"])
        if len(state) == 1 and not state["updates"]:  # saved before the first update
            return {}
        before = len(self.state)
        for i, held in enumerate(self.reducer.held()):
            self.master(i, held.data)
        try:
            places = {name: (piece, array) for name, piece, array in self.named()}
            cure = "Load it into the optimizer that saved it, on the same mesh, or gather it first; this optimizer is "
            check_names("state", "optimizer", self.of_this_rank(state), set(places), cure + type(self).__name__)
            return {name: fitting(name, state[name], *it) for name, it in places.items()}
        finally:
            del self.state[before:], self.masters[before:]

    def load_state_dict(self, state: State) -> None:
        """Restore a state_dict() of the same mesh and strategy, or one of whole arrays, even before the first update.

        Raise UserError, before any change, if names or shapes differ. Each rank checks only its own part;
        Trainer.load_state_dict makes all ranks agree first.
        """
        found = self.parts_of(state)
        if found:
            for i, held in enumerate(self.reducer.held()):
                self.master(i, held.data)
            for name, _, array in self.named():
                array[...] = to_device(found[name])
        else:
            self.state, self.masters = [], []
        self.prints.clear()
        self.updates = int(state["updates"])  # type: ignore[arg-type]
        self.works = self.updates > 0


class Layerwise(Optimizer):
    """Base class of rules that need norms of each logical parameter. Override `direction` and `update_with`.

    An update makes two passes over the parameters. Between them, each rank sends 16 bytes per parameter it holds:

        x = direction(w, g)                    |w|^2, |x|^2 = sums over all the pieces of a parameter
        w = update_with(w, g, |w|, |x|)
    """

    elementwise = False

    def direction(self, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        """Return x (n), whose norm the rule needs; may change the state. Called once per element, before update_with.

        The n elements are consecutive; they may belong to several parameters.
        """
        raise NotImplementedError

    def update_with(
        self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool, w_norm: float, x_norm: float
    ) -> None:
        """Apply the rule in place to w (n) and state (n), consecutive elements of one parameter. g (n) is read-only."""
        raise NotImplementedError

    def apply(self, work: Sequence[Work], lr: float) -> None:
        found = [(p, squares) for it in work for p, squares in self.look(it)]
        totals = self.reducer.over_pieces(found)
        norms = dict(zip(totals, np.sqrt([*totals.values()]).tolist(), strict=True))
        for it in work:
            for p, run in it.runs():
                for block in blocks(run):
                    self.update_with(*self.given(it, block), lr, it.owned.decay, *norms[p])
                    self.store(it, block)

    def look(self, it: Work) -> list[tuple[Parameter, np.ndarray]]:
        """Return each run's parameter with |w|^2 and |x|^2 of the run."""
        squares: dict[tuple[Parameter, int], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for strip in it.strips():
            start, stop = strip[0][2].start, strip[-1][2].stop
            w, g, state = self.given(it, slice(start, stop))
            x = self.direction(w, g, state, it.owned.decay)
            for p, run, block in strip:
                here = slice(block.start - start, block.stop - start)
                of_w, of_x = squares[p, run.start]
                squares[p, run.start] = of_w + square(w[here]), of_x + square(x[here])
        return [(p, both) for (p, _), both in zip(squares, np.array([*squares.values()]), strict=True)]


class Matrixwise(Optimizer):
    """Base class of rules that need whole matrices. Override `direction`, `whole` and `update_with`.

    Under ZeRO each rank owns whole parameters (owners="parameters") and updates those. If tensor parallel divides a
    parameter, its direction is gathered and every rank computes `whole` of it. Each method receives the parameter p, so
    a rule can treat matrices differently from vectors, or the embedding table from the rest:

        x = direction(p, w, g)                 (n), this rank's slice, flat
        y = whole(p, x)                        of the logical shape, such as (D, 3, H, D/H)
        w = update_with(p, w, y)               (n), with this rank's slice of y
    """

    elementwise = False
    owners = "parameters"

    def direction(self, p: Parameter, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        """Return the array x (n) to gather, such as the momentum; may change the state."""
        raise NotImplementedError

    def whole(self, p: Parameter, x: Array) -> Array:
        """Return an array of x's shape. x is read-only and has the logical parameter's shape, with one or more axes."""
        raise NotImplementedError

    def update_with(self, p: Parameter, w: Array, y: Array, lr: float, decay: bool) -> None:
        """Apply the rule in place to w (n). y (n): this rank's slice of `whole`."""
        raise NotImplementedError

    def apply(self, work: Sequence[Work], lr: float) -> None:
        for it in work:
            for p, _, place in it.owned.pieces:
                w, g, state = self.given(it, place)
                x = read_only(self.reducer.logical(p, self.direction(p, w, g, state, it.owned.decay)))
                self.update_with(p, w, self.whole(p, x)[p.placement.index].reshape(-1), lr, it.owned.decay)
                self.store(it, place)
