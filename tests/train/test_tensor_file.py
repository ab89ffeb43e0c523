"""Files that other programs read, that appear complete or not at all, and that are refused for every broken rule."""

import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import safe_open
from safetensors.numpy import load_file

from minitrain.errors import UserError
from minitrain.train import checkpoint, tensor_file
from tests.tiers import full

ABOUT = {"try": 1}


# Written -------------------------------------------------------------------------------------------------------


def arrays() -> st.SearchStrategy[np.ndarray]:
    shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return npst.arrays(st.sampled_from(["<f4", "<f8", ">f4", ">f8"]), shapes).map(lambda x: x.T)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), arrays(), max_size=5))
def test_the_package_reads_what_is_written(tmp_path_factory: pytest.TempPathFactory, tensors: dict) -> None:
    """Of any order in memory; and the data is aligned, so that it can be mapped into memory."""
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.getbasetemp() / "drawn.safetensors"
    tensor_file.write(path, tensors, {"minitrain": "{}", "name": "ü\n"})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype.newbyteorder("=") and found[name].shape == x.shape
        np.testing.assert_array_equal(found[name], x)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert length % 8 == 0
    for name, entry in json.loads(path.read_bytes()[8 : 8 + length]).items():
        assert name == "__metadata__" or entry["data_offsets"][0] % {"F32": 4, "F64": 8}[entry["dtype"]] == 0
    tensor_file.check_header(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0], r"w is \[1.0\]; a checkpoint holds arrays: give p.data"),
        (np.ma.masked_array([1.0], [True]), "a checkpoint holds arrays"),
        (np.ones(2, np.float16), "w is float16; `load` reads float32 and float64"),
        (np.ones(2, np.int64), "w is int64; `load` reads float32 and float64"),
    ],
)
def test_what_cannot_be_stored(value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        checkpoint.save(tmp_path / "a.safetensors", {"ok": np.ones(2), "w": value}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_nobody_reads_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "LONGEST", 100)
    with pytest.raises(UserError, match="the names and shapes of 3 tensors take more than 100 bytes"):
        tensor_file.write(tmp_path / "a", {name: np.ones(1) for name in "abc"}, {})
    tensor_file.write(tmp_path / "a", {"a": np.ones(1)}, {})


def test_a_write_may_be_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write less than asked for: 2 GB on Linux."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    tensor_file.write(tmp_path / "a", {"w": np.arange(7.0)}, {})
    assert load_file(tmp_path / "a")["w"].tolist() == list(range(7))


# Interrupted ---------------------------------------------------------------------------------------------------


class Broken(tensor_file.Files):
    """Do something else at call k."""

    def __init__(self, k: int, instead: Callable[[], None]) -> None:
        self.left, self.instead = k, instead

    def counted(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.instead()

    def create(self, path: Path) -> int:
        self.counted()
        return super().create(path)

    def write(self, file: int, data: bytes | memoryview) -> None:
        self.counted()
        super().write(file, data)

    def sync(self, file: int) -> None:
        self.counted()
        super().sync(file)

    def rename(self, old: Path, new: Path) -> None:
        self.counted()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self.counted()
        super().unlink(path)


CALLS = 8  # create, three writes, sync, rename, sync of the folder, unlink


def save(path: Path, value: float, files: tensor_file.Files = tensor_file.FILES) -> None:
    checkpoint.save(path, {"x": np.full(3, value), "y": np.full(2, value, np.float32)}, {"try": value}, files)


def whole(path: Path) -> float:
    """Return the value of which the file consists."""
    tensors, about = checkpoint.load(path)
    (value,) = {about["try"], *tensors["x"], *tensors["y"]}
    return value


@pytest.mark.parametrize("k", range(1, CALLS + 1))
def test_a_call_that_fails(k: int, tmp_path: Path) -> None:
    """The caller hears of it, and finds the old file or the new one; nothing else is left, or only until the next."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "model.safetensors"
    save(path, 1.0)
    with pytest.raises(OSError, match="No space left"):
        save(path, 2.0, Broken(k, fail))
    assert whole(path) == (1.0 if k <= 6 else 2.0)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_there_is_no_further_call(tmp_path: Path) -> None:
    files = Broken(0, lambda: None)
    save(tmp_path / "model.safetensors", 1.0, files)
    assert files.left == -CALLS


@pytest.mark.parametrize("k", [5, *(full(k) for k in range(1, CALLS + 1) if k != 5)])
def test_a_process_that_is_killed(k: int, tmp_path: Path) -> None:
    """What it leaves is swept by the next save."""
    path = tmp_path / "model.safetensors"
    save(path, 1.0)
    program = "import os, sys; from pathlib import Path; from tests.train.test_tensor_file import Broken, save; "
    program += "save(Path(sys.argv[1]), 2.0, Broken(int(sys.argv[2]), lambda: os._exit(9)))"
    done = subprocess.run([sys.executable, "-c", program, str(path), str(k)], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 9
    assert whole(path) == (1.0 if k <= 6 else 2.0)
    save(path, 3.0)
    assert whole(path) == 3.0 and [file.name for file in tmp_path.iterdir()] == [path.name]


# Read ----------------------------------------------------------------------------------------------------------


def tensor(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(header: Any, data: int = 0, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


ENTRY = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
RULES = {
    "good": file_of({"a": tensor(0, 8), "b": tensor(8, 16)}, 16),
    "length no multiple of 8": file_of(b"{" + ENTRY + b"}   ", 8),
    "hole": file_of({"a": tensor(0, 8), "b": tensor(12, 20)}, 20),
    "hole at the start": file_of({"a": tensor(4, 12)}, 12),
    "bytes at the end": file_of({"a": tensor(0, 8)}, 12),
    "cut short": file_of({"a": tensor(0, 8)}, 4),
    "overlap": file_of({"a": tensor(0, 8), "b": tensor(4, 12)}, 12),
    "the same place twice": file_of({"a": tensor(0, 8), "b": tensor(0, 8)}, 8),
    "the same name twice": file_of(b"{" + ENTRY + b"," + ENTRY + b"}", 8),
    "size and shape differ": file_of({"a": tensor(0, 12)}, 12),
    "unknown dtype": file_of({"a": tensor(0, 8, "F99")}, 8),
    "metadata that is a number": file_of({"__metadata__": {"step": 3}, "a": tensor(0, 8)}, 8),
    "metadata": file_of({"__metadata__": {"step": "3"}, "a": tensor(0, 8)}, 8),
    "space at the start": file_of(b" {" + ENTRY + b"}", 8),
    "nothing": file_of({}),
    "no elements": file_of({"a": tensor(0, 0, shape=(0,))}),
    "no axes": file_of({"a": tensor(0, 4, shape=())}, 4),
    "header above the limit": file_of(b"{}", length=100_000_001),
    "header longer than the file": file_of(b"{}", length=4096),
    "four bytes": b"\1\0\0\0",
    "negative offset": file_of({"a": tensor(-8, 0)}),
    "shape that overflows": file_of({"a": tensor(0, 8, shape=(2**62, 4))}, 8),
    "float8": file_of({"a": tensor(0, 2, "F8_E4M3")}, 2),
    "bfloat16": file_of({"a": tensor(0, 4, "BF16")}, 4),
    "offsets in another order": file_of({"b": tensor(8, 16), "a": tensor(0, 8)}, 16),
    "not aligned": file_of({"a": tensor(0, 1, "U8", (1,)), "b": tensor(1, 9, "F64", (1,))}, 9),
}
STRICTER = {"the same name twice", "space at the start"}


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str, tmp_path: Path) -> None:
    """What the package refuses is refused, and so is what its own rules forbid and it accepts."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(RULES[name])

    def read() -> None:
        with safe_open(path, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dictionary
                file.get_tensor(key)

    def strictly() -> None:
        tensor_file.check_header(path)
        read()

    assert accepts(strictly) == (accepts(read) and name not in STRICTER)
    with pytest.raises(UserError):  # none of them is a checkpoint of ours
        checkpoint.load(path)


def accepts(read: Callable[[], None]) -> bool:
    try:
        read()
    except Exception:
        return False
    return True


def test_what_is_said_of_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for name, said in (("the same name twice", "'a' is in its header twice"), ("space at the start", "with a brace")):
        path.write_bytes(RULES[name])
        with pytest.raises(UserError, match=f"cannot be read as a checkpoint: .*{said}"):
            checkpoint.load(path)
    path.write_bytes(file_of(b"{" + b'"a":[' * 100_000))
    with pytest.raises(UserError, match="its header is not JSON"):
        checkpoint.load(path)
