"""The cache of keys and values returns only those of the new positions: a token does not see the text before it."""

from minitrain.backend import Array
from minitrain.kv_cache import KeyValueCache
from tests.bugs.museum import FunctionBug
from tests.train.test_generate import test_cached_logits_equal_recomputation


class OnlyNew(KeyValueCache):
    def extend(self, path: str, k: Array, v: Array, start: int) -> tuple[Array, Array]:
        """Keep them, and return the others as if they were 0."""
        keys, values = super().extend(path, k, v, start)
        keys[:, :, :start] = 0
        values[:, :, :start] = 0
        return keys, values


BUG = FunctionBug(test_cached_logits_equal_recomputation, ([5, 1, 1, 3, 2],), kind=OnlyNew)
