"""always a copy, even of the first part."""


def accumulated(grad, part):
    total = part.copy()
    if grad is not None:
        total += grad
    return total
