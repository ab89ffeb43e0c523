"""The logical model in one file, whatever mesh trained it."""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..backend import Array, is_float, is_masked, to_device, to_host, wide
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError, check_choice, check_names, check_whole, shown
from ..models import Model
from ..nn import Parameter
from ..optim import Part, State, unscaled
from ..parallel.flat import Bucket
from ..parallel.reducer import MODEL, Reducer


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
    check_choice("what", what, ("data", "grad"))
    check_whole("root", 0 if root is None else root, 0, world.size - 1)
    if what == "grad" and gradients is None and any(p.bucket is not None for p in model.parameters()):
        raise UserError("gradients are in the hands of a trainer: give gather(..., gradients=trainer.gradients)")
    if gradients is not None and gradients.mesh.parts("layers") > 1:
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
    for where, array in chain(*mesh.over(*MODEL).gather_objects(mine)):
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
            yield p, unscaled(p.bucket.piece(p, flat), wide(flat.dtype), gradients.factor)
        if p is p.bucket.parameters[0]:  # the one that the forward uses last: the others have been asked for
            del flats[p.bucket]


def gather_state(state: State, world: Communicator) -> dict[str, np.ndarray | int]:
    """An optimizer's state_dict() with whole arrays, put together from the parts of all ranks; on every rank.

    It is what one process would have, and can be loaded on any mesh.
    """
    whole: dict[str, np.ndarray | int] = {}
    parts: dict[str, list[Part]] = {}
    for name, part in chain(*(rank.items() for rank in world.gather_objects(dict(state)))):
        if isinstance(part, Part):
            parts.setdefault(name, []).append(part)
        else:
            whole[name] = part
    for name, found in parts.items():
        shape = tuple(max(cut.stop for cut in cuts) for cuts in zip(*(part.held for part in found), strict=True))
        whole[name] = logical = np.empty(shape, found[0].array.dtype)
        for part in found:
            index: tuple[Any, ...] = (*part.held, ...)  # a view, also of an array without axes
            logical[index].flat[part.run] = part.array
    return whole


def save(path: str | Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes a safetensors file; `about` is kept with the tensors as JSON. The file appears whole or not at all, also
    when several ranks save to it.

    Raises OSError when it cannot be written, UserError for what is no array, and for half precision.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # as the user's umask has it; safetensors makes a file for its owner alone
        arrays = {name: _in_rows(name, x) for name, x in tensors.items()}
        save_file(arrays, partial, metadata={"minitrain": json.dumps(about)})
        partial.chmod(mode)
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what a run that was killed while it saved has left."""
    for old in path.parent.glob(f"{path.stem}.*.*.partial"):
        process = old.name.split(".")[-3]
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            old.unlink(missing_ok=True)
        except PermissionError:
            continue  # somebody else's, and alive


def _in_rows(name: str, x: Any) -> np.ndarray:
    """The array row after row in this machine's byte order: safetensors writes the memory as it lies there."""
    if not isinstance(x, np.ndarray) or is_masked(x):
        raise UserError(f"{name} is {shown(x)}; a checkpoint holds arrays: give its values, p.data")
    if is_float(x.dtype) and x.dtype.itemsize < 4:
        raise UserError(f"{name} is {x.dtype}; `load` reads float32 and float64: save x.astype(np.float32)")
    return np.asarray(x, x.dtype.newbyteorder("="), order="C")


STORED = ("F32", "F64")  # float32 and float64, in the words of safetensors


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save` wrote.

    Raises UserError for a file that is missing or something else, and for weights that minitrain cannot have written:
    of another dtype, or not finite.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file in it, such as {path / 'model.safetensors'}")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; train one first: python -m minitrain train")
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
            raise UserError(f"{path} holds nan or inf in {shown(name)}: that run had exploded; train another one")
    try:
        return tensors, json.loads(about)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} has a description that cannot be read as JSON: {error}") from error


def _check_dtypes(path: Path, dtypes: Mapping[str, str]) -> None:
    for name, dtype in dtypes.items():
        if dtype not in STORED:
            raise UserError(
                f"{path} holds {shown(name)} as {dtype}; minitrain writes and reads {' and '.join(STORED)}: "
                "convert the file, or train another one"
            )


def restore(model: Model, tensors: Mapping[str, np.ndarray], strict: bool = True) -> None:
    """Give each parameter its slice of the logical tensors; under every strategy, before or after the trainer is made.

    strict: the tensors are exactly the model's, by path and dtype. Otherwise what is missing keeps its values, what the
    model does not have is left out, and floats are converted. Shapes have to fit always.
    Raise UserError, before anything has changed, for what does not fit.
    """
    if not isinstance(tensors, Mapping):
        raise UserError(
            f"the tensors are {shown(tensors)}; give the dictionary, the first of the two that load returns"
        )
    here = {p.placement.path: p for p in model.parameters()}
    needed: dict[str, tuple[tuple[int, ...], np.dtype]] = {**getattr(model, "elsewhere", {})}
    needed |= {path: (p.placement.shape, p.dtype) for path, p in here.items()}
    if strict:
        cure = "Make the model with the sizes of the checkpoint, or restore(..., strict=False) to take what both have"
        check_names("checkpoint", "model", set(tensors), needed.keys(), cure)
    elif not needed.keys() & tensors.keys():
        raise UserError(
            f"the checkpoint has nothing of the model: it has {', '.join(sorted(tensors)[:3]) or 'no tensors'}, "
            f"and the model has {', '.join(sorted(needed)[:3])}"
        )
    found = {path: fitting(path, tensors[path], *it, strict=strict) for path, it in needed.items() if path in tensors}
    for path, p in here.items():
        if path in found:
            p.data = to_device(np.array(found[path][p.placement.index], order="C"))


def fitting(path: str, values: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, strict: bool) -> np.ndarray:
    """Return the values in this dtype; `strict`: they have it already.

    Raise UserError for another shape or dtype, and for numbers that the dtype cannot hold.
    """
    own = getattr(values, "dtype", None)
    alike = own == dtype if strict else is_float(own)
    if getattr(values, "shape", None) != shape or not alike or is_masked(values):
        raise UserError(
            f"the checkpoint has {shown(values)} for {path}; the model needs {dtype}, shape {shape}"
            + (".\nConvert it, or restore(..., strict=False) to have floats converted" if strict and not alike else "")
        )
    if own == dtype:
        return values
    with np.errstate(over="ignore"):
        converted = values.astype(dtype)
    if np.isfinite(converted).sum() < np.isfinite(values).sum():
        raise UserError(f"{path} of the checkpoint has numbers up to {abs(values).max():g}, too large for {dtype}")
    return converted
