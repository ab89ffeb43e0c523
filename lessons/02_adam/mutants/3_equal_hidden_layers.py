"""takes all hidden layers to be as wide as the first one."""

from itertools import pairwise


def adam_bytes(sizes: tuple[int, ...]) -> int:
    """Return the bytes of optimizer state that Adam keeps for a float32 MLP with these layer sizes."""
    inputs, hidden, outputs = sizes[0], sizes[1], sizes[-1]
    layers = [inputs] + [hidden] * (len(sizes) - 2) + [outputs]
    return 8 * sum((n + 1) * m for n, m in pairwise(layers))
