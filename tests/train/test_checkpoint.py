"""A checkpoint comes back as it was saved, appears whole or not at all, and says what does not fit."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError
from minitrain.models import GPTConfig, Model, gpt, mlp
from minitrain.nn import Parameter
from minitrain.optim import SGD
from minitrain.train import checkpoint
from minitrain.train.build import reduce

ABOUT = {"vocabulary": 'ab\n"\u00e9', "gpt": {"width": 9, "std": 0.02, "tied": True}}


def model(dtype: str = "float32", width: int = 9, layers: int = 1, seed: int = 1) -> Model:
    made = gpt(GPTConfig(11, 5, layers=layers, heads=3, width=width, dtype=dtype))
    made.draw(seed)
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(dtype: str, tmp_path: Path) -> None:
    saved, other = model(dtype), model(dtype, seed=2)
    path = tmp_path / "new" / "folder" / "model.safetensors"
    checkpoint.save(path, checkpoint.gather(saved, world_of_one()), ABOUT)
    tensors, about = checkpoint.load(path)
    assert about == ABOUT
    assert set(tensors) == {p.placement.path for p in saved.parameters()}
    checkpoint.restore(other, tensors)
    for p, q in zip(saved.parameters(), other.parameters(), strict=True):
        assert q.data.dtype == dtype and np.array_equal(p.data, q.data), p
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    saved, path = model(), tmp_path / "model.safetensors"
    checkpoint.save(path, checkpoint.gather(saved, world_of_one()), ABOUT)
    tensors = load_file(path)
    assert np.array_equal(tensors["embed.tokens.weight"], saved.parameters()[0].data)


def test_the_dtype_is_the_models() -> None:
    """Converted where that is asked for; refused otherwise."""
    double, single = model("float64"), model("float32", seed=2)
    tensors = checkpoint.gather(double, world_of_one())
    with pytest.raises(UserError, match=r"has an array of float64, shape \(11, 9\) for embed.* needs float32"):
        checkpoint.restore(single, tensors)
    checkpoint.restore(single, tensors, strict=False)
    for p, q in zip(double.parameters(), single.parameters(), strict=True):
        assert q.data.dtype == np.float32 and np.array_equal(q.data, p.data.astype(np.float32))


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, {"x": np.ones(2)}, {"try": 1})

    def full(tensors: dict, name: Path, metadata: dict) -> None:
        Path(name).write_bytes(b"half of it")
        raise OSError("no space left on the disk")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"x": np.zeros(2)}, {"try": 2})
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path / "other.safetensors", {"x": np.zeros(2)}, {"try": 2})
    assert not (tmp_path / "other.safetensors").exists()
    tensors, about = checkpoint.load(path)
    assert tensors["x"].tolist() == [1, 1] and about == {"try": 1}


@pytest.mark.ranks(2)
def test_slices_of_two_ranks_make_one_tensor(world: Communicator) -> None:
    """Rank 0 holds the first two columns, rank 1 the third, of a parameter that nobody holds whole."""
    p = Parameter("w", (2, 3), std=1.0, dtype=np.float64)
    whole = p.draw(1)
    p.placement = p.placement.split(1, *((0, 2), (2, 3))[world.rank])
    p.data = p.draw(1)
    part = Model([])
    part.parameters = lambda: [p]  # type: ignore[method-assign]
    tensors = checkpoint.gather(part, world)
    assert np.array_equal(tensors["w"], whole)
    p.data = np.zeros(p.shape)
    checkpoint.restore(part, tensors)
    assert np.array_equal(p.data, whole[:, :2] if world.rank == 0 else whole[:, 2:])
    assert p.data.flags.c_contiguous


# What does not fit ------------------------------------------------------------------------------------------


def test_a_missing_tensor() -> None:
    tensors = checkpoint.gather(model(), world_of_one())
    with pytest.raises(UserError, match=r"the checkpoint lacks blocks\.1\.attn"):
        checkpoint.restore(model(layers=2), tensors)


def test_a_tensor_of_another_shape() -> None:
    tensors = checkpoint.gather(model(), world_of_one())
    message = "an array of float32, shape (11, 9) for embed.tokens.weight; the model needs float32, shape (11, 12)"
    with pytest.raises(UserError, match=re.escape(message)):
        checkpoint.restore(model(width=12), tensors)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match=r"no checkpoint .*model\.safetensors; train one first"):
        checkpoint.load(path)
    checkpoint.save(path, {"x": np.ones(1000)}, ABOUT)
    whole = path.read_bytes()
    for broken in (b"", b"\x00", b"nonsense" * 10, whole[:100], whole[:-1]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"model\.safetensors cannot be read as a checkpoint"):
            checkpoint.load(path)


def test_a_restored_model_trains_on() -> None:
    """Its parameters stay views of the buckets, which the optimizer updates."""
    made = mlp()
    gradients = reduce(made, Mesh(world_of_one()), "bucketed", 1.0, seed=1)
    checkpoint.restore(made, {path: x + 1 for path, x in checkpoint.gather(made, world_of_one()).items()})
    before = checkpoint.gather(made, world_of_one())
    for bucket in gradients.trained:
        bucket.opened()[...] = 1
    SGD(gradients).step(lr=0.5)
    for p in made.parameters():
        np.testing.assert_array_equal(p.data, before[p.placement.path] - np.float32(0.5))
