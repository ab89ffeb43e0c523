"""Pipeline parallel: every rank holds some of the layers, and micro-batches pass through the ranks.

    rank 0   units 0..2   F0 F1 F2 F3 .  .  .  .  B0 ...       F: forward of a micro-batch, B: its backward
    rank 1   units 3..5      F0 F1 F2 F3 .  .  B0 B1 ...       activations go to the next stage,
    rank 2   units 6..8         F0 F1 F2 F3 B0 B1 B2 ...       their gradients to the previous one

A schedule is a list of instructions per rank, made by a pure function in pipeline_schedules.py. This file interprets
these lists, in the same way for all schedules.

    F    receive x from the previous stage; y = units(x); send y to the next stage, or add it to the loss
    B    receive dL/dy from the next stage; backward; send dL/dx to the previous stage
    I    the same without the gradients of the parameters, which are deferred
    W    the deferred gradients

A rank may hold several chunks of the model (interleaved, zb-v, dualpipe): Layout in instructions.py says which stages
they are. A tied weight is held by the ranks of the first and the last stage, and in dualpipe every stage by two ranks;
such gradients are summed over the two after all backwards.

Cost: B T D elements are sent each way at each border, whatever the model's size. A rank holds the parameters, gradients
and optimizer state of 1/p of the model (dualpipe: 2/p), and the activations of all micro-batches in flight.

Huang et al., "GPipe", arXiv:1811.06965; Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training" (1F1B with
flush), arXiv:2006.09503, and "Efficient Large-Scale Language Model Training on GPU Clusters" (interleaved),
arXiv:2104.04473; Qi et al., "Zero Bubble Pipeline Parallelism", arXiv:2401.10241.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..autograd import backward
from ..backend import FLOATS, Array, to_device, to_host, xp
from ..comm.communicator import Communicator, Tag
from ..comm.mesh import Mesh
from ..data.batch import Batch
from ..errors import UserError, shown
from ..models import Loop, Model
from ..nn import Module, Parameter
from ..observe.observer import observer, observing
from ..observe.recorder import ends
from ..sharding import shard_of
from ..tensor import Tensor
from .pipeline_schedules import SCHEDULES, Do, Schedule, layout_of
from .reducer import Reducer
from .strategy import Strategy

ACTIVATIONS, GRADIENTS = ("pp", "activations"), ("pp", "gradients")
HEADER = ("pp", "header")
ROOM = 7  # maximum number of axes in a header
Key = tuple[int, int]  # (micro-batch, chunk)
Header = tuple[tuple[int, ...], np.dtype]  # (shape, dtype)


class HandedOver:
    """Handle of what this rank has passed on to its own next stage, without a message."""

    def done(self) -> bool:
        """Return True."""
        return True

    def wait(self) -> None:
        """Return at once."""


class Pipeline(Model):
    """This rank's stages of a model. schedule: a name in SCHEDULES, or a function with the same signature."""

    elsewhere: Mapping[str, tuple[tuple[int, ...], np.dtype]] = MappingProxyType({})  # parameters of the other stages
    order: Mapping[Parameter, int] = MappingProxyType({})  # this rank's parameters -> positions in the whole model

    def __init__(
        self,
        chunks: Sequence[Model],
        group: Communicator,
        schedule: str | Schedule,
        borders: Sequence[tuple[Module, Module]],
    ) -> None:
        """chunks: this rank's stages. borders: for each, the unit before it and its last unit."""
        self.chunks, self.group, self.schedule = list(chunks), group, schedule
        self.layout = layout_of(schedule, group.size, len(chunks))
        self.stages = self.layout.stages
        self.handed: dict[int, Array] = {}  # message number -> what one of this rank's stages passes on to the next
        self.borders = list(borders)  # they determine the dtype of received and sent activations
        self.headers: dict[tuple, Header] = {}  # per border and kind of batch, once a header has been exchanged
        self.saying: list[Any] = []  # handles of headers being sent

    def parts(self) -> list[Model]:
        """Return this rank's chunks."""
        return self.chunks

    @property
    def units(self) -> list[Module]:  # type: ignore[override]
        """The units of all chunks, in forward order."""
        return [unit for chunk in self.chunks for unit in chunk.units]

    def parameters(self) -> list[Parameter]:
        """Return the parameters in the whole model's order, so that stages sum shared parameters in the same order."""
        return sorted(super().parameters(), key=lambda p: self.order.get(p, len(self.order)))

    def stage(self, chunk: int) -> int:
        """Return the global stage of this chunk."""
        return self.layout.stage(self.group.rank, chunk)

    def __call__(self, batch: Batch) -> Tensor:
        """Run one forward outside a step, unobserved. A collective of the pipeline.

        Return the loss on the last stage and 0 elsewhere; without labels, return the logits on every rank.
        """
        y = Tensor(np.zeros((), np.float32))
        with observing(None):
            for c in self.layout.chunks_of(0, 2):
                _, y, sent = self.forward(self.chunks[c], c, 0, batch)
                if sent is not None:
                    sent.wait()  # the array must stay alive until it is sent
        last, _ = self.layout.places(self.stages - 1)[0]
        if batch.labels is not None:
            return y if self.group.rank == last else Tensor(np.zeros((), y.dtype))
        return Tensor(self.group.gather_objects(y.data if self.group.rank == last else None)[last])

    def trial(self, batch: Batch) -> Tensor:
        """Run a forward without keeping its headers: shapes may differ from those of a step."""
        headers, self.headers = self.headers, {}
        try:
            return self(batch)
        finally:
            self.headers = headers

    def train(self, loop: Loop, micros: Sequence[Batch], reducer: Reducer, scale: Callable[[Tensor], Tensor]) -> float:
        """Run all forwards and backwards of these micro-batches in the schedule's order.

        Return this rank's part of the loss. The loop is unused.
        """
        p, m, v = self.group.size, len(micros), len(self.chunks)
        make = SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        return Run(self, micros, reducer, scale).follow(make(self.group.rank, p, m, v))

    def forward(self, chunk: Model, c: int, micro: int, batch: Batch) -> tuple[Tensor | None, Tensor, Any]:
        """Return (input as a leaf tensor or None, output, handle of its send or None) of a chunk."""
        leaf, sent = None, None
        if self.stage(c) > 0:
            leaf = Tensor(self.receive(c, micro, batch), requires_grad=True)
        observer().begins(Do("F", micro, c))
        y = chunk.through(leaf, batch)
        if self.stage(c) < self.stages - 1:
            y = self.borders[c][1].cast_input("layer", y)
            after, into = self.after(c)
            number = self.number(micro, into)
            if after != self.group.rank:
                self.notify(c, number, batch, (y.shape, y.dtype))
            sent = self.post(y.data, after, ACTIVATIONS, number)
        return leaf, y, sent

    def receive(self, c: int, micro: int, batch: Batch) -> Array:
        """Return the activations from the previous stage."""
        (before, _), number = self.before(c), self.number(micro, c)
        return self.fetch(lambda: self.hear(c, number, batch), before, ACTIVATIONS, number)

    # Messages between stages: activations up, gradients down ----------------------------------------------------------

    def post(self, x: Array, to: int, tag: Tag, number: int) -> Any:
        """Start sending x to the rank of a neighboring stage and return a handle. This rank itself needs no message."""
        if to == self.group.rank:
            self.handed[number] = x
            return HandedOver()
        observer().sends(to, number)
        return self.group.send(xp.ascontiguousarray(x), to, tag, number)

    def fetch(self, header: Callable[[], Header], source: int, tag: Tag, number: int) -> Array:
        """Return what the rank of a neighboring stage has posted. header: returns its shape and dtype."""
        if source == self.group.rank:
            return self.handed.pop(number)
        x = xp.empty(*header())
        self.group.receive(x, source, tag, number, patient=True)
        observer().received(source, number, x.nbytes)
        return x

    # Headers: a separate message with shape and dtype precedes the first activations of each kind ---------------------

    def notify(self, c: int, number: int, batch: Batch, header: Header) -> None:
        """Send the header if it is new. Raise UserError if it differs from the one sent before."""
        key = ("sent", c, *self.kind(c, 1, batch))
        if key not in self.headers:
            self.headers[key] = header
            self.saying = [handle for handle in self.saying if not handle.done()]  # a handle keeps its array alive
            self.saying.append(self.group.send(packed(*header), self.after(c)[0], HEADER, number + 1))
        elif self.headers[key] != header:
            raise UserError(
                f"{self.borders[c][1].path} outputs {shown(header)}, but for an earlier batch of the same kind it was "
                f"{shown(self.headers[key])}; the shape and dtype sent to the next stage must not change"
            )

    def hear(self, c: int, number: int, batch: Batch) -> Header:
        """Return the shape and dtype of the next activations, receiving the header if it is new."""
        key = ("received", c, *self.kind(c, 0, batch))
        if key not in self.headers:
            numbers = xp.empty(ROOM + 2, np.int64)
            self.group.receive(numbers, self.before(c)[0], HEADER, number + 1, patient=True)
            self.headers[key] = unpacked(to_host(numbers))
        return self.headers[key]

    def kind(self, c: int, which: int, batch: Batch) -> tuple:
        """Return a key that is equal for batches with the same header at this border."""
        where, chosen = batch.where, self.borders[c][which].compute_dtype("layer", np.float32)
        return batch.inputs.shape, where.time.stop - where.time.start, batch.labels is None, str(chosen)

    # Neighbours -------------------------------------------------------------------------------------------------------

    def after(self, chunk: int) -> tuple[int, int]:
        """Return the (rank, chunk) of the next stage."""
        return self.layout.next(self.group.rank, chunk, 1)

    def before(self, chunk: int) -> tuple[int, int]:
        """Return the (rank, chunk) of the previous stage."""
        return self.layout.next(self.group.rank, chunk, -1)

    def number(self, micro: int, chunk: int, back: bool = False) -> int:
        """Return the message number, unique per micro-batch, receiving chunk and direction. Its header has the next."""
        return ((micro * len(self.chunks) + chunk) * 2 + back) * 2


