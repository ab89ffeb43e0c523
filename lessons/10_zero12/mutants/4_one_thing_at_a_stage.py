"""each stage divides one thing only, but it also divides what the stages before it do."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    divided = (0, each[2], each[1], each[0])[stage]
    return parameters * (sum(each) - divided + divided / ranks)
