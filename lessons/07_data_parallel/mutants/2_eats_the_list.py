"""the list of gradients is emptied, but it belongs to the caller."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    while gradients:
        group.all_reduce(gradients.pop(0), TAG)
