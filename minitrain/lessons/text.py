"""Keep the texts up to date: code in a README comes from the library, output from the command.

    ```python minitrain.sharding:shard_of            the body is that function's source ("lesson:train": of this lesson)
    ```console
    $ lessons list                    the following lines are the command's output, in a clean folder
    ```

`python -m minitrain.lessons.text fill FILE...` writes the bodies; `check` compares them, and checks links, word counts
and the numbers in the prose: a measured number must occur in an output. These may differ, as another BLAS may change
them: the digits of a number after "≈", a decimal with three or more digits, and a few marks of a chart.
"""

import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

from .check import environment
from .course import COURSE
from .manifest import LESSONS, exercises

WORDS = 1200  # in a lesson's README, without quoted code, outputs and the worked example
MARKS = 4  # marks per line of a chart that may differ
LIMIT = 120.0  # seconds for a command
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.:/-])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w/])")


def filled(path: Path, run: bool = True) -> str:
    """Return a README's text with all bodies filled in; outputs only if its commands may run."""
    text = path.read_text("utf-8")
    with tempfile.TemporaryDirectory() as name:
        shell = Shell(Path(name))

        def body(block: re.Match[str]) -> str:
            language, about, old = block[1], block[2].strip(), block[3]
            if language == "python" and ":" in about:
                old = quoted(path, about)
            elif language == "console" and run:
                old = "".join(f"$ {command}\n{shell.run(command)}" for command in commands(old))
            return f"```{language}{block[2]}\n{old}```"

        return BLOCK.sub(body, text)


