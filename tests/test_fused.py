"""Every operation of fused.py: gradient, dtype, PyTorch's values, what it keeps and what it refuses."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minitrain import backend, fused
from minitrain import functional as F
from minitrain import gelu as gelu_module
from minitrain.attention import attend, attend_vjp
from minitrain.autograd import apply
from minitrain.nn import Parameter
from minitrain.tensor import Tensor
from tests.gradcheck import (
    Operation,
    agrees_with_torch,
    as_activations,
    cases,
    close,
    gradcheck,
    names_what_it_keeps,
    pull,
)

IDS = np.array([[3, 0, 3], [1, 3, 1]])  # repeated ids and a missing one
NOTHING = np.empty((2, 0), np.int64)


def cycle(shape: tuple[int, ...], n: int) -> np.ndarray:
    """Return integers of this shape: 0, 1, ..., n-1, 0, 1, ..."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape) % max(n, 1)


def pattern(shape: tuple[int, ...]) -> np.ndarray:
    return cycle(shape, 3) > 0


def torch_attention(t: Any, qkv: Any, **options: Any) -> Any:
    B, T, _, H, d = qkv.shape
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    y = t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
    return y.transpose(1, 2).reshape(B, T, H * d)


def torch_cross_entropy(t: Any, x: Any, denominator: float) -> Any:
    labels = t.tensor(cycle(tuple(x.shape[:-1]), x.shape[-1])).reshape(-1)
    return t.nn.functional.cross_entropy(x.reshape(len(labels), x.shape[-1]), labels, reduction="sum") / denominator


def attended(q_start: int, k_start: int) -> Operation:
    """Return `attend` and `attend_vjp` as an operation whose queries and keys start at different times."""

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, p = attend(q.data, k.data, v.data, 0.7, q_start, k_start)
        return apply(y, (q, k, v), lambda g: attend_vjp(g, q.data, k.data, v.data, p, 0.7), saved=(q, k, v, p))

    def theirs(t: Any, q: Any, k: Any, v: Any) -> Any:
        seen = k_start + t.arange(k.shape[2]) <= q_start + t.arange(q.shape[2])[:, None]
        return t.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=0.7)

    return Operation(f"attend {q_start},{k_start}", ours, theirs, [((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4))])


def t_attention(t: Any, q: Any, k: Any, v: Any, **options: Any) -> Any:
    return t.nn.functional.scaled_dot_product_attention(q, k, v, **options)


def masked(mask: np.ndarray) -> Callable[..., Tensor]:
    return lambda q, k, v: fused.attention(q, k, v, mask)


