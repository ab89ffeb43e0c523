"""The three kinds of optimizers: element by element, with norms, with whole matrices."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, fingerprints, square, to_device, to_host, wide, xp
from ..errors import UserError, check_number, check_whole, shown
from ..nn import Parameter
from ..observe import ledger
from .pieces import Alone, Owned, Piece, Slices, unscaled
from .state import Part, State, check_names, fitting

BLOCK = 32 * 1024  # elements: w, g, m, v and two temporaries stay in the cache (1.5% of a step)


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
        owned = self.gradients.owned() if self.squares else ()
        most = min((float(np.finfo(wide(data.dtype)).max) ** 0.5 for data, *_ in owned), default=math.inf)
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
        check_names(type(self).__name__, self.of_this_rank(state), set(places))
        found = {name: fitting(name, state[name], *it) for name, it in places.items()}
        for name, (_, array) in places.items():
            array[...] = to_device(found[name])
        if fresh:
            self.state, self.masters = [], []
        self.prints.clear()
        self.updates = int(state["updates"])  # type: ignore[arg-type]


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
