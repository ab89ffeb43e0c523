"""Each lesson as a notebook: executed with threads as ranks, on a machine without mpi4py and mpirun."""

import re
import sys
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from minitrain.errors import UserError
from minitrain.lessons import check as checking
from minitrain.lessons import notebook
from minitrain.lessons.check import check
from minitrain.lessons.cli import main
from minitrain.lessons.folder import Folder
from minitrain.lessons.here import handed_in
from minitrain.lessons.manifest import BY_NUMBER, Lesson, written
from minitrain.lessons.receipt import Receipt
from minitrain.lessons.stubs import definition, exercise_cell
from minitrain.lessons.text import BLOCK, same
from tests.lessons.individual import SALT, own
from tests.lessons.together import BY_ID
from tests.tiers import full

ROOT = Path(__file__).resolve().parents[2]
FIRST = "14"  # the lesson of the first tier: several ranks, options, two runs
WITHOUT_MPI = """
import sys

sys.modules["mpi4py"] = None

def refuse(event, details):
    if event == "subprocess.Popen" and "mpirun" in str(details):
        raise RuntimeError("mpirun is started")

sys.addaudithook(refuse)
"""

Execute = Callable[..., list[Any]]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Return a function that executes a notebook's cells without MPI and returns them with their outputs."""
    import nbformat  # here, because the ranks of a job import this file too, and do not need it
    from nbclient import NotebookClient

    (tmp_path / "sitecustomize.py").write_text(WITHOUT_MPI, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    def run(*cells: str, path: Path | None = None) -> list[Any]:
        new = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book = nbformat.read(path, 4) if path else new
        nbformat.validate(book)
        NotebookClient(book, timeout=120, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return list(book.cells)

    return run


def said(cell: Any) -> str:
    """Return what a cell has printed, without colors, or its exception."""
    texts = [out.get("text", f"{out.get('ename', '')}: {out.get('evalue', '')}".strip(": ")) for out in cell.outputs]
    return re.sub(r"\x1b\[\d*m", "", "".join(texts)).strip("\n")


def rows(output: str) -> list[str]:
    """Return the rows of the receipt that ends an output."""
    return output.partition("\nclaim ")[2].splitlines()[1:]


@pytest.mark.parametrize("number", [n if n == FIRST else full(n) for n in (lesson.number for lesson in written())])
def test_a_lesson_runs_cell_by_cell(number: str, execute: Execute, tmp_path: Path) -> None:
    """The runs print what the page shows, and every exercise is open."""
    lesson, path = BY_NUMBER[number], tmp_path / "lesson.ipynb"
    assert main(["notebook", number, "--out", str(path)]) == 0
    cells = execute(path=path)
    by_code = {cell.source: said(cell) for cell in cells if cell.cell_type == "code"}
    assert not [(cell.source, said(cell)) for cell in cells for out in cell.get("outputs", []) if "ename" in out]
    runs = [by_code[code] for code in by_code if code.startswith("options = ")]
    for output, page in zip(runs, outputs_of_the_page(lesson), strict=True):
        assert rows(output) and all(re.search("  (ok|needs mpirun)$", row) for row in rows(output)), output
        if lesson.jobs:
            assert [row.split("  ")[0] for row in rows(output)] == [row.split("  ")[0] for row in rows(page)]
        elif rows(page):  # the whole output, not a part of it
            lines = [line.rstrip() for line in output.splitlines()], page.splitlines()
            assert [(a, b) for a, b in zip_longest(*lines, fillvalue="") if not same(a, b)] == []
    assert sum("image/svg+xml" in out.get("data", {}) for cell in cells for out in cell.get("outputs", [])) == 1
    for e in lesson.exercises:
        assert by_code[f'check_here("{e.id}", {e.function})'].split() == [e.id, e.function, "open"]


def outputs_of_the_page(lesson: Lesson) -> list[str]:
    """Return what the page shows of each run of lesson.py."""
    blocks = [
        m for m in BLOCK.finditer((lesson.folder / "README.md").read_text("utf-8")) if notebook.COMMAND.match(m[0])
    ]
    return [block[3].partition("\n")[2].strip("\n") for block in blocks]


DIVISION = "integer division or modulo by zero"
HELPER = "def my_base(n, parts):\n    return n // parts"
SHARD_OF = "def shard_of(n, parts, i):\n    return n[i]"
ELSEWHERE = "def shard_of(n, parts, i):\n    return my_base(n, parts)"


@pytest.mark.full
def test_exercises_and_exceptions(execute: Execute) -> None:
    """The verdicts are those of `lessons check`; an exception stays one, and the kernel goes on."""
    check_1, check_2 = 'check_here("07.1", shard_of)', 'check_here("07.2", sync_gradients)'
    wrong = next(m for m in BY_ID["07.2"].mutants() if m.path.stem == "2_mean").path.read_text("utf-8")
    without = 'import sys; sys.modules["matplotlib"] = None'
    setup = notebook.SETUP + notebook.PICTURE.format(name="loss.svg")
    cells = execute(
        setup, exercise_cell(BY_ID["07.2"], solved=True), check_2, wrong, check_2, SHARD_OF, check_1,
        HELPER, ELSEWHERE, check_1, "from minitrain.sharding import shard_of", check_1,
        "import minitrain as mt\nwith mt.launch() as world:\n    raise ValueError(world.size)",
        "threads.run(3, lambda world: 1 // (world.rank - 1))", "print(world.size)",
        without, setup, notebook.picture(BY_NUMBER["07"], "![a picture](figures/loss.svg)\n"), "import mpi4py",
    )  # fmt: skip
    found = [said(cell) for cell in cells]
    assert found[2].split()[:3] == ["07.2", "sync_gradients", "ok"] and "to hand it in, copy the cell" in found[2]
    assert found[4].startswith("07.2 sync_gradients           FAIL\n") and "hint: above the cell of 07.2" in found[4]
    assert "looks like: " in found[4]
    assert "TypeError: 'int' object is not subscriptable at cell.py:2: return n[i]" in found[6]
    assert "name 'my_base' is not defined" in found[9]  # the cell is checked alone
    assert found[11].startswith("UserError: shard_of is that of minitrain.sharding: first run the cell")
    assert found[12:15] == ["ValueError: 1", "RuntimeError: rank 1 of 3 raised ZeroDivisionError: " + DIVISION, "1"]
    assert found[17] == "The picture needs matplotlib: pip install matplotlib. Then run all cells again."
    assert found[18].startswith("ModuleNotFoundError")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    if comm.rank:\n        comm.receive(x, 0, tag)", "rank 1 waits in receive from rank 0 (cell.py:3)"),
        full("    while True:\n        pass", "rank 0 is at work (cell.py:"),
        full("    raise SystemExit(3)", "the program was ended (sys.exit) at cell.py:2"),
    ],
)
def test_a_check_with_threads_ends(body: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "LIMIT", 1.0)
    (tmp_path / "cell.py").write_text(f"def ring_all_gather(comm, x, tag, shards=None):\n{body}\n", "utf-8")
    verdict = check(BY_ID["06.2"], tmp_path / "cell.py", threads=True)
    assert verdict.state == "failed" and says in verdict.sentence, verdict


