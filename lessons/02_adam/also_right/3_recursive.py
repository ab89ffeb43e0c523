"""a layer, and the rest by the function itself."""


def adam_bytes(sizes):
    return 0 if len(sizes) < 2 else 8 * (sizes[0] + 1) * sizes[1] + adam_bytes(sizes[1:])
