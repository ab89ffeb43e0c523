"""the mean of the ranks' means: right only if all ranks have equally many samples."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import ArrayLoader
from minitrain.models import MLPConfig, Model, mlp
from minitrain.optim import SGD
from minitrain.parallel.data_parallel import sync_gradients
from minitrain.parallel.parallelize import parallelize


def mean(gradients, group):
    sync_gradients(gradients, group)
    for gradient in gradients:
        gradient /= group.size


def train(
    world: Communicator,
    loader: ArrayLoader,
    steps: int,
    seed: int,
    optimizer: Callable = SGD,
    lr: float = 0.1,
    sync: Callable = sync_gradients,
) -> tuple[list[float], Model]:
    """Trains a small MLP by data parallel. Returns the losses of the global batches and this rank's replica."""
    model = mlp(MLPConfig(hidden=(32,), dtype=str(loader.inputs.dtype)))
    reducer = parallelize(model, Mesh(world, dp=world.size), sync=mean, same=False)
    reducer.init(seed)
    update = optimizer(reducer)
    losses = []
    for number in range(steps):
        mine = loader.batch(number).part(world.rank, world.size)
        mine = replace(mine, where=replace(mine.where, B=len(mine.inputs), samples=slice(0, len(mine.inputs))))
        reducer.start_step()
        loss = model(mine)
        loss.backward()
        reducer.end_backward()
        reducer.synchronize()
        update.step(lr)
        losses.append(float(np.mean(world.gather_objects(loss.item()))))
    return losses, model
