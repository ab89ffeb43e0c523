"""From a serial model to one that trains on a mesh, by transformations in one fixed order.

    1 shard        layers keep a slice of what they have, as they say         (tensor, sequence parallel)
    2 partition    this stage's run of the units                              (pipeline)
    3 segment      runs of units become one operation                         (recompute, ZeRO-3)
    4 reduce       buckets take the parameters; a reducer decides what happens to their gradients
    5 wrap         segments gather and drop their parameters                  (ZeRO-3)

    gradients = parallelize(model, mesh, Strategy(zero=2))
    gradients.init(seed)                              the parameters have values, those that the model had or drawn ones

Data parallel needs the fourth alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from ..backend import checksum
from ..comm.agreement import check_same
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError, shown
from ..models import Model
from ..nn import Parameter, check_free, check_paths
from .data_parallel import Bucketed, Naive
from .divided_layers import Divided as DividedLayer
from .division import Division
from .flat import make_buckets
from .half_wire import reduce_to_owners_in, sync_in
from .naming import path_of
from .overlap import CommunicationThread
from .pipeline import Pipeline, partition
from .plan import Plan
from .recompute import Segment, segments
from .reducer import Divided, Doors, Gather, Reducer, Scatter, Sync
from .sequence_parallel import SequenceIO
from .strategy import Strategy
from .tensor_parallel import TensorIO
from .zero import Zero1, Zero2, Zero3

Make = Callable[[Divided, Strategy, Doors], Reducer]  # a class of reducers, or a function like one

REDUCERS: dict[str, type[Reducer]] = {
    "naive": Naive,
    "bucketed": Bucketed,
    "overlap": Bucketed,  # with a thread: see Reducer
    "zero1": Zero1,
    "zero2": Zero2,
    "zero3": Zero3,
}


def parallelize(
    model: Model,
    mesh: Mesh,
    strategy: Strategy = Strategy(),
    *,
    sync: Sync | None = None,
    scatter: Scatter | None = None,
    gather: Gather | None = None,
    io: Callable[[Communicator], TensorIO] | None = None,
    line: Callable[[], CommunicationThread] = CommunicationThread,
    reducers: Mapping[str, Make] = REDUCERS,
    same: bool = True,
) -> Reducer:
    """Transform the model in place, and return what reduces its gradients. Its `init` gives the parameters values.

    On a mesh with a tp axis the layers are divided, as their `shard` says; on a pp axis the model itself becomes a
    Pipeline of this rank's stages. What takes the place of the library's own: `sync` for data parallel's sum of
    gradients, `scatter` and `gather` for ZeRO's two halves of it, `io` for what passes the borders of divided layers,
    `line` for the thread of overlap, `reducers` for the classes.
    same: compare first that all ranks were given the same; False for a lesson or a test on ranks that differ.
    Raise UserError for a strategy that cannot be meant on this mesh, for a model that the mesh cannot divide, and for
    ranks that differ.
    """
    check(model, mesh, strategy)
    if same:
        check_all_same(model, mesh, strategy, {"io": io, "sync": sync, "scatter": scatter, "gather": gather})
    plan = shard(model, mesh, strategy, io)  # 1
    users = users_of(model)  # of the whole model: stages that share parameters lay them out alike
    if mesh.parts("layers") > 1:
        partition(model, mesh, strategy)  # 2
    runs = segment(model, strategy)  # 3
    buckets = make_buckets(model.parameters(), strategy.bucket_mb, mesh, users, strategy.owners == "parameters")
    times = Counter(p for part in model.parts() for p in part.parameters())
    division = Division(plan, model, mesh.world) if plan is not None and strategy.check else None
    divided = Divided(model, mesh, buckets, [run.units for run in runs], times, division, same)
    reducer = reducers[strategy.reducer](divided, strategy, doors(strategy, sync, scatter, gather, line))  # 4
    if strategy.zero == 3:
        wrap(runs, reducer)  # 5
    return reducer


def check(model: Model, mesh: Mesh, strategy: Strategy) -> None:
    """Raise UserError for what cannot be meant, before anything has changed."""
    if not isinstance(strategy, Strategy):
        raise UserError(f"strategy is {shown(strategy)}; it must be a Strategy: give Strategy(zero=1), say")
    strategy.check_on(mesh)
    check_paths(model)
    check_free(model)
    check_undivided(model)


def check_undivided(model: Model) -> None:
    """Raise UserError for a model that another mesh has divided, also where that has failed half-way."""
    cut = next((p.placement.path for p in model.parameters() if p.placement.local != p.placement.shape), None)
    changed = next((path_of(module) for module in model.modules() if isinstance(module, DividedLayer)), None)
    if isinstance(model, Pipeline) or cut or changed:
        raise UserError(
            f"the model was divided for another trainer{', such as ' + str(cut or changed) if cut or changed else ''}: "
            "this rank holds a part of it.\nMake a new one, and restore what was gathered of this one into it"
        )


def check_all_same(model: Model, mesh: Mesh, strategy: Strategy, doors: Mapping[str, object]) -> None:
    """Raise UserError, on all ranks, unless they were given the same mesh, strategy and model."""
    check_same(mesh.world, {**vars(strategy), **doors, **mesh.sizes, **kinds_of(model)})


# The transformations --------------------------------------------------------------------------------------------------


def shard(
    model: Model, mesh: Mesh, strategy: Strategy, io: Callable[[Communicator], TensorIO] | None = None
) -> Plan | None:
    """Divide the matrices along tp, and say of every parameter where it stands and where its gradient is a part.

    Each stands on each rank that has other samples, which contributes a part of its gradient. What the plan has not
    divided stands on each rank along tp as well, with the whole gradient or with a part of it.
    """
    plan = None
    if mesh.parts("matrices") > 1:
        plan = Plan((io or (SequenceIO if strategy.sp else TensorIO))(mesh.over("matrices")))
        plan.follow(model)
    for p in model.parameters():
        whole = p.placement.local == p.placement.shape
        for axis in mesh.along("samples"):
            p.placement = p.placement.replicate(axis, tuple(range(mesh.sizes[axis])))
        if whole and plan is not None:
            where, (axis,) = p.placement, mesh.along("matrices")
            ranks = tuple(range(mesh.sizes[axis]))
            p.placement = where.replicate(axis, ranks) if plan.partial(p) else where.held_at(axis, ranks)
    return plan


def segment(model: Model, strategy: Strategy) -> list[Segment]:
    """Make runs of `recompute` units one operation each, which is replayed in backward. Under ZeRO-3 they are of one
    unit unless given, and then not replayed."""
    found: list[Segment] = []
    if strategy.recompute or strategy.zero == 3:
        for part in model.parts():
            part.units = part.unrolled()  # of an earlier strategy, whose trainer has given the model back
            runs = segments(part.units, strategy.recompute or 1, replay=strategy.recompute > 0)
            part.units = [*runs]
            found += runs
    return found


def doors(
    strategy: Strategy,
    sync: Sync | None,
    scatter: Scatter | None,
    gather: Gather | None,
    line: Callable[[], CommunicationThread],
) -> Doors:
    """What moves gradients and parameters: what was given, or else what the wire asks for."""
    half = strategy.wire_dtype
    if half is not None:
        sync = sync or partial(sync_in, dtype=half)
        scatter = scatter or partial(reduce_to_owners_in, dtype=half)
    return Doors(sync, scatter, gather, line)


def wrap(runs: list[Segment], reducer: Reducer) -> None:
    """Each segment gathers its parameters before its forward and its backward, and drops them after."""
    for run in runs:
        run.around = reducer.around


# What is looked at ----------------------------------------------------------------------------------------------------


def kinds_of(model: Model) -> dict[str, str]:
    """Each parameter by its path: its kind, what it is drawn with, and a checksum of its values, if it has any."""
    kinds = {}
    for p in model.parameters():
        state = "" if p.requires_grad else ", frozen"
        values = f", values {checksum(p.data):08x}" if p.drawn else f", std {p.init_std:g}"
        kinds[p.placement.path] = f"{p.placement.shape} of {p.dtype}{state}{values}"
    return kinds


def users_of(model: Model) -> dict[Parameter, tuple[int, ...]]:
    """The positions of the units that use a parameter: more than one for a tied weight."""
    users: dict[Parameter, tuple[int, ...]] = {}
    for i, unit in enumerate(model.units):
        for p in unit.parameters():
            users[p] = (*users.get(p, ()), i)
    return users
