"""Train a tokenizer of byte pairs on a text."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len

from ..data.bpe import BytePairTokenizer
from ..data.text import load_text
from ..environment import launched
from ..errors import UserError, reason, shown
from ..train.progress import Progress
from .model_tokenizer import write


@dataclass(frozen=True)
class TrainTokenizer:
    """Train a byte-pair tokenizer on a text, and save it as JSON."""

    text: Path | None = None
    """UTF-8 text file to train on. None: the bundled plays."""
    size: int = 1024
    """Number of tokens, of which 256 are the bytes."""
    to: Path = Path("build/tokenizer.json")
    """File to write."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def run(self) -> int:
        """Train, write and print, on rank 0 only. Raise UserError if the file exists or cannot be written."""
        if launched()[1] != 0:
            return 0
        if self.to.is_dir():
            raise UserError(f"{shown(str(self.to))} is a folder: give a file with --to")
        if self.to.exists() and not self.overwrite:
            raise UserError(f"{self.to} exists: give another file with --to, or --overwrite to replace it")
        progress = Progress()
        with progress.task("training the tokenizer"):
            text = load_text(self.text)
            tokenizer = BytePairTokenizer.train(text, self.size)
        with progress.task("encoding the text"):
            ids = tokenizer.encode(text)
        try:
            write(tokenizer, self.to)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.to} cannot be written: {reason(error)}; give another file with --to") from error
        tokens = [tokenizer.decode([i]) for i in range(256, tokenizer.size)]
        print(f"{tokenizer.size:,} tokens, sha256 {tokenizer.sha256[:16]}...")
        print(f"{len(text) / len(ids):.2f} characters per token: {len(text):,} characters, {len(ids):,} tokens")
        print(fitting("first merges:", tokens))
        print(fitting("longest:", sorted(tokens, key=len, reverse=True)))
        print(f"saved {self.to}")
        return 0


def fitting(line: str, words: Iterable[str], columns: int = 80) -> str:
    """Return the line, followed by as many of the words, in quotes, as fit."""
    for word in words:
        if cell_len(longer := f"{line} {word!r}") > columns:
            break
        line = longer
    return line
