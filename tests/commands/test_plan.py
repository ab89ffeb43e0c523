"""plan finds strategies by formulas only, says why others do not fit, and prints a command that trains like that."""

import csv
import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from minitrain.cli import main
from minitrain.comm.communicator import Communicator
from minitrain.commands import plan as plan_command
from minitrain.commands.plan import Plan
from minitrain.commands.plan_options import PlannedModel
from minitrain.commands.plan_report import digits
from minitrain.commands.plan_setup import setup_of
from minitrain.commands.train import Train
from minitrain.errors import UserError
from minitrain.planner.estimate import Estimate
from minitrain.planner.machines import COMPUTERS
from minitrain.planner.presets import MODELS
from minitrain.planner.search import search
from minitrain.tensor import Tensor

Capture = pytest.CaptureFixture[str]
STATUSES = {"fits", "too large", "impossible", "slower"}
# A small search, and larger ones: several precisions, wide columns, more ranks than are tried thoroughly.
REQUESTS = (
    "--pp 2",
    "--precision fp32 bf16-weights --schedule interleaved --pp 2 --ranks 8 --context 512",
    "gpt2-1.5b --machine a100 --ranks 32 --tp 8 --pp 2",
    "minitrain --ranks 32 --memory-gb 0.004 --top 3",
)


def said(capsys: Capture, arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["plan", *arguments.split()]) == status
    return capsys.readouterr().out