MASK = np.arange(20).reshape(4, 5) % 3 > 0
PADDED = (np.arange(5) < np.array([[3], [5]]))[:, None, None]  # the first sample has three keys, the second all five
THREE = [
    ((2, 3, 4, 2), (2, 3, 5, 2), (2, 3, 5, 6)),
    ((4, 2), (5, 2), (5, 1)),
    ((1, 2, 1, 3), (1, 2, 1, 3), (1, 2, 1, 3)),
    ((0, 2, 4, 2), (0, 2, 5, 2), (0, 2, 5, 2)),
    ((2, 0, 2), (2, 5, 2), (2, 5, 2)),
]
QKV = [
    ((2, 5, 3, 2, 3),),
    ((1, 7, 3, 1, 4),),
    ((2, 1, 3, 2, 2),),
    ((2, 4, 3, 3, 1),),
    ((0, 3, 3, 2, 2),),
    ((2, 0, 3, 2, 2),),
]
LOGITS = [((6, 4),), ((2, 3, 5),), ((5,),), ((3, 1),), ((0, 4),), ((2, 0, 4),)]
ANY = [((5,),), ((3, 1, 7),), ((),), ((0,),), ((2, 0, 3),)]
TABLE = [
    Operation(
        "linear",
        fused.linear,
        lambda t, x, w, b: t.tensordot(x, w, dims=1) + b,
        [
            ((3,), (3, 4), (4,)),
            ((5, 3), (3, 4), (4,)),
            ((2, 5, 3), (3, 4), (4,)),
            ((2, 1, 5, 3), (3, 4), (4,)),
            ((2, 5, 3), (3, 3, 2, 2), (3, 2, 2)),
            ((1, 1), (1, 1), (1,)),
            ((0, 3), (3, 4), (4,)),
            ((2, 0, 3), (3, 2, 2), (2, 2)),
            ((2, 3), (3, 0), (0,)),
            ((2, 0), (0, 4), (4,)),
        ],
    ),
    Operation(
        "linear without bias",
        fused.linear,
        lambda t, x, w: t.tensordot(x, w, dims=1),
        [((5, 3), (3, 4)), ((2, 5, 3), (3, 2, 2)), ((0, 3), (3, 4))],
    ),
    Operation(
        "linear_transposed",
        fused.linear_transposed,
        lambda t, x, w: x @ w.T,
        [((3,), (4, 3)), ((5, 3), (4, 3)), ((2, 5, 3), (4, 3)), ((0, 3), (4, 3)), ((2, 3), (0, 3)), ((2, 1), (1, 1))],
    ),
    Operation("embedding", lambda w: fused.embedding(IDS, w), lambda t, w: w[IDS], [((4, 3),), ((7, 1),)]),
    Operation("embedding of wide rows", lambda w: fused.embedding(IDS, w), lambda t, w: w[IDS], [((4, 65),)]),
    Operation("embedding of one", lambda w: fused.embedding(IDS[0, 0], w), lambda t, w: w[3], [((4, 3),)]),
    Operation("embedding of nothing", lambda w: fused.embedding(NOTHING, w), lambda t, w: w[NOTHING], [((4, 3),)]),
    Operation(
        "layer_norm",
        fused.layer_norm,
        lambda t, x, w, b: t.nn.functional.layer_norm(x, x.shape[-1:], w, b, 1e-5),
        [((5,), (5,), (5,)), ((2, 3, 5), (5,), (5,)), ((0, 5), (5,), (5,)), ((2, 0, 5), (5,), (5,))],
    ),
    Operation(
        "layer_norm of width 1",  # a row of one element is its own mean
        fused.layer_norm,
        lambda t, x, w, b: 0 * (x + w) + b,
        [((3, 1), (1,), (1,))],
    ),
    Operation("gelu", fused.gelu, lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), ANY),
    Operation(
        "gelu of columns",  # the derivative takes the place of a copy, which must not keep the order of columns
        lambda x: fused.gelu(F.transpose(x)),
        lambda t, x: t.nn.functional.gelu(x.T, approximate="tanh"),
        [((3, 4),)],
    ),
    Operation("gelu exact", lambda x: fused.gelu(x, "none"), lambda t, x: t.nn.functional.gelu(x), ANY),
    Operation(
        "gelu exact, far", lambda x: fused.gelu(x * 5, "none"), lambda t, x: t.nn.functional.gelu(x * 5), ANY[:2]
    ),
    Operation("attention", fused.attention, lambda t, *qkv: t_attention(t, *qkv), THREE),
    Operation(
        "attention masked", masked(MASK), lambda t, *qkv: t_attention(t, *qkv, attn_mask=t.tensor(MASK)), THREE[:2]
    ),
    Operation(
        "attention with a mask for each sample",
        masked(PADDED),
        lambda t, *qkv: t_attention(t, *qkv, attn_mask=t.tensor(PADDED).expand(2, 3, 4, 5)),
        THREE[:1],
    ),
    Operation(
        "attention scaled",
        lambda q, k, v: fused.attention(q, k, v, scale=0.3),
        lambda t, *qkv: t_attention(t, *qkv, scale=0.3),
        THREE,
    ),
    Operation("causal_attention", fused.causal_attention, torch_attention, QKV),
    Operation("causal_attention later", lambda x: fused.causal_attention(x, start=9), torch_attention, QKV[:1]),
    Operation(
        "causal_attention scaled",
        lambda x: fused.causal_attention(x, scale=0.1),
        lambda t, x: torch_attention(t, x, scale=0.1),
        QKV[:1],
    ),
    attended(0, 0),
    attended(2, 0),
    attended(7, 2),
    attended(6, 6),
    Operation(
        "cross_entropy",
        lambda x: fused.cross_entropy(x, cycle(x.shape[:-1], x.shape[-1]), 7),
        lambda t, x: torch_cross_entropy(t, x, 7),
        LOGITS,
    ),
    Operation(
        "mean_squared_error",
        lambda x: fused.mean_squared_error(x, cycle(x.shape, 3).astype(x.dtype), 7),
        lambda t, x: ((x - t.tensor(cycle(tuple(x.shape), 3))) ** 2).sum() / 7,
        ANY,
    ),
    Operation(
        "dropout",
        lambda x: fused.dropout(x, pattern(x.shape), 0.3),
        lambda t, x: x * t.tensor(pattern(tuple(x.shape))) / 0.7,
        ANY,
    ),
    Operation(
        "dropout",  # without rescaling
        lambda x: fused.dropout(x, pattern(x.shape), 0),
        lambda t, x: x * t.tensor(pattern(tuple(x.shape))),
        ANY,
    ),
]
LOSSES = ("cross_entropy", "mean_squared_error")
HALVES = (np.float16, ml_dtypes.bfloat16)
DTYPES = pytest.mark.parametrize("dtype", [*HALVES, np.float32, np.float64])


