"""`each` is read as gradient, parameter, state: the parameter comes first."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    gradient, _, state = each
    divided = (0, state, gradient + state, sum(each))[stage]
    return parameters * (sum(each) - divided + divided / ranks)
