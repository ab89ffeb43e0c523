"""Run a command in a process of its own, within a time limit: it may hang or crash."""

import os
import subprocess
from collections.abc import Mapping

from .mpirun import outside


def child(command: list[str], seconds: float, more: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """Return (status, output) of a command; status None after `seconds`. This works inside a rank, too.

    more: variables to add to its environment.
    """
    try:
        done = subprocess.run(
            command,
            env={**outside(os.environ), **(more or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=min(seconds, 1e6),  # the system counts milliseconds in 31 bits
            text=True,
        )
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        return None, output.decode(errors="replace") if isinstance(output, bytes) else output
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout
