"""every stage but 0 divides everything: stage 1 divides the state, stage 2 also the gradients."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    return parameters * sum(each) / (ranks if stage else 1)
