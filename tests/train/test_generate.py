"""Text from a divided model is that of one process, a cache changes nothing, and draws are as their definition says."""

import functools
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from minitrain import fused, nn
from minitrain.autograd import no_grad
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.batch import Batch, Where
from minitrain.errors import UserError
from minitrain.kv_cache import KeyValueCache
from minitrain.models import GPTConfig, Model, gpt
from minitrain.observe.ledger import Ledger
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.strategy import Strategy
from minitrain.precision import StaticPolicy, use
from minitrain.tensor import Tensor
from minitrain.train.generate import NextLogits, choose, generate, keep_top_k, keep_top_p
from minitrain.train.weights import look, start_from
from tests.tiers import full
from tests.train import gpt2_files

V, T = 11, 12
CONFIG = GPTConfig(V, T, layers=3, heads=3, width=12, std=0.3, dropout=0.5, dtype="float64")
PROMPT = [3, 1, 4, 1]


@functools.cache
def model() -> Model:
    made = gpt(CONFIG)
    made.init(1)
    return made


def where(start: int, stop: int) -> Where:
    return Where(1, 0, 1, T, slice(0, 1), slice(start, stop), training=False)


def ids(n: int = T) -> np.ndarray:
    return np.random.default_rng(2).integers(0, V, (1, n))


# The cache ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [[1] * T, [5, 1, 1, 3, 2], [T]])
def test_cached_logits_equal_recomputation(steps: Sequence[int], kind: type[KeyValueCache] = KeyValueCache) -> None:
    """At every position, in steps of one or of several positions."""
    given, cache, found = ids(), kind(T), []
    with no_grad():
        true = model()(Batch(given, None, where(0, T))).data
        for n in steps:
            start, stop = cache.length, cache.length + n
            found.append(model()(Batch(given[:, start:stop], None, where(start, stop), cache=cache)).data)
            cache.length = stop
    np.testing.assert_allclose(np.concatenate(found, axis=1), true, rtol=0, atol=1e-12)


def test_text_is_the_same_with_and_without_cache() -> None:
    """Also after the window has begun to slide, where every position of the text changes."""
    options: list[dict[str, Any]] = [{}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 5, "top_p": 0.5}]
    for more in options:
        with_cache, without = (
            generate(model(), T, PROMPT, 20, 0.9, 1, cached=cached, **more) for cached in (True, False)
        )
        np.testing.assert_array_equal(with_cache, without)


def test_the_work_and_memory_of_a_cache() -> None:
    """A token costs the forward of one position, and the cache has the size that kv_cache.py states."""

    def flops(cached: bool) -> tuple[int, int]:
        with Ledger().open() as ledger, no_grad():
            logits_of = NextLogits(model(), T, 1, cached)
            logits_of(PROMPT)
            before = ledger.flops
            logits_of([*PROMPT, 5])
            return ledger.flops - before, ledger.live["buffers"]

    (with_cache, held), (without, none) = flops(True), flops(False)
    assert with_cache < without / 4 and none == 0
    assert held == 2 * CONFIG.layers * T * CONFIG.width * 8


def test_a_prompt_longer_than_the_context() -> None:
    long = list(ids(30)[0])
    np.testing.assert_array_equal(generate(model(), T, long, 4, 0.9, 1), generate(model(), T, long[-T:], 4, 0.9, 1))


class Own(nn.Module):
    """Attention that knows nothing of a cache."""

    def __init__(self, path: str) -> None:
        self.path, self.qkv = path, nn.Linear(f"{path}.qkv", 4, (3, 1, 4), std=0.3)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return x + fused.causal_attention(self.qkv(x))


class Tokens(nn.Embedding):
    def __call__(self, x: None, batch: Batch) -> Tensor:  # type: ignore[override]
        return super().__call__(batch.inputs)


