"""Ways for a rank to leave the others waiting in the middle of training.

    mpirun -n 2 python -m tests.runtime.alone dp sleeps 1

The line on which the rank stays has a comment with the name of the way.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

import minitrain
from minitrain.autograd import no_grad
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import ArrayLoader
from minitrain.models import MLPConfig, mlp
from minitrain.optim import SGD
from minitrain.train.trainer import Trainer
from tests.strategies import named

STEPS, LONG = 3, 4.0  # seconds: a waiting thread cannot be killed, and should not outlive the tests by much


def trainer_of(world: Communicator, layout: str) -> Trainer:
    """Return a trainer of a small MLP with this parallel layout."""
    axis = layout if layout in ("tp", "pp") else "dp"
    strategy = named(layout if layout in ("zero3", "overlap") else "bucketed")
    model = mlp(MLPConfig(4, (8, 8, 8), 4))
    return Trainer(model, world, optimizer=SGD, mesh=Mesh(world, **{axis: world.size}), strategy=strategy)


def train(world: Communicator, layout: str, way: str, who: int, threads: bool = True) -> None:
    """Train three steps; in the last one, rank `who` leaves in this way."""
    trainer = trainer_of(world, layout)
    data = ArrayLoader(np.ones((12, 4), np.float32), np.zeros(12, np.int64), batch=4, seed=1)
    for number in range(STEPS):
        if number == STEPS - 1 and world.rank == who:
            if way == "returns":
                return
            leave(way, world, trainer, data, LONG if threads else 60.0)
            continue  # when leave returns, the rank skips the step
        trainer.step(data.batch(number))
    if way == "skips":
        world.barrier()


def leave(way: str, world: Communicator, trainer: Trainer, data: ArrayLoader, long: float) -> None:
    """Do something other than the other ranks, in most cases for `long` seconds."""
    lock, other = threading.Lock(), (world.rank + 1) % world.size
    if way == "sleeps":
        time.sleep(long)  # sleeps
    if way == "waits in a lock":
        lock.acquire()
        lock.acquire(timeout=long)  # waits in a lock
    if way == "waits for a thread that has left":
        told = threading.Event()
        threading.Thread(target=lambda: None).start()  # it should have told
        told.wait(long)  # waits for a thread that has left
    if way == "receives what nobody sends":
        world.receive(np.ones(3), other, ("dp", "test"), 7)  # receives what nobody sends
    if way == "waits elsewhere":
        world.barrier()  # waits elsewhere
    if way == "evaluates":
        with no_grad():
            for _ in until(time.monotonic() + long):
                trainer.model(data.batch(0))  # evaluates
    if way == "computes":
        for _ in until(time.monotonic() + long):
            sum(range(1000))  # computes
    if way == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)


def until(deadline: float) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield


if __name__ == "__main__":
    with minitrain.launch() as everyone:
        train(everyone, sys.argv[1], sys.argv[2], int(sys.argv[3]), threads=False)
