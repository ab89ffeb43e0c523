"""The weights of a trained model, wherever they come from: found, described, and read rank by rank.

    weights = find(Path("build/gpt2"), world)              its config, tokenizer and tensors; no values yet
    model = gpt(weights.config)
    start_from(model, weights)
    trainer = Trainer(model, world, strategy=Strategy(zero=3))     now each rank reads its share

    a path to                                   is read as
    a model file of train                       model.safetensors, with the config in its metadata
    a folder of export or import                the same in one or more files, with an index (model_files.py)
    a folder with a config.json                 GPT-2 in Hugging Face's layout (gpt2_layout.py)
    a checkpoint, or a folder of some           the last complete one, after its sums are checked (checkpoint_folder.py)

All are read through an index of where each tensor lies (region_reader.py), so that a rank reads the bytes of the slices
that it holds, and no others. Names and shapes must be exactly those of the model.
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, to_device
from ..comm.agreement import agreed, check_same
from ..comm.communicator import Communicator
from ..data.bpe import FILE as TOKENIZER
from ..errors import UserError, check_text, reason, shown
from ..models import GPTConfig, Model, gpt
from . import gpt2_layout, model_files
from .checkpoint_folder import CHECKPOINTS, LARGE, candidates, newest, none_in
from .checkpoint_index import Index, Logical, Piece, RankFile
from .gpt2_layout import CONFIG, HEAD
from .model_files import Headers
from .owned_regions import MODEL
from .region_reader import BLOCK, Reader, check_parameters
from .regions import Region, whole
from .tensor_file import Later, check_header

DTYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}
TIED, TOKENS = "tied/head", "embed.tokens.weight"  # a head that must equal the token table; the table


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model are, and what is known of it. No values have been read."""

    path: Path  # a file, a folder, or a checkpoint in one
    folder: Path  # where the tokenizer is, if it is beside the model
    config: GPTConfig
    tokenizer: dict[str, Any] | None  # its name, SHA-256 and, for characters, its vocabulary; None: nothing is known
    reader: Reader

    def fingerprint(self) -> str:
        """Return a short text that differs between files of different sizes or contents, but for their values."""
        index = self.reader.index
        files = [(Path(file.name).name, file.size, file.sha256) for file in index.files]
        tensors = sorted((name, x.dtype, x.shape) for name, x in index.tensors.items())
        return f"{zlib.crc32(repr([self.config, self.tokenizer, files, tensors]).encode()):08x}"


def find(path: Path, world: Communicator, log: Callable[[str], None] = print) -> Weights:
    """Return the weights at a path. All ranks call it; of a checkpoint, they check every byte.

    Raise UserError, on all ranks, if there are none, if they do not fit together, or if ranks found different ones.
    """
    folder = agreed(world, lambda: checkpoint_in(path) if world.rank == 0 else None)
    if world.gather_objects(folder is not None)[0]:
        weights = of_checkpoint(*newest(path, world, log))
    else:
        weights = agreed(world, lambda: look(path))
        agreed(world, lambda: check_tied(weights) if world.rank == 0 else None)
    check_same(world, {"files of the weights": weights.fingerprint()})
    size = sum(x.nbytes for name, x in weights.reader.index.tensors.items() if name.startswith(MODEL))
    if size > LARGE and world.rank == 0:
        log(f"reading weights of {size / 1e9:,.1f} GB from {weights.path}")
    return weights


def look(path: Path) -> Weights:
    """Return the weights at a path, on one process, without reading values: sums and a tied head are not checked.

    Raise UserError if there are none, or if they do not fit together.
    """
    if (found := checkpoint_in(path)) is not None:
        return of_checkpoint(*found)
    try:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}{hint(path)}")
        if is_checkpoint(path):
            here = f"{model_files.ONE}, with {CONFIG} if it is a GPT-2,"
            raise UserError(f"{path} has neither {here} nor a complete checkpoint{hint(path)}")
        folder = path if path.is_dir() else path.parent
        if folder == path and not (path / model_files.ONE).exists() and not (path / model_files.INDEX).exists():
            raise UserError(f"{path} has {CONFIG}, but no {model_files.ONE}{hint(path)}")
        headers = model_files.read_headers(folder) if path.is_dir() else {path.name: model_files.header(path)}
        described = "minitrain" in metadata(folder / min(headers))
        return (of_gpt2 if (folder / CONFIG).exists() and not described else of_minitrain)(path, folder, headers)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def checkpoint_in(path: Path) -> tuple[Path, Index] | None:
    """Return the last checkpoint whose index is sound, if a path is one or has some. Raise UserError."""
    try:
        found, troubles = candidates(path) if is_checkpoint(path) else ([], [])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if troubles and not found:
        raise UserError(none_in(path, troubles))
    return found[0] if found else None


