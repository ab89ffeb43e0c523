"""the number of parameters is divided without its remainder, which some ranks hold."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    _, gradient, state = each
    divided = (0, state, gradient + state, sum(each))[stage]
    return parameters * (sum(each) - divided) + parameters // ranks * divided
