"""Checkpoints: the logical model in one file, on whatever mesh it was trained."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, accumulation_dtype, is_float, to_device, to_host
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError, check_choice, check_names, check_whole, shown
from ..models import Model
from ..nn import Parameter
from ..operands import is_masked
from ..optim import Part, State, unscaled
from ..parallel.buckets import Bucket
from ..parallel.reducer import MODEL, Reducer
from . import tensor_file
from .checkpoint_folder import CHECKPOINTS
from .tensor_file import FILES, Files, make_folders

STORED = {"float32": "F32", "float64": "F64"}  # in the file of a model: NumPy's names, and safetensors' names


def gather(
    model: Model,
    world: Communicator,
    what: str = "data",
    reducer: Reducer | None = None,
    root: int | None = None,
) -> dict[str, np.ndarray]:
    """Return path -> logical array, assembled from the slices the ranks hold; every rank must call it.

    what: "data", or "grad" for the gradients as the optimizer sees them: without the loss scale, and clipped.
    reducer: needed for a divided model and for gradients; it knows the shards and the scale.
    root: the only rank to return the arrays; None: all ranks. The arrays are copies.
    Use it for checkpoints and comparisons, not in a training step. A parameter that each rank holds whole is not sent.
    Raise UserError for an invalid argument.
    """
    check_choice("what", what, ("data", "grad"))
    check_whole("root", 0 if root is None else root, 0, world.size - 1)
    if what == "grad" and reducer is None and any(p.bucket is not None for p in model.parameters()):
        raise UserError("a trainer holds the gradients: give gather(..., reducer=trainer.reducer)")
    if reducer is not None and reducer.mesh.parts("layers") > 1:
        return _gather_stages(model, what, reducer, reducer.mesh, root in (None, world.rank))
    logical: dict[str, np.ndarray] = {}
    for p, array in _held(model, what, reducer):
        if array is None:
            continue
        where = p.placement
        held = [(where.index, to_host(array))]
        pieces = held if where.local == where.shape else list(chain(*world.gather_objects(held)))
        if root in (None, world.rank):
            logical[where.path] = _joined(where.shape, pieces)
    return logical


def _gather_stages(model: Model, what: str, reducer: Reducer, mesh: Mesh, keep: bool) -> dict[str, np.ndarray]:
    """Gather the model of a pipeline, whose ranks have different parameters, in a single exchange."""
    held = [(p.placement, to_host(array)) for p, array in _held(model, what, reducer) if array is not None]
    pieces: dict[str, list] = {}
    for where, array in chain(*mesh.over(*MODEL).gather_objects(held)):
        pieces.setdefault(where.path, []).append((where, array))
    return {
        path: _joined(found[0][0].shape, [(where.index, array) for where, array in found])
        for path, found in (pieces.items() if keep else ())
    }


def _joined(shape: tuple[int, ...], pieces: Sequence[tuple[tuple[slice, ...], np.ndarray]]) -> np.ndarray:
    """Assemble the logical array from its slices."""
    logical = np.empty(shape, pieces[0][1].dtype)
    for index, piece in pieces:
        logical[index] = piece
    return logical


def _held(model: Model, what: str, reducer: Reducer | None) -> Iterator[tuple[Parameter, Array | None]]:
    """Yield each parameter with its values or gradient, in the model's order, gathering divided buckets on the way."""
    flats: dict[Bucket, Array | None] = {}
    for p in model.parameters():
        bucket = p.bucket
        if reducer is None or bucket is None:
            yield p, getattr(p, what)
            continue
        if bucket not in flats:
            flats[bucket] = reducer.whole(bucket, what)
        flat = flats[bucket]
        if flat is None or what == "data" or reducer.factor == 1:
            yield p, None if flat is None else bucket.piece(p, flat)
        else:
            yield p, unscaled(bucket.piece(p, flat), accumulation_dtype(flat.dtype), reducer.factor)
        if p is bucket.parameters[0]:  # the forward uses it last, so all others have been yielded
            del flats[bucket]


def gather_state(state: State, world: Communicator) -> dict[str, np.ndarray | int]:
    """Return an optimizer's state_dict() with whole arrays, assembled from the parts of all ranks. All ranks call it.

    It equals the state of a single process and can be loaded on any mesh.
    """
    whole: dict[str, np.ndarray | int] = {}
    parts: dict[str, list[Part]] = {}
    for name, part in chain(*(rank.items() for rank in world.gather_objects(dict(state)))):
        if isinstance(part, Part):
            parts.setdefault(name, []).append(part)
        else:
            whole[name] = part
    for name, found in parts.items():
        shape = tuple(
            max(place.stop for place in places) for places in zip(*(part.held for part in found), strict=True)
        )
        whole[name] = logical = np.empty(shape, found[0].array.dtype)
        for part in found:
            index: tuple[Any, ...] = (*part.held, ...)  # a view, even of a 0-d array
            logical[index].flat[part.run] = part.array
    return whole


