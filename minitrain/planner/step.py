"""One update on one rank, in formulas: what it computes, sends and holds, in the order of the real step.

`Rank(setup, place).update()` follows the instructions of the rank's schedule through the operations of its units
(operations.py) and the events of its reducer (reduction.py), as train/step.py does with arrays. Nothing is allocated or
sent. It keeps three ledgers: bytes sent by tag, FLOPs, and bytes held by kind with their peaks; and it lists the rank's
events, from which timeline.py computes the time.
"""

from collections import Counter

from ..parallel.pipeline_schedules import SCHEDULES, Do
from .operations import Collective, Local, Op, length
from .rank_ledgers import RankLedgers
from .reduction import Reduction
from .setup import Place, Setup
from .units import operations

TOTAL = ("dp", "loss")


Later = list[tuple[Op, Counter[str], bool]]


class Rank(RankLedgers):
    """One rank's update. place: its coordinates (dp, pp, tp)."""

    def __init__(self, setup: Setup, place: Place) -> None:
        super().__init__(setup, place)
        self.reduction = Reduction(setup, self.buckets, self.times, self.memory, self.meet, self.wait)
        self.samples = length(setup.batch, setup.dp, place[0])
        self.later: dict[tuple[int, int], Later] = {}
        self.windows = False  # whether the ids of the batch are kept

    def update(self) -> "Rank":
        """Make one update, which completes `events`, `sent`, `flops` and `memory`."""
        self.hold_states()
        for do in self.instructions():
            {"F": self.forward, "B": self.backward, "I": self.input_gradient, "W": self.weight_gradient}[do.kind](do)
        dp, _, _ = self.place
        s = self.setup
        self.reduction.finish([s.rank_at(dp, i, j) for i in range(s.pp) for j in range(s.tp)])
        for bucket in self.coming:  # prefetched in vain
            self.memory.add("parameters", -bucket.size * s.stored)
        self.meet(Collective("all_reduce", TOTAL, 3, 8), range(s.ranks))  # the loss, and a check of the data
        return self

    def instructions(self) -> list[Do]:
        """Return the rank's schedule; without a pipeline, one micro-batch after the other."""
        k, schedule = self.setup.accumulate, self.strategy.schedule
        if self.setup.pp == 1:
            return [Do(kind, i) for i in range(k) for kind in "FB"]
        make = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        return make(self.place[1], self.setup.pp, k, self.strategy.v)

    # Instructions -----------------------------------------------------------------------------------------------------

    def forward(self, do: Do) -> None:
        """F: receive the activations, compute, send them on."""
        local = self.local(do.micro)
        self.message(do, local, down=True, sends=False)
        if self.receives_from_itself(do.chunk):  # the output of the chunk before, now also kept as this one's input
            self.memory.add("buffers", -local.stream)
        first = self.chunks[do.chunk].start
        for units in self.segments(do.chunk):
            self.gather(units)
            for unit in units:
                # alive: the input of this unit and of the one before it, unless received or kept
                streams = min(unit - first, 1 if self.strategy.recompute else 2)
                self.forward_unit(unit, local, streams, keeps=not self.strategy.recompute)
            self.drop(units)
            if self.strategy.recompute and units[0] > 0:
                self.memory.add("activations", local.stream)
        if units.stop < self.setup.sizes.units:
            self.memory.add("buffers", local.stream)  # the output, until its gradient has come back
        self.message(do, local, down=True, sends=True)

    def backward(self, do: Do) -> None:
        """B: the gradients of the inputs and of the weights."""
        self.back(do, None)
        self.end_backward(do)

    def input_gradient(self, do: Do) -> None:
        """I: the gradients of the inputs; those of the weights wait."""
        self.back(do, self.later.setdefault((do.micro, do.chunk), []))

    def weight_gradient(self, do: Do) -> None:
        """W: the gradients of the weights, in the order in which I reached them."""
        later = self.later.pop((do.micro, do.chunk))
        for op, uses, inner in later:
            self.weights_of(op, uses, inner)
        self.memory.add("activations", -sum(op.kept_for_weights for op, _, _ in later))
        self.memory.add("buffers", -sum(op.waits for op, _, _ in later))
        self.end_backward(do)

    def end_backward(self, do: Do) -> None:
        """End a backward of the chunk, and of chunks that this micro-batch does not pass through."""
        for c in self.setup.layout.ended_with(do.chunk):
            self.reduction.end_backward(self.paths[c])

    def back(self, do: Do, later: Later | None) -> None:
        """Receive the gradient of the output, go back through the units, and send the gradient of the input."""
        local = self.local(do.micro)
        self.message(do, local, down=False, sends=False)
        uses = self.uses(do.chunk, local)
        for units in reversed(self.segments(do.chunk)):
            self.gather(units)
            for unit in units if self.strategy.recompute else ():
                self.forward_unit(unit, local, min(unit - units.start, 2) + 1, keeps=True)
            for unit in reversed(units):
                self.backward_unit(unit, local, uses, later)
            self.drop(units)
            if self.segmented:
                self.visit(self.outer(units, local), uses, later, inner=False, room=local.stream)
            if self.strategy.recompute and units[0] > 0:
                self.memory.add("activations", -local.stream)
        if self.receives_from_itself(do.chunk):  # it exists as long as the output of the chunk before
            self.memory.add("activations", local.stream)
        if self.chunks[do.chunk].stop < self.setup.sizes.units:
            kind = "activations" if self.receives_from_itself(do.chunk + 1) else "buffers"
            self.memory.add(kind, -local.stream)
        self.message(do, local, down=False, sends=True)

    # Their parts ------------------------------------------------------------------------------------------------------

    def local(self, micro: int) -> Local:
        """Return what this rank sees of a micro-batch."""
        s = self.setup
        samples = length(self.samples, s.accumulate, micro)
        return Local(s.sizes, samples, s.tp, self.place[2], self.strategy.sp, s.flash, s.item, s.acc_item, s.id_bytes)

    def outer(self, units: range, local: Local) -> Op:
        """Return a segment as an operation: it only counts the uses of its parameters, the last one first."""
        paths = {w.path: w for unit in units for w in self.setup.weights(unit) if w.trained}
        waits = local.stream if self.setup.sizes.dropout else 0  # otherwise that of the last operation inside
        return Op(weights=tuple((path, None) for path in reversed(paths)), waits=waits)

    def uses(self, chunk: int, local: Local) -> Counter[str]:
        """Return how many operations of a chunk use each parameter, as `backward` counts them."""
        if self.segmented:
            ops = [self.outer(units, local) for units in self.segments(chunk)]
        else:
            ops = [op for unit in self.chunks[chunk] for op in operations(local, unit)]
        return Counter(path for op in ops for path, _ in op.weights)

    def forward_unit(self, unit: int, local: Local, streams: int, keeps: bool) -> None:
        """Run a unit's operations; keeps: keep what their backward needs. streams: (B, T, D) that exist beside."""
        if 0 < unit < self.setup.sizes.units - 1:
            key = "F", local, streams, keeps
            self.remembered(key, lambda: self.forward_operations(unit, local, streams, keeps))
        else:
            self.forward_operations(unit, local, streams, keeps)

    def backward_unit(self, unit: int, local: Local, uses: Counter[str], later: Later | None) -> None:
        """Visit a unit's operations in reverse."""
        weights = self.setup.weights(unit)
        paths = [w.path for w in weights if w.trained]

        def visit() -> None:
            for op in reversed(operations(local, unit)):
                self.visit(op, uses, later, self.segmented, local.stream * (1 + self.segmented) + op.room_back)

        if later is not None or not 0 < unit < self.setup.sizes.units - 1 or not self.reduction.is_quiet(paths):
            visit()
        elif self.remembered(("B", local, *(w.trained for w in weights)), visit) and not self.segmented:
            uses.subtract(paths)
            self.reduction.fired.update(paths)

    def forward_operations(self, unit: int, local: Local, streams: int, keeps: bool) -> None:
        """Run a unit's operations, one by one."""
        last = self.setup.sizes.units - 1
        if keeps and not self.windows and (unit == 0 or (unit == last and local.windows)):  # ids, labels are views
            self.windows = True
            s = self.setup
            self.memory.add("activations", (s.windows or s.batch) * (s.sizes.length + 1) * s.id_bytes)
        beside = streams + (0 < unit < last)  # the sum after attention
        if not keeps:  # norms' results, which products would have kept; `enter` remembers the first
            beside += 2 if local.t > 1 and not local.sequence else 1
        for op in operations(local, unit):
            self.work(op.forward)
            room = local.stream * beside + op.room + (0 if keeps else op.unkept)
            self.memory.pass_by(room)
            if keeps:
                self.memory.add("activations", op.kept + op.kept_for_weights)
                self.memory.pass_by(room - op.taken)

    def visit(self, op: Op, uses: Counter[str], later: Later | None, inner: bool, room: int) -> None:
        """Visit one operation in backward. inner: it is inside a segment, whose own visit signals its parameters."""
        self.work(op.inputs)
        self.memory.pass_by(room)
        if later is None:
            self.weights_of(op, uses, inner)
            self.memory.pass_by(room)
            self.memory.add("activations", -op.kept - op.kept_for_weights)
        else:
            later.append((op, uses, inner))
            self.memory.add("activations", -op.kept)
            self.memory.add("buffers", op.waits)

    def weights_of(self, op: Op, uses: Counter[str], inner: bool) -> None:
        """Compute the gradients of an operation's parameters, and signal those that nothing else uses any more."""
        for path, steps in op.weights:
            if path not in self.reduction.of:  # frozen
                continue
            if steps is not None:
                self.work(steps)
                self.reduction.write(path)
            if not inner:
                uses[path] -= 1
                if uses[path] == 0:
                    self.reduction.fire(path)
