"""GPT and MLP: initial values, dtypes, PyTorch's loss and gradients, dropout by position, and partial batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minitrain.autograd import Node, no_grad
from minitrain.data.batch import Batch, Where
from minitrain.errors import UserError
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Dropout, Parameter
from minitrain.precision import StaticPolicy, use
from minitrain.tensor import Tensor
from tests.gradcheck import close

TOY = GPTConfig(vocabulary=11, context=6, layers=2, heads=3, width=6, std=0.3, dtype="float64")
TOY_MLP = MLPConfig(inputs=5, hidden=(7, 6), classes=4, dtype="float64")
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def text(B: int = 3, T: int = 5, seed: int = 1, number: int = 0) -> Batch:
    """Return a batch of random ids; inputs and labels are slices of one array, as from the loader."""
    ids = np.random.default_rng(number).integers(0, TOY.vocabulary, (B, T + 1))
    return Batch(ids[:, :-1], ids[:, 1:], Where(seed, number, B, T, slice(0, B), slice(0, T)))


def digits(B: int = 3, dtype: str = "float64") -> Batch:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((B, TOY_MLP.inputs)).astype(dtype)
    return Batch(inputs, rng.integers(0, TOY_MLP.classes, B), Where(1, 0, B, 1, slice(0, B), slice(0, 1)))


def drawn(model: Model, std: float | None = None) -> Model:
    """Initialize the model. `std` applies to all parameters, norms and biases too, so that every mistake shows."""
    for p in model.parameters():
        p.init_std = p.init_std if std is None else std
    model.init(seed=1)
    return model


def reducer(model: Model, *batches: Batch) -> tuple[float, dict[str, np.ndarray]]:
    """Return the loss and each parameter's gradient, summed over the batches."""
    loss = 0.0
    for p in model.parameters():
        p.grad = None
    for batch in batches:
        part = model(batch)
        part.backward()
        loss += part.item()
    found = {p.placement.path: p.grad for p in model.parameters()}
    return loss, {path: grad for path, grad in found.items() if grad is not None}


def logits(model: Model, batch: Batch) -> np.ndarray:
    with no_grad():
        return model(replace(batch, labels=None)).data