@cases(TABLE)
def test_gradient(row: Operation, shapes: Any) -> None:
    gradcheck(row.ours, *row.draw(shapes))


@cases(TABLE)
def test_torch(row: Operation, shapes: Any) -> None:
    agrees_with_torch(row, shapes)


@DTYPES
@cases(TABLE)
def test_dtype(row: Operation, shapes: Any, dtype: Any) -> None:
    """Losses of half precision are float32; everything else keeps its dtype. `pull` checks the gradients."""
    y, _, _ = pull(row.ours, row.draw(shapes, dtype))
    assert y.dtype == (np.float32 if dtype in HALVES and row.name in LOSSES else dtype)


# Parameters ----------------------------------------------------------------------------------------------------------

WITH_WEIGHTS = [row for row in TABLE if row.name.startswith(("linear", "embedding", "layer_norm"))]


def declared(row: Operation, shapes: Any, dtype: Any) -> tuple[list[Tensor], Tensor]:
    """Return the operation with its weights as Parameters, and its result."""
    arrays = row.draw(shapes, dtype)
    node = row.ours(*(Tensor(x, requires_grad=True) for x in arrays)).node
    assert node is not None
    first = len(arrays) - len(node.weights)
    operands: list[Tensor] = [Tensor(x, requires_grad=True) for x in arrays[:first]]
    for x in arrays[first:]:
        parameter = Parameter("p", x.shape)
        parameter.store_as(x.dtype)
        parameter.data = x
        operands.append(parameter)
    return operands, row.ours(*operands)


@DTYPES
@cases(WITH_WEIGHTS)
def test_weight_gradients_written_in_place(row: Operation, shapes: Any, dtype: Any) -> None:
    """`out`, part of a flat NaN buffer, receives what is otherwise returned; parameter arrays may be gone by then."""
    operands, y = declared(row, shapes, dtype)
    g = np.asarray(np.random.default_rng(0).standard_normal(y.shape), dtype)
    assert y.node is not None
    for x in operands:
        if isinstance(x, Parameter):
            x.view(None)
    for parameter, vjp in y.node.weights:
        size = int(np.prod(parameter.shape))
        buffer = np.full(size + 2, np.nan, dtype)
        assert vjp is not None
        returned = vjp(g)
        assert (returned.shape, returned.dtype) == (parameter.shape, dtype)
        vjp(g, out=buffer[1 : size + 1].reshape(parameter.shape))
        np.testing.assert_array_equal(buffer[1 : size + 1].reshape(parameter.shape), returned)
        assert np.isnan(buffer[[0, -1]]).all()


