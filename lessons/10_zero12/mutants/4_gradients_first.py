"""the gradients are divided before the state: it is the other way round."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    divided = (0, each[1], each[1] + each[2], sum(each))[stage]
    return parameters * (sum(each) - divided + divided / ranks)