def commands(body: str) -> Iterator[str]:
    """Yield the commands of a console block."""
    yield from (line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ "))


def quoted(path: Path, target: str) -> str:
    """Return the source of a function of the library or of this lesson."""
    module_name, _, name = target.partition(":")
    if "." in module_name:
        thing = import_module(module_name)
    else:
        thing = next(it for it in LESSONS if it.folder.name == path.resolve().parent.name).module(module_name)
    for part in name.split("."):
        thing = getattr(thing, part)
    return inspect.cleandoc("\n" + inspect.getsource(thing)) + "\n"


class Shell:
    """Run a README's commands in a clean folder that contains the lessons."""

    def __init__(self, folder: Path) -> None:
        self.here = folder
        (folder / "lessons").symlink_to(COURSE)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self.environment = {**environment(), "PATH": path, "COLUMNS": "80", "HOME": str(folder)}

    def run(self, command: str) -> str:
        """Return the command's output, including standard error. Raise RuntimeError if it takes too long."""
        if command.startswith("cd "):
            self.here = self.here / command.removeprefix("cd ").strip()
            return ""
        try:
            done = subprocess.run(
                command, shell=True, cwd=self.here, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done after {LIMIT:.0f} s: {command}") from None
        output = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
        return f"{output}\n" if output else ""


# Comparison -----------------------------------------------------------------------------------------------------------


def problems(path: Path, run: bool = True) -> list[str]:
    """Return the problems of a README; empty if there are none. run: False to skip its commands' outputs."""
    text, now = path.read_text("utf-8"), filled(path, run)
    found = []
    for old, new in zip_longest(text.splitlines(), now.splitlines(), fillvalue="(no line)"):
        if not same(old, new):
            found.append(f"{path}: it says   {old!r}\n{'':{len(str(path))}}  it is now {new!r}")
            break
    found += [f"{path}: {line}" for line in links(path, text) + too_wide(text) + answers(text)]
    if path.resolve() != COURSE.parent / "README.md":  # the project's page gives sizes and times of long runs
        found += [f"{path}: {line}" for line in numbers(text)]
    lesson = path.resolve().parent.name[:2].isdigit()
    if lesson and (count := len(read(text).split())) > WORDS:
        found.append(f"{path}: {count} words; at most {WORDS}")
    return found


def same(old: str, new: str) -> bool:
    """Compare texts, allowing other digits after "≈": two digits must agree; of rounding errors, the magnitude.

    Decimals with three or more digits may differ by 2%, a chart in a few marks.
    """
    if old == new:  # a sentence about "≈", too
        return True
    a, b = old.split("≈"), new.split("≈")
    if len(a) != len(b) or not _alike(a[0], b[0]):
        return False
    return all(_near(x, y) for x, y in zip(a[1:], b[1:], strict=True))


def _alike(x: str, y: str) -> bool:
    if re.match(r"[^|]{0,12}\|[^|]*$", x) and x.partition("|")[0] == y.partition("|")[0]:
        return sum(a != b for a, b in zip_longest(x, y, fillvalue=" ")) <= MARKS
    words = list(zip_longest(x.split(), y.split(), fillvalue=""))
    return all(a == b or (_decimal(a) and _decimal(b) and _close(float(a), float(b), 0.02)) for a, b in words)


def _decimal(word: str) -> bool:
    return re.fullmatch(r"\d+\.\d{3,}", word) is not None


def _close(a: float, b: float, relative: float) -> bool:
    return abs(a - b) <= relative * max(abs(a), abs(b))


def _near(x: str, y: str) -> bool:
    (x, *rest_x), (y, *rest_y) = x.split(), y.split()
    a, b = float(x.strip(",;")), float(y.strip(",;"))
    close = (a == b == 0) or (max(a, b) < 1e-5 and min(a, b) >= 0) or _close(a, b, 0.05)
    return close and rest_x == rest_y


def read(text: str) -> str:
    """Return the text without quoted code, outputs and the worked example."""
    return re.sub(r"^## By hand\n.*?(?=^## )", "", BLOCK.sub("", text), flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Return what is read, without tables, equations and code."""
    lines = [line for line in read(text).splitlines() if not line.startswith(("    ", "|"))]
    return re.sub(r"`[^`]*`", "", "\n".join(lines))


def links(path: Path, text: str) -> list[str]:
    """Return the targets of relative links that do not exist."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", BLOCK.sub("", text))  # f[i](x) in code is a call
    return [f"the link {target} leads nowhere" for target in targets if not (path.parent / target).exists()]


def too_wide(text: str) -> list[str]:
    """Return output that would wrap in an 80-column terminal."""
    lines = [line for block in BLOCK.finditer(text) if block[1] == "console" for line in block[3].splitlines()]
    return [f"{len(line)} columns wide: {line}" for line in lines if len(line) > 80 and not line.startswith("$ ")]


def answers(text: str) -> list[str]:
    """Return quoted model solutions, which would spoil exercises."""
    targets = {e.target for e in exercises()}
    quoted_targets = [block[2].strip() for block in BLOCK.finditer(text) if block[1] == "python"]
    return [f"{target} is the answer to an exercise" for target in quoted_targets if target in targets]


def numbers(text: str) -> list[str]:
    """Return numbers of the prose that look measured but occur in no output, code or table of the text."""
    told = re.sub(r"^## (The paper|What real systems add)\n.*?(?=^## |\Z)", "", prose(text), flags=re.M | re.S)
    shown = text.replace(told, "") if told in text else "\n".join(m[0] for m in BLOCK.finditer(text))
    shown += "\n".join(line for line in text.splitlines() if line.startswith(("    ", "|")))
    there = {_value(n) for n in NUMBER.findall(shown)}
    found = []
    for n in NUMBER.findall(told):
        value = _value(n)
        if re.fullmatch(r"\d\d\.\d", n):  # an exercise number
            continue
        measured = "." in n or "e" in n or (value >= 100 and not 1900 <= value <= 2100)
        alike = any(value == other or ("e" in n and 0.1 <= value / (other or 1e99) <= 10) for other in there)
        if measured and not alike:
            found.append(f"{n} is in the prose and in no output")
    return found


def _value(n: str) -> float:
    return float(n.rstrip(",").replace(",", ""))


def readmes() -> list[Path]:
    """Return the READMEs of the project, the course, each lesson and the three programs, and the lecturer's guide."""
    course = [COURSE / "README.md", COURSE / "TEACHING.md", COURSE / "programs" / "README.md"]
    alone = [COURSE.parent / "README.md", *course]
    return [path for path in [*alone, *sorted(COURSE.glob("[0-9]*/README.md"))] if path.exists()]


def main() -> int:
    """Return 1 if a text is out of date."""
    action, paths = sys.argv[1], [Path(p) for p in sys.argv[2:]] or readmes()
    if action == "fill":
        for path in paths:
            path.write_text(filled(path), "utf-8")
    found = [problem for path in paths for problem in problems(path)]
    print("\n".join(found) if found else f"{len(paths)} texts are as they should be")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
