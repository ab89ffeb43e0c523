"""Tensor and sequence parallel with data parallel: four ranks, dp 2 x tp 2, match the run on one process."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import pytest

from minitrain.comm import mesh as mesh_of
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.ring import RingCommunicator
from minitrain.comm.threads import world_of_one
from minitrain.models import Model
from minitrain.optim import SGD, clip_grad_norm
from minitrain.parallel.parallelize import REDUCERS, parallelize
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.parallel.tensor_parallel import TensorIO
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import BUCKET_MB, SEED, STEPS, Run, Tensors, difference, toy_batch, toy_gpt
from tests.strategies import named

BOUND = 1e-12


def train(
    world: Communicator,
    tp: int,
    sequence: bool,
    tied: bool,
    io: type[TensorIO] | None = None,
    reducers: Mapping[str, type[Reducer]] = REDUCERS,
    make: Callable[..., Model] = toy_gpt,
) -> Run:
    """Train for STEPS steps and record everything. Gradients are recorded before clipping."""
    run, model = Run(), make(tied=tied)
    mesh = Mesh(world, dp=world.size // tp, tp=tp)
    reducer = parallelize(model, mesh, Strategy(bucket_mb=BUCKET_MB, sp=sequence), reducers=reducers, io=io)
    reducer.init(SEED)
    optimizer = SGD(reducer, momentum=0.9)
    for number in range(STEPS):
        mine = toy_batch(number).part(mesh.coordinates["dp"], mesh.sizes["dp"])
        loss = compute_gradients(model, mine, reducer, accumulate=2)
        run.losses.append(sum(mesh.group("dp").gather_objects(loss)))  # the same on all ranks along tp
        run.gradients.append(gather(model, world, "grad", reducer))
        run.norms.append(clip_grad_norm(reducer, 0.5))
        optimizer.step(0.05)
        reducer.gather_parameters()
    run.parameters = gather(model, world, "data", reducer)
    places = [p.placement for p in model.parameters()]
    run.held = {f"{at.path} {at.index}": p.data.copy() for p, at in zip(model.parameters(), places, strict=True)}
    reducer.close()
    return run


@cache
def serial(tied: bool) -> Run:
    return train(world_of_one(), 1, sequence=False, tied=tied)


def other_number(what: str, a: float, b: float) -> list[str]:
    """Return a complaint unless a equals b within BOUND."""
    return [] if abs(a - b) <= BOUND * abs(b) else [f"{what} {a:.4g}, not {b:.4g}"]


def other_tensors(what: str, a: Tensors, b: Tensors) -> list[str]:
    """Return a complaint that names the worst tensor unless all are equal within BOUND."""
    if difference(a, b) <= BOUND:
        return []
    worst = max(b, key=lambda path: float(np.abs(a[path] - b[path]).max(initial=0)))
    return [f"{what}, most of all {worst}"]


def first_difference(run: Run, true: Run) -> str:
    """Return what differs in the first step that differs from the run on one process; empty if nothing does."""
    for i in range(STEPS):
        wrong = [
            *other_number("loss", run.losses[i], true.losses[i]),
            *other_tensors("gradients", run.gradients[i], true.gradients[i]),
            *other_number("norm", run.norms[i], true.norms[i]),
        ]
        if wrong:
            return f"step {i}: {'; '.join(wrong)}"
    return "; ".join(other_tensors("parameters", run.parameters, true.parameters))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sequence", [False, True])
def test_tensor_parallel_is_the_serial_run(
    sequence: bool,
    tied: bool,
    io: type[TensorIO] | None = None,
    reducers: Mapping[str, type[Reducer]] = REDUCERS,
    make: Callable[..., Model] = toy_gpt,
) -> None:
    """Loss, norm, every gradient and parameter match the run on one process on every rank; replicas have equal bits."""
    runs = threads.run(4, lambda world: train(RingCommunicator(world), 2, sequence, tied, io, reducers, make))
    for rank, run in enumerate(runs):
        found = first_difference(run, serial(tied))
        assert not found, f"not as on one process: rank {rank}, {found}"
    copies: dict[str, set[bytes]] = {}
    for run in runs:
        for slice_of, values in run.held.items():
            copies.setdefault(slice_of, set()).add(values.tobytes())
    torn = [slice_of for slice_of, bits in copies.items() if len(bits) > 1]
    assert not torn, f"copies differ: {torn[:3]}"


# A new axis -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bucketed", "zero1", "zero3"])
def test_an_axis_that_divides_samples_is_one_row(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks on a new axis, alone or with dp 2, match the run on one process. Gradients are partial over both."""
    monkeypatch.setitem(mesh_of.AXES, "ep", mesh_of.Axis("samples", "share the batch as well"))

    def program(sizes: dict[str, int], world: Communicator) -> tuple[list[float], Tensors]:
        mesh = Mesh(world, **sizes)
        made = Trainer(toy_gpt(), world, mesh=mesh, optimizer=SGD, schedule=0.05, strategy=named(how))
        losses = [made.step(toy_batch(number))[0] for number in range(STEPS)]
        assert all(p.placement.partial.keys() == {"dp", "ep"} for p in made.model.parameters())
        return losses, gather(made.model, world, reducer=made.reducer)

    losses, parameters = program({}, world_of_one())
    for sizes in ({"dp": 2, "ep": 3}, {"ep": 3}):
        for found, others in threads.run(6 if "dp" in sizes else 3, partial(program, sizes)):
            np.testing.assert_allclose(found, losses, rtol=BOUND)
            assert difference(others, parameters) <= BOUND
