"""Text as byte pairs: the tokens are bytes and the most frequent sequences of bytes.

Training starts from the 256 bytes and merges the most frequent pair of neighbors into a new token until there are
enough: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", arXiv:1508.07909; on bytes, as
here: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. The package tokenizers does the work.
It is imported when a tokenizer is made, and is only given files and strings, never a name to download.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..errors import UserError, check_text, check_whole, reason, shown
from .sample_checks import as_known
from .text import CharTokenizer

if TYPE_CHECKING:
    import tokenizers

FILE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
LONGEST = 100_000_000  # bytes of a file
END = "<|endoftext|>"  # in GPT-2's vocabulary, but no merges lead to it

# What a tokenizer may change: a beginning without a space, capitals, white space, accents, and each byte of UTF-8.
ALL = "".join(map(chr, [*range(0x800), *range(0x800, 0x110000, 0x800)])).encode("utf-8", "ignore").decode()
PROBE = "Probe  it,\tnow\r\n\n" + ALL


class BytePairTokenizer:
    """Byte pairs from the JSON of a tokenizer, as `load`, `train` and `json` have it. where: its name in messages.

    Raise UserError for JSON that is no tokenizer, for a tokenizer that is not BPE, has holes in its ids, draws its
    merges at random, or does not give a text back as it was, and if the package tokenizers is not installed. A limit
    on the length, or a length to pad to, is dropped.
    """

    name = "byte pairs"

    def __init__(self, text: str, where: str = "the tokenizer") -> None:
        check_text("text", text)
        library = _library()
        try:
            self._bpe: tokenizers.Tokenizer = library.Tokenizer.from_str(text)
        except Exception as error:  # the package raises no class of its own
            raise UserError(f"{where} is not the JSON of a tokenizer: {error}; give a {FILE}") from error
        self._where = where
        self._bpe.no_truncation()
        self._bpe.no_padding()
        self._check_model()
        self.encode(PROBE + "".join(f"  {token.content}  " for token in self._bpe.get_added_tokens_decoder().values()))

    def _check_model(self) -> None:
        """Raise UserError unless it is a BPE without dropout whose ids are 0 to V - 1."""
        model = self._bpe.model
        kind = type(model).__name__
        if kind != "BPE":
            raise UserError(f"{self._where} is a {kind} tokenizer; it must be byte-level BPE, such as GPT-2's")
        if dropout := getattr(model, "dropout", None):
            raise UserError(f"{self._where} draws its merges at random: set its dropout, {dropout:g}, to null")
        ids = set(self._bpe.get_vocab().values())
        if holes := sorted({*range(self.size)} - ids):
            raise UserError(
                f"{self._where} has {self.size} tokens, but none with id {holes[0]}: give it ids without holes"
            )

    @classmethod
    def load(cls, path: str | Path) -> "BytePairTokenizer":
        """Return the tokenizer in a file, tokenizer.json, or in a folder that has it, or vocab.json and merges.txt.

        The latter two are GPT-2's: its special token <|endoftext|> is then one token in a text. Raise UserError if
        there is no such file, it cannot be read, or the class refuses it.
        """
        path = _as_path(path)
        where = f"tokenizer {shown(str(path))}"
        try:
            if not path.is_dir():
                return cls(_read(path), where)
            if (path / FILE).exists():
                return cls(_read(path / FILE), where)
            if (path / VOCABULARY).exists() and (path / MERGES).exists():
                return cls(_gpt2(path, where).to_str(), where)
        except (OSError, ValueError) as error:  # a null byte; not UTF-8
            raise UserError(f"{where} cannot be read: {reason(error)}; give a {FILE}, or its folder") from error
        raise UserError(f"{where} is a folder without {FILE}, or {VOCABULARY} and {MERGES}: give one that has them")

    @classmethod
    def train(cls, text: str, size: int) -> "BytePairTokenizer":
        """Return the tokenizer of `size` tokens, bytes included, that the text yields: the same one each time.

        Raise UserError for a size below 257, or above what the text yields.
        """
        data = _as_utf8(text)
        check_whole("size", size, 257)
        library = _library()
        bpe = _byte_level(library, library.models.BPE())
        trainer = library.trainers.BpeTrainer(
            vocab_size=min(size, 256 + len(data)),  # it allocates this many; n bytes make fewer than n merges
            show_progress=False,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        )
        bpe.train_from_iterator([text], trainer)
        if (most := bpe.get_vocab_size()) < size:
            raise UserError(
                f"size is {size}, but the text yields only {most} tokens: give at most {most}, or more text"
            )
        return cls(bpe.to_str())

    @property
    def size(self) -> int:
        """Number of tokens, special ones included, V."""
        return self._bpe.get_vocab_size()

    @property
    def json(self) -> str:
        """The tokenizer as JSON, in the package's own form: the same for the same tokenizer."""
        return self._bpe.to_str()

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of what decides the ids of a text, whatever file it comes from, and whatever version wrote it."""
        given = json.loads(self.json)
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in given["model"]["merges"]]
        added = sorted((token["id"], token["content"]) for token in given["added_tokens"])
        content = [sorted(given["model"]["vocab"].items()), merges, added, _splitting(given["pre_tokenizer"])]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids, int32 (n,), with n at most the number of bytes.

        Raise UserError for a text that UTF-8 cannot encode, or that would not be given back as it is.
        """
        _as_utf8(text)
        ids = self._bpe.encode_batch_fast([text])[0].ids  # fast: without the positions in the text
        back = self._bpe.decode(ids, skip_special_tokens=False)
        if back != text:
            at = next(i for i in range(len(text) + 1) if text[i : i + 1] != back[i : i + 1])
            bpe = self._bpe
            parts = (bpe.normalizer, bpe.pre_tokenizer, bpe.post_processor, bpe.decoder)
            raise UserError(
                f"{self._where} changes text: {text[at : at + 20]!r} at position {at} becomes {back[at : at + 20]!r}. "
                f"Its parts are {', '.join(type(part).__name__ for part in parts if part is not None) or 'none'}: give "
                "a byte-level one without a normalizer, a prefix space, or tokens that it adds to a text"
            )
        return np.array(ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of the ids, which may have any shape; bytes that are not UTF-8 become U+FFFD.

        Raise UserError for an id outside 0 to V - 1.
        """
        return self._bpe.decode(as_known(ids, self.size).tolist(), skip_special_tokens=False)


Tokenizer: TypeAlias = CharTokenizer | BytePairTokenizer


def _library() -> ModuleType:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as BLAS: ranks share the cores. And no warning at a fork
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"byte pairs need the package tokenizers, which cannot be imported ({error}): "
            "pip install -e '.[tokenizers]', or use characters"
        ) from error
    return tokenizers


def _byte_level(library: ModuleType, model: "tokenizers.models.BPE") -> "tokenizers.Tokenizer":
    bpe: tokenizers.Tokenizer = library.Tokenizer(model)
    bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = library.decoders.ByteLevel()
    return bpe


def _gpt2(folder: Path, where: str) -> "tokenizers.Tokenizer":
    library = _library()
    for name in (VOCABULARY, MERGES):
        _read(folder / name)
    try:
        model = library.models.BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES))
    except Exception as error:  # as above
        raise UserError(f"{where} has no valid {VOCABULARY} and {MERGES}: {error}") from error
    bpe = _byte_level(library, model)
    if bpe.token_to_id(END) is not None:
        bpe.add_special_tokens([END])
    return bpe


def _splitting(parts: Any) -> Any:
    """Return how a text is split before pairs are merged, without what concerns positions in the text only."""
    if isinstance(parts, dict):
        return {key: _splitting(value) for key, value in sorted(parts.items()) if key != "trim_offsets"}
    return [_splitting(part) for part in parts] if isinstance(parts, list) else parts


def _read(path: Path) -> str:
    """Return the text of a regular file. Raise OSError or ValueError for anything else, or if it is too long."""
    if not path.is_file():
        raise OSError(0, "No such file" if not path.exists() else "it is no regular file")
    if path.stat().st_size > LONGEST:
        raise OSError(0, f"it is larger than {LONGEST:,} bytes")
    return path.read_text("utf-8")


def _as_path(path: str | Path) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"path is {shown(path)}; it must be the path of a {FILE}")
    return Path(path)


def _as_utf8(text: str) -> bytes:
    check_text("text", text)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has a lone surrogate, {text[error.start]!r}, at position {error.start}, which UTF-8 "
            "cannot encode: leave it out"
        ) from error
