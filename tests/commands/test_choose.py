"""The README's table of distributed strategies: each command chooses what its row says."""

import re
import shlex
from pathlib import Path

import pytest

from minitrain.cli import main

ROOT = Path(__file__).resolve().parents[2]


def rows() -> list[tuple[str, str]]:
    """Return (options of `plan`, the first choice) of the rows."""
    text = (ROOT / "README.md").read_text("utf-8")
    table = text[text.index("| first choice |") :].split("\n\n")[0]
    return re.findall(r"\| `([^`]*)` \| ([^|]*) \|$", table, re.MULTILINE)


def test_the_table_has_its_rows() -> None:
    assert len(rows()) == 8


@pytest.mark.full
@pytest.mark.parametrize(("options", "choice"), rows())
def test_a_row_is_true(options: str, choice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *shlex.split(options)]) == 0
    assert f"The first choice: {choice}\n" in capsys.readouterr().out


def test_sixteen_bits_fit_where_32_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    ((options, choice),) = re.findall(r"`python -m minitrain plan ([^`]*)`: ([^|]*) \|", text)
    assert main(["plan", *shlex.split(options)]) == 0
    assert f"The first choice: {choice}\n" in capsys.readouterr().out
