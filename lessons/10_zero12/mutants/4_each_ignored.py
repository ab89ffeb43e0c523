"""always 2 + 2 + 12 bytes, whatever `each` is."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    divided = (0, 12, 14, 16)[stage]
    return parameters * (16 - divided + divided / ranks)
