"""Weights from files start the same run on every mesh, each rank reads what it needs, and mistakes are named."""

import json
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
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
from minitrain.data.loader import TextLoader
from minitrain.errors import UserError
from minitrain.models import GPTConfig, Model, gpt
from minitrain.parallel.parallelize import REDUCERS, Make, parallelize
from minitrain.parallel.strategy import Strategy
from minitrain.precision import StaticPolicy
from minitrain.train import checkpoint, region_reader, weights
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.model_files import in_shards
from minitrain.train.trainer import Trainer
from minitrain.train.weights import Weights, find, look, start_from
from tests.tiers import full
from tests.train import gpt2_files
from tests.train.test_resharding import LAYOUTS, Counting, Layout

MORE = {"zero3 of 3": Layout(3, Strategy(zero=3)), "pp3": Layout(3, mesh={"pp": 3}), **LAYOUTS}
QUICK = ("serial", "zero3 of 3", "tp2 pp2", "pp3", "tp2 sp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of random values, in three files."""
    return gpt2_files.write(tmp_path_factory.mktemp("gpt2"), gpt2_files.theirs(), files=3)


def text() -> TextLoader:
    return TextLoader(np.arange(60) ** 2 % 7, context=6, batch=5, seed=1)


def started(
    world: Communicator,
    found: Weights,
    layout: Layout,
    start: Callable[[Model, Weights], object] = start_from,
    **options: Any,
) -> Trainer:
    model = gpt(found.config)
    start(model, found)
    mesh = Mesh(world, **layout.mesh) if layout.mesh else None
    return Trainer(model, world, strategy=layout.strategy, mesh=mesh, schedule=0.01, **options)


def whole(trainer: Trainer) -> dict[str, np.ndarray]:
    return checkpoint.gather(trainer.model, trainer.world, reducer=trainer.reducer)


@pytest.mark.parametrize("name", [name if name in QUICK else full(name) for name in MORE])
def test_every_strategy_starts_from_them(name: str, folder: Path) -> None:
    starts(folder, name)


def starts(folder: Path, name: str, start: Callable[[Model, Weights], object] = start_from) -> None:
    """Bit for bit, and the loss of the first update is that of a model whose values were set by hand."""
    true = gpt2_files.ours(gpt2_files.theirs())
    model = gpt(GPTConfig(7, 6, layers=2, heads=4, width=8, dtype="float64", epsilon=1e-3))
    model.init(1)
    checkpoint.restore(model, true)
    by_hand = Trainer(model, world_of_one(), schedule=0.01).step(text().batch(0))

    def program(world: Communicator) -> None:
        trainer = started(world, find(folder, world), MORE[name], start)
        values = whole(trainer)
        assert values.keys() == true.keys()
        for path, x in values.items():
            np.testing.assert_array_equal(x, true[path], err_msg=path, strict=True)
        update = trainer.step(text().batch(0))
        np.testing.assert_allclose([update.loss, update.norm], [by_hand.loss, by_hand.norm], rtol=1e-12)
        trainer.close()

    threads.run(MORE[name].ranks, program)


@pytest.mark.parametrize("zero", [0, full(2), 3])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_half_weights_start_from_them(stored: str, zero: int, tmp_path: Path) -> None:
    values = gpt2_files.theirs(dtype="float32")
    dtype = np.dtype(getattr(ml_dtypes, stored, stored))
    kept = {name: x.astype(dtype) for name, x in values.items()}
    gpt2_files.write(tmp_path, kept)
    true = {path: x.astype(np.float16) for path, x in gpt2_files.ours(kept).items()}

    def program(world: Communicator) -> None:
        found = find(tmp_path, world)
        assert found.config.dtype == "float32"
        half: dict[str, Any] = {"precision": StaticPolicy("mixed_float16"), "half_weights": True}
        trainer = started(world, found, Layout(2, Strategy(zero=zero)), **half)
        for path, x in whole(trainer).items():
            np.testing.assert_array_equal(x, true[path], err_msg=path, strict=True)
        state = state_of(trainer)
        for path, x in gpt2_files.ours(kept).items():  # with all of their digits
            np.testing.assert_array_equal(state[f"{path}.master"], x.astype(np.float32), err_msg=path, strict=True)
        trainer.close()

    threads.run(2, program)


def test_half_weights_start_from_the_masters_of_a_checkpoint(tmp_path: Path) -> None:
    """A master that has moved less than a half can show is not rounded."""
    folder = gpt2_files.write(tmp_path / "gpt2", gpt2_files.theirs(dtype="float32"))

    def program(world: Communicator) -> None:
        half: dict[str, Any] = {"precision": StaticPolicy("mixed_float16"), "half_weights": True}
        trainer = started(world, find(folder, world), Layout(2, Strategy(zero=2)), **half)
        trainer.step(text().batch(0))
        before = {name: x for name, x in state_of(trainer).items() if name.endswith(".master")}
        saves = Checkpoints(tmp_path / "saves", world)
        about = {"gpt": vars(find(folder, world).config), "tokenizer": {}}
        assert saves.save(trainer, about)
        saves.close()
        other = started(world, find(tmp_path / "saves", world), Layout(2, Strategy(zero=3)), **half)
        after = state_of(other)
        for name, x in before.items():
            np.testing.assert_array_equal(after[name], x, err_msg=name, strict=True)
        trainer.close()
        other.close()

    threads.run(2, program)


def state_of(trainer: Trainer) -> dict[str, Any]:
    return checkpoint.gather_state(trainer.optimizer.state_dict(), trainer.world)


@pytest.mark.parametrize("mesh", [{"dp": 2}, {"tp": 2}])
def test_files_with_other_values_on_another_rank(mesh: dict[str, int], tmp_path: Path) -> None:
    """Replicas would differ from each other for ever, and the losses would not show it."""
    for rank in range(2):
        values = gpt2_files.theirs()
        values["transformer.ln_f.bias"] += rank
        gpt2_files.write(tmp_path / str(rank), values)

    def program(world: Communicator) -> None:
        found = find(tmp_path / str(world.rank), world)  # the same sizes and names
        with pytest.raises(UserError, match=r"different values for head\.norm\.bias .*: copy the same files"):
            started(world, found, Layout(2, mesh=mesh))

    threads.run(2, program)


@pytest.mark.parametrize("zero", [0, 3])
def test_one_rank_cannot_read(zero: int, tmp_path: Path) -> None:
    """All ranks are told, also if it is found in the middle of the values."""
    for rank in range(2):
        values = gpt2_files.theirs()
        values["transformer.wte.weight"][...] = np.nan if rank else 0
        gpt2_files.write(tmp_path / str(rank), values)

    def program(world: Communicator) -> None:
        found = find(tmp_path / str(world.rank), world)
        with pytest.raises(UserError, match="1 holds nan or inf in embed"):
            started(world, found, Layout(2, Strategy(zero=zero)))

    threads.run(2, program)


def test_from_a_model_file(tmp_path: Path) -> None:
    """tests/commands/test_weights_in_and_out.py starts from checkpoints and exports."""
    config = GPTConfig(7, 6, layers=1, heads=2, width=4, dtype="float64", tied=False)
    model = gpt(config)
    model.init(1)
    values = checkpoint.gather(model, world_of_one())
    checkpoint.save(tmp_path / "model.safetensors", values, {"gpt": vars(config)})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        found = look(path)
        assert found.config == config and found.tokenizer is None and found.folder == tmp_path
        other = gpt(config)
        assert start_from(other, found) == []
        other.init(2)
        for p in other.parameters():
            np.testing.assert_array_equal(p.data, values[p.placement.path])


def test_conversion_is_said_and_an_overflow_refused(tmp_path: Path) -> None:
    values = gpt2_files.theirs(dtype="float32")
    values["transformer.ln_f.weight"][3] = 1e6
    found = look(gpt2_files.write(tmp_path, values))
    model = gpt(found.config)
    for p in model.parameters():
        p.store_as("float16")
    said = f"parameters are float32 in the model in {tmp_path} and float16 here: converted"
    assert start_from(model, found) == [said]
    with pytest.raises(UserError, match=r"head.norm.weight has values up to 1e\+06, too large for float16"):
        model.init(1)


def test_a_model_with_values_does_not_start_anew(folder: Path) -> None:
    found = look(folder)
    model = gpt(found.config)
    model.init(1)
    with pytest.raises(UserError, match="has values already; start from weights before init"):
        start_from(model, found)


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    """A download may consist of links to files in a cache."""
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    model = gpt((found := look(tmp_path)).config)
    start_from(model, found)
    model.init(1)


# Only what is needed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "strategy", "part"),
    [
        ({"dp": 3}, Strategy(zero=3), 1 / 3),
        ({"pp": 3}, Strategy(), None),
        ({"tp": 3}, Strategy(), None),
        ({"dp": 3}, Strategy(), 1),
    ],
    ids=["zero3", "pp", "tp", "dp"],
)
def test_a_rank_reads_what_it_keeps(mesh: dict[str, int], strategy: Strategy, part: float | None, folder: Path) -> None:
    reads(folder, mesh, strategy, part)


