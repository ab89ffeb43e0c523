"""A checkpoint loads exactly as saved, appears completely or not at all, and reports what does not fit."""

import json
import math
import os
import re
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.commands.model_tokenizer import description, of_weights
from minitrain.data.batch import Batch, Where
from minitrain.data.loader import ArrayLoader
from minitrain.data.text import CharTokenizer
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Parameter
from minitrain.optim import SGD, clip_grad_norm
from minitrain.parallel.parallelize import parallelize
from minitrain.precision import StaticPolicy, StaticScaler
from minitrain.train import checkpoint
from minitrain.train.step import compute_gradients
from minitrain.train.trainer import Trainer
from minitrain.train.weights import look
from tests.strategies import named

ABOUT = {"vocabulary": 'ab\n"\u00e9', "gpt": {"width": 9, "std": 0.02, "tied": True}}


def model(dtype: str = "float32", width: int = 9, layers: int = 1, seed: int = 1) -> Model:
    made = gpt(GPTConfig(11, 5, layers=layers, heads=3, width=width, dtype=dtype))
    made.init(seed)
    return made


def toy() -> Batch:
    ids = np.arange(18).reshape(3, 6) % 11
    return Batch(ids[:, :-1], ids[:, 1:], Where(1, 0, 3, 5, slice(0, 3), slice(0, 5)))


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
    """Dtypes are converted on request and refused otherwise."""
    double, single = model("float64"), model("float32", seed=2)
    tensors = checkpoint.gather(double, world_of_one())
    with pytest.raises(UserError, match=r"has an array of float64, shape \(11, 9\) for embed.* needs float32"):
        checkpoint.restore(single, tensors)
    checkpoint.restore(single, tensors, strict=False)
    for p, q in zip(double.parameters(), single.parameters(), strict=True):
        assert q.data.dtype == np.float32 and np.array_equal(q.data, p.data.astype(np.float32))


@pytest.mark.ranks(2)
def test_slices_of_two_ranks_make_one_tensor(world: Communicator) -> None:
    """Rank 0 holds the first two columns of a parameter, rank 1 the third, and no rank the whole."""
    p = Parameter("w", (2, 3), std=1.0, dtype=np.float64)
    whole = p.initial_values(1)
    p.placement = p.placement.split(1, *((0, 2), (2, 3))[world.rank])
    p.data = p.initial_values(1)
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


@pytest.fixture
def trained(tmp_path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return (tensors, description) of a loadable checkpoint."""
    config = GPTConfig(3, 5, layers=2, heads=3, width=9)
    made = gpt(config)
    made.init(1)
    return checkpoint.gather(made, world_of_one()), {
        "gpt": asdict(config),
        "tokenizer": description(CharTokenizer("abc")),
    }


@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        *(("float16", "F16"), ("bfloat16", "BF16"), ("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2")),
        *(("int32", "I32"), ("int64", "I64"), ("bool", "BOOL"), ("complex64", "C64")),
    ],
)
def test_tensors_of_another_dtype(dtype: str, told: str, tmp_path: Path) -> None:
    """The file is written byte by byte, since safetensors' NumPy interface does not know all of these dtypes."""
    data = np.ones(3).astype(getattr(ml_dtypes, dtype, dtype)).tobytes()
    tensor = {"dtype": told, "shape": [3], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"minitrain": "{}"}, "w": tensor}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    with pytest.raises(UserError, match=rf"model\.safetensors holds 'w' as {told}; .*F32 and F64"):
        checkpoint.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float, trained: tuple[dict, dict], tmp_path: Path) -> None:
    tensors, about = trained
    tensors["blocks.1.mlp.up.weight"].flat[-1] = value
    checkpoint.save(tmp_path / "model.safetensors", tensors, about)
    with pytest.raises(UserError, match=r"nan or inf in 'blocks\.1\.mlp\.up\.weight': that run diverged"):
        checkpoint.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tokenizer.vocabulary", "ab", "describes a model of 3 tokens, but its vocabulary has 2"),
        ("tokenizer.vocabulary", "abcd", "describes a model of 3 tokens, but its vocabulary has 4"),
        (
            "tokenizer.vocabulary",
            ["a", "b", "c"],
            "its tokenizer is ['a', 'b', 'c']; it must be a string",
        ),
        ("tokenizer.vocabulary", "acb", "has another tokenizer: characters, 'acb'; this one is characters, 'acb'"),
        ("tokenizer", "abc", "has the tokenizer 'abc'; it must be a dictionary"),
        ("gpt.layers", 100_000, "describes 100000 layers, but has the tensors of 2"),
        ("gpt.layers", 1, "describes 1 layers, but has the tensors of 2"),
        ("gpt.layers", "x" * 10**6, "layers is 'xxxx"),
        ("gpt.context", 10**15, "the model needs (1000000000000000, 9)"),
        ("gpt.width", 9 * 10**12, "the model needs (3, 9000000000000)"),
        ("gpt." + "x" * 10**6, 1, "does not describe a GPT of this version of minitrain"),
    ],
)
def test_parts_that_do_not_fit_each_other(
    key: str, value: object, said: str, trained: tuple[dict, dict], tmp_path: Path
) -> None:
    """The message is short and, since the model is never built, immediate."""
    tensors, about = trained
    group, _, name = key.rpartition(".")
    (about[group] if group else about)[name] = value
    checkpoint.save(tmp_path / "model.safetensors", tensors, about)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        of_weights(look(tmp_path / "model.safetensors"))
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("about", ["[" * 100_000, '{"gpt":' * 100_000, '{"gpt": ' + "9" * 10_000 + "}"])
def test_a_description_that_is_too_deep_or_too_long(about: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones(3, np.float32)}, path, metadata={"minitrain": about})
    with pytest.raises(UserError, match=r"metadata that is not valid JSON"):
        checkpoint.load(path)


