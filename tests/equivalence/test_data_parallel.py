"""Data parallel is the serial run: loss, every gradient, the norm, every parameter; under MPI and under threads."""

import itertools

import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from tests.equivalence.harness import same_as_serial, toy_gpt

CASES = pytest.mark.parametrize(
    ("how", "optimizer", "accumulate", "clip"),
    list(itertools.product(["naive", "bucketed"], ["sgd", "adam"], [1, 3], [None, 0.5])),
)


@CASES
@pytest.mark.ranks(2, 3, 4)
def test_mpi(world: Communicator, how: str, optimizer: str, accumulate: int, clip: float | None) -> None:
    same_as_serial(world, how, optimizer=optimizer, accumulate=accumulate, clip=clip)


@CASES
@pytest.mark.parametrize("size", [2, 3, 4])
def test_threads(size: int, how: str, optimizer: str, accumulate: int, clip: float | None) -> None:
    def program(world: Communicator) -> None:
        same_as_serial(world, how, optimizer=optimizer, accumulate=accumulate, clip=clip)

    threads.run(size, program)


@pytest.mark.ranks(3)
def test_untied(world: Communicator) -> None:
    same_as_serial(world, "bucketed", model=lambda: toy_gpt(tied=False))


@pytest.mark.ranks(3)
def test_float32(world: Communicator) -> None:
    same_as_serial(world, "bucketed", bound=2e-5, model=lambda: toy_gpt("float32"))


@pytest.mark.ranks(8)
def test_more_ranks_than_samples(world: Communicator) -> None:
    same_as_serial(world, "bucketed", accumulate=2)
