"""Transform a serial model into one that trains on a mesh, in five steps of fixed order.

    1 shard        layers keep a slice of their parameters, as their `shard` declares     (tensor, sequence parallel)
    2 partition    keep this stage's run of the units                                     (pipeline)
    3 segment      runs of units become one operation                                     (recompute, ZeRO-3)
    4 reduce       buckets take the parameters; a reducer handles their gradients
    5 wrap         segments gather and free their parameters                              (ZeRO-3)

    reducer = parallelize(model, mesh, Strategy(zero=2))
    reducer.init(seed)                              initialize the parameters that have no values yet

Data parallel needs only step 4.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from ..backend import checksum
from ..comm.agreement import check_same
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError, shown
from ..models import Model, check_paths
from ..nn import Parameter, check_free
from .buckets import make_buckets
from .data_parallel import Bucketed, Naive
from .divided_layers import DividedLayer
from .division_checks import DivisionChecks
from .half_gradients import reduce_to_owners_in, sync_in
from .hooks import Gather, Hooks, Scatter, Sync
from .overlap import CommunicationThread
from .pipeline import Pipeline, partition
from .plan import Plan
from .plan_checks import path_of
from .recompute import Segment, segments
from .reducer import DividedModel, Reducer
from .sequence_parallel import SequenceIO
from .strategy import Strategy
from .tensor_parallel import TensorIO
from .zero import Zero1, Zero2, Zero3

Make = Callable[[DividedModel, Strategy, Hooks], Reducer]  # a Reducer class, or a function with the same signature

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
    thread: Callable[[], CommunicationThread] = CommunicationThread,
    reducers: Mapping[str, Make] = REDUCERS,
    same: bool = True,
) -> Reducer:
    """Transform the model in place and return the reducer of its gradients. Call its `init` to initialize parameters.

    On a mesh with a tp axis, layers are divided as their `shard` methods declare. With a pp axis, the model becomes a
    Pipeline of this rank's stages. These arguments replace the library's own parts: `sync` data parallel's sum of
    gradients, `scatter` and `gather` ZeRO's two halves of it, `io` the communication at the borders of divided layers,
    `thread` the communication thread of overlap, `reducers` the reducer classes.
    same: first check that all ranks got the same arguments; False is for lessons and tests in which they differ.
    Raise UserError if the strategy is invalid on this mesh, the mesh cannot divide the model, or ranks differ.
    """
    check(model, mesh, strategy)
    if same:
        check_all_same(model, mesh, strategy, {"io": io, "sync": sync, "scatter": scatter, "gather": gather})
    plan = shard(model, mesh, strategy, io)  # 1
    users = users_of(model)  # of the whole model, so that stages that share parameters make the same buckets
    if mesh.parts("layers") > 1:
        partition(model, mesh, strategy)  # 2
    runs = segment(model, strategy)  # 3
    buckets = make_buckets(model.parameters(), strategy.bucket_mb, mesh, users, strategy.owners == "parameters")
    times = Counter(p for part in model.parts() for p in part.parameters())
    checks = DivisionChecks(plan, model, mesh.world) if plan is not None and strategy.check else None
    divided = DividedModel(model, mesh, buckets, [run.units for run in runs], times, checks, same)
    reducer = reducers[strategy.reducer](divided, strategy, hooks(strategy, sync, scatter, gather, thread))  # 4
    if strategy.zero == 3:
        wrap(runs, reducer)  # 5
    return reducer


def check(model: Model, mesh: Mesh, strategy: Strategy) -> None:
    """Raise UserError for an invalid combination, before anything changes."""
    if not isinstance(strategy, Strategy):
        raise UserError(f"strategy is {shown(strategy)}; it must be a Strategy, such as Strategy(zero=1)")
    strategy.check_on(mesh)
    check_paths(model)
    check_free(model)
    check_undivided(model)


def check_undivided(model: Model) -> None:
    """Raise UserError if the model is already divided, even partially."""
    divided = next((p.placement.path for p in model.parameters() if p.placement.local != p.placement.shape), None)
    changed = next((path_of(module) for module in model.modules() if isinstance(module, DividedLayer)), None)
    example = divided or changed
    if isinstance(model, Pipeline) or example:
        raise UserError(
            f"the model was divided for another trainer{f', such as {example}' if example else ''}: "
            "this rank holds a part of it.\nMake a new model and restore the gathered parameters of this one into it"
        )


def check_all_same(model: Model, mesh: Mesh, strategy: Strategy, hooks: Mapping[str, object]) -> None:
    """Raise UserError, on all ranks, unless all have the same mesh, strategy and model."""
    check_same(mesh.world, {**vars(strategy), **hooks, **mesh.sizes, **kinds_of(model)})


# The transformations --------------------------------------------------------------------------------------------------


def shard(
    model: Model, mesh: Mesh, strategy: Strategy, io: Callable[[Communicator], TensorIO] | None = None
) -> Plan | None:
    """Divide the matrices along tp. Set every parameter's placement: its holders, and where its gradient is partial.

    Ranks with different samples hold replicas, and each contributes a part of the gradient. A parameter that the plan
    does not divide has replicas along tp too, each with the whole gradient or a part of it.
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
            p.placement = where.replicate(axis, ranks) if plan.held.partial(p) else where.held_at(axis, ranks)
    return plan


def segment(model: Model, strategy: Strategy) -> list[Segment]:
    """Turn each run of `recompute` units into one operation, replayed in backward. Without recompute, ZeRO-3 uses
    runs of one unit that are not replayed."""
    found: list[Segment] = []
    if strategy.recompute or strategy.zero == 3:
        for part in model.parts():
            part.units = part.unrolled()  # undo the segments of an earlier strategy, whose trainer released the model
            runs = segments(part.units, strategy.recompute or 1, replay=strategy.recompute > 0)
            part.units = [*runs]
            found += runs
    return found


def hooks(
    strategy: Strategy,
    sync: Sync | None,
    scatter: Scatter | None,
    gather: Gather | None,
    thread: Callable[[], CommunicationThread],
) -> Hooks:
    """Return the hooks: the given functions, or those for half-precision gradients if the strategy asks for them."""
    half = strategy.sent_dtype
    if half is not None:
        sync = sync or partial(sync_in, dtype=half)
        scatter = scatter or partial(reduce_to_owners_in, dtype=half)
    return Hooks(sync, scatter, gather, thread)


def wrap(runs: list[Segment], reducer: Reducer) -> None:
    """Make each segment gather its parameters before its forward and backward, and free them afterwards."""
    for run in runs:
        run.around = reducer.around


# Descriptions of the model --------------------------------------------------------------------------------------------


def kinds_of(model: Model) -> dict[str, str]:
    """Map each parameter's path to its shape, dtype and a checksum of its values, or its init_std if uninitialized."""
    kinds = {}
    for p in model.parameters():
        state = "" if p.requires_grad else ", frozen"
        values = f", values {checksum(p.data):08x}" if p.initialized else f", std {p.init_std:g}"
        kinds[p.placement.path] = f"{p.placement.shape} of {p.dtype}{state}{values}"
    return kinds


def users_of(model: Model) -> dict[Parameter, tuple[int, ...]]:
    """Map each parameter to the positions of the units that use it: more than one for a tied weight."""
    users: dict[Parameter, tuple[int, ...]] = {}
    for i, unit in enumerate(model.units):
        for p in unit.parameters():
            users[p] = (*users.get(p, ()), i)
    return users
