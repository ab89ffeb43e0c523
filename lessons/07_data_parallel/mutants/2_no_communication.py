"""nothing is added up: every rank steps by its own part of the gradient."""


def sync_gradients(reducer, group):
    pass
