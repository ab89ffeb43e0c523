"""Run a command within limits, and leave none of its processes behind: `python supervisor.py SECONDS COMMAND...`.

    check ---- supervisor ---- mpirun ---- rank 0, 1, 2 ---- what the student's function starts

On Linux the supervisor adopts the orphans below it, so a process cannot escape by starting a session of its own or by
dropping its environment. At the end, every process below the supervisor is killed. On other systems, only those of the
command's process group are.

The end comes when the command exits, after SECONDS, once it has started too many processes, or when standard input is
closed: by the check, or by the system if the check itself is killed. Only the standard library is imported: that takes
20 ms.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time

LATE, CROWDED, STOPPED = 124, 125, 126  # exit statuses; otherwise the command's own
PROCESSES = 100  # below the supervisor, at most
MEMORY = 4 * 2**30  # bytes of data, each process
FILE = 64 * 2**20  # bytes of a file, at most
TERM = 2.0  # seconds for mpirun to end its ranks once told to
KILL = 5.0  # seconds for killed processes to be gone
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl


def main() -> int:
    """Run the command. Return its exit status, LATE, CROWDED or STOPPED."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # a handler: SIG_IGN would be inherited by the command
    child = os.fork()
    if child == 0:
        start(sys.argv[2:])
    try:
        return watch(child, time.monotonic() + float(sys.argv[1]))
    finally:
        kill_all(child)


def start(command: list[str]) -> None:
    """Become the command, in a new session and within the limits."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    limits = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, FILE), (resource.RLIMIT_DATA, MEMORY))
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, this is what the system kills
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)


def watch(child: int, deadline: float) -> int:
    """Wait for the end, whichever comes first. Return the exit status."""
    rounds = 0
    while (status := reap(child)) is None:
        if select.select([0], [], [], 0.02)[0] and not os.read(0, 1):
            terminate(child)
            return STOPPED
        if time.monotonic() > deadline:
            terminate(child)
            return LATE
        rounds += 1
        if rounds % 10 == 0 and len(below(os.getpid())) > PROCESSES:
            return CROWDED
    return status


def reap(child: int) -> int | None:
    """Collect what has ended. Return the exit status of the child, 128 plus the signal that killed it, or None."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                status = code if code >= 0 else 128 - code
    return status


def terminate(child: int) -> None:
    """Let mpirun end its ranks and remove its files."""
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGTERM)
    end = time.monotonic() + TERM
    while reap(child) is None and time.monotonic() < end:
        time.sleep(0.02)


def kill_all(child: int) -> None:
    """Kill the child's process group and everything below this process. Stopped first, none starts another."""
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    end = time.monotonic() + KILL
    while (left := below(os.getpid())) and time.monotonic() < end:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in left:
                with contextlib.suppress(OSError):
                    os.kill(process, number)
        time.sleep(0.005)
        reap(child)


def below(top: int) -> list[int]:
    """Return the children of a process, their children and so on; none if this system has no /proc."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])  # the name before it may contain anything
                children.setdefault(parent, []).append(int(name))
    found = [top]
    for process in found:
        found += children.get(process, [])
    return found[1:]


if __name__ == "__main__":
    sys.exit(main())