@cases([row for row in WITH_WEIGHTS if not row.name.startswith("embedding")])
def test_backward_reads_parameters_when_it_runs(row: Operation, shapes: Any) -> None:
    """Under ZeRO-3 backward may see another gathered array than forward did; gx must use the newer one."""
    operands, y = declared(row, shapes, np.float64)
    doubled, y_doubled = declared(row, shapes, np.float64)
    for x in doubled:
        if isinstance(x, Parameter):
            x.data = 2 * x.data
    g = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(g)
    y_doubled.backward(g)
    assert operands[0].grad is not None
    np.testing.assert_array_equal(doubled[0].grad, 2 * operands[0].grad)


@cases([row for row in WITH_WEIGHTS if not row.name.startswith("embedding")][:-1])
def test_frozen(row: Operation, shapes: Any) -> None:
    """A frozen parameter gets no gradient, and nothing is kept for it."""
    arrays = row.draw(shapes)
    x = Tensor(arrays[0], requires_grad=True)
    y = row.ours(x, *(Tensor(w) for w in arrays[1:]))
    assert y.node is not None and y.node.weights == ()
    _, c, gradients = pull(row.ours, arrays)
    y.backward(c)
    np.testing.assert_array_equal(x.grad, gradients[0])


BIG: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "linear": (fused.linear, ((40, 16), (16, 24), (24,))),
    "linear_transposed": (fused.linear_transposed, ((40, 16), (24, 16))),
    "embedding": (lambda w: fused.embedding(cycle((400,), 40), w), ((40, 16),)),
    "layer_norm": (fused.layer_norm, ((200, 16), (16,), (16,))),
    "gelu": (fused.gelu, ((40, 16),)),
    "gelu, exact": (lambda x: fused.gelu(x, "none"), ((40, 16),)),
    "attention": (lambda q, k, v: fused.attention(q, k, v, np.tri(16, dtype=bool)), ((2, 2, 16, 8),) * 3),
    "causal_attention": (fused.causal_attention, ((2, 16, 3, 2, 8),)),
    "cross_entropy": (lambda x: fused.cross_entropy(x, cycle((200,), 16), 200), ((200, 16),)),
    "cross_entropy, labels cut out": (  # reshape copies them, which makes two arrays
        lambda x: fused.cross_entropy(x, cycle((20, 11), 16)[:, 1:], 200),
        ((20, 10, 16),),
    ),
    "mean_squared_error": (lambda x: fused.mean_squared_error(x, np.ones(x.shape), 200), ((40, 16),)),
    "dropout": (lambda x: fused.dropout(x, pattern(x.shape), 0.3), ((80, 16),)),
}


@pytest.mark.parametrize(("operation", "shapes"), BIG.values(), ids=BIG)
def test_saved(operation: Any, shapes: Any) -> None:
    node = as_activations(operation, [np.random.default_rng(0).standard_normal(shape) for shape in shapes]).node
    assert node is not None
    names_what_it_keeps(node, limit=1024)


SUMS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "linear, W": (lambda w: fused.linear(Tensor(np.ones((4096, 1), np.float16)), w), (1, 1)),
    "linear, b": (
        lambda b: fused.linear(Tensor(np.ones((4096, 1), np.float16)), Tensor(np.ones((1, 1), np.float16)), b),
        (1,),
    ),
    "embedding": (lambda w: fused.embedding(np.zeros(4096, np.int64), w), (1, 1)),
    "layer_norm, b": (
        lambda b: fused.layer_norm(Tensor(np.ones((4096, 1), np.float16)), Tensor(np.ones(1, np.float16)), b),
        (1,),
    ),
}


