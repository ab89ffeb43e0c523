"""What a student's function cannot do while it is graded.

It can change its own process only, and sends only data. The code of the model solution is gone from this process: that
is a wall. The rest are hurdles, made with Python's audit hooks:

    read files of the library, the course and other students
    write outside of the scratch folder
    start processes, open connections, call functions of C, look at all objects of the process
"""

import contextlib
import inspect
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
BARRED = (  # beginnings of events
    "ctypes.", "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.system", "os.killpg", "os.ptrace", "pty.", "gc.get_", "sqlite3.", "resource.", "_posixsubprocess.",
)  # fmt: skip
WRITES = (
    "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink",
    "os.truncate", "os.utime", "os.setxattr", "os.removexattr", "shutil.",
)  # fmt: skip
MODULES = {  # not to be imported: MPI, calls of functions of C, processes, interpreters without these hooks
    "mpi4py", "ctypes", "_ctypes", "cffi", "_posixsubprocess", "_xxsubinterpreters", "_interpreters", "_testcapi",
    "_testinternalcapi",
}  # fmt: skip


def forget(target: str) -> None:
    """Remove the code of the model solution, "module:name" of the library. All that calls it fails with a sentence.

    A module that is not imported yet cannot be: its file cannot be opened.
    """
    module, _, path = target.partition(":")
    function: Any = sys.modules.get(module)
    if function is not None:
        for name in path.split("."):
            function = getattr(function, name)
        inspect.unwrap(function).__code__ = _gone.__code__


def _gone(*given: object, **named: object) -> None:
    raise RuntimeError("the model solution is not available here")


def lock(home: Path) -> None:
    """Refuse from now on, in this process, what the top of this file lists. home: the folder of the student's files."""
    tempfile.tempdir = os.environ["TMPDIR"] = os.environ["HOME"] = str(home)
    sys.addaudithook(_hook(str(home)))
    for name in MODULES & set(sys.modules):
        del sys.modules[name]
    for name in ("_fork_exec", "_posixsubprocess"):
        vars(subprocess).pop(name, None)


@cache
def folders() -> list[str]:
    """Return where Python and its packages are."""
    paths = [path for name, path in sysconfig.get_paths().items() if name.endswith(("stdlib", "lib"))]
    paths += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return sorted({os.path.realpath(path) + os.sep for path in paths})


def _hook(home: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return the function that Python calls before all of this."""
    pythons, home = folders(), os.path.realpath(home) + os.sep

    def mine(path: str) -> bool:
        return f"{path}{os.sep}".startswith(home)

    def installed(path: str) -> bool:
        """Return whether this is of Python and its packages, but not of this one."""
        return any(path.startswith(folder) and "minitrain" not in path[len(folder) :] for folder in pythons)

    def opened(path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int):
            return  # it is open already
        real = resolved(path)
        if flags & WRITING:
            check(mine(real) or real in FINE, f"write {real}")
        folder = mode is None and os.path.isdir(real)  # os.open takes paths that begin in an open folder
        check((mine(real) or installed(real) or real in FINE) and not folder, f"open {real}")

    def hook(event: str, about: tuple[Any, ...]) -> None:
        if event == "open":
            opened(*about)
        elif event.startswith(BARRED):
            check(False, f"do this ({event})")
        elif event.startswith(WRITES):
            for path in map(resolved, about):
                check(not path or mine(path), f"change {path}")
        elif event == "import":
            name, file = about[:2]
            check(name.partition(".")[0] not in MODULES, f"import {name}")
            check(file is None or installed(resolved(file)), f"import {file}")  # the file of a module in C
        elif event == "os.kill":
            check(about[0] == os.getpid(), "send a signal to another process")
        elif event == "object.__setattr__":
            check(about[1] != "__code__", "replace a function's code")

    return hook


FINE = {"/dev/null", "/dev/urandom", "/dev/zero", "/proc/self/statm"}


def check(fine: bool, what: str) -> None:
    """Raise PermissionError, which Python's own modules expect of a file, unless this is fine."""
    if not fine:
        raise PermissionError(f"while it is graded, a function may not {what}")


def resolved(path: Any) -> str:
    """Return the path of a file without links; "" for anything else."""
    with contextlib.suppress(TypeError, ValueError):
        return os.path.realpath(os.fsdecode(path))
    return ""
