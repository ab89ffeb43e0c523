"""Text as numbers: the bundled plays or a text file, one token per character, and a validation split."""

import hashlib
import lzma
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from ..errors import UserError, check_text, check_whole, shown
from .sample_checks import as_known, as_row

BUNDLED = Path(__file__).with_name("shakespeare.txt.xz")


def load_text(path: str | Path | None = None) -> str:
    """Return the bundled text (eight plays by Shakespeare), or the UTF-8 file at `path`.

    Line endings become one newline, and a byte order mark at the start is dropped. Raise UserError if the file is
    missing, is a folder, cannot be read, is not UTF-8, contains NUL characters, or is blank.
    """
    if path is None:
        return lzma.decompress(BUNDLED.read_bytes()).decode("ascii")
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"path is {shown(path)}; it must be the path of a text file")
    name = f"text file {shown(str(path))}"
    data = _read(Path(path), name)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"byte {data[error.start]:#04x} at position {error.start}, in line {line}"
        raise UserError(f"{name} is not UTF-8 ({where}): save it as UTF-8") from error
    if "\0" in text:
        raise UserError(
            f"{name} has a NUL character at position {text.index(chr(0))}, as UTF-16 text does: "
            "save it as UTF-8, or give a text file"
        )
    if not text.strip():
        raise UserError(f"{name} is empty: give a file with text to train on")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path, name: str) -> bytes:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{name} is not a regular file, and every rank reads all of it: save it to a file first")
        return path.read_bytes()
    except FileNotFoundError as error:
        advice = "check the path, or omit it to use the bundled text"
        raise UserError(f"{name} does not exist (working folder {str(Path.cwd())!r}): {advice}") from error
    except IsADirectoryError as error:
        raise UserError(f"{name} is a folder: give one text file in it") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}; give a readable file") from error
    except ValueError as error:  # a null byte
        raise UserError(f"{name} is not a valid file name: {error}") from error


class CharTokenizer:
    """One token per character: a character's id is its position in the vocabulary.

    Raise UserError if the vocabulary is empty or repeats a character.
    """

    name = "characters"

    def __init__(self, vocabulary: str) -> None:
        check_text("vocabulary", vocabulary)
        if not vocabulary:
            raise UserError("the vocabulary is empty: it needs at least one character")
        codes = _codes(vocabulary)
        distinct, counts = np.unique(codes, return_counts=True)
        if len(distinct) < len(codes):
            repeated = chr(distinct[counts > 1][0])
            raise UserError(f"the vocabulary {_shown(vocabulary)} repeats {repeated!r}: give each character once")
        self.vocabulary = vocabulary
        self._codes = codes
        # Code point -> id, or -1 if it is not in the vocabulary; the last entry covers all larger code points.
        self._ids = np.full(int(codes.max()) + 2, -1, np.int32)
        self._ids[codes] = np.arange(len(codes), dtype=np.int32)

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """Return the tokenizer whose vocabulary is the sorted distinct characters of the text."""
        check_text("text", text)
        return cls("".join(sorted(set(text))))

    @property
    def size(self) -> int:
        """Number of characters in the vocabulary, V."""
        return len(self.vocabulary)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the vocabulary in UTF-8."""
        return hashlib.sha256(self.vocabulary.encode("utf-8", "surrogatepass")).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids, int32 (len(text),). Raise UserError for a character outside the vocabulary."""
        check_text("text", text)
        ids = self._ids[np.minimum(_codes(text), len(self._ids) - 1)]
        unknown = ids < 0
        if unknown.any():
            position = int(unknown.argmax())
            raise UserError(
                f"character {text[position]!r} at position {position} is not in the vocabulary: allowed are "
                f"the {self.size} characters {_shown(self.vocabulary)}; omit it, or train on text that contains it"
            )
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of the ids, which may have any shape. Raise UserError for an id outside the vocabulary."""
        return self._codes[as_known(ids, self.size)].tobytes().decode("utf-32-le", "surrogatepass")


def split(ids: Sequence[int] | np.ndarray, validation: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return (train, validation): the end of the ids is held out, and training sees only what comes before it.

    Passages held out at random would have neighbors in the training text. Raise UserError if either side is empty.
    """
    ids = as_row("ids", ids)
    held_out = count_held_out(len(ids), validation)
    return ids[: len(ids) - held_out], ids[len(ids) - held_out :]


def count_held_out(n: int, validation: float) -> int:
    """Return how many of n items to hold out for validation. Raise UserError if either side would be empty."""
    check_whole("n", n)
    if not isinstance(validation, Real) or not 0 < validation < 1:
        raise UserError(f"validation fraction {validation} is not between 0 and 1: 0.1 holds out a tenth")
    held_out = round(n * validation)
    if not 0 < held_out < n:
        raise UserError(
            f"validation fraction {validation} of {n} leaves {n - held_out} for training and {held_out} for "
            "validation, and both need at least one; give more data or another fraction"
        )
    return held_out


def _codes(text: str) -> np.ndarray:
    """Return the characters' code points, uint32. Surrogates, which a command line may contain, are allowed."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _shown(vocabulary: str, most: int = 200) -> str:
    """Return the vocabulary for a message, truncated to `most` characters."""
    return repr(vocabulary) if len(vocabulary) <= most else f"{vocabulary[:most]!r}..."
