"""The logical model in one file, whatever mesh trained it."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..backend import Array, is_float, to_device, to_host, wide
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError, shown
from ..models import Model
from ..nn import Parameter
from ..parallel.flat import Bucket
from ..parallel.reducer import Reducer


def gather(
    model: Model,
    world: Communicator,
    what: str = "data",
    gradients: Reducer | None = None,
    root: int | None = None,
) -> dict[str, np.ndarray]:
    """path -> the logical array (what: "data" or "grad"), put together from the slices that the ranks hold.

    Gradients are those that the optimizer sees: without the loss scale, clipped. As copies, on every rank, or on `root`
    only; for checkpoints and comparisons, not for a training step. Where a rank holds a parameter whole, nothing is
    sent. gradients: the reducer, which knows the shares when a model is divided, and the scale.
    """
    if gradients is not None and gradients.mesh is not None and gradients.mesh.sizes["pp"] > 1:
        return _gather_stages(model, what, gradients, gradients.mesh, root in (None, world.rank))
    logical: dict[str, np.ndarray] = {}
    for p, array in _held(model, what, gradients):
        if array is None:
            continue
        where = p.placement
        held = [(where.index, to_host(array))]
        pieces = held if where.local == where.shape else list(chain(*world.gather_objects(held)))
        if root in (None, world.rank):
            logical[where.path] = _joined(where.shape, pieces)
    return logical


def _gather_stages(model: Model, what: str, gradients: Reducer, mesh: Mesh, keep: bool) -> dict[str, np.ndarray]:
    """Of a pipeline, whose ranks have different parameters: all at once."""
    mine = [(p.placement, to_host(array)) for p, array in _held(model, what, gradients) if array is not None]
    pieces: dict[str, list] = {}
    for where, array in chain(*mesh.group("pp", "tp").gather_objects(mine)):
        pieces.setdefault(where.path, []).append((where, array))
    return {
        path: _joined(found[0][0].shape, [(where.index, array) for where, array in found])
        for path, found in (pieces.items() if keep else ())
    }


def _joined(shape: tuple[int, ...], pieces: Sequence[tuple[tuple[slice, ...], np.ndarray]]) -> np.ndarray:
    """The logical array from its slices."""
    logical = np.empty(shape, pieces[0][1].dtype)
    for index, piece in pieces:
        logical[index] = piece
    return logical


def _held(model: Model, what: str, gradients: Reducer | None) -> Iterator[tuple[Parameter, Array | None]]:
    """Each parameter with its values or gradient, in the model's order; divided buckets are put together in passing."""
    flats: dict[Bucket, Array | None] = {}
    for p in model.parameters():
        if gradients is None:
            yield p, getattr(p, what)
            continue
        if p.bucket not in flats:
            flats[p.bucket] = gradients.whole(p.bucket, what)
        flat = flats[p.bucket]
        if flat is None or what == "data" or gradients.factor == 1:
            yield p, None if flat is None else p.bucket.piece(p, flat)
        else:
            piece = p.bucket.piece(p, flat)
            yield p, piece.astype(wide(piece.dtype)) * gradients.factor
        if p is p.bucket.parameters[0]:  # the one that the forward uses last: the others have been asked for
            del flats[p.bucket]


def save(path: Path, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Writes a safetensors file; `about` is kept beside the tensors as JSON. The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"minitrain": json.dumps(about)})
    partial.replace(path)


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save` wrote. Raises UserError for a file that is missing or something else."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; train one first: python -m minitrain train")
    try:
        with safe_open(path, framework="np") as file:
            about = (file.metadata() or {}).get("minitrain")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    if about is None:
        raise UserError(f"{path} is a safetensors file, but not one that minitrain wrote")
    try:
        return tensors, json.loads(about)
    except ValueError as error:
        raise UserError(f"{path} has a description that is not JSON: {error}") from error


def restore(model: Model, tensors: Mapping[str, np.ndarray], strict: bool = True) -> None:
    """Give each parameter its slice of the logical tensors; under every strategy, before or after the trainer is made.

    strict: the tensors are exactly the model's, by path and dtype. Otherwise what is missing keeps its values, what the
    model does not have is left out, and floats are converted. Shapes have to fit always.
    Raise UserError, before anything has changed, for what does not fit.
    """
    parameters = {p.placement.path: p for p in model.parameters()}
    if strict:
        check_names(set(tensors), parameters.keys() | getattr(model, "elsewhere", frozenset()))
    found = {path: tensors[path] for path in parameters if path in tensors}
    for path, p in parameters.items():
        if path in found:
            check_fits(path, found[path], p, strict)
    for path, values in found.items():
        p = parameters[path]
        p.data = to_device(np.array(values[p.placement.index], p.dtype, order="C"))


def check_names(given: Set[str], wanted: Set[str]) -> None:
    """Raise UserError unless a checkpoint has the tensors that the model wants, and no others."""
    for names, said in ((wanted - given, "lacks"), (given - wanted, "has, and the model does not,")):
        if names:
            first, more = sorted(names)[:3], len(names) - 3
            raise UserError(
                f"the checkpoint {said} {', '.join(first)}" + (f" and {more} more" if more > 0 else "") + ".\n"
                "Make the model with the sizes of the checkpoint, or restore(..., strict=False) to take what both have"
            )


def check_fits(path: str, values: np.ndarray, p: Parameter, strict: bool) -> None:
    """Raise UserError unless the values have the parameter's logical shape and, if `strict`, its dtype."""
    shape, dtype = p.placement.shape, getattr(values, "dtype", None)
    alike = dtype == p.dtype if strict else is_float(dtype)
    if getattr(values, "shape", None) != shape or not alike or isinstance(values, np.ma.MaskedArray):
        raise UserError(
            f"the checkpoint has {shown(values)} for {path}; the model needs {p.dtype}, shape {shape}"
            + ("" if alike else ".\nConvert it, or restore(..., strict=False) to have floats converted")
        )