def worst(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest difference of any tensor, as measured by `close`."""
    assert found.keys() == expected.keys()
    floor = 1e-3 * max(np.abs(b).max() for b in expected.values())
    measures = [close(found[path], expected[path], floor) for path in expected]
    return max(measures) if np.isfinite(measures).all() else np.inf


# Parameters ----------------------------------------------------------------------------------------------------------

MODELS = pytest.mark.parametrize(
    "model",
    [gpt(TOY), gpt(replace(TOY, tied=False, dtype="float32")), mlp(replace(TOY_MLP, hidden=(6, 6, 6))), mlp()],
    ids=["gpt", "gpt untied", "mlp", "mlp default"],
)


@MODELS
def test_no_two_parameters_start_equal(
    model: Model, draw: Callable[[Parameter, int], np.ndarray] = Parameter.initial_values
) -> None:
    random = [draw(p, 1) for p in model.parameters() if p.init_std > 0]
    assert len(random) >= 3
    for i, a in enumerate(random):
        for b in random[:i]:
            n = min(a.size, b.size)
            assert not (a.reshape(-1)[:n] == b.reshape(-1)[:n]).any()
    assert all(np.unique(p.initial_values(1)).tolist() == [p.init_mean] for p in model.parameters() if p.init_std == 0)


@MODELS
def test_paths_are_unique_and_keyed(model: Model) -> None:
    """Initial values depend only on the seed and the path."""
    parameters = model.parameters()
    assert len({p.placement.path for p in parameters}) == len(parameters)
    for p in parameters:
        np.testing.assert_array_equal(p.initial_values(1), p.initial_values(1))
        assert p.init_std == 0 or not (p.initial_values(1) == p.initial_values(2)).any()


@MODELS
def test_standard_deviations(model: Model) -> None:
    for p in model.parameters():
        values = p.initial_values(1)
        assert abs(values.std() - p.init_std) <= 5 * p.init_std / np.sqrt(2 * values.size)
        assert abs(values.mean() - p.init_mean) <= 5 * p.init_std / np.sqrt(values.size)


@MODELS
def test_a_part_of_a_parameter_draws_that_part(model: Model) -> None:
    for p in model.parameters():
        whole, place = p.initial_values(1), p.placement
        try:
            for dim, n in enumerate(place.shape):
                for lo, hi in [(0, n // 2), (n // 2, n), (1, 1), (n - 1, n)]:
                    p.placement = place.split(dim, lo, hi)
                    part = p.initial_values(1)
                    assert part.shape == p.placement.local == p.shape
                    np.testing.assert_array_equal(part, whole.take(range(lo, hi), axis=dim))
            p.placement = place.split(0, 1, place.shape[0]).split(0, 1, place.shape[0] - 1)
            np.testing.assert_array_equal(p.initial_values(1), whole[2:])
            with pytest.raises(ValueError, match=place.path):
                p.placement.split(0, 0, place.shape[0])
        finally:
            p.placement = place


def test_a_parameter_without_values_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"embed\.tokens\.weight has no values"):
        gpt(TOY)(text())


def test_default_sizes() -> None:
    shapes = {p.placement.path: p.shape for p in mlp().parameters() if "weight" in p.placement.path}
    assert [*shapes.values()] == [(64, 128), (128, 128), (128, 10)]
    model = gpt(GPTConfig(vocabulary=65))
    assert sum(int(np.prod(p.shape)) for p in model.parameters()) == 809_856  # 12 D^2 + 13 D per layer, 65 D, 64 D, 2 D
    untied = gpt(GPTConfig(vocabulary=65, tied=False))
    assert len(untied.parameters()) == len(model.parameters()) + 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 4}, "heads is 4.*width 6.*1, 2, 3, 6"),
        ({"vocabulary": 0}, "vocabulary is 0"),
        ({"context": 0}, "context is 0"),
        ({"layers": -1}, "layers is -1"),
        ({"heads": 0}, "heads is 0"),
        ({"width": 0}, "width is 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"dtype": "float16"}, "dtype is 'float16'.*'float32', 'float64'"),
    ],
    ids=str,
)
def test_gpt_sizes_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        gpt(replace(TOY, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": 0}, "inputs is 0"),
        ({"hidden": (3, 0)}, r"hidden \(3, 0\)"),
        ({"classes": -2}, "classes is -2"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
    ids=str,
)
def test_mlp_sizes_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        mlp(replace(TOY_MLP, **changes))


def test_an_mlp_without_hidden_layers_is_a_linear_classifier() -> None:
    model = drawn(mlp(replace(TOY_MLP, hidden=())))
    batch = digits()
    weight, bias = (p.data for p in model.parameters())
    assert close(logits(model, batch), batch.inputs @ weight + bias) <= 1e-14


# Dtype ---------------------------------------------------------------------------------------------------------------


def saved_dtypes(loss: Tensor) -> set[np.dtype]:
    """Return the dtypes of everything that the tape keeps for backward."""
    dtypes, seen, pending = set(), set(), [loss.node]
    while pending:
        node = pending.pop()
        if isinstance(node, Node) and node not in seen:
            seen.add(node)
            pending.extend(edge for edge in node.edges if isinstance(edge, Node))
            dtypes |= {kept.dtype for kept in node.saved}
    return dtypes


@DTYPES
@pytest.mark.parametrize("kind", ["gpt", "mlp"])
def test_one_dtype_everywhere(kind: str, dtype: str) -> None:
    """np.float64 scalars silently promote arrays, which doubles size and time."""
    if kind == "gpt":
        model, batch = drawn(gpt(replace(TOY, dropout=0.2, dtype=dtype))), text()
    else:
        model, batch = drawn(mlp(replace(TOY_MLP, dtype=dtype))), digits(dtype=dtype)
    loss = model(batch)
    assert {kept for kept in saved_dtypes(loss) if kept.kind == "f"} == {np.dtype(dtype)}
    assert {kept.kind for kept in saved_dtypes(loss)} <= {"f", "i", "b"}
    loss.backward()
    assert loss.dtype == logits(model, batch).dtype == dtype
    for p in model.parameters():
        assert p.grad is not None
        assert p.dtype == p.data.dtype == p.grad.dtype == dtype and p.grad.shape == p.shape


@pytest.mark.parametrize("hidden", [(7, 6), ()])
@pytest.mark.parametrize(
    ("model", "given"),
    [
        *(("float32", kind) for kind in ("float64", "float16", "uint8", "uint16", "int64", "bool")),
        *(("float64", kind) for kind in ("float32", "uint8")),
    ],
)
def test_inputs_of_another_dtype_are_refused(model: str, given: str, hidden: tuple[int, ...]) -> None:
    """A model given 8-bit images would train without any parameter changing."""
    units = drawn(mlp(replace(TOY_MLP, hidden=hidden, dtype=model)))
    layer = "dense.0" if hidden else "head"
    cure = rf"{given}, shape \(3, 5\), but {layer}.linear holds {model}: give ArrayLoader\(inputs.astype\(np.{model}\)"
    with pytest.raises(UserError, match=cure):
        units(digits(dtype=given))
    assert units(digits(dtype=model)).dtype == model


@pytest.mark.parametrize("half_weights", [False, True])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float32"])
def test_inputs_of_a_model_in_mixed_precision(policy: str, half_weights: bool) -> None:
    """Layers hold float32 in any compute dtype; the policy casts floats, and integers are refused."""
    model = mlp(replace(TOY_MLP, dtype="float32"))
    use(model, StaticPolicy(policy), half_weights and policy != "float32")
    drawn(model)
    assert model(digits(dtype="float32")).dtype == np.float32
    with pytest.raises(UserError, match=r"uint8, shape \(3, 5\), but dense.0.linear holds float32"):
        model(digits(dtype="uint8"))


@pytest.mark.parametrize("shape", [(7, 4), (7, 6), (7,)])
def test_inputs_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    where = Where(1, 0, 7, 1, slice(0, 7), slice(0, 1))
    with pytest.raises(UserError, match=r"dense.0.linear takes 5 features per sample: give inputs of shape \(B, 5\)"):
        drawn(mlp(TOY_MLP))(Batch(np.ones(shape), None, where))


# PyTorch -------------------------------------------------------------------------------------------------------------


def torch_gpt(t: Any, p: dict[str, Any], batch: Batch, c: GPTConfig) -> Any:
    """Compute the same GPT with PyTorch's functions, from the GPT-2 paper."""
    f = t.nn.functional
    B, T = batch.inputs.shape
    H, d = c.heads, c.width // c.heads

    def norm(x: Any, path: str) -> Any:
        return f.layer_norm(x, (c.width,), p[f"{path}.weight"], p[f"{path}.bias"])

    def linear(x: Any, path: str) -> Any:
        return f.linear(x, p[f"{path}.weight"].flatten(1).T, p[f"{path}.bias"].flatten())

    x = f.embedding(t.tensor(batch.inputs), p["embed.tokens.weight"]) + p["embed.positions.weight"][:T]
    for i in range(c.layers):
        block = f"blocks.{i}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = (part.reshape(B, T, H, d).transpose(1, 2) for part in qkv.split(c.width, dim=-1))
        y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(y.transpose(1, 2).reshape(B, T, c.width), f"{block}.attn.proj")
        up = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.up")
        x = x + linear(f.gelu(up, approximate="tanh"), f"{block}.mlp.down")
    classifier = p["embed.tokens.weight" if c.tied else "head.classifier.weight"]
    return f.linear(norm(x, "head.norm"), classifier)


def torch_mlp(t: Any, p: dict[str, Any], batch: Batch, c: MLPConfig) -> Any:
    x = t.tensor(batch.inputs)
    for i in range(len(c.hidden)):
        x = t.relu(x @ p[f"dense.{i}.linear.weight"] + p[f"dense.{i}.linear.bias"])
    return x @ p["head.linear.weight"] + p["head.linear.bias"]


def agrees_with_twin(model: Model, twin: Any, batch: Batch, config: Any) -> None:
    """Check logits, loss and every gradient to within 1e-10."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    weights = {p.placement.path: torch.tensor(p.data, requires_grad=True) for p in model.parameters()}
    expected = twin(torch, weights, batch, config)
    assert close(logits(model, batch), expected.detach().numpy()) <= 1e-10
    loss = torch.nn.functional.cross_entropy(expected.flatten(0, -2), torch.tensor(batch.labels).flatten())
    loss.backward()
    found, grads = reducer(model, batch)
    assert abs(found - loss.item()) <= 1e-10 * abs(loss.item())
    assert worst(grads, {path: w.grad.numpy() for path, w in weights.items()}) <= 1e-10


@TIED
@pytest.mark.parametrize("T", [1, 5, 6])
def test_gpt_agrees_with_torch(tied: bool, T: int) -> None:
    config = replace(TOY, tied=tied)
    agrees_with_twin(drawn(gpt(config), std=0.3), torch_gpt, text(T=T), config)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 5)], ids=str)
def test_mlp_agrees_with_torch(hidden: tuple[int, ...]) -> None:
    config = replace(TOY_MLP, hidden=hidden)
    agrees_with_twin(drawn(mlp(config), std=0.3), torch_mlp, digits(), config)


def test_the_gradient_of_the_key_bias_is_zero() -> None:
    """The key bias adds the same number to all scores of a query, and softmax cancels it. The others are not zero."""
    _, found = reducer(drawn(gpt(TOY), std=0.3), text())
    largest = max(np.abs(grad).max() for grad in found.values())
    for i in range(TOY.layers):
        q, k, v = found[f"blocks.{i}.attn.qkv.bias"]
        assert np.abs(k).max() <= 1e-14 * largest
        assert min(np.abs(q).max(), np.abs(v).max()) >= 1e-6 * largest
    assert all(np.abs(grad).max() >= 1e-6 * largest for grad in found.values())


def test_the_future_is_not_seen() -> None:
    model, batch = drawn(gpt(TOY), std=0.3), text()
    before = logits(model, batch)
    changed = batch.inputs.copy()
    changed[:, 3] = (changed[:, 3] + 1) % TOY.vocabulary
    after = logits(model, replace(batch, inputs=changed))
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).any(axis=-1).all()


def test_logits_without_labels() -> None:
    assert logits(drawn(gpt(TOY)), text()).shape == (3, 5, 11)
    assert logits(drawn(mlp(TOY_MLP)), digits()).shape == (3, 4)


# Dropout -------------------------------------------------------------------------------------------------------------


def dropped(path: str, where: Where, p: float = 0.4, width: int = 6) -> np.ndarray:
    """Apply dropout to ones; return the slice of samples and time given by `where`."""
    shape = (where.samples.stop - where.samples.start, where.time.stop - where.time.start, width)
    return Dropout(path, p)(Tensor(np.ones(shape)), Batch(np.empty(shape), None, where)).data


def test_dropout_depends_on_seed_number_and_path() -> None:
    where = text(B=8).where
    mask = dropped("a", where)
    assert set(np.unique(mask)) == {0, 1 / 0.6}
    np.testing.assert_array_equal(dropped("a", where), mask)
    for other in (
        dropped("b", where),
        dropped("a", replace(where, seed=2)),
        dropped("a", replace(where, number=1)),
        dropped("a", replace(where, seed=where.number, number=where.seed)),
    ):
        assert (other != mask).mean() >= 0.3  # 0.48 expected
    np.testing.assert_array_equal(dropped("a", replace(where, training=False)), np.ones_like(mask))
    np.testing.assert_array_equal(dropped("a", where, p=0.0), np.ones_like(mask))


def test_a_part_has_its_part_of_the_mask() -> None:
    """Masks are sliced by samples (data parallel, micro-batches) and by time (sequence parallel)."""
    where = text(B=7).where
    mask = dropped("a", where)
    for samples, time in [((2, 5), (0, 5)), ((0, 7), (1, 4)), ((6, 7), (4, 5)), ((3, 3), (0, 5))]:
        part = replace(where, samples=slice(*samples), time=slice(*time))
        np.testing.assert_array_equal(dropped("a", part), mask[slice(*samples), slice(*time)])


def test_the_model_drops_in_training_only() -> None:
    plain, dropping = drawn(gpt(TOY)), drawn(gpt(replace(TOY, dropout=0.3)))
    batch = text()
    np.testing.assert_array_equal(logits(dropping, batch), logits(dropping, batch))
    assert (logits(dropping, batch) != logits(plain, batch)).any()
    assert (logits(dropping, batch) != logits(dropping, replace(batch, where=replace(batch.where, seed=2)))).any()
    validation = replace(batch, where=replace(batch.where, training=False))
    np.testing.assert_array_equal(logits(dropping, validation), logits(plain, batch))


# Partial batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("B", "n"), [(7, 3), (2, 3), (6, 2), (1, 1)])
def test_the_parts_of_a_batch_add_up(B: int, n: int) -> None:
    """Check uneven and empty parts with dropout on: the samples' logits, the loss, every gradient."""
    model, batch = drawn(gpt(replace(TOY, dropout=0.3)), std=0.3), text(B)
    parts = [batch.part(i, n) for i in range(n)]
    assert [len(part.inputs) for part in parts] == [B // n + (i < B % n) for i in range(n)]
    assert close(np.concatenate([logits(model, part) for part in parts]), logits(model, batch)) <= 1e-12
    loss, expected = reducer(model, batch)
    partial, found = reducer(model, *parts)
    assert abs(partial - loss) <= 1e-12 * loss
    assert worst(found, expected) <= 1e-12


def test_parts_of_parts() -> None:
    """Split over ranks, then over micro-batches; each part knows its place in the whole."""
    batch = text(B=7)
    pieces = [piece for i in range(2) for piece in batch.part(i, 2).split(3)]
    np.testing.assert_array_equal(np.concatenate([piece.inputs for piece in pieces]), batch.inputs)
    for piece in pieces:
        np.testing.assert_array_equal(piece.inputs, batch.inputs[piece.where.samples])
        assert piece.labels is not None and batch.labels is not None
        np.testing.assert_array_equal(piece.labels, batch.labels[piece.where.samples])
        assert piece.where.count == batch.where.count == 35


def test_the_parts_of_digits_add_up() -> None:
    model, batch = drawn(mlp(TOY_MLP), std=0.3), digits(B=7)
    loss, expected = reducer(model, batch)
    for n in (3, 9):
        partial, found = reducer(model, *batch.split(n))
        assert abs(partial - loss) <= 1e-12 * loss
        assert worst(found, expected) <= 1e-12


def test_positions_are_those_of_the_whole() -> None:
    """A rank that holds positions 2 to 4 embeds them as those positions."""
    model, batch = drawn(gpt(TOY)), text()
    embed: Any = model.units[0]
    part = replace(batch, inputs=batch.inputs[:, 2:5], where=replace(batch.where, time=slice(2, 5)))
    np.testing.assert_array_equal(embed(None, part).data, embed(None, batch).data[:, 2:5])
