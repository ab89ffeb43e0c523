"""one mistake is left: it happens before the first step."""

from collections.abc import Callable

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import ArrayLoader
from minitrain.models import MLPConfig, Model, mlp
from minitrain.optim import SGD
from minitrain.parallel.data_parallel import sync_gradients
from minitrain.parallel.parallelize import parallelize


def train(
    world: Communicator,
    loader: ArrayLoader,
    steps: int,
    seed: int,
    optimizer: Callable = SGD,
    lr: float = 0.1,
    sync: Callable = sync_gradients,
) -> tuple[list[float], Model]:
    """Train a small MLP by data parallel. Return the losses of the global batches and this rank's replica.

    Draw the parameters from the seed. optimizer(reducer) makes the optimizer; sync sums the gradients over ranks. If a
    batch has fewer samples than there are ranks, some ranks have none.
    """
    model = mlp(MLPConfig(hidden=(32,), dtype=str(loader.inputs.dtype)))
    reducer = parallelize(model, Mesh(world, dp=world.size), sync=sync, same=False)
    reducer.init(seed + world.rank)
    update = optimizer(reducer)
    losses = []
    for number in range(steps):
        mine = loader.batch(number).part(world.rank, world.size)
        reducer.start_step()
        loss = model(mine)
        loss.backward()
        reducer.end_backward()
        reducer.synchronize()
        update.step(lr)
        losses.append(sum(world.gather_objects(loss.item())))
    return losses, model
