"""Keys and values of earlier positions, kept so that generating a token takes the forward of one position only.

    position            0  1  2  3  4            without a cache, every token needs the forward of all positions;
    query 4 attends to  k0 k1 k2 k3 k4           with one, k0 to k3 and v0 to v3 are there already

A causal layer computes position t from positions up to t, so what is computed for a position stays right when others
follow. Only attention reads earlier positions, and of them only their keys and values. On a rank of a mesh, a layer
caches the heads that it holds. For L layers and B texts, a rank keeps

    2 L B T D elements / (tp x pp),     for example 75 MB for a GPT-2 of 12 layers, T = 1024, D = 768 in float32.

Once a text is longer than the context, the window slides: the position of every token changes, and with learned
positions nothing that was computed stays right. From there on, every token needs the forward of all T positions.

Pope et al., "Efficiently Scaling Transformer Inference", arXiv:2211.05102.
"""

from .attention import attend, heads_of, scale_of
from .autograd import recording
from .backend import Array, xp
from .errors import UserError
from .observe import ledger
from .operands import as_whole
from .tensor import Tensor


class KeyValueCache:
    """The keys and values (B, H, T, D/H) of each attention layer, by its path, of positions 0 to `length` - 1."""

    def __init__(self, T: int) -> None:
        """T: the most positions, the model's context."""
        self.T, self.length = T, 0
        self.kept: dict[str, tuple[Array, Array]] = {}

    def extend(self, path: str, k: Array, v: Array, start: int) -> tuple[Array, Array]:
        """Keep k and v (B, H, n, D/H) of positions from `start` on. Return those of all positions, as views.

        Raise UserError unless they follow the positions that are there, have their shape, and fit in.
        """
        stop = start + k.shape[2]
        if start > self.length or stop > self.T:
            raise UserError(
                f"{path} was given positions {start} to {stop - 1}, but the cache has {self.length} and room for "
                f"{self.T}: give the positions in order"
            )
        room = (*k.shape[:2], self.T, k.shape[3])
        if path in self.kept and (self.kept[path][0].shape, self.kept[path][0].dtype) != (room, k.dtype):
            raise UserError(f"{path} was given keys {k.shape} of {k.dtype}, unlike those of earlier positions")
        if path not in self.kept:
            self.kept[path] = xp.empty(room, k.dtype), xp.empty(room, v.dtype)
            for array in self.kept[path]:
                ledger.hold(array, "buffers", "cache")
        keys, values = self.kept[path]
        keys[:, :, start:stop], values[:, :, start:stop] = k, v
        return keys[:, :, :stop], values[:, :, :stop]


def cached_attention(qkv: Tensor, cache: KeyValueCache, path: str, start: int, scale: float | None = None) -> Tensor:
    """Return causal attention of new positions, from `start` on, to all up to themselves.  qkv (B, n, 3, H, D/H) ->
    (B, n, H D/H). Raise UserError while gradients are recorded: a cache has none."""
    if recording():
        raise UserError(f"{path}: a cache of keys and values has no gradients; generate under no_grad()")
    start, (B, n, _, H, d) = as_whole("cached_attention: start", start), qkv.shape
    q, k, v = heads_of(qkv.data)
    keys, values = cache.extend(path, k, v, start)
    y, _ = attend(q, keys, values, scale_of(path, scale, d), start, 0)
    return Tensor(y.transpose(0, 2, 1, 3).reshape(B, n, H * d))
