"""A mesh numbers ranks with tp innermost, its groups are slices, and errors about wrong sizes include the fix."""

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError


def test_ranks_and_coordinates() -> None:
    def program(world: Communicator) -> None:
        mesh = Mesh(world, tp=3, dp=2)  # the order of the arguments does not matter
        assert mesh.sizes == {"dp": 2, "pp": 1, "tp": 3}
        assert mesh.ranks.tolist() == [[[0, 1, 2]], [[3, 4, 5]]]
        assert mesh.coordinates == {"dp": world.rank // 3, "pp": 0, "tp": world.rank % 3}

    threads.run(6, program)


def test_groups_are_slices() -> None:
    sizes = {"dp": 2, "pp": 3, "tp": 2}
    ranks = np.arange(12).reshape(2, 3, 2)

    def program(world: Communicator) -> None:
        mesh = Mesh(world, **sizes)
        for axes in map(str.split, ["", "dp", "pp", "tp", "dp tp", "pp dp", "dp pp tp"]):
            here = mesh.coordinates
            cut = tuple(slice(None) if axis in axes else here[axis] for axis in ("dp", "pp", "tp"))
            members = ranks[cut].reshape(-1).tolist()
            group = mesh.group(*axes)
            assert group.gather_objects(world.rank) == members, axes
            assert members[group.rank] == world.rank
            assert mesh.group(*axes) is group  # created once

    threads.run(12, program)


@pytest.mark.ranks(4)
def test_groups_of_processes(world: Communicator) -> None:
    mesh = Mesh(world, dp=2, tp=2)
    column = [world.rank % 2, world.rank % 2 + 2]
    row = [world.rank // 2 * 2, world.rank // 2 * 2 + 1]
    assert mesh.group("dp").gather_objects(world.rank) == column
    assert mesh.group("tp").gather_objects(world.rank) == row


@pytest.mark.ranks(4)
def test_meshes_share_their_groups(world: Communicator) -> None:
    """MPICH has 2048 communicators per process: thousands of meshes must not use them up."""
    groups = {Mesh(world, dp=2, tp=2).group("tp") for _ in range(2100)}
    assert len(groups) == 1


def test_one_rank_needs_no_sizes() -> None:
    mesh = Mesh(world_of_one())
    assert mesh.sizes == {"dp": 1, "pp": 1, "tp": 1} and mesh.group("dp").size == 1


@pytest.mark.parametrize(
    ("size", "sizes", "message"),
    [
        (1, {"dp": 3}, r"dp 3 makes 3 ranks, but there are 1: run mpirun -n 3$"),
        (2, {"dp": 2, "tp": 2}, r"dp 2 x tp 2 makes 4 ranks, but there are 2: run mpirun -n 4$"),
        (4, {"dp": 2}, r"dp 2 makes 2 ranks, but there are 4: run mpirun -n 2$"),
        (1, {"dp": 0}, r"dp is 0; it must be at least 1"),
        (1, {"tp": -2}, r"tp is -2; it must be at least 1"),
        (1, {"ep": 1}, r"axis ep; allowed: dp, pp, tp"),
    ],
)
def test_wrong_sizes(size: int, sizes: dict[str, int], message: str) -> None:
    def program(world: Communicator) -> None:
        with pytest.raises(UserError, match=message):
            Mesh(world, **sizes)

    threads.run(size, program)


def test_a_group_of_an_unknown_axis_is_refused() -> None:
    """A group of one rank instead would silently leave the gradients unsummed."""
    with pytest.raises((UserError, ValueError, KeyError), match="ep"):
        Mesh(world_of_one()).group("ep")
