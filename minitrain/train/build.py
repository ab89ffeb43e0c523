"""From a serial model to one that trains on a mesh, by transformations in one fixed order.

    1 place        layers are replaced by those that hold a slice             (tensor, sequence, expert parallel)
    2 partition    this stage's run of the units                              (pipeline)
    3 segment      runs of units become one operation                         (recompute, ZeRO-3)
    4 reduce       buckets draw the parameters; a reducer decides what happens to their gradients
    5 wrap         segments gather and drop their parameters                  (ZeRO-3)

Data parallel needs the fourth alone.
"""

from collections.abc import Mapping
from typing import Any

from ..comm.mesh import Mesh
from ..errors import check_choice
from ..models import Model
from ..parallel.data_parallel import Bucketed, Naive, Overlapped
from ..parallel.flat import make_buckets
from ..parallel.reducer import Reducer

REDUCERS: dict[str, type[Reducer]] = {"naive": Naive, "bucketed": Bucketed, "overlap": Overlapped}


def replicate(model: Model, mesh: Mesh) -> None:
    """Every parameter stands whole on each dp coordinate, each of which contributes a part of its gradient."""
    everywhere = tuple(range(mesh.sizes["dp"]))
    for p in model.parameters():
        p.placement = p.placement.replicate("dp", everywhere)


def reduce(
    model: Model,
    mesh: Mesh,
    how: str,
    bucket_mb: float,
    seed: int,
    reducers: Mapping[str, type[Reducer]] = REDUCERS,
    **options: Any,
) -> Reducer:
    """Gives the parameters their values and their gradients a reducer, made with `options`.

    Raises UserError for an unknown `how`.
    """
    check_choice("how", how, tuple(reducers))
    replicate(model, mesh)
    buckets = make_buckets(model.parameters(), bucket_mb, mesh)
    return reducers[how](buckets, seed, **options)
