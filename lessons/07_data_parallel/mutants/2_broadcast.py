"""every rank gets rank 0's gradient; those of the other ranks are lost."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.broadcast(gradient, 0, TAG)
