"""Damages of a folder with two complete checkpoints: each must be found, named, and passed over."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from minitrain.errors import UserError
from tests.kill.calls import OLD, RANKS, copied, loaded, prepared

INDEX = "index.json"
OLDER = "the index of the older checkpoint"  # it says itself that it is older, so that nothing need be said
Draw = np.random.Generator


@dataclass
class Damage:
    """What was done to the newer checkpoint, and what must be said: the file, and the tensor if data was damaged."""

    what: str
    file: str
    tensor: str = ""


def rank_file(rank: int) -> str:
    return f"rank-{rank}-of-{RANKS}.safetensors"


def flip(path: Path, at: int, draw: Draw) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= int(draw.integers(1, 256))
    path.write_bytes(data)


def header_length(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def flip_header(new: Path, old: Path, draw: Draw) -> Damage:
    file = rank_file(int(draw.integers(RANKS)))
    at = int(draw.integers(header_length(new / file)))
    flip(new / file, at, draw)
    return Damage(f"flip byte {at} of the header", file)


def flip_data(new: Path, old: Path, draw: Draw) -> Damage:
    """Which tensor it is, the package safetensors tells: the one whose values differ."""
    file = rank_file(int(draw.integers(RANKS)))
    path = new / file
    before, start = tensors(path), header_length(path)
    at = int(draw.integers(start, path.stat().st_size))
    flip(path, at, draw)
    (tensor,) = [name for name, data in tensors(path).items() if data != before[name]]
    return Damage(f"flip byte {at} of the data", file, tensor)


def tensors(path: Path) -> dict[str, bytes]:
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def flip_index(new: Path, old: Path, draw: Draw) -> Damage:
    at = int(draw.integers((new / INDEX).stat().st_size))
    flip(new / INDEX, at, draw)
    return Damage(f"flip byte {at} of the index", INDEX)


def truncate(new: Path, old: Path, draw: Draw) -> Damage:
    file = [INDEX, *map(rank_file, range(RANKS))][draw.integers(RANKS + 1)]
    data = (new / file).read_bytes()
    size = int(draw.integers(len(data)))
    (new / file).write_bytes(data[:size])
    return Damage(f"cut to {size} bytes", file)


def lengthen(new: Path, old: Path, draw: Draw) -> Damage:
    file = [INDEX, *map(rank_file, range(RANKS))][draw.integers(RANKS + 1)]
    (new / file).write_bytes((new / file).read_bytes() + draw.bytes(int(draw.integers(1, 9))))
    return Damage("lengthen", file)


def remove(new: Path, old: Path, draw: Draw) -> Damage:
    file = rank_file(int(draw.integers(RANKS)))
    (new / file).unlink()
    return Damage("remove", file)


def swap(new: Path, old: Path, draw: Draw) -> Damage:
    a, b = new / rank_file(0), new / rank_file(1)
    first = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(first)
    return Damage("swap two files", "rank-")


def duplicate(new: Path, old: Path, draw: Draw) -> Damage:
    rank = int(draw.integers(RANKS))
    shutil.copyfile(new / rank_file(rank), new / rank_file(1 - rank))
    return Damage("a file in place of another", rank_file(1 - rank))


def older_file(new: Path, old: Path, draw: Draw) -> Damage:
    file = rank_file(int(draw.integers(RANKS)))
    shutil.copyfile(old / file, new / file)
    return Damage("a file of the older checkpoint", file)


def older_index(new: Path, old: Path, draw: Draw) -> Damage:
    shutil.copyfile(old / INDEX, new / INDEX)
    return Damage(OLDER, "rank-")


KINDS: list[Callable[[Path, Path, Draw], Damage]] = [
    flip_header, flip_data, flip_index, truncate, lengthen, remove, swap, duplicate, older_file, older_index
]  # fmt: skip


def damaged(folder: Path, number: int) -> None:
    """Make one damage to a copy of a prepared folder. Raise AssertionError unless it is found and named."""
    draw = np.random.default_rng(number)
    with copied(folder) as copy:
        new, old = copy / f"step-{OLD}", copy / f"step-{OLD - 1}"
        damage = KINDS[number % len(KINDS)](new, old, draw)
        said: list[str] = []
        assert loaded(copy, log=said.append) == OLD - 1, f"{damage.what}: not found"
        try:
            loaded(new)
        except UserError as error:
            said.append(str(error))
        assert len(said) == (1 if damage.what == OLDER else 2), f"{damage.what}: {said}"
        for message in said:
            assert f"{new}/{damage.file}" in message and damage.tensor in message, f"{damage.what}: {message}"


def all_of(folder: Path, count: int) -> tuple[int, list[str]]:
    """Make so many damages. Return how many, and what went wrong."""
    prepared(folder)
    wrong = []
    for number in range(count):
        try:
            damaged(folder, number)
        except Exception as error:
            wrong.append(f"damage {number}: {type(error).__name__}: {error}")
    return count, wrong