@pytest.mark.parametrize("id", ["06.1", "06.3", "06.4"])
def test_a_cell_that_passes_is_handed_in(id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the place of the stub, of a mistake that was given, and of a prediction, but of no other version."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "06_collectives" / "exercise.py"
    cell = "# mine\n" + exercise_cell(own(id), solved=True)
    assert handed_in(own(id), cell).startswith("to hand it in, copy the cell into 06_collectives/exercise.py")
    assert main(["init", ".", "--student", "anna", "--salt", SALT]) == 0
    others = {e.id: definition(file.read_text("utf-8"), e.function) for e in own(id).lesson.exercises if e.id != id}
    assert handed_in(own(id), cell).endswith("exercise.py has it now: that is the file to hand in")
    text = file.read_text("utf-8")
    assert text.count(cell.strip()) == 1 and text.count("PREDICTED") == 1
    assert ("PREDICTED_06_3 = None" in text) == (id != "06.3")
    assert {e.id: definition(text, e.function) for e in own(id).lesson.exercises if e.id != id} == others
    assert Folder(tmp_path).of(BY_ID[id]) == {"passed": True}
    assert handed_in(own(id), cell).endswith("exercise.py has it")
    assert "has another version" in handed_in(own(id), f"{cell}\n# better\n")
    assert file.read_text("utf-8") == text
    file.write_text("def (", "utf-8")
    assert handed_in(own(id), cell).startswith("to hand it in, copy")


def test_the_same_file_each_time_and_no_work_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "07_data_parallel.ipynb"
    assert main(["notebook", "7"]) == main(["notebook", "07", "--out", "again.ipynb"]) == 0
    assert first.read_bytes() == (tmp_path / "again.ipynb").read_bytes()
    first.write_text("mine", "utf-8")
    assert main(["notebook", "07"]) == 2 and "07_data_parallel.ipynb exists" in capsys.readouterr().err
    assert first.read_text("utf-8") == "mine"
    monkeypatch.setitem(sys.modules, "nbformat", None)
    assert main(["notebook", "01"]) == 2 and "pip install nbformat" in capsys.readouterr().err


@pytest.mark.parametrize("lesson", written(), ids=lambda lesson: lesson.number)
def test_the_page_is_complete(lesson: Lesson) -> None:
    """Every heading, exercise and line of lesson.py's cells is there; no link leads nowhere."""
    cells = list(notebook.merged(notebook.cells(lesson)))
    texts = "\n".join(text for kind, text in cells if kind == "markdown")
    page = (lesson.folder / "README.md").read_text("utf-8")
    assert re.findall("^## .*", texts, re.M) == re.findall("^## .*", page, re.M)
    assert not re.search(r"\]\((?!http)", BLOCK.sub("", texts)) and "lessons init" not in texts
    assert ("threads.run(4, programs.six_lines)" in texts) == ("programs.py six_lines" in page)
    codes = [text for kind, text in cells if kind == "code"]
    for code in codes:
        compile(re.sub(";(  #.*)?$", "", code), "cell", "exec")
    for e in lesson.exercises:
        assert codes.index(f'check_here("{e.id}", {e.function})') == codes.index(exercise_cell(e).strip()) + 1
        assert all(f"<summary>{e.id}, hint {i} of 3</summary>" in texts for i in (1, 2, 3))
    program = (lesson.folder / "lesson.py").read_text("utf-8").split("# %% ")[-1]
    assert program.startswith("The program\ndef main()") and not any("__main__" in code for code in codes)


def test_rows_that_need_mpirun_are_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    receipt = Receipt()
    receipt.need_mpirun("processes left", "exit status")
    with pytest.raises(UserError, match="it is empty"):
        receipt.print()
    receipt.equal("one", 1, 1)
    receipt.print()
    capsys.readouterr()
    receipt.equal("two", 2, 3)
    with pytest.raises(UserError, match=r"does not add up: two$"):
        receipt.print()
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[2:] == [
        ["processes", "left", "needs", "mpirun"], ["exit", "status", "needs", "mpirun"],
        ["one", "1", "1", "ok"], ["two", "2", "3", "NO"],
    ]  # fmt: skip
