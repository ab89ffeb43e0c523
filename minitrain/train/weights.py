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
from ..errors import UserError, check_names, shown
from ..models import GPTConfig, Model, gpt
from . import gpt2_layout, model_files
from .checkpoint_folder import CHECKPOINTS, LARGE, candidates, newest
from .checkpoint_index import Index, Logical, Piece, RankFile
from .gpt2_layout import CONFIG
from .model_files import Headers
from .owned_regions import MODEL
from .region_reader import BLOCK, Reader, check_parameters
from .regions import Region, whole
from .tensor_file import Later, check_header

DTYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}
HEAD, TOKENS = "lm_head.weight", "embed.tokens.weight"


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model are, and what is known of it. No values have been read."""

    path: Path  # as the user gave it
    config: GPTConfig
    tokenizer: dict[str, Any] | None  # its name, SHA-256 and, for characters, its vocabulary; None: nothing is known
    reader: Reader

    @property
    def folder(self) -> Path:
        """Where its tokenizer may be: the folder of the run, or of the model."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return next((it.parent for it in (folder, *folder.parents[:1]) if it.name == CHECKPOINTS), folder)

    def fingerprint(self) -> str:
        """Return a short text that differs between different files, without reading their values."""
        index = self.reader.index
        given = [self.config, index.files, sorted((name, x.dtype, x.shape) for name, x in index.tensors.items())]
        return f"{zlib.crc32(repr(given).encode()):08x}"


def find(path: Path, world: Communicator, log: Callable[[str], None] = print) -> Weights:
    """Return the weights at a path. All ranks call it; of a checkpoint, they check every byte.

    Raise UserError, on all ranks, if there are none, if they do not fit together, or if ranks found different ones.
    """
    if world.gather_objects(is_checkpoint(path) and bool(candidates(path)[0]))[0]:
        folder, index = newest(path, world, log)
        weights = agreed(world, lambda: of_checkpoint(path, folder, index))
    else:
        weights = agreed(world, lambda: look(path))
    check_same(world, {f"the weights in {path}": weights.fingerprint()})
    size = sum(x.nbytes for name, x in weights.reader.index.tensors.items() if name.startswith(MODEL))
    if size > LARGE and world.rank == 0:
        log(f"reading weights of {size / 1e9:,.1f} GB from {path}")
    return weights


def look(path: Path) -> Weights:
    """Return the weights at a path on one process; the sums of a checkpoint are not checked. Raise UserError."""
    if not path.exists():
        raise UserError(f"there is no file or folder {path}{hint(path)}")
    if is_checkpoint(path):
        found, troubles = candidates(path)
        if not found:
            raise UserError(
                "\n".join([f"{path} has neither {model_files.ONE} nor a complete checkpoint{hint(path)}", *troubles])
            )
        return of_checkpoint(path, *found[0])
    if path.is_dir() and (path / CONFIG).exists():
        return of_gpt2(path, path, model_files.read_headers(path))
    if path.is_dir():
        return of_minitrain(path, path, model_files.read_headers(path))
    headers = {path.name: model_files.header(path)}
    there = (path.parent / CONFIG).exists() and "minitrain" not in metadata(path)
    return (of_gpt2 if there else of_minitrain)(path, path.parent, headers)


def hint(path: Path) -> str:
    """Return what to do where no weights were found."""
    run = next((it for it in (path, path.parent) if (it / CHECKPOINTS).is_dir()), None)
    if run is not None and run != path:
        return f"; train writes it at the end, but {run} has checkpoints: give {run / CHECKPOINTS}"
    if path.is_dir() and list(path.glob("pytorch_model*.bin")):
        return "; minitrain reads safetensors: save the model again, with save_pretrained"
    return "; train a model first: python -m minitrain train"


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a folder without the files of a model, so that it must be one of checkpoints."""
    return path.is_dir() and not any((path / it).exists() for it in (CONFIG, model_files.ONE, model_files.INDEX))


# The three sources ----------------------------------------------------------------------------------------------------


def of_checkpoint(path: Path, folder: Path, index: Index) -> Weights:
    """Return the weights in a checkpoint. Raise UserError unless `train` has saved it."""
    about = index.about
    if not isinstance(about.get("gpt"), dict) or not isinstance(about.get("tokenizer"), dict):
        raise UserError(f"{folder} does not describe a GPT: train of this version did not save it")
    return checked(Weights(path, described(folder, about["gpt"]), about["tokenizer"], Reader(folder, index)))


def of_minitrain(path: Path, folder: Path, headers: Headers) -> Weights:
    """Return the weights that train, export or import has written. Raise UserError if these files are none."""
    first = folder / min(headers)
    text = metadata(first).get("minitrain")
    if text is None:
        raise UserError(
            f"{first} is a safetensors file, but not one that minitrain wrote, and there is no {CONFIG} beside it.\n"
            "Copy the config.json of a GPT-2 there, or write the file with minitrain"
        )
    try:
        about = json.loads(text)
        config, tokenizer = about["gpt"], about.get("tokenizer")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{first} does not describe a GPT of this version of minitrain: {shown(error)}") from error
    names = [name for file in headers.values() for name in file]
    reader = plain_reader(folder, headers, {name: (name, None) for name in names})
    return checked(Weights(path, described(first, config), tokenizer, reader))


def of_gpt2(path: Path, folder: Path, headers: Headers) -> Weights:
    """Return the weights of a GPT-2. Raise UserError if config.json or the tensors are not those of one."""
    config = gpt2_layout.read_config(folder / CONFIG, model_files.read_json(folder / CONFIG))
    given = {name: entry for file in headers.values() for name, entry in file.items()}
    bare = not any(name.startswith(gpt2_layout.PREFIX) for name in given)  # saved without its head
    wanted = {}
    for ours, (theirs, there, here) in gpt2_layout.layout(config).items():
        name = theirs.removeprefix(gpt2_layout.PREFIX) if bare else theirs
        wanted[name] = (ours, here)
        if name in given and given[name].shape != there:
            raise UserError(
                f"{path} has shape {given[name].shape} for {name}, but with its {CONFIG} it must be {there}"
            )
    spare = {name for name in given if gpt2_layout.MASK.fullmatch(name)}
    if config.tied and HEAD in given:
        check_tied(path, folder, headers, next(name for name, (ours, _) in wanted.items() if ours == TOKENS))
        spare.add(HEAD)
    cure = f"Its {CONFIG} says {config.layers} layers, {'a tied' if config.tied else 'an untied'} head"
    check_names(f"GPT-2 in {path}", CONFIG, given.keys() - spare, wanted.keys(), cure)
    reader = plain_reader(folder, headers, wanted)
    dtype = "float64" if {x.dtype for x in reader.index.tensors.values()} == {"float64"} else "float32"
    about = model_files.read_json(folder / CONFIG).get("minitrain")  # what `export` has added
    tokenizer = about.get("tokenizer") if isinstance(about, dict) else None
    return Weights(path, replace(config, dtype=dtype), tokenizer, reader)


def check_tied(path: Path, folder: Path, headers: Headers, table: str) -> None:
    """Raise UserError unless the head's weight is the token table, as config.json says. `table`: its name there."""
    reader = plain_reader(folder, headers, {table: ("table", None), HEAD: ("head", None)})
    one, other = (reader.index.tensors[MODEL + name] for name in ("table", "head"))
    held, run = whole(one.shape)
    for lo in range(0, run.stop, BLOCK):
        block = Region(held, slice(lo, min(lo + BLOCK, run.stop)))
        if one[:2] != other[:2] or (reader.read(f"{MODEL}table", block) != reader.read(f"{MODEL}head", block)).any():
            raise UserError(
                f"{path}: its {CONFIG} says that the head is tied, but {HEAD} differs from {table}.\n"
                "Set tie_word_embeddings to false, if both were trained"
            )


