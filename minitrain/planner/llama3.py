"""The meshes with which Llama 3 405B was trained, and a check that finds the one misprinted in July 2024.

Grattafiori et al., "The Llama 3 Herd of Models", arXiv:2407.21783, table 4. Version 1 (July 2024) prints dp 4 for
sequences of 131,072 tokens. Version 3 (November 2024) prints dp 8.
"""

from dataclasses import dataclass, replace

from ..errors import UserError

H100 = 989.4e12  # FLOP/s in bfloat16 without sparsity; data sheets print twice as much, with it


@dataclass(frozen=True)
class Mesh:
    """A row of table 4.

    length: tokens in a sequence. batch: sequences for each of the dp groups. tokens: in a batch, as printed (16M is
    16 x 2^20). rate: TFLOP/s of each GPU. mfu: percent.
    """

    gpus: int
    tp: int
    cp: int
    pp: int
    dp: int
    length: int
    batch: int
    tokens: int
    rate: int
    mfu: int


LONG_V1 = Mesh(16_384, tp=8, cp=16, pp=16, dp=4, length=131_072, batch=16, tokens=2**24, rate=380, mfu=38)
TABLE4 = (
    Mesh(8_192, tp=8, cp=1, pp=16, dp=64, length=8_192, batch=32, tokens=2**24, rate=430, mfu=43),
    Mesh(16_384, tp=8, cp=1, pp=16, dp=128, length=8_192, batch=16, tokens=2**24, rate=400, mfu=41),
    replace(LONG_V1, dp=8),  # version 3
)


def check_mesh(m: Mesh) -> None:
    """Raise UserError unless tp cp pp dp are the GPUs and the dp groups' sequences have the printed tokens.

    The message gives both reasons, and the dp that would make the ranks right.
    """
    model, tokens = m.tp * m.cp * m.pp, m.dp * m.batch * m.length
    wrong = []
    if model * m.dp != m.gpus:
        cure = f"dp must be {m.gpus // model}" if m.gpus % model == 0 else f"{model:,} must divide the GPUs"
        mesh = f"tp {m.tp} x cp {m.cp} x pp {m.pp} x dp {m.dp}"
        wrong.append(f"{mesh} is {model * m.dp:,} ranks for {m.gpus:,} GPUs; {cure}")
    if tokens != m.tokens:
        batch = f"dp {m.dp} x {m.batch} sequences x {m.length:,} tokens"
        wrong.append(f"{batch} is a batch of {tokens:,}; the table has {m.tokens:,}")
    if wrong:
        raise UserError("\n".join(wrong))
