"""Sends each gradient in two halves: some ranks send more than in one piece, but all together the same."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group, shards=None):
    for gradient in gradients:
        if shards is not None:
            group.all_reduce(gradient, TAG, shards=shards)
            continue
        half = len(gradient) // 2
        group.all_reduce(gradient[half:], TAG)
        group.all_reduce(gradient[:half], TAG)