def reads(
    folder: Path,
    mesh: dict[str, int],
    strategy: Strategy,
    part: float | None,
    reducers: Mapping[str, Make] = REDUCERS,
) -> None:
    total = sum(x.nbytes for x in gpt2_files.theirs().values())

    def program(world: Communicator) -> int:
        found = find(folder, world)
        found.reader.files = counting = Counting()
        model = gpt(found.config)
        start_from(model, found)
        reducer = parallelize(model, Mesh(world, **mesh), strategy, reducers=reducers)
        reducer.init(1)
        shards = [b.shard for b in reducer.buckets if b.shard is not None]
        kept = sum(x.nbytes for x in shards) if shards else sum(p.data.nbytes for p in model.parameters())
        assert counting.bytes == kept
        return kept

    kept = threads.run(3, program)
    if part is not None:
        assert all(abs(n - part * total) <= 100 for n in kept)
    else:
        assert max(kept) < total


@pytest.mark.ranks(2)
def test_the_memory_of_a_load(world: Communicator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ZeRO-3, 1.1 times the rank's share at most, though a third of the model is one table."""
    for module in (region_reader, weights):
        monkeypatch.setattr(module, "BLOCK", 2**13)
    V, D, L = 16_000, 192, 12
    gpt2_files.write(tmp_path, gpt2_files.theirs("float32", V=V, L=L, D=D), vocab_size=V, n_layer=L, n_embd=D)
    found = look(tmp_path)
    model = gpt(found.config)
    start_from(model, found)
    reducer = parallelize(model, Mesh(world, dp=2), Strategy(zero=3))
    tracemalloc.start()
    reducer.init(1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    share = 4 * found.config.parameters / world.size
    assert 0.9 * share < peak < 1.1 * share, peak / share


# Mistakes -------------------------------------------------------------------------------------------------------------

Damage = Callable[[Path], None]


def config(**entries: Any) -> Damage:
    def change(folder: Path) -> None:
        given = json.loads((folder / "config.json").read_text()) | entries
        left = {key: value for key, value in given.items() if value != "leave out"}
        (folder / "config.json").write_text(json.dumps(left))

    return change


def tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Damage:
    def damage(folder: Path) -> None:
        values = load_file(folder / "model.safetensors")
        change(values)
        save_file(values, folder / "model.safetensors")

    return damage


def renamed(values: dict[str, np.ndarray]) -> None:
    values["transformer.h.0.attn.query.weight"] = values.pop("transformer.h.0.attn.c_attn.weight")


def head(values: dict[str, np.ndarray]) -> None:
    values["lm_head.weight"] = values["transformer.wte.weight"] + 1


def other_head(values: dict[str, np.ndarray]) -> None:
    values["transformer.score.weight"] = np.ones((2, 8))


def not_finite(values: dict[str, np.ndarray]) -> None:
    values["transformer.h.1.mlp.c_fc.weight"][2, 3] = np.nan


def integers(values: dict[str, np.ndarray]) -> None:
    values["transformer.ln_f.bias"] = np.zeros(8, np.int32)


def pickled(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def index(text: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (config(model_type="llama"), r"a model of the type 'llama'; minitrain imports 'gpt2' only"),
        (config(model_type="leave out"), r"of the type None"),
        (config(n_head=3), r"heads is 3, which does not divide the width 8; allowed: .*\n.*heads: n_head"),
        (config(n_head=0), r"heads is 0"),
        (config(n_head="4"), r"heads is '4'"),
        (config(n_layer=3), r"has the tensors of 2 layers, but its config.json says 3"),
        (config(n_layer=10**7), r"has the tensors of 2 layers, but its config.json says 10000000"),
        (config(n_layer=1), r"has the tensors of 2 layers, but its config.json says 1"),
        (config(n_layer="leave out"), r"config.json lacks n_layer"),
        (config(n_embd=16), r"shape \(7, 8\) for transformer.wte.weight, but .* must be \(7, 16\)"),
        (config(n_positions=9), r"shape \(6, 8\) for transformer.wpe.weight, but .* \(9, 8\)"),
        (config(vocab_size=8), r"shape \(7, 8\) for transformer.wte.weight, but .* \(8, 8\)"),
        (config(vocab_size=True), r"vocabulary is True"),
        (config(n_inner=16), r"n_inner is 16; minitrain's GPT has 4 n_embd"),
        (config(activation_function="gelu"), r"activation_function is 'gelu'; minitrain's GPT has 'gelu_new'"),
        (config(scale_attn_weights=False), r"scale_attn_weights is False; minitrain's GPT has True"),
        (config(scale_attn_by_inverse_layer_idx=1), r"scale_attn_by_inverse_layer_idx is 1"),
        (config(add_cross_attention=True), r"add_cross_attention is True"),
        (config(layer_norm_epsilon=-1), r"epsilon is -1"),
        (config(tie_word_embeddings=False), r"lacks lm_head.weight.\n.* an untied head"),
        (config(tie_word_embeddings="no"), r"tied is 'no'"),
        (tensors(head), r"says that the head is tied, but lm_head.weight differs from the token table"),
        (tensors(other_head), r"has entries that the config.json lacks: transformer.score.weight"),
        (config(minitrain="x"), r"has the tokenizer 'x'; it must be a dictionary"),
        (config(minitrain={"tokenizer": {"vocabulary": [1, 2]}}), r"vocabulary of its tokenizer is \[1, 2\]"),
        (config(minitrain={"tokenizer": {"vocabulary": "ab"}}), r"a model of 7 tokens, but its vocabulary has 2"),
        (tensors(renamed), r"lacks transformer.h.0.attn.c_attn.weight"),
        (tensors(not_finite), r"holds nan or inf in blocks.1.mlp.up.weight"),
        (tensors(integers), r"holds transformer.ln_f.bias as I32; minitrain reads F32, F64, F16, BF16"),
        (pickled, r"nor a complete checkpoint; minitrain reads safetensors: save the model again"),
        (index("{}"), r"has no weight_map"),
        (index("["), r"is not JSON"),
        (index('{"weight_map": {"a": "../other.safetensors"}}'), r"no weight_map .*in this folder"),
        (index('{"weight_map": {"a": "model.safetensors"}}'), r"differ: only the index has a"),
        (not_json, r"config.json is not JSON"),
        (lambda folder: (folder / "config.json").unlink(), r"not one that minitrain wrote"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"config.json, but no model.safetensors"),
        (lambda folder: shutil.rmtree(folder), r"there is no file or folder"),
    ],
)  # fmt: skip
def test_mistakes_are_named(damage: Damage, said: str, tmp_path: Path) -> None:
    folder = gpt2_files.write(tmp_path / "gpt2", gpt2_files.theirs())
    damage(folder)

    def program(world: Communicator) -> None:
        with pytest.raises(UserError, match=said):
            started(world, find(folder, world), Layout(2, Strategy(zero=3)))

    threads.run(2, program)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda file: file.unlink(),
            r"00002-of-00003.safetensors is missing; .* says that it has \d+ tensors, such as",
        ),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), r"00002-of-00003.safetensors cannot be read"),
        (lambda file: shutil.copy(file.with_name("model-00001-of-00003.safetensors"), file), r"differ: only the"),
    ],
)
def test_a_shard_is_missing_or_damaged(damage: Damage, said: str, tmp_path: Path) -> None:
    folder = gpt2_files.write(tmp_path, gpt2_files.theirs(), files=3)
    damage(folder / "model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match=said):
        look(folder)


def test_a_tied_head_may_be_there_twice_and_masks_are_ignored(tmp_path: Path) -> None:
    """As in files of older versions, which also lack the prefix."""
    values = {name.removeprefix("transformer."): x for name, x in gpt2_files.theirs().items()}
    values |= {"lm_head.weight": values["wte.weight"].copy(), "h.0.attn.bias": np.ones((1, 1, 6, 6))}
    found = find(gpt2_files.write(tmp_path, values), world_of_one())
    model = gpt(found.config)
    start_from(model, found)
    model.init(1)
    true = gpt2_files.ours(gpt2_files.theirs())
    for p in model.parameters():
        np.testing.assert_array_equal(p.data, true[p.placement.path])


def test_a_tied_head_may_be_there_instead_of_the_table(tmp_path: Path) -> None:
    values = gpt2_files.theirs()
    values["lm_head.weight"] = table = values.pop("transformer.wte.weight")
    found = look(gpt2_files.write(tmp_path, values))
    start_from(model := gpt(found.config), found)
    model.init(1)
    np.testing.assert_array_equal(model.parameters()[0].data, table)


def test_ranks_that_find_different_weights(tmp_path: Path) -> None:
    for rank in range(2):
        gpt2_files.write(tmp_path / str(rank), gpt2_files.theirs(V=7 + rank), vocab_size=7 + rank)

    def program(world: Communicator) -> None:
        with pytest.raises(UserError, match="ranks were given different values"):
            find(tmp_path / str(world.rank), world)

    threads.run(2, program)


def test_shards_of_a_given_size() -> None:
    sizes = {"a": 4, "b": 4, "c": 9, "d": 1, "e": 0}
    assert in_shards(sizes, 8) == [["a", "b"], ["c"], ["d", "e"]]
    assert in_shards(sizes, 100) == [[*sizes]]
    assert in_shards(sizes, 1) == [["a"], ["b"], ["c"], ["d", "e"]]


def test_a_model_of_another_shape_is_refused(folder: Path) -> None:
    def of(**sizes: Any) -> Model:
        return gpt(GPTConfig(**{"vocabulary": 7, "context": 6, "layers": 2, "heads": 4, "width": 8, **sizes}))

    found = look(folder)
    for sizes in ({"heads": 2}, {"context": 5}, {"layers": 3}, {"tied": False}):
        with pytest.raises(UserError, match=r"Build the model with|needs"):
            start_from(of(**sizes), found)
