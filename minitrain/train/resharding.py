"""Loading a checkpoint on any mesh: each rank reads the slices that it needs.

    folder, index = newest(Path("build/run"), world)         checkpoint_folder.py; every byte has been checked
    for line in load(trainer, folder, index):
        print(line)                                          what had to be converted, if anything

A rank reads the pieces of the logical tensors that overlap with what it holds (region_reader.py). Adam's moments of a
ZeRO shard may come from parts of the files of several ranks.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..backend import Array, accumulation_dtype, to_host
from ..comm.agreement import agreed
from ..errors import UserError
from ..optim import Optimizer, Part
from ..parallel.reducer import require
from .checkpoint_index import Index
from .owned_regions import OPTIMIZER
from .region_reader import Reader, check_parameters, converted
from .regions import Region
from .tensor_file import FILES, Files
from .trainer import Trainer


def load(trainer: Trainer, folder: Path, index: Index, files: Files = FILES) -> list[str]:
    """Continue from a checkpoint that `newest` returned. All ranks call it. Return what was converted, in sentences.

    Floats are converted to the dtypes of this run: parameters in half precision come from the saved float32 masters, if
    there are any, and the other way round. Raise UserError, before any change, if the checkpoint does not fit the model
    or the optimizer.
    """
    reader = Reader(folder, index, files)
    notes = agreed(trainer.world, lambda: check_fits(trainer, index))
    state, more = state_for(trainer, reader)
    read = lambda: (optimizer_state(trainer, reader), list(parameters(trainer, reader)))
    state["optimizer"], values = agreed(trainer.world, read)
    trainer.load_state_dict(state)
    for place, x in values:
        place[...] = x
    return notes + more


def parameters(trainer: Trainer, reader: Reader) -> Iterator[tuple[Array, Array]]:
    """Yield the place of each parameter, or of the shard of it that is held here, and its values."""
    for bucket in trainer.reducer.buckets:
        held = require(bucket.shard if bucket.data is None else bucket.data)
        for p, run, place in bucket.part(bucket.group.rank if bucket.data is None else None):
            yield held[place], reader.read_parameter(p.placement.path, Region(p.placement.index, run), p.dtype)


def check_fits(trainer: Trainer, index: Index) -> list[str]:
    """Return notes on conversions. Raise UserError unless the checkpoint has this model and this kind of optimizer."""
    cure = "Build the model with the sizes of the checkpoint"
    notes = check_parameters("checkpoint", index, trainer.model, cure)
    check_optimizer(trainer.optimizer, index)
    return notes


def check_optimizer(optimizer: Optimizer, index: Index) -> None:
    """Raise UserError if the checkpoint has the state of another kind of optimizer."""
    states = {name.rpartition(".")[2] for name in index.tensors if name.startswith(OPTIMIZER)} - {"master"}
    if states != set(optimizer.states) and index.updates and optimizer.reducer.held():
        raise UserError(
            f"the checkpoint has the state of another optimizer: {', '.join(sorted(states)) or 'none'}; "
            f"{type(optimizer).__name__} keeps {', '.join(optimizer.states) or 'none'}. Give the optimizer of the run"
        )


def state_for(trainer: Trainer, reader: Reader) -> tuple[dict[str, Any], list[str]]:
    """Return the plain state for this trainer, and notes on parts that are of another kind and start afresh."""
    state, notes = dict(reader.index.state), []
    for name, part in trainer.parts_of_state().items():
        own = part.state_dict()
        if not isinstance(state.get(name), dict) or state[name].keys() != own.keys():
            state[name] = own
            notes.append(f"the {name} of the checkpoint is of another kind: this run starts with a new one")
    if isinstance(history := state["history"], dict):
        number = lambda x: math.nan if x is None else x
        state["history"] = {key: [*map(number, row)] if isinstance(row, list) else row for key, row in history.items()}
    return state, notes


def optimizer_state(trainer: Trainer, reader: Reader) -> dict[str, Any]:
    """Return the part of the optimizer's state that this rank needs, as its state_dict() would.

    Raise UserError if the checkpoint lacks some of it.
    """
    optimizer, tensors = trainer.optimizer, reader.index.tensors
    state: dict[str, Any] = {"updates": reader.index.updates}
    if not reader.index.updates:
        return state
    for held in trainer.reducer.held():
        dtype = accumulation_dtype(held.data.dtype)
        for p, run, _ in held.pieces:
            path, region = p.placement.path, Region(p.placement.index, run)
            for name in optimizer.states:
                if (key := f"{OPTIMIZER}{path}.{name}") not in tensors or tensors[key].shape != p.placement.shape:
                    raise UserError(f"the checkpoint has no {name} for {path}, which was not trained then")
                state[f"{path}.{name}"] = Part(converted(key, reader.read(key, region), dtype), *region)
            if held.data.dtype != dtype:
                state[f"{path}.master"] = Part(to_host(reader.read_parameter(path, region, dtype)), *region)
    return state
