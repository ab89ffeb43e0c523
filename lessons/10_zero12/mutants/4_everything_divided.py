"""everything is divided at every stage but 0: stage 1 divides the state, 2 the gradients as well."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    return parameters * sum(each) / (ranks if stage else 1)