def table(text: str) -> list[dict[str, str]]:
    """Return the rows of the table of strategies. A schedule may be of two words."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:3] == ["dp", "pp", "tp"])
    headings = lines[start].split()
    found = []
    for line in lines[start + 1 : lines.index("", start)]:
        cells = re.sub(r"(interl\.|[\d.,]+(?= (?:us|ms|s|min|h|days|MiB|GiB)\b)) ", r"\1_", line).split()
        found.append(dict(zip(headings, cells, strict=True)))
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.name.endswith(".json"):
        return json.loads(path.read_text())["combinations"]
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.parametrize("arguments", ["", *REQUESTS])
def test_the_table_fits_a_terminal(arguments: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """No number is cut off, however narrow the terminal is."""
    monkeypatch.setenv("COLUMNS", "40")
    text = said(capsys, arguments)
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("dp pp tp"))
    rows = table(text)
    assert max(map(len, lines[start : start + 1 + len(rows)])) <= 80
    assert 1 <= len(rows) <= 10 and "\N{HORIZONTAL ELLIPSIS}" not in text


@pytest.mark.full
@pytest.mark.parametrize("arguments", ["--tp 2 --pp 2", REQUESTS[3]])
def test_every_combination_is_written(arguments: str, tmp_path: Path, capsys: Capture) -> None:
    paths = [tmp_path / "plan.json", tmp_path / "plan.csv"]
    for path in paths:
        said(capsys, f"{arguments} --out {path}")
    rows, same = map(rows_of, paths)
    assert [row["status"] for row in rows] == [row["status"] for row in same]
    assert {row["status"] for row in rows} <= STATUSES
    for row in rows:
        assert (row["status"] == "fits") != bool(row.get("why")), row
        assert row["status"] != "fits" or min(row["seconds"], row["bytes_total"]) > 0
    request, _ = tyro.cli(Plan, args=arguments.split(), config=(tyro.conf.OmitArgPrefixes,)).request()
    assert len(rows) == len([*search(request)])
    divided = {(row["dp"], row["pp"], row["tp"]) for row in rows}
    expected = {
        (request.ranks // (pp * tp), pp, tp)
        for pp in range(1, request.ranks + 1)
        for tp in range(1, request.ranks + 1)
        if request.ranks % (pp * tp) == 0
    }
    fixed = request.fixed
    assert divided == {
        axes for axes in expected if fixed.get("pp", axes[1]) == axes[1] and fixed.get("tp", axes[2]) == axes[2]
    }


@pytest.mark.full
def test_all_four_statuses(tmp_path: Path, capsys: Capture) -> None:
    said(capsys, f"{REQUESTS[3]} --out {tmp_path / 'plan.json'}")
    assert {row["status"] for row in rows_of(tmp_path / "plan.json")} == STATUSES


@pytest.mark.full
@pytest.mark.parametrize(
    "arguments",
    [
        "--memory-gb 0.001",
        "--memory-gb 0.001 --pp 2 --precision bf16-weights",
        "gpt2-1.5b --layers 4 --memory-gb 1 --pp 2 --tp 1",
    ],
)
def test_what_does_not_fit(arguments: str, tmp_path: Path, capsys: Capture) -> None:
    """It is said by how much, and the memory that is suggested is enough and hardly more than that."""
    text = said(capsys, arguments, status=1)
    assert "No strategy fits." in text and "need too much memory:" in text
    more = re.search(r"the closest found, .*, needs ([\d.,]+) (MiB|GiB) more per rank:", text)
    enough = re.search(r"it fits with --memory-gb ([\d.]+); or try more --ranks,\n  a smaller --batch", text)
    assert more and enough
    rest = re.sub(r"--memory-gb \S+", "", arguments)
    said(capsys, f"{rest} --memory-gb {enough[1]}")
    said(capsys, f"{rest} --memory-gb {0.98 * float(enough[1])}", status=1)


@pytest.mark.full
def test_the_memory_of_a_host_that_is_enough(capsys: Capture) -> None:
    text = said(capsys, "--host-memory-gb 0.365 --pp 1", status=1)
    enough = re.search(r"it fits with --host-memory-gb ([\d.]+)", text)
    assert enough
    said(capsys, f"--pp 1 --host-memory-gb {enough[1]}")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--tp 8 --ranks 8", "tp 8: attention has 4 heads; tp at most 4"),
        ("--pp 7 --ranks 7", "pp 7: there are 6 units (the embedding, 4 blocks, the head); pp at most 6"),
        ("--dp 4 --batch 3", "dp 4: the batch has 3 sequences, one per rank needs 4; a larger batch"),
        ("--zero 3 --dp 1", "zero 3 with dp 1: ZeRO divides what the dp ranks hold; dp at least 2"),
        ("--zero 2 --pp 2 --dp 2", "zero 2 with pp 2: in a pipeline, zero is at most 1"),
        ("--schedule gpipe --pp 1", "schedule gpipe with pp 1: there is no pipeline; pp at least 2"),
        (
            "--schedule interleaved --pp 4",
            "schedule interleaved with pp 4: two chunks a rank need 8 units, there are 6",
        ),
        ("--accumulate 25 --dp 1", "accumulate 25 with dp 1: the batch has 24 sequences, but 25 x 1 are needed"),
        ("--schedule interleaved --accumulate 3 --pp 2", "interleaved with accumulate 3: pp 2 does not divide it"),
        ("--schedule interleaved --batch 1 --pp 2 --dp 1", "pp 2 divides no number of micro-batches tried"),
        (
            "--schedule dualpipe --batch 2 --pp 2 --dp 1",
            "schedule dualpipe: pp 2 needs 4, 6, ... micro-batches; none was tried",
        ),
    ],
)
def test_limits_that_nothing_satisfies(arguments: str, why: str, capsys: Capture) -> None:
    text = said(capsys, arguments, status=1)
    assert "No strategy fits." in text and f"{why}\n" in text and "dp pp tp" not in text


@pytest.mark.parametrize(
    ("arguments", "cells"),
    [
        ("--dp 2 --tp 2", {"dp": "2", "tp": "2", "pp": "1"}),
        ("--tp 2 --pp 2", {"tp": "2", "pp": "2"}),
        ("--dp 4 --zero 2 --recompute 1", {"ZeRO": "2", "rc": "1"}),
        ("--pp 4 --schedule gpipe", {"schedule": "gpipe"}),
        ("--pp 2 --tp 4 --ranks 24 --schedule naive", {"schedule": "naive"}),
        ("--pp 2 --accumulate 5", {"k": "5"}),
        ("--dp 4 --ranks 4 --recompute 0", {"rc": "-", "dp": "4"}),
    ],
)
def test_what_is_fixed(arguments: str, cells: dict[str, str], capsys: Capture) -> None:
    rows = table(said(capsys, arguments))
    assert rows and all(row[name] == value for row in rows for name, value in cells.items())


def test_a_precision_given_twice_is_one(capsys: Capture) -> None:
    assert said(capsys, "--pp 2 --tp 2 --precision fp32 fp32") == said(capsys, "--pp 2 --tp 2 --precision fp32")


@pytest.mark.full
def test_no_micro_batch_lacks_a_sequence() -> None:
    """Otherwise train would refuse the command."""
    for batch in (7, 23):
        request, _ = Plan(PlannedModel(batch=batch)).request()
        for found in search(request):
            assert found.setup is None or found.setup.dp * found.setup.accumulate <= batch


def test_many_unequal_micro_batches_do_not_take_forever(capsys: Capture) -> None:
    rows = table(said(capsys, "--batch 99991 --memory-gb 1000 --dp 4 --top 3"))
    assert all(int(row["k"]) <= 64 for row in rows)


def test_presets(capsys: Capture) -> None:
    words = said(capsys, "--list").split()
    assert {*MODELS, *COMPUTERS} <= {*words}


def test_published(capsys: Capture) -> None:
    text = said(capsys, "--published")
    assert "ZeRO (arXiv:1910.02054, table 1)" in text and "stage 3" in text and "174.6B" in text
    assert "8 x 16 x 16 x 4 for 16,384: refused: tp 8 x cp 16 x pp 16 x dp 4 is 8,192 ranks" in " ".join(text.split())
    assert text.count("the ranks and the tokens of a batch agree") == 3
    assert "530B       31.64    114.02     23.08" in text
    both = said(capsys, "--published --list")
    assert text in both and "llama3-405b" in both


def test_formulas_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained: no tensor and no communicator is made."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this is not a formula")

    monkeypatch.setattr(Tensor, "__init__", refuse)
    monkeypatch.setattr(Communicator, "__init__", refuse)
    for arguments in (
        "--pp 2",
        "llama3-8b --layers 3 --machine h100 --ranks 32 --tp 8 --pp 1",
        "--list",
        "--published",
    ):
        said(capsys, arguments)
    said(capsys, "--memory-gb 0.001", status=1)


@pytest.mark.parametrize(
    "arguments",
    [
        "--pp 2",
        "--dp 4 --zero 3",
        "--tp 4 --memory-gb 0.004",
        "--pp 2 --schedule interleaved --precision bf16-weights",
        "--precision fp16 --dp 2 --tp 2 --zero 1",
        "--machine a100 --ranks 8 --dp 4 --zero 3",
        "minitrain --machine a100 --ranks 8 --pp 2 --recompute 1 --vocabulary 99",
    ],
)
def test_the_command_trains_like_that(arguments: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options mean the setup that is predicted."""
    every: list[Any] = []

    def watched(found: Iterator[Any]) -> list[Any]:
        every.extend(found)
        return every

    monkeypatch.setattr(plan_command, "watched", watched)
    text = said(capsys, arguments)
    first = min((e for e in every if isinstance(e, Estimate)), key=lambda e: (float(e.time), float(e.memory["total"])))
    shown = text.partition("It runs as:\n")[2].partition("\n\n")[0]
    assert max(map(len, shown.splitlines())) <= 80
    mpirun, n, ranks, *words = shlex.split(shown.replace("\\\n", " "))
    assert [mpirun, n, *words[:4]] == ["mpirun", "-n", "python", "-m", "minitrain", "train"]
    config = tyro.cli(Train, args=words[4:], config=(tyro.conf.OmitArgPrefixes,))
    found = setup_of(config, first.setup.sizes.vocabulary, int(ranks))
    assert dataclasses.asdict(found) == dataclasses.asdict(first.setup)  # the strategy is of another class


@pytest.mark.parametrize(
    "arguments", ["--pp 2 --flash", "--pp 2 --hidden 100", "llama3-8b --layers 2 --memory-gb 1e6 --pp 2 --tp 2"]
)
def test_no_command_for_what_train_has_not(arguments: str, capsys: Capture) -> None:
    assert "It runs as:" not in said(capsys, arguments)


def test_a_file_that_cannot_be_written_is_told_before_the_search(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_command, "search", lambda request: pytest.fail("searched"))
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "folder.json", tmp_path / "none" / "plan.csv", "a\0b.json"):
        with pytest.raises(UserError, match=r"cannot write .*give another file with --out"):
            Plan(out=Path(path)).run()


def test_digits() -> None:
    shown = [digits(number) for number in (0.012345, 1.5, 999.4, 999.6, 1023.4, 123456.7, 1.5e6)]
    assert shown == ["0.0123", "1.5", "999", "1,000", "1,023", "123,457", "1.5e+06"]
