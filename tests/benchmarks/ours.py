"""Our side: GPT training as in train/step.py, split up so that each part can be timed.

The gradient norm, which train_step also returns, is omitted: the other side computes none.
"""

import numpy as np

from minitrain.backend import to_device
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.batch import Batch, Where
from minitrain.models import GPTConfig, gpt
from minitrain.optim import Adam
from minitrain.parallel.parallelize import parallelize
from minitrain.precision import DynamicScaler, Scaler, StaticPolicy, use
from tests.benchmarks.sizes import LR, Size, Values
from tests.strategies import named


class Ours:
    """One rank of a data-parallel run, or a whole run on one rank."""

    def __init__(
        self,
        size: Size,
        world: Communicator,
        how: str = "bucketed",
        half: bool = False,
        values: Values | None = None,
    ) -> None:
        """half: compute in float16. values: the initial values, instead of the model's own."""
        ranks, B, T = world.size, world.size * size.B, size.T
        self.model = gpt(GPTConfig(size.V, T, size.layers, size.heads, size.width))
        if half:
            use(self.model, StaticPolicy("mixed_float16"))
        self.scaler = DynamicScaler() if half else Scaler()
        if values is not None:
            for p in self.model.parameters():
                p.data = to_device(values[p.placement.path].reshape(p.shape))
        mesh = Mesh(world, dp=ranks)
        self.reducer = parallelize(self.model, mesh, named(how), same=values is None)  # else it reads all values
        self.reducer.init(1)
        self.optimizer = Adam(self.reducer)
        ids = size.ids(ranks)
        where = Where(seed=1, number=0, B=B, T=T, samples=slice(0, B), time=slice(0, T))
        self.batch = Batch(ids[:, :-1], ids[:, 1:], where).part(world.rank, ranks)

    def forward(self) -> None:
        self.reducer.start_step(backwards=1)
        self.part = self.model(self.batch)

    def backward(self) -> None:
        self.scaler.scale(self.part).backward()
        self.reducer.end_backward()
        self.reducer.synchronize()

    def update(self) -> None:
        if self.scaler.unscale(self.reducer):
            self.optimizer.step(LR)
            self.reducer.gather_parameters()

    def weights(self) -> dict[str, np.ndarray]:
        """Return path -> values, from which the other side starts."""
        return {p.placement.path: p.data for p in self.model.parameters()}

    def loss(self) -> float:
        """Return the loss of the last forward: this rank's part of the global mean."""
        return self.part.item()
