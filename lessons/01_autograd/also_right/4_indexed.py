"""[...] makes an array of NumPy's number."""


def accumulated(grad, part):
    return part if grad is None else (part + grad)[...]