def test_attention_that_does_not_read_the_cache_is_found() -> None:
    head = nn.Classifier("head", nn.Parameter("head.weight", (V, 4), std=0.3))
    made = Model([Tokens("tokens", V, 4, std=1.0), Own("own"), head])
    made.init(1)
    with pytest.raises(UserError, match=r"does not read batch.cache, .*\nCall generate\(..., cached=False\)"):
        generate(made, T, [2], 3, 0.9, 1)
    assert len(generate(made, T, [2], 3, 0.9, 1, cached=False)) == 3


def test_a_cache_is_refused_where_it_would_be_wrong() -> None:
    cache = KeyValueCache(T)
    with pytest.raises(UserError, match="a cache of keys and values has no gradients"):
        model()(Batch(ids(2), None, where(0, 2), cache=cache))
    with no_grad(), pytest.raises(UserError, match="was given positions 2 to 3, but the cache has 0 and room for 12"):
        model()(Batch(ids(2), None, where(2, 4), cache=cache))


# Divided models -------------------------------------------------------------------------------------------------------

DIVISIONS: dict[str, tuple[dict[str, int], Strategy]] = {
    "zero3 x 3": ({"dp": 3}, Strategy(zero=3)),
    "tp 2": ({"tp": 2}, Strategy()),
    "pp 3": ({"pp": 3}, Strategy()),
    "pp 2 x tp 2": ({"pp": 2, "tp": 2}, Strategy()),
    "tp 3": ({"tp": 3}, Strategy()),
    "pp 2 x tp 3": ({"pp": 2, "tp": 3}, Strategy()),
    "zero3 x 2, tp 2": ({"dp": 2, "tp": 2}, Strategy(zero=3)),
    "pp 2, interleaved": ({"pp": 2}, Strategy(schedule="interleaved", chunks=2)),
}
SLOW = ("tp 3", "pp 2 x tp 3", "zero3 x 2, tp 2")


@pytest.mark.parametrize("name", [full(name) if name in SLOW else name for name in DIVISIONS])
@pytest.mark.parametrize("cached", [True, full(False)])
def test_text_of_a_divided_model(cached: bool, name: str) -> None:
    """Token by token that of one process: three heads on two ranks, eleven rows of a table on two or three."""
    mesh, strategy = DIVISIONS[name]
    true = generate(model(), T, PROMPT, 16, 0.9, 1, top_k=8)

    def program(world: Communicator) -> np.ndarray:
        divided = gpt(CONFIG)
        parallelize(divided, Mesh(world, **mesh), strategy).init(1)
        return generate(divided, T, PROMPT, 16, 0.9, 1, top_k=8, cached=cached, world=world)

    for found in threads.run(int(np.prod([*mesh.values()])), program):
        np.testing.assert_array_equal(found, true)


def test_ranks_follow_the_first() -> None:
    """Their logits may differ in the last bit: here all of rank 1's are others."""

    def program(world: Communicator) -> np.ndarray:
        made = gpt(CONFIG)
        made.init(1 + world.rank)
        return generate(made, T, PROMPT, 10, 0.9, 1, world=world)

    for found in threads.run(2, program):
        np.testing.assert_array_equal(found, generate(model(), T, PROMPT, 10, 0.9, 1))


# Top-k, top-p ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1e-9, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_what_is_kept(k: int, limit: float, keep_top_p: Callable[[np.ndarray, float], np.ndarray] = keep_top_p) -> None:
    """By their definitions, written out."""
    for p in np.random.default_rng(1).exponential(size=(20, 7)) ** 3:
        order = sorted(range(7), key=lambda i: -p[i])
        assert set(np.flatnonzero(keep_top_k(p, k))) == set(order[:k])
        fewest = next(n for n in range(1, 8) if sum(p[order[:n]]) >= limit * p.sum() * (1 - 1e-12))
        assert set(np.flatnonzero(keep_top_p(p, limit))) == set(order[:fewest])


def test_equal_probabilities_keep_their_order() -> None:
    np.testing.assert_array_equal(keep_top_k(np.full(4, 0.25), 2), [0.25, 0.25, 0, 0])
    np.testing.assert_array_equal(keep_top_p(np.full(4, 0.25), 0.5), [0.25, 0.25, 0, 0])


