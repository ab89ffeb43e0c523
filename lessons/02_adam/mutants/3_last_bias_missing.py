"""forgets the bias of the last layer."""

from itertools import pairwise


def adam_bytes(sizes: tuple[int, ...]) -> int:
    """Return the bytes of optimizer state that Adam keeps for a float32 MLP with these layer sizes."""
    weights = sum(rows * columns for rows, columns in pairwise(sizes))
    biases = sum(sizes[1:-1])
    return 2 * 4 * (weights + biases)
