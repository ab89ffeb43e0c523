"""The three kinds of optimizers: element by element, with norms, with whole matrices."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, fingerprints, square, to_device, to_host, wide, xp
from ..errors import UserError, check_names, check_number, check_whole, shown
from ..nn import Parameter
from ..observe import ledger
from .pieces import Alone, Owned, Piece, Slices, unscaled
from .state import Part, State, fitting

BLOCK = 32 * 1024  # elements: w, g, m, v and two temporaries stay in the cache (1.5% of a step)


class Work(NamedTuple):
    """What an update works on: w, the master or the data itself; its gradient, not yet times the factor; its state."""

    w: Array
    owned: Owned
    state: Sequence[Array]

    def runs(self) -> Iterator[tuple[Parameter, slice]]:
        """What stands of each parameter in each share of the bucket."""
        for p, _, place in self.owned.pieces:
            for cut in self.owned.cuts:
                lo, hi = max(place.start, cut.start), min(place.stop, cut.stop)
                if lo < hi:
                    yield p, slice(lo, hi)


def read_only(x: Array) -> Array:
    """A view that cannot be written to: what a rule is given may be the bucket itself, or its own momentum."""
    view = x[...]
    if xp is np:
        view.flags.writeable = False
    return view


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
        named = isinstance(self.states, tuple) and len(set(self.states)) == len(self.states)
        if not named or not all(isinstance(state, str) and state not in ("", "master") for state in self.states):
            raise UserError(f'{name}.states is {self.states!r}; give a tuple of different names: ("momentum",)')
        self.gradients: Slices = gradients if hasattr(gradients, "owned") else Alone(gradients)  # type: ignore[assignment]
        world = getattr(gradients, "world", None)
        if world is not None and world.size > 1 and getattr(gradients, "owners", "") != self.owners == "parameters":
            raise UserError(
                f"{name} needs whole parameters, and ranks own shares of them, cut anywhere; "
                'give Strategy(owners="parameters")'
            )
        self.updates = 0
        self.state: list[list[Array]] = []
        self.masters: list[Array | None] = []  # the float32 values of pieces that are in half precision
        self.prints: dict[int, list[int]] = {}  # fingerprints of such pieces, as the last update left them

    def step(self, lr: float) -> None:
        """One update with this learning rate. Raises UserError for one that is negative or NaN."""
        check_number("lr", lr, "at least 0")
        work = [Work(self.master(i, it.data), it, self.state[i]) for i, it in enumerate(self.gradients.owned())]
        self.updates += 1
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

    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
        """The rule, in place on w and state: flat arrays, a block of neighbours each. g is only read."""
        raise NotImplementedError

    def given(self, it: Work, run: slice) -> tuple[Array, Array, tuple[Array, ...]]:
        """w, the gradient, and the state there."""
        g = read_only(self.gradient(it.owned.grad[run], it.w.dtype))
        return it.w[run], g, tuple([state[run] for state in it.state])

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
        """The names in a state, without those of whole arrays that only other ranks have something of."""
        here = {piece.parameter.placement.path for held in self.gradients.held() for piece in held.pieces}
        others = self.gradients.paths() - here
        elsewhere = lambda name: isinstance(state[name], np.ndarray) and name.rpartition(".")[0] in others
        return {name for name in state if name != "updates" and not elsewhere(name)}

    def parts_of(self, state: State) -> dict[str, np.ndarray]:
        """What this rank needs of a state. Raise UserError, with nothing changed, for one that does not fit."""
        if not isinstance(state, Mapping) or "updates" not in state:
            raise UserError(f"the state is {shown(state)}; give what state_dict() of an optimizer has returned")
        check_whole("updates", state["updates"])
        if len(state) == 1 and not state["updates"]:  # of an optimizer that had remembered nothing yet
            return {}
        before = len(self.state)
        for i, held in enumerate(self.gradients.held()):
            self.master(i, held.data)
        try:
            places = {name: (piece, array) for name, piece, array in self.named()}
            cure = "Load it into the optimizer that it is of, on the same mesh, or gather it first; this is "
            check_names("state", "optimizer", self.of_this_rank(state), set(places), cure + type(self).__name__)
            return {name: fitting(name, state[name], *it) for name, it in places.items()}
        finally:
            del self.state[before:], self.masters[before:]

    def load_state_dict(self, state: State) -> None:
        """Take over such a state: of the same mesh and strategy, or whole arrays; also before the first update.

        Raise UserError, with nothing changed, for a state with other names or shapes. Each rank looks at its own part;
        Trainer.load_state_dict has them agree first.
        """
        found = self.parts_of(state)
        if found:
            for i, held in enumerate(self.gradients.held()):
                self.master(i, held.data)
            for name, _, array in self.named():
                array[...] = to_device(found[name])
        else:
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

    def direction(self, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        """Return what has the second norm that the rule needs; may change the state. Called once an update."""
        raise NotImplementedError

    def update_with(
        self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool, w_norm: float, x_norm: float
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
    one, its direction is gathered, and every rank computes what is made of it. All are told which parameter p it is, so
    that a rule can treat matrices and the others, or the table and the rest, in different ways:

        x = direction(p, w, g)                 (n), this rank's slice, flat
        y = whole(p, x)                        of the logical shape, such as (D, 3, H, D/H)
        w = update_with(p, w, y)               (n), with this rank's slice of y
    """

    elementwise = False
    owners = "parameters"

    def direction(self, p: Parameter, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        """Return what is to be made whole, such as the momentum; may change the state."""
        raise NotImplementedError

    def whole(self, p: Parameter, x: Array) -> Array:
        """Return an array of the same shape. x: of the logical parameter's, which may have one axis only; only read."""
        raise NotImplementedError

    def update_with(self, p: Parameter, w: Array, y: Array, lr: float, decay: bool) -> None:
        """The rule, in place on w."""
        raise NotImplementedError

    def apply(self, work: Sequence[Work], lr: float) -> None:
        for it in work:
            for p, _, place in it.owned.pieces:
                w, g, state = self.given(it, place)
                x = read_only(self.gradients.logical(p, self.direction(p, w, g, state, it.owned.decay)))
                self.update_with(p, w, self.whole(p, x)[p.placement.index].reshape(-1), lr, it.owned.decay)
                self.store(it, place)
