"""nothing is summed: every rank steps by its own part of the gradient."""


def sync_gradients(gradients, group):
    pass