@pytest.mark.parametrize(("operation", "shape"), SUMS.values(), ids=SUMS)
def test_half_precision_is_summed_in_float32(operation: Any, shape: Any) -> None:
    """Added one by one in float16, 2048 + 1 is 2048."""
    x = Tensor(np.ones(shape, np.float16), requires_grad=True)
    y = operation(x)
    y.backward(np.ones_like(y.data))
    assert x.grad is not None and x.grad.item() == 4096


def test_layer_norm_of_a_half_precision_row_with_a_large_sum_of_squares() -> None:
    x = np.where(pattern((1, 1024)), 16, -16).astype(np.float16)  # its squares sum to 2^18: infinite in float16
    one, zero = np.ones(1024), np.zeros(1024)
    y, expected = (
        fused.layer_norm(Tensor(x, dtype=dtype), Tensor(one, dtype=dtype), Tensor(zero, dtype=dtype)).data
        for dtype in (np.float16, np.float64)
    )
    assert close(y, expected) <= 4e-3


# Attention -----------------------------------------------------------------------------------------------------------


def test_attention_scale_is_that_of_a_head(attention: Callable[[Tensor], Tensor] = fused.causal_attention) -> None:
    """The scale is 1/sqrt(D/H), not 1/sqrt(D): written out for two positions of two heads."""
    qkv = np.random.default_rng(0).standard_normal((1, 2, 3, 2, 3))
    y = attention(Tensor(qkv)).data.reshape(2, 2, 3)
    for head in range(2):
        q, k, v = qkv[0, :, :, head].transpose(1, 0, 2)
        weights = np.exp(k @ q[1] / np.sqrt(3))
        np.testing.assert_array_equal(y[0, head], v[0])
        assert close(y[1, head], weights @ v / weights.sum()) <= 1e-12


def test_attention_over_divided_time() -> None:
    """Queries 2 to 4 against all keys give rows 2 to 4 of the whole result; future keys make no difference."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 2, 6, 4))
    whole, _ = attend(q, k, v, 0.5, 0, 0)
    part, _ = attend(q[:, :, 2:5], k, v, 0.5, 2, 0)
    assert close(part, whole[:, :, 2:5]) <= 1e-12
    without_future, _ = attend(q[:, :, 2:5], k[:, :, :5], v[:, :, :5], 0.5, 2, 0)
    assert close(without_future, part) <= 1e-12


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("V", [1, 5, 8])
def test_cross_entropy_of_every_label(V: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, V))
    p = np.exp(x[0]) / np.exp(x[0]).sum()
    for label in range(V):
        leaf = Tensor(x, requires_grad=True)
        loss = fused.cross_entropy(leaf, np.array([label]), 1)
        assert abs(loss.item() + np.log(p[label])) <= 1e-14
        loss.backward()
        assert close(leaf.grad, [p - np.eye(V)[label]], floor=1) <= 1e-14


@pytest.mark.parametrize(("dtype", "shift"), [(np.float32, 200), (np.float64, 1000)])
def test_cross_entropy_of_rows_far_apart(dtype: Any, shift: float) -> None:
    near = np.random.default_rng(0).integers(-8, 9, (3, 4)).astype(dtype) / 4  # exact, even after the shift
    far = near + np.array([[shift], [-shift], [0]], dtype)
    results = [pull(lambda x: fused.cross_entropy(x, np.array([1, 0, 3]), 3), [x]) for x in (far, near)]
    assert np.isfinite(results[0][0])
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][2], results[1][2])


IGNORED = ((2, -100, 0), (-100, -100, -100), (3, 1, -100))  # one row has no label that counts


@pytest.mark.parametrize("labels", [IGNORED, np.full((3, 3), -100).tolist(), np.ones((3, 3), int).tolist()])
def test_ignored_labels_like_torch(labels: Any) -> None:
    """Ignored labels count neither in the sum nor in the denominator, even if all labels or none are ignored."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((3, 3, 4))
    count = max(int((np.array(labels) != -100).sum()), 1)
    theirs = torch.tensor(x, requires_grad=True)
    flat = torch.tensor(labels).flatten()
    sums = torch.nn.functional.cross_entropy(theirs.flatten(0, 1), flat, ignore_index=-100, reduction="sum")
    (sums / count).backward()
    leaf = Tensor(x, requires_grad=True)
    loss = fused.cross_entropy(leaf, np.array(labels), count)
    loss.backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(loss.item(), sums.item() / count, rtol=1e-14)
    np.testing.assert_allclose(leaf.grad, theirs.grad.numpy(), rtol=1e-13, atol=1e-16)


