"""A model in plain safetensors files, as many programs read and write them: one file, or shards with an index.

    model-00001-of-00002.safetensors      {"embed.tokens.weight": ..., ...}
    model-00002-of-00002.safetensors
    model.safetensors.index.json          {"metadata": {"total_size": 17136},           bytes
                                           "weight_map": {"embed.tokens.weight": "model-00001-of-00002.safetensors"}}

The index is written last: without it, the folder is not complete.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, reason, shown
from .checkpoint_index import check_file
from .tensor_file import FILES, LONGEST, Entry, Files, Later, NewFile, header_of, make_folders, write

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAME = re.compile(r"[\w.-]+\.safetensors")
Headers = dict[str, dict[str, Entry]]  # name of a file -> its tensors


def write_model(
    folder: Path,
    tensors: Mapping[str, Later],
    metadata: Mapping[str, str],
    shard: float,
    log: Callable[[str], None] = print,
    files: Files = FILES,
) -> None:
    """Write a model to a folder, in files of at most `shard` bytes, or one tensor each.

    One tensor is in memory at a time. log: is told of each file. Raise OSError if one cannot be written.
    """
    make_folders(folder, files)
    shards = in_shards({name: x.nbytes for name, x in tensors.items()}, shard)
    many = len(shards) > 1
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" if many else ONE for i in range(1, len(shards) + 1)]
    for name, members in zip(names, shards, strict=True):
        log(f"writing {name}, {sum(tensors[member].nbytes for member in members) / 1e6:,.1f} MB")
        write(folder / name, {member: tensors[member] for member in members}, metadata, files)
    weight_map = {member: name for name, members in zip(names, shards, strict=True) for member in members}
    index = {"metadata": {"total_size": sum(x.nbytes for x in tensors.values())}, "weight_map": weight_map}
    write_json(folder / INDEX, index, files)


def in_shards(sizes: Mapping[str, int], most: float) -> list[list[str]]:
    """Divide tensors, in order, into runs of at most `most` bytes; a larger tensor is a run of its own.

    >>> in_shards({"a": 2, "b": 3, "c": 9}, 5)
    [['a', 'b'], ['c']]
    """
    shards: list[list[str]] = [[]]
    left = most
    for name, size in sizes.items():
        if shards[-1] and size > left:
            shards.append([])
            left = most
        shards[-1].append(name)
        left -= size
    return shards


def write_json(path: Path, value: Any, files: Files = FILES) -> None:
    """Write a JSON file, which has its name only once it is complete. Raise OSError if it cannot be written."""
    with NewFile(path, files) as file:
        files.write(file, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the dictionary in a JSON file. Raise UserError if it cannot be read, or holds anything else."""
    check_file(path.resolve() if path.is_symlink() else path)
    try:
        if path.stat().st_size > LONGEST:
            raise UserError(f"{path} is larger than {LONGEST:,} bytes")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {shown(value)}; it must be a dictionary")
    return value


def read_headers(folder: Path) -> Headers:
    """Return the tensors of each file of a model. Only headers are read.

    Raise UserError if a file is missing or damaged, or if the files have other tensors than the index says.
    """
    if not (folder / INDEX).exists():
        return {ONE: header(folder / ONE)}
    weight_map = read_json(folder / INDEX).get("weight_map")
    good = lambda file: isinstance(file, str) and NAME.fullmatch(file)
    if not isinstance(weight_map, dict) or not weight_map or not all(map(good, weight_map.values())):
        raise UserError(f"{folder / INDEX} has no weight_map from tensors to files in this folder")
    headers = {}
    for name in sorted(set(weight_map.values())):
        wanted = {tensor for tensor, file in weight_map.items() if file == name}
        if not (folder / name).exists():
            raise UserError(
                f"{folder / name} is missing; {INDEX} says that it has {len(wanted)} tensors, such as {min(wanted)}. "
                "Copy or download it again"
            )
        headers[name] = header(folder / name)
        if wrong := headers[name].keys() ^ wanted:
            where = "only the index" if min(wrong) in wanted else "only the file"
            raise UserError(f"{folder / name} and {INDEX} differ: {where} has {min(wrong)}")
    return headers


def header(path: Path) -> dict[str, Entry]:
    """Return the tensors of one file. Raise UserError if it cannot be read. Links are followed: see Weights."""
    check_file(path.resolve() if path.is_symlink() else path)
    try:
        return header_of(path)
    except UserError as error:
        raise UserError(f"{error}.\nIt is incomplete, or no safetensors file: copy it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
