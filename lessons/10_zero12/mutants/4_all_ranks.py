"""the bytes of all ranks together, not of one."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    divided = (0, each[2], each[1] + each[2], sum(each))[stage]
    return parameters * (ranks * (sum(each) - divided) + divided)