def described(place: Path, sizes: Mapping[str, Any]) -> GPTConfig:
    """Return the config that a file describes. Raise UserError, naming the file, if it is none."""
    try:
        return GPTConfig(**sizes)
    except TypeError as error:
        raise UserError(f"{place} does not describe a GPT of this version of minitrain: {shown(error)}") from error
    except UserError as error:
        raise UserError(f"{place} does not describe a GPT: {error}") from error


def checked(weights: Weights) -> Weights:
    """Return the weights. Raise UserError unless their tensors and vocabulary are those that the config describes."""
    config, index = weights.config, weights.reader.index
    blocks = {name.split(".")[1] for name in index.tensors if name.startswith(f"{MODEL}blocks.")}
    if len(blocks) != config.layers:  # before the model is made
        raise UserError(f"{weights.path} describes {config.layers} layers, but has the tensors of {len(blocks)}")
    check_parameters(f"file {weights.path}", index, gpt(config), "It does not have what it describes; write it again")
    tokenizer = weights.tokenizer
    if isinstance(tokenizer, dict) and isinstance(tokenizer.get("vocabulary"), str):
        if (size := len(tokenizer["vocabulary"])) != config.vocabulary:
            raise UserError(
                f"{weights.path} describes a model of {config.vocabulary} tokens, but its vocabulary has {size}"
            )
    elif tokenizer is not None and not isinstance(tokenizer, dict):
        raise UserError(f"{weights.path} has the tokenizer {shown(tokenizer)}; it must be a dictionary")
    return weights


def metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata of a safetensors file. Raise UserError if it cannot be read."""
    found = check_header(path).get("__metadata__")
    return found if isinstance(found, dict) else {}


def plain_reader(folder: Path, headers: Headers, wanted: Mapping[str, tuple[str, tuple[int, ...] | None]]) -> Reader:
    """Return the reader of a model in plain files. wanted: name there -> (path here, shape here; None: as there).

    Links are followed: a download may consist of links to a cache. Raise UserError for a dtype that cannot be read.
    """
    files, tensors = [], {}
    for number, (file, entries) in enumerate(headers.items()):
        place = (folder / file).resolve()
        files.append(RankFile(str(place), place.stat().st_size, ""))
        for name, entry in entries.items():
            if name not in wanted:
                continue
            if entry.dtype not in DTYPES:
                raise UserError(f"{folder / file} holds {name} as {entry.dtype}; minitrain reads {', '.join(DTYPES)}")
            path, shape = wanted[name]
            shape = entry.shape if shape is None else shape
            tensors[MODEL + path] = Logical(DTYPES[entry.dtype], shape, [Piece(number, whole(shape), 0)])
    names = {MODEL + path: name for name, (path, _) in wanted.items()}
    return Reader(folder, Index(0, "", 0, {}, {}, {}, files, tensors), names=names)


# Into a model ---------------------------------------------------------------------------------------------------------


def start_from(model: Model, weights: Weights) -> list[str]:
    """Let a model that has no values yet take them from these weights, when `init` or a trainer initializes it.

    Return what will be converted, in sentences. Raise UserError unless names and shapes are exactly the model's.
    """
    cure = "Build the model with the sizes of the weights"
    notes = check_parameters(f"file {weights.path}", weights.reader.index, model, cure)
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