def hint(path: Path) -> str:
    """Return what to do where no weights were found."""
    run = next((it for it in (path, path.parent) if (it / CHECKPOINTS).is_dir()), None)
    if run is not None and run != path:
        return f"; train writes it at the end, but {run} has checkpoints: give {run / CHECKPOINTS}"
    if path.is_dir() and list(path.glob("pytorch_model*.bin")):
        return "; minitrain reads safetensors: save the model again, with save_pretrained"
    return "; check the path (nothing is downloaded), or train a model first: python -m minitrain train"


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a folder without the files of a model, so that it must be one of checkpoints."""
    return path.is_dir() and not any((path / it).exists() for it in (CONFIG, model_files.ONE, model_files.INDEX))


# The three sources ----------------------------------------------------------------------------------------------------


def of_checkpoint(folder: Path, index: Index) -> Weights:
    """Return the weights in a checkpoint. Raise UserError unless `train` has saved it."""
    about = index.about
    if not isinstance(about.get("gpt"), dict) or not isinstance(about.get("tokenizer"), dict):
        raise UserError(f"{folder} does not describe a GPT: train of this version did not save it")
    beside = next((it for it in folder.resolve().parents[:2] if (it / TOKENIZER).exists()), folder)  # of the run
    config = described(folder, about["gpt"])
    return checked(Weights(folder, beside, config, about["tokenizer"], Reader(folder, index)))


def of_minitrain(path: Path, folder: Path, headers: Headers) -> Weights:
    """Return the weights that train, export or import has written. Raise UserError if these files are none."""
    first, texts = folder / min(headers), {metadata(folder / name).get("minitrain") for name in headers}
    if None in texts:
        raise UserError(
            f"{first} is a safetensors file, but not one that minitrain wrote, and there is no {CONFIG} beside it.\n"
            "Copy the config.json of a GPT-2 there, or write the file with minitrain"
        )
    if len(texts) > 1:
        raise UserError(f"the files in {folder} are of different models: write them again, or copy all of them")
    try:
        about = json.loads(texts.pop() or "")
        config, tokenizer = about["gpt"], about.get("tokenizer")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{first} does not describe a GPT of this version of minitrain: {shown(error)}") from error
    wanted = {name: (MODEL + name, entry.shape) for file in headers.values() for name, entry in file.items()}
    reader = plain_reader(folder, headers, wanted)
    return checked(Weights(path, folder, described(first, config), tokenizer, reader))


def of_gpt2(path: Path, folder: Path, headers: Headers) -> Weights:
    """Return the weights of a GPT-2. Raise UserError if config.json or the tensors are not those of one."""
    given = model_files.read_json(folder / CONFIG)
    config = gpt2_layout.read_config(folder / CONFIG, given)
    shapes = {name: entry.shape for file in headers.values() for name, entry in file.items()}
    wanted = {name: (MODEL + ours, shape) for name, (ours, shape) in gpt2_layout.needed(path, config, shapes).items()}
    if HEAD in shapes and HEAD not in wanted:  # there twice: check_tied compares the two
        wanted[HEAD] = (TIED, shapes[HEAD])
    reader = plain_reader(folder, headers, wanted)
    kinds = {x.dtype for x in reader.index.tensors.values()}
    about = given.get("minitrain")  # what `export` has added
    tokenizer = about.get("tokenizer") if isinstance(about, dict) else about
    config = replace(config, dtype="float64" if kinds == {"float64"} else "float32")
    return checked(Weights(path, folder, config, tokenizer, reader))


def described(place: Path, sizes: Mapping[str, Any]) -> GPTConfig:
    """Return the config that a file describes. Raise UserError, naming the file, if it is none."""
    try:
        return GPTConfig(**sizes)
    except TypeError as error:
        raise UserError(f"{place} does not describe a GPT of this version of minitrain: {shown(error)}") from error
    except UserError as error:
        raise UserError(f"{place} does not describe a GPT: {error}") from error


def checked(weights: Weights) -> Weights:
    """Return the weights. Raise UserError unless their tensors and tokenizer are such as the config describes."""
    config, index, tokenizer = weights.config, weights.reader.index, weights.tokenizer
    blocks = {name.split(".")[1] for name in index.tensors if name.startswith(f"{MODEL}blocks.")}
    if len(blocks) != config.layers:  # before the model is made
        raise UserError(f"{weights.path} describes {config.layers} layers, but has the tensors of {len(blocks)}")
    cure = "It does not have what it describes; write it again"
    check_parameters(f"model in {weights.path}", index, gpt(config), cure)
    if tokenizer is None:
        return weights
    if not isinstance(tokenizer, dict):
        raise UserError(f"{weights.path} has the tokenizer {shown(tokenizer)}; it must be a dictionary")
    for key in ("name", "sha256", "vocabulary"):
        check_text(f"{weights.path}: {key} of its tokenizer", tokenizer.get(key, ""))
    if "vocabulary" in tokenizer and (size := len(tokenizer["vocabulary"])) != config.vocabulary:
        raise UserError(
            f"{weights.path} describes a model of {config.vocabulary} tokens, but its vocabulary has {size}"
        )
    return weights


def check_tied(weights: Weights) -> None:
    """Raise UserError if a tied head has a weight of its own, which differs from the token table. Reads both."""
    table, reader = MODEL + TOKENS, weights.reader
    if TIED not in reader.index.tensors:
        return
    one, other = reader.index.tensors[table], reader.index.tensors[TIED]
    held, run = whole(one.shape)
    blocks = (Region(held, slice(lo, min(lo + BLOCK, run.stop))) for lo in range(0, run.stop, BLOCK))
    differs = lambda block: (reader.read(table, block) != reader.read(TIED, block)).any()
    if one[:2] != other[:2] or any(map(differs, blocks)):
        raise UserError(
            f"{weights.path}: its {CONFIG} says that the head is tied, but {HEAD} differs from the token table.\n"
            "Set tie_word_embeddings to false, if both were trained"
        )


def metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata of a safetensors file. Raise UserError if it cannot be read."""
    found = check_header(path).get("__metadata__")
    return found if isinstance(found, dict) else {}


