"""Generating text, one token at a time, with a model on one process or divided among ranks.

    p = softmax(logits / temperature)          of the last position
    top-k       keep the k most probable tokens
    top-p       keep the fewest most probable tokens whose probabilities reach p together ("nucleus")
    draw        the first token at which the sum of what is kept exceeds u times the whole; u from (seed, position)

Keys and values are cached (kv_cache.py), so that a token costs the forward of one position, as long as the text fits in
the context. All ranks of a divided model run the same forwards; rank 0 draws, and sends the token to the others, since
their logits may differ in the last bit.

Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation", arXiv:1805.04833 (top-k); Holtzman et al., "The Curious
Case of Neural Text Degeneration", arXiv:1904.09751 (top-p).
"""

from collections.abc import Callable, Sequence

import numpy as np

from .. import rng
from ..autograd import no_grad
from ..backend import to_device, to_host
from ..comm.communicator import Communicator
from ..data.batch import Batch, Where
from ..data.sample_checks import as_row
from ..errors import UserError, check_memory, check_number, check_seed, check_whole
from ..kv_cache import KeyValueCache
from ..models import Model

TOKEN = ("mesh", "token")


def check_length(length: int) -> None:
    """Raise UserError for a length that is invalid, or needs too much memory."""
    check_whole("length", length)
    size = 24 * length  # bytes: all random numbers are drawn before the first token
    check_memory(f"a text of {length} tokens", size, "give a smaller --length or --sample")


def check_choice_of_tokens(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise UserError for options of `choose` that are invalid."""
    check_number("temperature", temperature, "at least 0")
    if top_k is not None:
        check_whole("top_k", top_k, 1)
    if top_p is not None:
        check_number("top_p", top_p, "above 0 and at most 1")


def generate(
    model: Model,
    context: int,
    prompt: Sequence[int] | np.ndarray,
    length: int,
    temperature: float,
    seed: int,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    cached: bool = True,
    world: Communicator | None = None,
    each: Callable[[int], object] = lambda token: None,
) -> np.ndarray:
    """Return `length` ids that continue the prompt, each drawn as `choose` does from the logits of the last position.

    The model sees the last `context` ids. Temperature 0 takes the most probable id. top_k, top_p: draw from this many
    tokens only, and from those that have this probability. cached: keep keys and values. world: the ranks that hold the
    model; all of them call this. each: called with each id as soon as it is drawn. Raise UserError for invalid
    arguments, and for a model with an attention that does not know the cache.
    """
    check_whole("context", context, 1)
    ids = as_row("prompt", prompt).tolist()
    check_length(length)
    check_choice_of_tokens(temperature, top_k, top_p)
    check_seed(seed)
    if not (start := len(ids)):
        raise UserError("the prompt is empty: give at least one character")
    chance = rng.integers(rng.key(seed, "sample"), length, 2**32) / 2**32
    logits_of = NextLogits(model, context, seed, cached)
    with no_grad():
        for u in chance:
            token = choose(logits_of(ids), u, temperature, top_k, top_p)
            ids.append(token if world is None else from_first_rank(token, world))
            each(ids[-1])
    return np.array(ids[start:], np.int64)


def from_first_rank(token: int, world: Communicator) -> int:
    """Return rank 0's token on all ranks."""
    x = to_device(np.array([token], np.int64))
    world.broadcast(x, 0, TOKEN)
    return int(x[0])


class NextLogits:
    """The logits (V), float64, of the token after some ids, which grow from call to call."""

    def __init__(self, model: Model, context: int, seed: int, cached: bool) -> None:
        self.model, self.context, self.seed = model, context, seed
        self.cache = KeyValueCache(context) if cached and context > 1 else None

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        """Return the logits after the ids. Raise UserError if the model does not know the cache."""
        if self.cache is None or len(ids) > self.context:
            return self.forward(ids[-self.context :])
        if not self.cache.length:
            self.check(ids)
        return self.forward(ids, self.cache)

    def forward(self, ids: Sequence[int], cache: KeyValueCache | None = None) -> np.ndarray:
        """Return the logits of the last id, from a forward of those that are not in the cache."""
        start = 0 if cache is None else cache.length
        new = to_device(np.array([ids[start:]]))
        where = Where(self.seed, 0, 1, self.context, slice(0, 1), slice(start, len(ids)), training=False)
        logits = to_host(self.model(Batch(new, None, where, cache=cache)).data)[0, -1].astype(np.float64)
        if cache is not None:
            cache.length = len(ids)
        return logits

    def check(self, ids: Sequence[int]) -> None:
        """Compare a few positions with and without a cache, first: attention of the user's own may not read it.

        Raise UserError if they differ.
        """
        V = self.forward(ids[:1]).size
        few = [(ids[0] + i) % V for i in range(min(3, self.context))]  # different ones, or attention has no effect
        cache = KeyValueCache(self.context)
        self.forward(few[:-1], cache)
        again, true = self.forward(few, cache), self.forward(few)
        used = [m.compute_dtype("linear", p.dtype).itemsize for m in self.model.modules() for p in m.parameters()]
        bound = {8: 1e-9, 4: 1e-3}.get(min(used, default=4), 0.1) * np.abs(true).max()  # rounding, with room
        if not np.abs(again - true).max() <= bound:
            raise UserError(
                "with a cache of keys and values, the model gives other logits: it has a layer that looks at several "
                "positions and does not read batch.cache, as nn.CausalAttention does.\nCall generate(..., cached=False)"
            )


def choose(
    logits: np.ndarray, u: float, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> int:
    """Return the token that u, in [0, 1), selects from softmax(logits / temperature), after top-k and top-p.

    logits (V). At temperature 0 it is the most probable one.
    """
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # near temperature 0, exponents are -inf and probabilities 0
        p = np.exp((logits - logits.max()) / temperature)
    p = p if top_k is None else keep_top_k(p, top_k)
    p = p if top_p is None else keep_top_p(p, top_p)
    return min(int(np.searchsorted(np.cumsum(p) / p.sum(), u, side="right")), int(np.flatnonzero(p)[-1]))


def keep_top_k(p: np.ndarray, k: int) -> np.ndarray:
    """Return p (V) with all but its k largest elements set to 0. Of equal ones, the first count as larger.

    >>> keep_top_k(np.array([0.1, 0.4, 0.2, 0.3]), 2)
    array([0. , 0.4, 0. , 0.3])
    """
    return zero_except(p, np.argsort(-p, kind="stable")[:k])


def keep_top_p(p: np.ndarray, limit: float) -> np.ndarray:
    """Return p (V) with all elements set to 0 but the fewest largest ones that make up this fraction of the sum.

    >>> keep_top_p(np.array([0.1, 0.4, 0.2, 0.3]), 0.6)
    array([0. , 0.4, 0. , 0.3])
    """
    order = np.argsort(-p, kind="stable")
    reached = np.cumsum(p[order]) / p.sum()
    return zero_except(p, order[: int(np.searchsorted(reached, limit)) + 1])


def zero_except(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return p with all elements set to 0 but those at the indices `kept`."""
    q = np.zeros_like(p)
    q[kept] = p[kept]
    return q
