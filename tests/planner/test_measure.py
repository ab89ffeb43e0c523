"""What is measured of a machine, and how it is fitted."""

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.planner.machines import COMPUTERS, altered
from minitrain.planner.measure import MESSAGES, fitted, measured
from minitrain.planner.sizes import Sizes

TINY = Sizes("gpt", 11, 8, 2, 2, 16)


def test_two_constants_are_recovered() -> None:
    nbytes = [n / 3 for n in MESSAGES]
    assert fitted(nbytes, [5e-6 + 2e-10 * n for n in nbytes]) == pytest.approx((5e-6, 2e-10))
    assert fitted([1.0, 1e6], [1e-6, 1e-6]) == pytest.approx((1e-6, 1e-15))  # never below 0


@pytest.mark.ranks(1, 2)
def test_a_machine_is_measured(world: Communicator) -> None:
    preset = COMPUTERS["laptop"]
    computer, lines = measured(world, preset, TINY)
    assert 0 < computer.flops <= computer.peak
    assert f"measured on {world.size} rank(s)" in lines[0]
    if world.size == 1:
        assert (computer.latency, computer.bandwidth) == (preset.latency, preset.bandwidth)
        assert "mpirun -n 4" in lines[1]
    else:
        assert computer.bandwidth > 0 <= computer.latency
        assert computer == altered(
            preset, flops=computer.flops, peak=computer.peak, latency=computer.latency, bandwidth=computer.bandwidth
        )