@pytest.mark.parametrize(("k", "limit"), [(3, None), (None, 0.7), (4, 0.7)])
def test_frequencies(k: int | None, limit: float | None) -> None:
    """Drawn with u at the middles of a fine grid, tokens come as often as their probabilities say."""
    logits, n = np.random.default_rng(3).normal(size=6), 20000
    p = np.exp(logits / 0.7)
    p = p if k is None else keep_top_k(p, k)
    p = p if limit is None else keep_top_p(p / p.sum(), limit)
    drawn = [choose(logits, (i + 0.5) / n, 0.7, k, limit) for i in range(n)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / n, p / p.sum(), rtol=0, atol=1 / n)


def test_the_last_draw_is_a_token_that_is_kept() -> None:
    """Also where the probabilities add up to less than u, by rounding."""
    u, short = 1 - 2**-53, 0
    for logits in np.random.default_rng(5).normal(size=(300, 9)) * 3:
        logits[-2:] = -np.inf  # these have no probability
        p = np.exp(logits - logits.max())
        short += (np.cumsum(p) / p.sum())[-1] <= u
        assert choose(logits, u, 1.0) == 6
        assert choose(logits, u, 1.0, top_k=3) == max(np.argsort(-logits)[:3])
        assert choose(logits, 0.0, 1.0, top_k=1) == choose(logits, u, 0.0) == int(logits.argmax())
    assert short > 10


def test_the_same_tokens_as_transformers_keep() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    name = "transformers"
    kinds = pytest.importorskip(name, reason="transformers is not installed: nothing to compare with")
    scores = np.random.default_rng(4).normal(size=(30, 13)) * 3
    p = np.exp(scores)
    for k in (1, 4, 13):
        kept = kinds.TopKLogitsWarper(k)(None, torch.tensor(scores)).numpy() > -np.inf
        np.testing.assert_array_equal(kept, [keep_top_k(row, k) > 0 for row in p])
    for limit in (0.05, 0.5, 0.95):
        kept = kinds.TopPLogitsWarper(limit)(None, torch.tensor(scores)).numpy() > -np.inf
        np.testing.assert_array_equal(kept, [keep_top_p(row, limit) > 0 for row in p])


@pytest.mark.parametrize(
    ("options", "said"),
    [({"top_k": 0}, "top_k is 0"), ({"top_p": 0.0}, "top_p is 0.0"), ({"top_p": 1.1}, "top_p is 1.1")],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        generate(model(), T, PROMPT, 3, 0.9, 1, **options)


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("half_weights", [True, False])
def test_in_half_precision(name: str, half_weights: bool) -> None:
    """The cache is in 16 bits, too; rounding is not taken for an attention that does not know it."""
    for seed in range(5):
        made = gpt(replace(CONFIG, dtype="float32"))
        use(made, StaticPolicy(name), half_weights)
        made.init(seed)
        assert len(generate(made, T, PROMPT, 10, 0.9, 1)) == 10


@pytest.mark.parametrize("name", ["zero3 x 3", "tp 3", "pp 3"])
@pytest.mark.ranks(3)
def test_a_model_that_fits_no_rank(world: Communicator, name: str) -> None:
    """From the files to the text, no rank holds more than two thirds of the parameters at any moment."""
    config = GPTConfig(V, T, layers=11, heads=3, width=240)
    mesh, strategy = DIVISIONS[name]
    with TemporaryDirectory() as folder:
        values = gpt2_files.theirs("float32", V=V, T=T, L=11, D=240)
        sizes = {"vocab_size": V, "n_positions": T, "n_layer": 11, "n_head": 3, "n_embd": 240}
        found = look(gpt2_files.write(Path(folder), values, **sizes, layer_norm_epsilon=1e-5))
        del values
        tracemalloc.start()
        start_from(divided := gpt(config), found)
        parallelize(divided, Mesh(world, **mesh), strategy).init(1)
        generate(divided, T, PROMPT, 5, 0.9, 1, world=world)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 4 * config.parameters * 2 / 3, most / (4 * config.parameters)
