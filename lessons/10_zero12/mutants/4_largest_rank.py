"""the bytes of the first rank, which has the longest shard, not the mean."""

from math import ceil


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    _, gradient, state = each
    divided = (0, state, gradient + state, sum(each))[stage]
    return parameters * (sum(each) - divided) + ceil(parameters / ranks) * divided