def test_ignored_labels_with_a_single_class() -> None:
    """An ignored label is looked up as a class that exists; with one class, that is class 0."""
    leaf = Tensor([[3.0], [5.0]], requires_grad=True)
    loss = fused.cross_entropy(leaf, np.array([fused.IGNORE, 0]), 1)
    loss.backward()
    assert loss.item() == 0 and leaf.grad is not None and not leaf.grad.any()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("of", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_ignored_labels_are_as_if_their_rows_were_not_there(of: Any, dtype: Any) -> None:
    """The result is the same bit for bit, even if an ignored row is infinite or NaN."""
    x = np.random.default_rng(0).standard_normal((9, 4)).astype(of)
    labels = np.array(IGNORED, dtype).reshape(9)
    counts = labels != fused.IGNORE
    x[1], x[3] = np.inf, np.nan
    every, some = Tensor(x, requires_grad=True), Tensor(x[counts], requires_grad=True)
    with np.errstate(invalid="ignore"):
        losses = fused.cross_entropy(every, labels, 4), fused.cross_entropy(some, labels[counts], 4)
        for loss in losses:
            loss.backward()
    assert every.grad is not None and some.grad is not None and losses[0].item() > 0
    np.testing.assert_allclose(losses[0].item(), losses[1].item(), rtol=1e-15 if of is np.float64 else 1e-6)
    assert every.grad[counts].tobytes() == some.grad.tobytes() and not every.grad[~counts].any()


def test_other_negative_labels_are_refused_with_ignored_ones_there() -> None:
    logits = Tensor(np.zeros((3, 3)))
    for label in (-1, -99, -101, 3):
        with pytest.raises(IndexError, match=f"{label}.* 3 classes"):
            fused.cross_entropy(logits, np.array([1, -100, label]), 2)


def test_cross_entropy_refuses() -> None:
    logits = Tensor(np.zeros((2, 3)))
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(IndexError, match=f"{min(labels)} to {max(labels)}.* 3 classes"):
            fused.cross_entropy(logits, np.array(labels), 2)
    with pytest.raises(ValueError, match="labels of shape"):
        fused.cross_entropy(logits, np.array([0, 1, 2]), 2)


def test_embedding_refuses() -> None:
    table = Tensor(np.zeros((3, 2)))
    for ids in ([0, 3], [-1, 0]):
        with pytest.raises(IndexError, match=f"{min(ids)} to {max(ids)}.*0 to 2"):
            fused.embedding(np.array(ids), table)


def test_shapes_are_refused() -> None:
    x = Tensor(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="last axis must be 4"):
        fused.linear(x, Tensor(np.zeros((4, 3))))
    with pytest.raises(ValueError, match="last axis must be 2"):
        fused.linear_transposed(x, Tensor(np.zeros((3, 2))))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        fused.layer_norm(x, Tensor(np.ones(2)), Tensor(np.zeros(2)))
    with pytest.raises(ValueError, match="must have shape"):
        fused.causal_attention(Tensor(np.zeros((1, 2, 2, 1, 1))))
    with pytest.raises(ValueError, match="prediction has shape"):
        fused.mean_squared_error(x, np.zeros(3), 1)


LOSS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "cross_entropy": lambda x, n: fused.cross_entropy(x, np.array([0, 2]), n),
    "mean_squared_error": lambda x, n: fused.mean_squared_error(x, np.ones((2, 3), x.dtype), n),
}


