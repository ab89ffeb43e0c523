"""a rank whose own gradient is zero does not take part in the sum, for which the others wait."""

from minitrain.parallel.data_parallel import TAG

SAYS = "ranks are waiting"


def sync_gradients(gradients, group):
    for gradient in gradients:
        if gradient.any():
            group.all_reduce(gradient, TAG)
