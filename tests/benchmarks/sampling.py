"""What a cache of keys and values saves: the time of a token at the end of a text, with it and without.

Without it, a token takes the forward of the whole text; with it, of one position. The text is the model's whole
context. The two are measured in turn, on one process.
"""

import sys
from statistics import median
from time import perf_counter

from tests.benchmarks import jobs
from tests.benchmarks.sizes import SIZES, Row, Size, row

CONTEXTS = (128, 1024)


def rows(size: Size, rounds: int) -> list[Row]:
    """Measure for both lengths."""
    return [as_row(size, T, jobs.result(jobs.python("sampling", size.name, T, rounds))) for T in CONTEXTS]


def as_row(size: Size, T: int, found: tuple[float, float]) -> Row:
    with_cache, without = found
    return row(f"{size.name} token after {T}, cached / not", 1e3 * with_cache, 1e3 * without, "ms")


def measure(size: Size, T: int, rounds: int) -> tuple[float, float]:
    """Return the seconds of a token with a cache and without."""
    from minitrain.autograd import no_grad
    from minitrain.models import GPTConfig, gpt
    from minitrain.train.generate import NextLogits

    model = gpt(GPTConfig(size.V, T, size.layers, size.heads, size.width))
    model.init(1)
    ids, times = [i % size.V for i in range(T)], ([], [])  # type: tuple[list[int], tuple[list[float], list[float]]]
    cached, plain = NextLogits(model, T, 1, cached=True), NextLogits(model, T, 1, cached=False)
    with no_grad():
        cached(ids[:-1])
        assert cached.cache is not None
        for _ in range(rounds):
            cached.cache.length = T - 1  # the last token again
            for logits_of, found in zip((cached, plain), times, strict=True):
                start = perf_counter()
                logits_of(ids)
                found.append(perf_counter() - start)
    return median(times[0]), median(times[1])


if __name__ == "__main__":
    jobs.begin()
    jobs.report(measure(SIZES[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])))
