"""the state is assumed to be as large as the rest together, or 12 bytes, whatever `each` is."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    parameter, gradient, _ = each
    state = 12 if parameter == 2 else parameter + gradient
    divided = (0, state, gradient + state, parameter + gradient + state)[stage]
    return parameters * (parameter + gradient + state - divided + divided / ranks)
