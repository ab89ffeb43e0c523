"""A rank may start its own job once the environment variables of the current job are removed."""

import os
import subprocess
import sys

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.runtime.mpirun import find_mpirun, outside


def test_what_mpirun_sets_goes_and_what_users_set_stays() -> None:
    mpich = {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "11", "HYDI_CONTROL_FD": "7", "MPI_LOCALRANKID": "1"}
    openmpi = {"OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1", "PRTE_LAUNCHED": "1", "OMPI_ARGV": ""}
    users = {
        "PATH": "/bin",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_btl": "^ofi",
        "OPAL_PREFIX": "/opt/openmpi",
        "PMIX_PREFIX": "/opt/openmpi",
        "MPICH_INTERFACE_HOSTNAME": "localhost",
        "MPIR_CVAR_CH4_NETMOD": "ofi",
    }
    given = {**mpich, **users, **openmpi}
    assert outside(given) == users
    assert len(given) == len(mpich) + len(openmpi) + len(users), "it is not changed"


@pytest.mark.ranks(2)
def test_a_job_in_a_job(world: Communicator) -> None:
    """Rank 0 of two starts three ranks; these are 0 to 2 of 3."""
    if world.rank == 0:
        mpirun = find_mpirun()
        assert mpirun is not None
        program = "import minitrain; from minitrain.runtime.output import print_in_order\n"
        program += "with minitrain.launch() as world: print_in_order(world, f'{world.rank} of {world.size}')"
        done = subprocess.run(
            [mpirun, "-n", "3", sys.executable, "-c", program],
            capture_output=True, text=True, timeout=40, stdin=subprocess.DEVNULL, env=outside(os.environ),
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout == "0 of 3\n1 of 3\n2 of 3\n", done.stdout + done.stderr
    world.barrier()
