"""tokenizer trains byte pairs on a text, writes them once they are complete, and shows them in 80 columns."""

import sys
from pathlib import Path

import pytest

from minitrain.cli import main
from minitrain.data.bpe import BytePairTokenizer
from minitrain.data.text import load_text
from minitrain.train.tensor_file import FILES

pytest.importorskip("tokenizers", reason="byte pairs need the package tokenizers")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Write the beginning of the bundled text, and a word whose merges are as long as a line."""
    path = tmp_path / "text.txt"
    path.write_text(load_text()[:20_000] + "-" * 200)
    return path


def said(capsys: Capture, *arguments: object, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["tokenizer", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert all(len(line) <= 80 or line.startswith("saved ") for line in captured.out.splitlines())
    return captured.err if status else captured.out


def test_what_is_written_and_shown(
    text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = said(capsys, "--text", text, "--size", 300, "--to", "new/t.json")
    tokens, letters = BytePairTokenizer.load("new/t.json"), text.read_text()
    n = len(tokens.encode(letters))
    assert tokens.sha256 == BytePairTokenizer.train(letters, 300).sha256
    assert f"300 tokens, sha256 {tokens.sha256[:16]}" in shown and shown.endswith("saved new/t.json\n")
    assert f"{len(letters) / n:.2f} characters per token: {len(letters):,} characters, {n:,} tokens" in shown
    assert f"first merges: {tokens.decode([256])!r} {tokens.decode([257])!r}" in shown
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.json"]


def test_a_file_is_replaced_only_when_asked(text: Path, tmp_path: Path, capsys: Capture) -> None:
    (path := tmp_path / "t.json").write_text("mine")
    arguments = ["--text", text, "--size", 260, "--to", path]
    assert "t.json exists: give another file with --to, or --overwrite" in said(capsys, *arguments, status=2)
    assert path.read_text() == "mine"
    said(capsys, *arguments, "--overwrite")
    assert BytePairTokenizer.load(path).size == 260


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "256"], "size is 256; it must be at least 257"),
        (["--size", "99999999"], "the text yields only"),
        (["--to", "text.txt/t.json"], "cannot be written: "),
        (["--to", "."], "is a folder: give a file with --to"),
        (["--text", "nowhere.txt"], "nowhere.txt' does not exist"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], words: str, text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = ["--text", text, "--size", 257, "--to", "t.json"]
    assert words in said(capsys, *defaults, *arguments, status=2)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_full_disk_leaves_the_old_file(
    text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FILES, "write", full)
    (path := tmp_path / "t.json").write_text("mine")
    words = said(capsys, "--text", text, "--size", 257, "--to", path, "--overwrite", status=2)
    assert "No space left on device" in words and path.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "t.json"}


def test_only_rank_0_works(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert said(capsys, "--to", tmp_path / "t.json") == "" and not (tmp_path / "t.json").exists()


def test_the_package_is_missing(text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "[tokenizers]'" in said(capsys, "--text", text, "--to", tmp_path / "t.json", status=2)