def plain_reader(folder: Path, headers: Headers, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> Reader:
    """Return the reader of a model in plain files. wanted: name there -> (name in the index, shape here).

    Links are followed: a download may consist of links to a cache. Raise UserError for a dtype that cannot be read.
    """
    files, tensors = [], {}
    for number, (file, entries) in enumerate(headers.items()):
        place = (folder / file).resolve()
        files.append(RankFile(str(place), place.stat().st_size, ""))
        for name in entries.keys() & wanted.keys():
            if (dtype := entries[name].dtype) not in DTYPES:
                raise UserError(f"{folder / file} holds {name} as {dtype}; minitrain reads {', '.join(DTYPES)}")
            ours, shape = wanted[name]
            tensors[ours] = Logical(DTYPES[dtype], shape, [Piece(number, whole(shape), 0)])
    names = {ours: name for name, (ours, _) in wanted.items()}
    return Reader(folder, Index(0, "", 0, {}, {}, {}, files, tensors), names=names)


# Into a model ---------------------------------------------------------------------------------------------------------


def start_from(model: Model, weights: Weights) -> list[str]:
    """Let a model that has no values yet take them from these weights, when `init` or a trainer initializes it.

    Return what will be converted, in sentences. Raise UserError unless names and shapes are exactly the model's.
    """
    cure = "Build the model with the sizes of the weights"
    notes = check_parameters(f"model in {weights.path}", weights.reader.index, model, cure)
    for p in model.parameters():
        p.start_from(StoredParameter(weights, p.placement.path))
    return notes


@dataclass(frozen=True)
class StoredParameter:
    """A parameter in files: the `Stored` values of nn.Parameter."""

    weights: Weights
    path: str

    def later(self, shape: tuple[int, ...]) -> Later:
        """Return all of it as an array of this shape and the model's dtype, which is read when it is written."""
        dtype, here = np.dtype(self.weights.config.dtype), self.weights.reader.index.tensors[MODEL + self.path].shape

        def read() -> np.ndarray:
            out = np.empty(math.prod(shape), dtype)
            self.read(out, *whole(here))
            return out.reshape(shape)

        return Later(dtype, shape, read)

    def read(self, out: Array, held: tuple[slice, ...], run: slice) -> None:
        """Write elements `run` of the slice `held`, flattened, into out (n). Raise UserError if one is not finite."""
        for place, values in self.weights.reader.blocks(self.path, Region(held, run), out.dtype):
            if not np.isfinite(values).all():
                raise UserError(f"{self.weights.path} holds nan or inf in {self.path}: that run diverged; use another")
            out[place] = values if isinstance(out, np.ndarray) else to_device(values)
