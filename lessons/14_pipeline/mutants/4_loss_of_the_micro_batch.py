"""one mistake is left: each loss is a mean over its micro-batch, so their sum is m times too large."""

from dataclasses import replace
from typing import Any

import numpy as np

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import ArrayLoader
from minitrain.models import MLPConfig, mlp
from minitrain.observe.clock import Clock, Stamps
from minitrain.observe.observer import observing
from minitrain.optim import SGD
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.strategy import Strategy
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients


def train(
    world: Communicator, loader: ArrayLoader, steps: int, m: int, schedule: Any = "1f1b", clock: Clock | None = None
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Train an MLP of 8 layers, divided among the ranks, with m micro-batches per update.

    schedule: a name or a function such as gpipe. clock: records virtual time; None: nothing does.
    Return the losses of the global batches and the gradients of the last one, gathered from all ranks.
    """
    model = mlp(MLPConfig(hidden=(32,) * 7, dtype="float64"))
    chunks = 2 if schedule == "interleaved" else 1
    mesh = Mesh(world, pp=world.size)
    reducer = parallelize(model, mesh, Strategy(schedule=schedule, chunks=chunks))
    reducer.init(1)
    update = SGD(reducer)
    observer = Stamps(clock, mesh.over("layers")) if clock else None
    losses = []
    with observing(observer):
        for number in range(steps):
            batch = loader.batch(number)
            where = replace(batch.where, B=len(batch.inputs) / m)
            loss = compute_gradients(model, replace(batch, where=where), reducer, m)
            update.step(0.1)
            losses.append(sum(world.gather_objects(loss)))
    return losses, gather(model, world, "grad", reducer)
