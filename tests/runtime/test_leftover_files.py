"""An aborted job leaves nothing in shared memory or the temporary folder; full shared memory is reported."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from minitrain.errors import UserError
from minitrain.runtime import leftover_files, machine_checks
from minitrain.runtime.mpirun import find_mpirun

MPIRUN = find_mpirun()
ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")


def private_mounts() -> bool:
    """Return whether this user may mount a private /dev/shm."""
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "-m", "true"], capture_output=True).returncode == 0


# What four aborted jobs of two ranks leave behind would fill the 8 MiB, as thirty jobs would fill a container's 64 MiB.
JOBS = """
mount -t tmpfs -o size=8m tmpfs /dev/shm && mount -t tmpfs tmpfs "$TMPDIR" || exit 9
for job in 1 2 3 4 5 6; do
    "$MPIRUN" -n 2 "$PYTHON" -c '
import os, signal, sys
import minitrain

with minitrain.launch() as world:
    if world.rank == 1 and sys.argv[1] == "3":
        os.kill(os.getpid(), signal.SIGKILL)
    if world.rank == 1:
        raise ValueError("mistake", sys.argv[1])
    world.barrier()
' $job 2>&1
    ls /dev/shm "$TMPDIR"
done
"""


@pytest.mark.full
@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
@pytest.mark.skipif(not private_mounts(), reason="this user may not mount a /dev/shm of their own")
def test_aborted_jobs_do_not_fill_shared_memory(tmp_path: Path) -> None:
    env = {**os.environ, "MPIRUN": str(MPIRUN), "PYTHON": sys.executable, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", JOBS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, env=env, cwd=ROOT, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert [f"('mistake', '{job}')" in done.stdout for job in (1, 2, 4, 5, 6)] == [True] * 5, done.stdout
    assert "Bus error" not in done.stdout, done.stdout
    assert "mpich_shm_" not in done.stdout and "hydra_hwloc_" not in done.stdout, done.stdout


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in place of /dev/shm, with a leftover segment and another program's file."""
    monkeypatch.setattr(leftover_files, "SHARED", tmp_path)
    (tmp_path / "mpich_shm_12ab_0").write_bytes(bytes(3 * 2**20))
    (tmp_path / "other").write_text("of another program")
    return tmp_path


def leave(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate `free` MiB of free shared memory."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**26, 2**26 - free * 2**20, free * 2**20))


def test_the_doctor_says_what_fills_shared_memory(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, fatal in ((40, False), (1, True)):
        leave(free, monkeypatch)
        found = machine_checks._shared_memory()
        assert found.found == f"{free} MiB free in {shared}" and found.ready != fatal
        assert "3 MiB there (1 files)" in found.cure and found.cure.endswith(f"rm {shared}/mpich_shm_*")
    (shared / "mpich_shm_12ab_0").unlink()
    assert "docker run --shm-size" in machine_checks._shared_memory().cure
    leave(40, monkeypatch)
    assert machine_checks._shared_memory().cure == ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not show what a process maps")
def test_what_is_mapped_is_not_abandoned(shared: Path) -> None:
    import mmap

    path = shared / "mpich_shm_12ab_0"
    assert leftover_files.abandoned() == [path]
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert leftover_files.abandoned() == []
        leftover_files.unlink_own()  # as a rank does after mapping it
        assert not path.exists()
    assert (shared / "other").exists()


def test_full_shared_memory_is_named_before_mpi_begins(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(4, monkeypatch)  # MPICH's segment is a little larger than 1 MiB per rank
    leftover_files.check_room(0, 1)
    leftover_files.check_room(0, 3)
    with pytest.raises(UserError, match=r"has 4\.0 MiB left, and 4 rank\(s\) need 4\.25 MiB.*minitrain doctor"):
        leftover_files.check_room(0, 4)
    with pytest.raises(SystemExit):  # one message is enough
        leftover_files.check_room(1, 4)
