"""From a serial model to one that trains on a mesh, by transformations in one fixed order.

    1 shard        layers keep a slice of what they have, as they say         (tensor, sequence parallel)
    2 partition    this stage's run of the units                              (pipeline)
    3 segment      runs of units become one operation                         (recompute, ZeRO-3)
    4 reduce       buckets draw the parameters; a reducer decides what happens to their gradients
    5 wrap         segments gather and drop their parameters                  (ZeRO-3)

Data parallel needs the fourth alone.
"""

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..backend import checksum
from ..comm.agreement import check_same
from ..comm.mesh import Mesh
from ..errors import UserError, check_choice, check_whole, shown
from ..models import Model
from ..nn import Parameter, check_free, check_paths
from ..parallel.data_parallel import Bucketed, Naive, Overlapped
from ..parallel.division import Division
from ..parallel.flat import make_buckets
from ..parallel.pipeline import Pipeline, Schedule, partition
from ..parallel.pipeline_schedules import SCHEDULES
from ..parallel.plan import Plan
from ..parallel.reducer import Reducer
from ..parallel.sequence_parallel import SequenceIO
from ..parallel.tensor_parallel import TensorIO
from ..parallel.zero import Zero1, Zero2, Zero3
from ..recompute import Segment, segments

REDUCERS: dict[str, type[Reducer]] = {
    "naive": Naive,
    "bucketed": Bucketed,
    "overlap": Overlapped,
    "zero1": Zero1,
    "zero2": Zero2,
    "zero3": Zero3,
}


def replicate(model: Model, mesh: Mesh, plan: Plan | None = None) -> None:
    """Every parameter stands on each rank that has other samples, each of which contributes a part of its gradient.

    What the plan has not divided stands on each rank along tp as well, with the whole gradient or with a part of it.
    """
    for p in model.parameters():
        whole = p.placement.local == p.placement.shape
        for axis in mesh.along("samples"):
            p.placement = p.placement.replicate(axis, tuple(range(mesh.sizes[axis])))
        if whole and plan is not None:
            where, (axis,) = p.placement, mesh.along("matrices")
            ranks = tuple(range(mesh.sizes[axis]))
            p.placement = where.replicate(axis, ranks) if plan.partial(p) else where.held_at(axis, ranks)


def reduce(
    model: Model,
    mesh: Mesh,
    how: str,
    bucket_mb: float,
    seed: int,
    reducers: Mapping[str, type[Reducer]] = REDUCERS,
    recompute: int = 0,
    sequence: bool = False,
    io: type[TensorIO] | None = None,
    schedule: str | Schedule = "1f1b",
    chunks: int = 1,
    same: bool = True,
    check: bool = True,
    owners: str = "elements",
    **options: Any,
) -> Reducer:
    """Gives the parameters their values and their gradients a reducer, made with `options`.

    recompute: units in a segment that is replayed in backward; 0 keeps all activations. The model's units are then
    segments, as under ZeRO-3, where a segment of one unit is not replayed. On a mesh with a tp axis the model's layers
    are divided first, as their `shard` says; `io` does what tensor parallel does, or sequence parallel if `sequence`.
    On a pp axis the model itself becomes a Pipeline of this rank's stages, `chunks` of them, which follows `schedule`.
    same: compare first that all ranks were given the same; False for a lesson or a test on ranks that differ.
    check: look in the first step whether the layers are divided as their `shard` says (parallel/division.py).
    Raises UserError for an unknown `how`, for a model that the tp axis cannot divide, and for ranks that differ.
    """
    check_choice("how", how, tuple(reducers))
    check_choice("owners", owners, ("elements", "parameters"))
    check_options(reducers[how], options)
    check_whole("recompute", recompute)
    check_whole("chunks", chunks, 1)
    if isinstance(schedule, str) and mesh.parts("layers") == 1:  # on several, the pipeline looks at it
        check_choice("schedule", schedule, tuple(SCHEDULES))
    check_paths(model)
    check_free(model)
    if same:
        settings = {"seed": seed, "how": how, "bucket_mb": bucket_mb, "recompute": recompute, "sequence": sequence}
        settings |= {"schedule": schedule, "chunks": chunks, "io": io, **options}
        check_same(mesh.world, {**settings, **mesh.sizes, **kinds_of(model)})
    if mesh.parts("layers") > 1 and how in ("zero2", "zero3"):
        raise UserError(
            f"--zero {how[-1]} with --pp: these stages reduce (and at stage 3 gather) around a backward of the model, "
            "and in a pipeline those of several micro-batches are under way at once; give --zero 1"
        )
    plan = None
    if mesh.parts("matrices") > 1:
        plan = Plan((io or (SequenceIO if sequence else TensorIO))(mesh.over("matrices")))
        plan.follow(model)
    users = users_of(model)  # of the whole model: stages that share parameters lay them out alike
    if mesh.parts("layers") > 1:
        partition(model, mesh, schedule, chunks)
    if recompute or how == "zero3":
        for part in model.chunks if isinstance(model, Pipeline) else [model]:
            part.units = segments(part.units, recompute or 1, replay=recompute > 0)
    replicate(model, mesh, plan)
    reducer = reducers[how](
        make_buckets(model.parameters(), bucket_mb, mesh, users, owners == "parameters"), seed, **options
    )
    reducer.model, reducer.mesh = model, mesh
    if isinstance(model, Pipeline):  # a backward is about a chunk, and several may use one parameter
        reducer.times = Counter(p for chunk in model.chunks for p in chunk.parameters())
    if plan is not None and check:
        reducer.division = Division(plan, model, mesh.world)
    if isinstance(reducer, Zero3):
        wrap(model, reducer)
    return reducer


def check_options(reducer: type[Reducer], options: Mapping[str, Any]) -> None:
    """Raises UserError for an option that neither `reduce` nor this reducer has, such as one that is misspelt."""
    allowed = {"how", "bucket_mb", "recompute", "sequence", "io", "schedule", "chunks", "same", "check", "owners"}
    for part in reducer.__mro__:
        if "__init__" in vars(part):
            parameters = inspect.signature(vars(part)["__init__"]).parameters.values()
            allowed |= {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.KEYWORD_ONLY}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break  # it passes nothing on
    allowed -= {"self", "buckets", "seed"}
    unknown = next((name for name in options if name not in allowed), None)
    if unknown is not None:
        raise UserError(
            f"the strategy has an option {shown(unknown)}, which {reducer.__name__} does not know; "
            f"allowed: {', '.join(sorted(allowed))}"
        )


def kinds_of(model: Model) -> dict[str, str]:
    """Each parameter by its path: its kind, what it is drawn with, and a checksum of its values, if it has any."""
    kinds = {}
    for p in model.parameters():
        state = "" if p.requires_grad else ", frozen"
        values = f", values {checksum(p.data):08x}" if p.drawn else f", std {p.std:g}"
        kinds[p.placement.path] = f"{p.placement.shape} of {p.dtype}{state}{values}"
    return kinds


def users_of(model: Model) -> dict[Parameter, tuple[int, ...]]:
    """The positions of the units that use a parameter: more than one for a tied weight."""
    users: dict[Parameter, tuple[int, ...]] = {}
    for i, unit in enumerate(model.units):
        for p in unit.parameters():
            users[p] = (*users.get(p, ()), i)
    return users


def wrap(model: Model, reducer: Zero3) -> None:
    """Each segment gathers its parameters before its forward and its backward, and drops them after."""
    for segment in model.units:
        assert isinstance(segment, Segment)
        segment.around = reducer.around
        reducer.segments.append(segment.units)
