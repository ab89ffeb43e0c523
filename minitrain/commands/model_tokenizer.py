"""Which tokenizer a model has: chosen, described in the model's file by name and SHA-256, and found again."""

from pathlib import Path
from typing import Any

from ..data.bpe import FILE, VOCABULARY, BytePairTokenizer, Tokenizer
from ..data.text import CharTokenizer
from ..errors import UserError, shown
from ..train.tensor_file import FILES, NewFile, make_folders
from ..train.weights import Weights
from .options import DataOptions


def chosen(options: DataOptions, text: str) -> Tokenizer:
    """Return the tokenizer that the options name; by default, the characters of the text. Raise UserError."""
    if options.tokenizer is not None:
        return BytePairTokenizer.load(options.tokenizer)
    return CharTokenizer.of(text) if options.characters is None else CharTokenizer(options.characters)


def description(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a model's file says of its tokenizer. It holds the characters, but not a vocabulary of byte pairs."""
    about = {"name": tokenizer.name, "sha256": tokenizer.sha256}
    return about | ({"vocabulary": tokenizer.vocabulary} if isinstance(tokenizer, CharTokenizer) else {})


def write(tokenizer: BytePairTokenizer, path: Path) -> None:
    """Write a tokenizer to a file, which has its name only once it is complete. Raise OSError if that fails."""
    make_folders(path.parent)
    with NewFile(path) as file:
        FILES.write(file, tokenizer.json.encode())


def unit(tokenizer: Tokenizer) -> str:
    """Return what a token is called in messages."""
    return "character" if isinstance(tokenizer, CharTokenizer) else "token"


def place_of(weights: Weights) -> Path | None:
    """Return the folder of a model, if there is a tokenizer of byte pairs in it."""
    return weights.folder if any((weights.folder / name).exists() for name in (FILE, VOCABULARY)) else None


def of_weights(weights: Weights, given: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a model: the one given, its own characters, or the one beside it.

    Raise UserError if there is none, or if it is not the model's.
    """
    place, about = given or place_of(weights), weights.tokenizer or {}
    tokenizer: Tokenizer
    if given is None and about.get("vocabulary") is not None:
        tokenizer = CharTokenizer(about["vocabulary"])
    elif place is not None:
        tokenizer = BytePairTokenizer.load(place)
    else:
        raise missing(weights)
    try:
        check(tokenizer, weights)
    except UserError as error:
        leave = "" if given is None or place_of(weights) is None else f", or leave --tokenizer {given} out"
        raise UserError(f"{error}{leave}") from error
    return tokenizer


def missing(weights: Weights) -> UserError:
    """Return the error of weights of which nobody knows the tokenizer."""
    return UserError(
        f"{weights.path} has no tokenizer beside it ({FILE}, or vocab.json and merges.txt): give it, --tokenizer"
    )


def check(tokenizer: Tokenizer, weights: Weights) -> None:
    """Raise UserError unless this is the tokenizer of these weights, as far as they describe it."""
    check_described(f"{weights.path}", weights.tokenizer, tokenizer)
    if tokenizer.size != weights.config.vocabulary:
        raise UserError(
            f"the tokenizer has {tokenizer.size:,} tokens, but the model in {weights.path} has "
            f"{weights.config.vocabulary:,}: give the tokenizer with which it was trained"
        )


def check_described(model: str, about: dict[str, Any] | None, tokenizer: Tokenizer) -> None:
    """Raise UserError if a model's file describes another tokenizer than this one."""
    if about is None or about.get("sha256") == tokenizer.sha256:
        return
    named = lambda it: shown(it["vocabulary"]) if "vocabulary" in it else f"SHA-256 {str(it.get('sha256'))[:16]}..."
    raise UserError(
        f"{model} has another tokenizer: {about.get('name')}, {named(about)}; this one is {tokenizer.name}, "
        f"{named(description(tokenizer))}. Give the one with which it was trained"
    )
