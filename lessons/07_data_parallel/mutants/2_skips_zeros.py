"""a rank whose own gradient is zero does not join the all-reduce, and the others wait for it."""

from minitrain.parallel.data_parallel import TAG

SAYS = "ranks are waiting"


def sync_gradients(gradients, group):
    for gradient in gradients:
        if gradient.any():
            group.all_reduce(gradient, TAG)
