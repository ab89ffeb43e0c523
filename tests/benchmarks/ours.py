"""Our side: GPT training as in train/step.py, split up so that each part can be timed.

The gradient norm, which train_step also returns, is omitted: the other side computes none.
"""

import numpy as np

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.batch import Batch, Where
from minitrain.models import GPTConfig, gpt
from minitrain.optim import Adam
from minitrain.parallel.parallelize import parallelize
from tests.benchmarks.sizes import LR, Size
from tests.strategies import named


class Ours:
    """One rank of a data-parallel run, or a whole run on one rank."""

    def __init__(self, size: Size, world: Communicator, how: str = "bucketed") -> None:
        ranks, B, T = world.size, world.size * size.B, size.T
        self.model = gpt(GPTConfig(size.V, T, size.layers, size.heads, size.width))
        mesh = Mesh(world, dp=ranks)
        self.reducer = parallelize(self.model, mesh, named(how))
        self.reducer.init(1)
        self.optimizer = Adam(self.reducer)
        ids = size.ids(ranks)
        where = Where(seed=1, number=0, B=B, T=T, samples=slice(0, B), time=slice(0, T))
        self.batch = Batch(ids[:, :-1], ids[:, 1:], where).part(world.rank, ranks)

    def forward(self) -> None:
        self.reducer.start_step(backwards=1)
        self.part = self.model(self.batch)

    def backward(self) -> None:
        self.part.backward()
        self.reducer.end_backward()
        self.reducer.synchronize()

    def update(self) -> None:
        self.optimizer.step(LR)
        self.reducer.gather_parameters()

    def weights(self) -> dict[str, np.ndarray]:
        """Return path -> values, from which the other side starts."""
        return {p.placement.path: p.data for p in self.model.parameters()}

    def loss(self) -> float:
        """Return the loss of the last forward: this rank's part of the global mean."""
        return self.part.item()