def save(path: str | Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any], files: Files = FILES) -> None:
    """Write a safetensors file, with `about` stored as JSON.

    The file appears complete or not at all, even if several ranks save to the same path, or if the power fails. Raise
    OSError if it cannot be written, UserError for values that are not arrays of float32 or float64.
    """
    for name, x in tensors.items():
        if isinstance(x, np.ndarray) and x.dtype.name not in STORED:
            raise UserError(f"{name} is {x.dtype}; `load` reads {' and '.join(STORED)}: save x.astype(np.float32)")
    path = Path(path)
    make_folders(path.parent, files)
    _sweep(path)
    tensor_file.write(path, tensors, {"minitrain": json.dumps(about)}, files)


def _sweep(path: Path) -> None:
    """Remove partial files left by runs that were killed while saving."""
    for old in path.parent.glob(f"{path.stem}.*.*.partial"):
        process = old.name.split(".")[-3]
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            old.unlink(missing_ok=True)
        except PermissionError:
            continue  # another user's process, still running


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors, about) as written by `save`.

    Raise UserError if the file is missing or not a minitrain checkpoint, or if a tensor has an unsupported dtype or is
    not finite.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file in it, such as {path / 'model.safetensors'}")
    if not path.is_file():
        if (path.parent / CHECKPOINTS).is_dir():
            cure = f"train writes it at the end: continue the run with python -m minitrain train --resume {path.parent}"
        else:
            cure = "train one first: python -m minitrain train"
        raise UserError(f"there is no checkpoint {path}; {cure}")
    tensor_file.check_header(path)
    try:
        with safe_open(path, framework="np") as file:
            about = (file.metadata() or {}).get("minitrain")
            names = list(file.keys())
            dtypes = {name: file.get_slice(name).get_dtype() for name in names}
            _check_dtypes(path, dtypes)
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    if about is None:
        raise UserError(f"{path} is a safetensors file, but not one that minitrain wrote")
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"{path} holds nan or inf in {shown(name)}: that run diverged; train another one")
    try:
        return tensors, json.loads(about)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} has metadata that is not valid JSON: {error}") from error


def _check_dtypes(path: Path, dtypes: Mapping[str, str]) -> None:
    for name, dtype in dtypes.items():
        if dtype not in STORED.values():
            raise UserError(
                f"{path} holds {shown(name)} as {dtype}; minitrain writes and reads {' and '.join(STORED.values())}: "
                "convert the file, or train another one"
            )


def restore(model: Model, tensors: Mapping[str, np.ndarray], strict: bool = True) -> None:
    """Load the logical tensors into the model, each rank its own slice, under any strategy, with or without a trainer.

    strict: paths and dtypes must match the model's exactly. Otherwise, missing parameters keep their values, extra
    tensors are ignored, and floats are converted. Shapes must always match.
    Raise UserError, before anything has changed, for tensors that do not match.
    """
    if not isinstance(tensors, Mapping):
        raise UserError(f"the tensors are {shown(tensors)}; give the dictionary that load returns first")
    here = {p.placement.path: p for p in model.parameters()}
    needed: dict[str, tuple[tuple[int, ...], np.dtype]] = {**getattr(model, "elsewhere", {})}
    needed |= {path: (p.placement.shape, p.dtype) for path, p in here.items()}
    if strict:
        cure = "Build the model with the checkpoint's sizes, or restore(..., strict=False) to load only what both have"
        check_names("checkpoint", "model", set(tensors), needed.keys(), cure)
    elif not needed.keys() & tensors.keys():
        raise UserError(
            f"the checkpoint has no parameter of the model: it has {', '.join(sorted(tensors)[:3]) or 'no tensors'}, "
            f"and the model has {', '.join(sorted(needed)[:3])}"
        )
    found = {path: fitting(path, tensors[path], *it, strict=strict) for path, it in needed.items() if path in tensors}
    for path, p in here.items():
        if path in found:
            p.data = to_device(np.array(found[path][p.placement.index], order="C"))


def fitting(path: str, values: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, strict: bool) -> np.ndarray:
    """Return the values in this dtype; if `strict`, they must already have it.

    Raise UserError if the shape or dtype differs, or if the dtype cannot hold the values.
    """
    given = getattr(values, "dtype", None)
    alike = given == dtype if strict else is_float(given)
    if getattr(values, "shape", None) != shape or not alike or is_masked(values):
        raise UserError(
            f"the checkpoint has {shown(values)} for {path}; the model needs {dtype}, shape {shape}"
            + (".\nConvert it, or restore(..., strict=False) to have floats converted" if strict and not alike else "")
        )
    if given == dtype:
        return values
    with np.errstate(over="ignore"):
        converted = values.astype(dtype)
    if np.isfinite(converted).sum() < np.isfinite(values).sum():
        raise UserError(f"{path} of the checkpoint has values up to {abs(values).max():g}, too large for {dtype}")
    return converted
