"""the parameters are divided first, but at stage 1 every rank still has them whole."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    divided = sum(each[:stage])
    return parameters * (sum(each) - divided + divided / ranks)
