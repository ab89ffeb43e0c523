"""GPT-2 in and out, compared with transformers: logits, gradients, a step of training, and the files bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.commands.convert import convert
from minitrain.data.batch import Batch, Where
from minitrain.models import GPTConfig, Model, gpt
from minitrain.optim import SGD
from minitrain.parallel.strategy import Strategy
from minitrain.train import checkpoint
from minitrain.train.checkpoint import gather
from minitrain.train.gpt2_layout import layout
from minitrain.train.trainer import Trainer
from minitrain.train.weights import look, start_from

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing to compare with")

V, T, B = 31, 10, 5
SIZES: dict[str, Any] = {
    **{"n_layer": 3, "n_head": 3, "n_embd": 12, "vocab_size": V, "n_positions": T, "initializer_range": 0.3},
    **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None},
}
WITHIN = {"float32": 1e-5, "float64": 1e-10}


def theirs(dtype: str, **options: Any) -> Any:
    """Return a random GPT-2 in which nothing is left at its initial value, such as biases at 0."""
    torch.manual_seed(1)
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SIZES, **options})).to(getattr(torch, dtype))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made.train()


def batch() -> Batch:
    ids, labels = np.random.default_rng(1).integers(0, V, (2, B, T))
    return Batch(ids, labels, Where(1, 0, B, T, slice(0, B), slice(0, T)))


def ours(folder: Path) -> Model:
    found = look(folder)
    model = gpt(found.config)
    start_from(model, found)
    return model


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("options", [{}, {"layer_norm_epsilon": 1e-2}, {"tie_word_embeddings": False}])
def test_logits_and_gradients(options: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    reference = theirs(dtype, **options)
    reference.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    model = ours(tmp_path)
    model.init(1)
    it = batch()
    logits = reference(torch.tensor(it.inputs)).logits
    found = model(Batch(it.inputs, None, it.where)).data
    assert found.dtype == dtype and np.abs(found - logits.detach().numpy()).max() < WITHIN[dtype]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(it.labels).flatten())
    loss.backward()
    mine = model(it)
    mine.backward()
    assert abs(mine.item() - loss.item()) < WITHIN[dtype]
    names, grads = layout(look(tmp_path).config), dict(reference.named_parameters())
    for p in model.parameters():
        name, shape, _ = names[p.placement.path]
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.reshape(shape), grads[name].grad.numpy(), rtol=0, atol=WITHIN[dtype])


@pytest.mark.parametrize(
    ("mesh", "strategy"),
    [({"dp": 3}, Strategy(zero=3)), ({"tp": 3}, Strategy()), ({"pp": 3}, Strategy()), ({"tp": 2, "pp": 2}, Strategy())],
    ids=["zero3", "tp", "pp", "tp x pp"],
)
def test_a_step_of_training(mesh: dict[str, int], strategy: Strategy, tmp_path: Path) -> None:
    """On a mesh, from the files, with the batch of five divided unevenly."""
    reference = theirs("float64")
    reference.save_pretrained(tmp_path)
    it = batch()
    logits = reference(torch.tensor(it.inputs)).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(it.labels).flatten()).backward()
    with torch.no_grad():
        for p in reference.parameters():
            p -= 0.1 * p.grad
    true = {name: p.detach().numpy() for name, p in reference.named_parameters()}

    def program(world: Communicator) -> None:
        model = ours(tmp_path)
        trainer = Trainer(
            model, world, optimizer=SGD, schedule=0.1, strategy=strategy, mesh=Mesh(world, **mesh), accumulate=2
        )
        trainer.step(it)
        names = layout(look(tmp_path).config)
        for path, x in gather(model, world, reducer=trainer.reducer).items():
            name, shape, _ = names[path]
            np.testing.assert_allclose(x.reshape(shape), true[name], rtol=0, atol=1e-10, err_msg=path)
        trainer.close()

    threads.run(int(np.prod(list(mesh.values()))), program)


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tied: bool, dtype: str, tmp_path: Path) -> None:
    """In and out again: the same tensors bit for bit, and transformers computes the same from them."""
    reference = theirs(dtype, tie_word_embeddings=tied, layer_norm_epsilon=1e-4)
    reference.save_pretrained(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "ours", "minitrain", 0.004)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 3
    convert(tmp_path / "ours", tmp_path / "out", "gpt2", 0.004)
    before, after = load_file(tmp_path / "in" / "model.safetensors"), dict[str, np.ndarray]()
    for file in (tmp_path / "out").glob("*.safetensors"):
        after |= load_file(file)
    assert before.keys() == after.keys()
    for name, x in before.items():
        np.testing.assert_array_equal(x, after[name], err_msg=name, strict=True)
    given, written = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("in", "out"))
    del written["minitrain"]
    assert written == {key: given[key] for key in written}
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out", dtype=getattr(torch, dtype))
    ids = torch.tensor(batch().inputs)
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, reference.eval()(ids).logits)


def test_a_model_trained_here_is_read_there(tmp_path: Path) -> None:
    config = GPTConfig(V, T, layers=2, heads=3, width=12, std=0.3)
    model = gpt(config)
    model.init(3)
    checkpoint.save(tmp_path / "model.safetensors", gather(model, world_of_one()), {"gpt": vars(config)})
    convert(tmp_path / "model.safetensors", tmp_path / "out", "gpt2", 5000)
    there = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    it = batch()
    with torch.no_grad():
        logits = there(torch.tensor(it.inputs)).logits.numpy()
    assert np.abs(model(Batch(it.inputs, None, it.where)).data - logits).max() < 1e-5
