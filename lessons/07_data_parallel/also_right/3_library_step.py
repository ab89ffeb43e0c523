"""Leaves a step's gradients to compute_gradients, and cuts the batch by split."""

from collections.abc import Callable

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import ArrayLoader
from minitrain.models import MLPConfig, Model, mlp
from minitrain.optim import SGD
from minitrain.parallel.data_parallel import sync_gradients
from minitrain.parallel.parallelize import parallelize
from minitrain.train.step import compute_gradients


def train(
    world: Communicator,
    loader: ArrayLoader,
    steps: int,
    seed: int,
    optimizer: Callable = SGD,
    lr: float = 0.1,
    sync: Callable = sync_gradients,
) -> tuple[list[float], Model]:
    model = mlp(MLPConfig(hidden=(32,), dtype=str(loader.inputs.dtype)))
    reducer = parallelize(model, Mesh(world, dp=world.size), sync=sync, same=False)
    reducer.init(seed)
    update = optimizer(reducer)
    losses = []
    for number in range(steps):
        parts = loader.batch(number).split(world.size)
        mine = compute_gradients(model, parts[world.rank], reducer)
        update.step(lr)
        losses.append(sum(world.gather_objects(mine)))
    return losses, model
