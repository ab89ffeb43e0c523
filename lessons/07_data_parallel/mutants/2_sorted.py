"""the gradients are taken in an order that depends on their values, which differ between ranks."""

from minitrain.parallel.data_parallel import TAG

SAYS = "ranks differ in shape"


def sync_gradients(gradients, group):
    for gradient in sorted(gradients, key=lambda gradient: float(gradient.sum())):
        group.all_reduce(gradient, TAG)
