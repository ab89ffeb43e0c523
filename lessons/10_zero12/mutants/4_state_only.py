"""only the state is divided, at all stages."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    divided = each[2] if stage else 0
    return parameters * (sum(each) - divided + divided / ranks)
