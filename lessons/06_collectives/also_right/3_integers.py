"""The levels are counted with whole numbers, and the fraction is made larger by N; 0 is a whole number."""


def equal_size(ranks, alpha, beta):
    levels = (ranks - 1).bit_length()
    if ranks < 4:
        return 0
    return ranks * alpha * (ranks - 1 - levels) / beta / (ranks * levels - (ranks - 1))