@pytest.mark.parametrize("loss", LOSS.values(), ids=LOSS)
def test_denominator(loss: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    for bad in (0, -1, float("nan"), np.int64(0)):
        with pytest.raises(ValueError, match="denominator"):
            loss(Tensor(x), bad)
    for n in (4, 4.0, np.int64(4), np.float64(4)):
        y, _, (gradient,) = pull(lambda x, n=n: loss(x, n), [x])
        whole, _, (whole_gradient,) = pull(lambda x: loss(x, 1), [x])
        assert y.dtype == np.float32
        assert close(4 * y, whole) <= 1e-6 and close(4 * gradient, whole_gradient) <= 1e-6


# No silent dtype -----------------------------------------------------------------------------------------------------

MIXED: dict[str, Callable[[Any], Tensor]] = {
    "linear": lambda x: fused.linear(x, Tensor(np.ones((3, 2)))),
    "linear_transposed": lambda x: fused.linear_transposed(x, Tensor(np.ones((2, 3)))),
    "layer_norm": lambda x: fused.layer_norm(x, Tensor(np.ones(3)), Tensor(np.ones(3))),
    "mean_squared_error": lambda x: fused.mean_squared_error(x, np.ones((2, 3)), 1),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_a_float64_operand_does_not_widen(operation: Any) -> None:
    """A float64 operand is refused or computed in x's dtype; NumPy would silently return float64."""
    try:
        y = operation(Tensor(np.ones((2, 3), np.float32)))
    except TypeError:
        return
    assert y.dtype == np.float32


def test_layer_norm_is_what_it_is_composed_of() -> None:
    def composed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        centred = x - F.mean(x, -1, keepdims=True)
        variance = F.mean(centred * centred, -1, keepdims=True)
        return centred * F.exp(F.log(variance + 1e-5) * -0.5) * w + b

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 6)), *rng.standard_normal((2, 6))]
    y, _, gradients = pull(fused.layer_norm, arrays)
    expected, _, references = pull(composed, arrays)
    for a, b in zip([y, *gradients], [expected, *references], strict=True):
        assert close(a, b) <= 1e-12


# Blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (fused.gelu, (5, 11)),
        (fused.causal_attention, (3, 5, 3, 4, 2)),
        (lambda w: fused.embedding(IDS, w), (4, 65)),
    ],
    ids=["gelu", "causal_attention", "embedding"],
)
@pytest.mark.parametrize("most", [1, 7, 60, 110])
def test_blocks_change_nothing(
    most: int,
    operation: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of one element, of one head, of some heads, of one sample; rows of any width, one by one or not."""
    draw = np.random.default_rng(0)

    def result() -> tuple[np.ndarray, np.ndarray]:
        x = Parameter("x", values.astype(dtype), dtype=dtype)
        y = operation(x)
        y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(dtype))
        assert x.grad is not None
        return y.data, x.grad

    values = draw.standard_normal(shape)
    whole = result()
    monkeypatch.setattr(backend, "CHUNK", most)
    monkeypatch.setattr(gelu_module, "BLOCK", most)
    monkeypatch.setattr(backend, "WIDE_ROW", 1000)
    for mine, right in zip(result(), whole, strict=True):
        np.testing.assert_array_equal(mine, right)


@pytest.mark.parametrize("x", [1e5, 1e15, 1e18])
def test_gelu_far_away(x: float) -> None:
    for sign in (1, -1):
        with np.errstate(over="ignore"):  # tanh of infinity is 1
            y, slope = gelu_module.gelu_and_slope(np.array([sign * x], np.float32), np.float32)
        assert (y[0], slope[0]) == ((np.float32(x), 1.0) if sign > 0 else (0.0, 0.0))
