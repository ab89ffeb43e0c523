"""takes all chunks of the ring as long as the longest."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    chunk = -(-parameters // ranks)
    return 2 * (ranks - 1) * ranks * chunk * 4