@pytest.mark.skipif(os.name != "posix", reason="another system's permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_it_is_what_the_user_has_set(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        checkpoint.save(tmp_path / "model.safetensors", {"x": np.ones(2)}, ABOUT)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_a_crash_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path, partial = tmp_path / "model.safetensors", tmp_path / "model.999999999.1.partial"  # of a process that is gone
    partial.write_bytes(b"half of it")
    partial.chmod(0)
    checkpoint.save(path, {"x": np.ones(2)}, ABOUT)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, others = tmp_path / "model.safetensors", tmp_path / f"model.{os.getppid()}.1.partial"
    others.write_bytes(b"half of it")
    checkpoint.save(path, {"x": np.ones(2)}, ABOUT)
    assert others.read_bytes() == b"half of it"

    def kill(process: int, signal: int) -> None:
        raise PermissionError("another user's process")

    monkeypatch.setattr(os, "kill", kill)
    checkpoint.save(path, {"x": np.ones(2)}, ABOUT)
    assert others.read_bytes() == b"half of it"


def test_a_restored_model_trains_on() -> None:
    """Its parameters remain views of the buckets that the optimizer updates."""
    made = mlp()
    reducer = parallelize(made, Mesh(world_of_one()))
    reducer.init(1)
    checkpoint.restore(made, {path: x + 1 for path, x in checkpoint.gather(made, world_of_one()).items()})
    before = checkpoint.gather(made, world_of_one())
    for bucket in reducer.trained:
        bucket.placed_gradients()[...] = 1
    SGD(reducer).step(lr=0.5)
    for p in made.parameters():
        np.testing.assert_array_equal(p.data, before[p.placement.path] - np.float32(0.5))


@pytest.mark.parametrize("strategy", ["bucketed", "zero2"])
@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("clip", [None, 0.25])
def test_gathered_gradients_are_those_that_the_optimizer_sees(clip: float | None, scale: float, strategy: str) -> None:
    """Gathered gradients are unscaled and clipped: compare with a model that has neither reducer nor scaler."""
    plain, made = model("float64"), model("float64")
    plain(toy()).backward()
    true = {p.placement.path: p.grad for p in plain.parameters() if p.grad is not None}
    length = math.sqrt(sum(float((g * g).sum()) for g in true.values()))
    reducer = parallelize(made, Mesh(world_of_one()), named(strategy))
    reducer.init(1)
    scaler = StaticScaler(scale)
    compute_gradients(made, toy(), reducer, scaler=scaler)
    assert scaler.unscale(reducer)
    assert clip is None or clip_grad_norm(reducer, clip) == pytest.approx(length, rel=1e-12)
    found = checkpoint.gather(made, world_of_one(), "grad", reducer)
    assert found.keys() == true.keys()
    for path, g in true.items():
        np.testing.assert_allclose(found[path], g * (clip / length if clip else 1), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("strategy", ["naive", "bucketed", "overlap"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float64", 8.0), ("float32", 2.0**120), ("float16", 1.0), ("float16", 8.0)]
)
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_a_gradient_as_the_optimizer_sees_it(clip: float | None, dtype: str, scale: float, strategy: str) -> None:
    """Equal to the last bit to what its rule is given, even if the factor alone underflows in float32."""

    def program(world: Communicator) -> None:
        given: list[np.ndarray] = []

        class Plain(SGD):
            def update(self, w: np.ndarray, g: np.ndarray, *rest: Any) -> None:
                given.append(g.copy())
                super().update(w, g, *rest)

        half = {"precision": StaticPolicy(), "half_weights": True} if dtype == "float16" else {}
        model = mlp(MLPConfig(5, (4,), 2, "float32" if half else dtype))
        options = {"optimizer": Plain, "clip": clip, "scaler": StaticScaler(scale), "strategy": named(strategy)}
        trainer = Trainer(model, world, **options, **half)  # type: ignore[arg-type]
        assert not trainer.step(samples("float32" if half else dtype)).skipped
        flat = np.concatenate(given)
        assert flat.dtype == (np.float32 if half else dtype)
        reducer = trainer.reducer
        order = [p for bucket in reducer.trained for p in bucket.parameters]
        np.testing.assert_array_equal(np.concatenate([reducer.gradient(p).reshape(-1) for p in order]), flat)
        assert all(reducer.gradient(p).shape == p.shape for p in order) and np.abs(flat).max() > 0
        gathered = checkpoint.gather(trainer.model, world, "grad", reducer)
        for p in order:
            np.testing.assert_array_equal(reducer.gradient(p), gathered[p.placement.path])
            reducer.gradient(p)[...] = 0  # a copy
        assert np.abs(reducer.gradient(order[0])).max() > 0
        trainer.close()

    threads.run(2, program, timeout=20)


def samples(dtype: str = "float64") -> Batch:
    draw = np.random.default_rng(1)
    return ArrayLoader(draw.normal(size=(8, 5)).astype(dtype), draw.integers(0, 2, 8), 8, 1).batch(0)


@pytest.mark.parametrize("how", ["zero1", "zero2", "zero3"])
def test_a_gradient_that_somebody_else_owns(how: str) -> None:
    """A gradient is available only on a rank that owns all of it."""

    def program(world: Communicator) -> dict[str, bool]:
        trainer = Trainer(model("float64"), world, strategy=named(how))
        trainer.step(toy())
        true, found = checkpoint.gather(trainer.model, world, "grad", trainer.reducer), {}
        for p in trainer.model.parameters():
            try:
                np.testing.assert_array_equal(trainer.reducer.gradient(p), true[p.placement.path])
                found[p.placement.path] = True
            except UserError as error:
                assert f"the gradient of {p.placement.path} is not available here" in str(error)
                assert "gather(" in str(error)
                found[p.placement.path] = False
        return found

    owners = list(zip(*(found.values() for found in threads.run(2, program)), strict=True))
    assert {*owners} == {(True, False), (False, True), (False, False)}, "one is cut in two"
    assert all(program(world_of_one()).values())


def test_a_gradient_that_is_not_there() -> None:
    made, other = mlp(MLPConfig(5, (4,), 2, "float64")), mlp(MLPConfig(5, (4,), 2, "float64"))
    frozen, p = made.parameters()[0], made.parameters()[-1]
    frozen.requires_grad = False
    reducer = parallelize(made, Mesh(world_of_one()))
    reducer.init(1)
    for wrong in (frozen, other.parameters()[-1]):
        with pytest.raises(UserError, match="is not trained on this rank and has no gradient"):
            reducer.gradient(wrong)
    with pytest.raises(UserError, match=rf"{p.placement.path} is not available here: it exists from synchronize"):
        reducer.gradient(p)
    compute_gradients(made, samples(), reducer)
    reducer.gradient(p)
    reducer.start_step()
    with pytest.raises(UserError, match="is not available here"):
        reducer.gradient(p)


def test_what_every_rank_holds_whole_is_gathered_by_one_alone() -> None:
    """Nothing is communicated, so the other ranks need not take part."""

    def program(world: Communicator) -> int:
        made = mlp()
        reducer = parallelize(made, Mesh(world, dp=2))
        reducer.init(1)
        return len(checkpoint.gather(made, world, reducer=reducer)) if world.rank == 0 else 0

    assert threads.run(2, program, timeout=10) == [6, 0]
