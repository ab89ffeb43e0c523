"""The 22 runs of GPTs on up to 3,072 A100s that Megatron-LM published, as data.

Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", arXiv:2104.04473,
tables 1 and 2. megatron.py predicts them.
"""

from dataclasses import dataclass
from typing import Literal

from .published import hardware_flops

S, V = 2048, 51200  # tokens in a sequence, vocabulary: the same for all rows
DataParallel = Literal["overlapped", "local", "zero3"]


@dataclass(frozen=True)
class Row:
    """A published run, in the letters of published.py. measured: TFLOP/s of a GPU. days: for 300 billion tokens.

    kind, of data parallel: "overlapped" reduces gradients during backward (torch's DDP), "local" after it
    (Megatron-LM's own). "zero3" is DeepSpeed's, without tensor or pipeline parallel.

    Both tables print the parameters, GPUs, B and the rate. Table 1 also prints a, h, L, t and p, table 2 also b, t p
    and the days. The other inputs are from elsewhere:

        b, v, kind      table 1     examples/sc21/run_table_1.sh in the repository NVIDIA/Megatron-LM
        a, h, L         table 2     GPT-3 (arXiv:2005.14165, table 2.1), and the model of table 1 with 529.6B
        t, p            table 2     assumed: t p is 96 and 280, and t the 8 GPUs of a host
        v               table 2     assumed: as in scripts for the same model and t p, see below
        kind            table 2     assumed: "local", as wherever p > 1 in table 1
    """

    name: str
    a: int
    h: int
    L: int
    t: int
    p: int
    gpus: int
    B: int
    b: int
    measured: int
    v: int = 1
    kind: DataParallel = "local"
    days: int = 0

    @property
    def d(self) -> int:
        """Data-parallel ranks."""
        return self.gpus // (self.t * self.p)

    @property
    def m(self) -> float:
        """Micro-batches of a rank in an update."""
        return self.B / (self.d * self.b)

    @property
    def parameters(self) -> float:
        """Parameters without the final layer norm: the paper's equation 2."""
        h, L = self.h, self.L
        return 12 * L * h**2 * (1 + 13 / (12 * h) + (V + S) / (12 * L * h))

    @property
    def flops(self) -> float:
        """FLOPs of an update, with all layers recomputed: the paper's equation 3. The measured rate counts them."""
        return hardware_flops(self.B, S, self.L, self.h, V, "full")

    def days_for(self, tokens: float) -> float:
        """Return the days to train on so many tokens at the measured rate. The paper's equation 4 approximates it."""
        return self.flops / (self.B * S) * tokens / (self.gpus * self.measured * 1e12) / 86400


# name, a, h, L, t, p, GPUs, B, b, TFLOP/s
TABLE1 = (
    Row("1.7B", 24, 2304, 24, 1, 1, 32, 512, 16, 137, kind="overlapped"),
    Row("3.6B", 32, 3072, 30, 2, 1, 64, 512, 16, 138, kind="overlapped"),
    Row("7.5B", 32, 4096, 36, 4, 1, 128, 512, 16, 142, kind="overlapped"),
    Row("18.4B", 48, 6144, 40, 8, 1, 256, 1024, 8, 135, kind="overlapped"),
    Row("39.1B", 64, 8192, 48, 8, 2, 512, 1536, 4, 138),
    Row("76.1B", 80, 10240, 60, 8, 4, 1024, 1792, 2, 140, v=3),
    Row("145.6B", 96, 12288, 80, 8, 8, 1536, 2304, 2, 148, v=2),
    Row("310.1B", 128, 16384, 96, 8, 16, 1920, 2160, 1, 155, v=2),
    Row("529.6B", 128, 20480, 105, 8, 35, 2520, 2520, 1, 163, v=3),
    Row("1008B", 160, 25600, 128, 8, 64, 3072, 3072, 1, 163),
)
# The paper does not print the chunks of table 2. run_figure_12.sh sets v = 4 for the same GPT-3 on t p = 8 x 12, and
# run_table_1.sh sets v = 3 for the same 529.6B on 8 x 35.
TABLE2 = (
    Row("174.6B", 96, 12288, 96, 8, 12, 384, 1536, 1, 153, v=4, days=84),
    Row("174.6B", 96, 12288, 96, 8, 12, 768, 1536, 1, 149, v=4, days=43),
    Row("174.6B", 96, 12288, 96, 8, 12, 1536, 1536, 1, 141, v=4, days=23),
    Row("529.6B", 128, 20480, 105, 8, 35, 560, 2240, 1, 171, v=3, days=156),
    Row("529.6B", 128, 20480, 105, 8, 35, 1120, 2240, 1, 167, v=3, days=80),
    Row("529.6B", 128, 20480, 105, 8, 35, 2240, 2240, 1, 159, v=3, days=42),
)
TABLE2_ZERO3 = (
    Row("174.6B", 96, 12288, 96, 1, 1, 384, 1536, 4, 144, kind="zero3", days=90),
    Row("174.6B", 96, 12288, 96, 1, 1, 768, 1536, 2, 88, kind="zero3", days=74),
    Row("174.6B", 96, 12288, 96, 1, 1, 1536, 1536, 1, 44, kind="zero3", days=74),
    Row("529.6B", 128, 20480, 105, 1, 1, 640, 2560, 4, 138, kind="zero3", days=169),
    Row("529.6B", 128, 20480, 105, 1, 1, 1120, 2240, 2, 98, kind="zero3", days=137),
    Row("529.6B", 128, 20480, 105, 1, 1, 2240, 2240, 1, 48, kind="zero3", days=140),
)
FITTED, EVEN = TABLE1[::2], TABLE1[1::2]
PREDICTED = (*EVEN, *TABLE2, *TABLE2_ZERO3)

# Other runs, in neither the fit nor the means, with the seconds of an update instead of a rate.
# Korthikanti et al., arXiv:2205.05198, tables 3 and 5, all layers recomputed: Megatron-LM a year later.
LATER = (
    (Row("22B", 64, 6144, 48, 8, 1, 8, 4, 4, 0), 1.42),
    (Row("175B", 96, 12288, 96, 8, 8, 64, 64, 1, 0, v=3), 18.13),
    (Row("530B", 128, 20480, 105, 8, 35, 280, 280, 1, 0, v=3), 49.05),
    (Row("1T", 160, 25600, 128, 8, 64, 512, 512, 1, 0), 94.42),
)
# Smith et al., "Using DeepSpeed and Megatron to Train Megatron-Turing NLG 530B", arXiv:2201.11990.
DEEPSPEED = (
    (Row("530B", 128, 20480, 105, 8, 35, 2240, 1920, 1, 0), 60.1),
    (Row("530B", 128, 20480, 105, 8, 35, 2800, 1920, 1, 0), 50.2),
    (Row("530B", 128, 20480, 105, 8, 35, 3360, 1920, 1, 0), 44.4),
)
