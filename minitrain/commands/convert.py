"""Models as files: in from GPT-2's layout, out to plain safetensors files that other programs read.

    python -m minitrain import gpt2 --to build/gpt2            a folder with config.json, as Hugging Face saves it
    python -m minitrain export build/run --to build/tuned      and back

Both read and write one tensor at a time.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..comm.threads import world_of_one
from ..data.bpe import Tokenizer
from ..data.text import CharTokenizer
from ..environment import launched
from ..errors import UserError, check_number, reason
from ..models import gpt
from ..train import gpt2_layout
from ..train.model_files import write_json, write_model
from ..train.progress import Progress
from ..train.region_reader import check_parameters
from ..train.weights import StoredParameter, Weights, find
from .model_tokenizer import FILE, BytePairTokenizer, description, of_weights, place_of, write

MB = 1e6
Layout = Literal["gpt2", "minitrain"]


@dataclass(frozen=True)
class Export:
    """Write a model as safetensors files with an index, in GPT-2's layout or ours."""

    model: tyro.conf.Positional[Path] = Path("build/run")
    """Folder of a run, a model file, or a checkpoint."""
    to: Path = Path("build/export")
    """New folder for the files."""
    layout: Layout = "gpt2"
    """gpt2: with config.json, names and shapes as transformers has them. minitrain: as this program has them."""
    shard_mb: float = 5000.0
    """Most megabytes of a file; a larger tensor has a file of its own."""
    tokenizer: Path | None = None
    """Tokenizer of the model, if it is not beside it."""

    def run(self) -> int:
        """Write the files, on rank 0 only, and print their names."""
        return 0 if launched()[1] else convert(self.model, self.to, self.layout, self.shard_mb, self.tokenizer)


@dataclass(frozen=True)
class Import:
    """Read a GPT-2 as Hugging Face saves it, and write it as a model of minitrain."""

    model: tyro.conf.Positional[Path]
    """Folder with config.json, model.safetensors or its shards, and the tokenizer."""
    to: Path = Path("build/import")
    """New folder for the files."""
    shard_mb: float = 5000.0
    """Most megabytes of a file; a larger tensor has a file of its own."""
    tokenizer: Path | None = None
    """Tokenizer of the model, if it is not beside it."""

    def run(self) -> int:
        """Write the files, on rank 0 only, and print their names."""
        return 0 if launched()[1] else convert(self.model, self.to, "minitrain", self.shard_mb, self.tokenizer)


def convert(model: Path, to: Path, layout: Layout, shard_mb: float, given: Path | None = None) -> int:
    """Read a model and write it in this layout. given: its tokenizer. Raise UserError if either is impossible."""
    check_number("--shard-mb", shard_mb, "above 0")
    with Progress().task("reading the model"):
        weights = find(model, world_of_one())
    if to == Path():
        raise UserError("--to is the current folder, or its name is empty; name a new folder")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} has files already; give a new folder with --to")
    known = given or weights.tokenizer is not None or place_of(weights)
    tokenizer = of_weights(weights, given) if known else None
    about = {"gpt": asdict(weights.config), "tokenizer": None if tokenizer is None else description(tokenizer)}
    print("\n".join(summary(weights)))
    partial = to.with_name(f"{to.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was interrupted
        with Progress().task("writing the model"):
            WRITERS[layout](weights, partial, about, shard_mb * MB)
        if isinstance(tokenizer, BytePairTokenizer):
            write(tokenizer, partial / FILE)
        partial.replace(to)
    except OSError as error:
        raise UserError(f"cannot write {to}: {reason(error)}; give another folder with --to") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"wrote {to}" + remark(tokenizer, layout))
    return 0


def summary(weights: Weights) -> Iterator[str]:
    """Yield what a model is, and what is converted, in lines."""
    c = weights.config
    yield f"GPT of {c.parameters:,} parameters: {c.layers} layers of width {c.width}, {c.heads} heads, {c.dtype}"
    yield from check_parameters(f"model in {weights.path}", weights.reader.index, gpt(c), "")


def remark(tokenizer: Tokenizer | None, layout: Layout) -> str:
    """Return what to say of the tokenizer of a model that was written."""
    if tokenizer is None:
        return "; there is no tokenizer: train and sample need one, --tokenizer"
    characters = layout == "gpt2" and isinstance(tokenizer, CharTokenizer)
    return "; its tokens are characters, for which transformers has no tokenizer" if characters else ""


def as_gpt2(weights: Weights, to: Path, about: dict[str, Any], shard: float) -> None:
    """Write a model in GPT-2's layout."""
    names = gpt2_layout.layout(weights.config)
    tensors = {theirs: StoredParameter(weights, ours).later(there) for ours, (theirs, there, _) in names.items()}
    write_model(to, tensors, {"format": "pt"}, shard)  # transformers asks for this entry
    config = {**gpt2_layout.config_there(weights.config), "minitrain": {"tokenizer": about["tokenizer"]}}
    write_json(to / gpt2_layout.CONFIG, config)


def as_minitrain(weights: Weights, to: Path, about: dict[str, Any], shard: float) -> None:
    """Write a model with the names that it has here."""
    parameters = gpt(weights.config).parameters()
    tensors = {p.placement.path: StoredParameter(weights, p.placement.path).later(p.shape) for p in parameters}
    write_model(to, tensors, {"minitrain": json.dumps(about)}, shard)


WRITERS: dict[Layout, Callable[[Weights, Path, dict[str, Any], float], None]]
WRITERS = {"gpt2": as_gpt2, "minitrain": as_minitrain}