def packed(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return a header as numbers, (ROOM + 2): the number of axes, their lengths, the dtype."""
    numbers = np.zeros(ROOM + 2, np.int64)
    numbers[0], numbers[1 : 1 + len(shape)], numbers[-1] = len(shape), shape, FLOATS.index(np.dtype(dtype))
    return to_device(numbers)


def unpacked(numbers: np.ndarray) -> Header:
    """Return the header in numbers, (ROOM + 2), made by `packed`."""
    axes, *rest = numbers.tolist()
    return tuple(rest[:axes]), FLOATS[rest[-1]]


class Run:
    """The execution of one list of instructions, with its live activations."""

    def __init__(
        self, pipeline: Pipeline, micros: Sequence[Batch], reducer: Reducer, scale: Callable[[Tensor], Tensor]
    ) -> None:
        self.pipeline, self.micros, self.reducer, self.scale = pipeline, micros, reducer, scale
        self.alive: dict[Key, tuple[Tensor | None, Tensor, Any]] = {}  # input leaf, output y, handle of y's send
        self.later: dict[Key, list[Callable[[], None]]] = {}  # deferred gradients of parameters
        self.sending: list[Any] = []
        self.loss = 0.0

    def follow(self, instructions: Sequence[Do]) -> float:
        """Execute the instructions in order. Return this rank's part of the loss."""
        for do in instructions:
            {"F": self.forward, "B": self.backward, "I": self.input_gradient, "W": self.weight_gradient}[do.kind](do)
            ends(do)  # in a trace
            self.sending = [handle for handle in self.sending if not handle.done()]  # a handle keeps its array alive
        for handle in self.sending:
            handle.wait()
        return self.loss

    def forward(self, do: Do) -> None:
        """F: keep the input and output for the backward; on the last stage, add to the loss."""
        leaf, y, sent = self.pipeline.forward(self.pipeline.chunks[do.chunk], do.chunk, do.micro, self.micros[do.micro])
        if sent is None:
            self.loss += y.item()
            y = self.scale(y)
        self.alive[do.micro, do.chunk] = leaf, y, sent

    def backward(self, do: Do) -> None:
        """B: compute all gradients."""
        self.back(do, None)
        self.end_backward(do)

    def input_gradient(self, do: Do) -> None:
        """I: compute the gradient of the input; defer those of the parameters."""
        self.back(do, self.later.setdefault((do.micro, do.chunk), []).append)

    def weight_gradient(self, do: Do) -> None:
        """W: compute the deferred gradients."""
        observer().begins(do)
        for work in self.later.pop((do.micro, do.chunk)):
            work()
        self.end_backward(do)

    def end_backward(self, do: Do) -> None:
        """End a backward of the chunk, and of chunks that this micro-batch does not pass through."""
        for c in self.pipeline.layout.ended_with(do.chunk):
            self.reducer.end_backward(self.pipeline.chunks[c].parameters())

    def back(self, do: Do, defer: Callable[[Callable[[], None]], None] | None) -> None:
        """Receive the gradient of the output, run backward, and send the gradient of the input."""
        pipe, c = self.pipeline, do.chunk
        leaf, y, sent = self.alive.pop((do.micro, c))
        g = None
        if pipe.stage(c) < pipe.stages - 1:
            g = pipe.fetch(lambda: (y.shape, y.dtype), pipe.after(c)[0], GRADIENTS, pipe.number(do.micro, c, back=True))
            sent.wait()  # returns at once: the gradient of y came back, so y has arrived
        observer().begins(do)
        if y.requires_grad:
            backward([y], [g], defer)
        if leaf is not None:
            gx = xp.zeros_like(leaf.data) if leaf.grad is None else leaf.grad
            before, into = pipe.before(c)
            self.sending.append(pipe.post(gx, before, GRADIENTS, pipe.number(do.micro, into, back=True)))


def partition(model: Model, mesh: Mesh, strategy: Strategy) -> None:
    """Turn the model, in place, into a Pipeline of this rank's stages. Each stage that uses a shared parameter holds a
    replica of it with a part of its gradient.

    Raise UserError if there are more stages than units.
    """
    n, r, layout = len(model.units), mesh.part("layers"), layout_of(strategy.schedule, mesh.parts("layers"), strategy.v)
    (axis,), label = mesh.along("layers"), strategy.label
    if layout.stages > n:
        raise UserError(
            f"{label(axis, layout.p)} x {label('chunks', layout.v)} makes {layout.stages} stages of {n} units; "
            f"allowed: up to {n}"
        )
    every = [shard_of(n, layout.stages, stage) for stage in range(layout.stages)]
    used: dict[Parameter, list[int]] = {}  # parameter -> the ranks that use it
    for stage, units in enumerate(every):
        for q in Model(model.units[units]).parameters():
            used.setdefault(q, []).extend(rank for rank, _ in layout.places(stage))
    for q, ranks in used.items():
        if len(set(ranks)) > 1:
            q.placement = q.placement.replicate(axis, tuple(sorted(set(ranks))))
    local = [every[layout.stage(r, c)] for c in range(layout.v)]
    stages = [Model(model.units[units]) for units in local]
    borders = [(model.units[units.start - 1], model.units[units.stop - 1]) for units in local]
    vars(model).clear()
    model.__class__ = Pipeline  # references to the model now refer to its stages
    Pipeline.__init__(model, stages, mesh.over("layers"), strategy.schedule, borders)  # type: ignore[arg-type]
    held = set(model.parameters())
    model.order = {q: i for i, q in enumerate(used) if q in held}
    model.elsewhere = {q.placement.path: (q.placement.shape, q.dtype) for q in used if q not in held}
