"""Time real updates on ranks of this machine, in a job of its own for each number of ranks.

The job measures the machine first, as `plan --measure` does. Then the setups take turns for several rounds, so that
whatever else the machine does meets all of them. A Task and its Times are passed as files in a temporary folder.
"""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from ...comm.communicator import Communicator
from ...comm.mesh import Mesh
from ...data.loader import TextLoader
from ...errors import UserError
from ...models import GPTConfig, gpt
from ...optim import AdamW
from ...planner.machines import Computer
from ...planner.measure import measured
from ...planner.scaling import update_row
from ...planner.setup import Setup
from ...runtime.child import child
from ...runtime.launch import launch
from ...runtime.mpirun import find_mpirun
from ...train.progress import Progress
from ...train.trainer import Trainer
from .drawing import Numbers

WARM, UPDATES = 4, 3  # updates before the first round: set-up, and the checks of the first steps; updates of a round
LIMIT = 600.0  # seconds of a job
TASK, TIMES = "task", "times"
Setups = dict[str, dict[int, Setup]]  # kind of scaling -> ranks -> update


@dataclass(frozen=True)
class Task:
    """What a job does. setups: all for its number of ranks. computer: what is not measured is this one's."""

    setups: Sequence[Setup]
    computer: Computer
    rounds: int


@dataclass(frozen=True)
class Times:
    """What a job finds. lines: the machine in words. rounds: for each setup, the seconds of an update in each round."""

    computer: Computer
    lines: list[str]
    rounds: list[list[float]]


def trainer_of(setup: Setup, world: Communicator) -> Trainer:
    """Return a trainer of a GPT with this setup."""
    s = setup.sizes
    model = gpt(GPTConfig(s.vocabulary, s.context, s.layers, s.heads, s.width, tied=s.tied))
    mesh = Mesh(world, dp=setup.dp, pp=setup.pp, tp=setup.tp)
    return Trainer(
        model, world, optimizer=AdamW, schedule=1e-4, seed=1, mesh=mesh, strategy=setup.strategy,
        accumulate=setup.accumulate,
    )  # fmt: skip


def times_of(setups: Sequence[Setup], rounds: int, world: Communicator) -> list[list[float]]:
    """Return for each setup the seconds of an update in each round. All ranks must call it."""
    trainers, running = [trainer_of(setup, world) for setup in setups], []
    for setup, trainer in zip(setups, trainers, strict=True):
        s = setup.sizes
        tokens = max(50, 2 * setup.batch) * s.length
        ids = np.random.default_rng(0).integers(0, s.vocabulary, tokens, dtype=np.int32)
        running.append(trainer.each_update(TextLoader(ids, s.length, setup.batch, seed=1), WARM + rounds * UPDATES))
        for _ in range(WARM):
            next(running[-1])
    seconds: list[list[float]] = [[] for _ in setups]
    for _ in range(rounds):
        for mine, updates in zip(seconds, running, strict=True):
            world.barrier()
            start = perf_counter()
            for _ in range(UPDATES):
                next(updates)
            world.barrier()
            mine.append((perf_counter() - start) / UPDATES)
    for trainer in trainers:
        trainer.close()
    return seconds


def measured_here(setups: Setups, ranks: Sequence[int], rounds: int, computer: Computer) -> tuple[Computer, Numbers]:
    """Return this machine as the most ranks find it, and what is measured on each number of ranks.

    computer: has what is not measured. own: seconds simulated with the rates that these ranks find. Raise as `run`.
    """
    machines: dict[int, Times] = {}
    points: Numbers = {kind: [] for kind in setups}
    with Progress().task("measuring", len(ranks), "numbers of ranks") as shown:
        for n in shown.watch(ranks):
            kinds = {kind: few[n] for kind, few in setups.items() if n in few}
            once = [*dict.fromkeys(kinds.values())]  # on --at ranks, both kinds are the same
            machines[n] = found = run(Task(once, computer, rounds), n)
            for kind, one in kinds.items():
                each = found.rounds[once.index(one)]
                spread = {"seconds": median(each), "lowest": min(each), "highest": max(each), "rounds": each}
                own = update_row(one, found.computer.machine, {}).alone.time
                points[kind].append({"ranks": n, "batch": one.batch, **spread, "own": own})
    last = machines[ranks[-1]]
    every = {n: asdict(found.computer) for n, found in machines.items()}
    return last.computer, {"measured": points, "machines": every, "lines": last.lines}


def run(task: Task, ranks: int) -> Times:
    """Return what a job of so many ranks finds. Raise UserError without mpirun, or if the job fails or takes long."""
    mpirun = find_mpirun()
    if mpirun is None:
        raise UserError("--measure starts ranks, but there is no mpirun: python -m minitrain doctor says what to do")
    with TemporaryDirectory() as folder:
        (Path(folder) / TASK).write_bytes(pickle.dumps(task))
        program = f"from {__name__} import as_rank; as_rank({folder!r})"
        status, output = child([mpirun, "-n", str(ranks), sys.executable, "-c", program], LIMIT)
        if status is None:
            raise UserError(f"{ranks} ranks were not done after {LIMIT:.0f} s; give a smaller model, or fewer --rounds")
        if status:
            raise UserError(f"mpirun -n {ranks} failed with status {status}:\n{output.strip()[-800:]}")
        return pickle.loads((Path(folder) / TIMES).read_bytes())


def as_rank(folder: str) -> None:
    """Do a job's task as one of its ranks."""
    with launch() as world:
        task: Task = pickle.loads((Path(folder) / TASK).read_bytes())
        computer, lines = measured(world, task.computer, task.setups[0].sizes)
        rounds = times_of(task.setups, task.rounds, world)
        if world.rank == 0:
            (Path(folder) / TIMES).write_bytes(pickle.dumps(Times(computer, lines, rounds)))
