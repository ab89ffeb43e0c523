"""Formulas of papers for the memory and the FLOPs of training, as printed there.

The other modules of the planner count this package's own operations. These formulas describe other programs, whose
published tables they reproduce. The letters are the papers':

    a  attention heads             p  pipeline stages (pp)         B  sequences in the global batch
    h  hidden width                t  tensor-parallel ranks (tp)   b  sequences in a micro-batch
    L  layers                      v  chunks of layers a stage     s  tokens in a sequence
    V  vocabulary                  n  data-parallel ranks (dp)

The feed-forward layer is 4 h wide. Sizes are in bytes, and an activation takes 2.

    ZeRO            Rajbhandari, Rasley, Ruwase, He, arXiv:1910.02054
    Korthikanti     Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models",
                    arXiv:2205.05198
    Megatron-LM     Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
                    Megatron-LM", arXiv:2104.04473

Every function with the argument `recompute` raises UserError unless it is one of `RECOMPUTE`.
"""

from ..errors import check_choice, check_whole

RECOMPUTE = ("none", "selective", "full")  # what backward repeats: nothing; scores and softmax; the whole forward
A100 = 312e12  # FLOP/s in half precision, the peak in both papers' tables

# Parameters, gradients and the optimizer's state ----------------------------------------------------------------------


def zero_bytes_per_parameter(stage: int, n: int) -> float:
    """Return ZeRO's bytes a parameter on each of n data-parallel ranks, with Adam in mixed precision.

        stage 0:  2 + 2 + 12 = 16       half-precision parameter and gradient; float32 parameter and two moments
        stage 1:  2 + 2 + 12 / n        shards the optimizer's state
        stage 2:  2 + (2 + 12) / n      also the gradients
        stage 3:  (2 + 2 + 12) / n      also the parameters

    Raise UserError unless the stage is 0 to 3 and n is at least 1.
    ZeRO, section 5 and table 1, which prints these times the parameters, in units of 10^9 bytes.
    """
    check_whole("stage", stage, 0, 3)
    check_whole("n", n, 1)
    whole = (16, 4, 2, 0)[stage]
    return whole + (16 - whole) / n


def state_bytes(h: int, L: int, t: int = 1, p: int = 1) -> float:
    """Return the bytes of parameters, gradients and optimizer on a rank of Megatron-LM, without embeddings.

        18 x 12 L h^2 / (t p)

    18 bytes a parameter: 2 in half precision, a float32 gradient, the float32 parameter and Adam's two moments.
    Korthikanti, figure 1.
    """
    return 18 * 12 * L * h**2 / (t * p)


# Activations ----------------------------------------------------------------------------------------------------------


def layer_activations(
    s: int, b: int, h: int, a: int, t: int = 1, sequence: bool = False, recompute: str = "none"
) -> float:
    """Return the bytes that a layer keeps of a micro-batch for backward, on each tensor-parallel rank.

        none            s b h (10 + 24 / t + 5 a s / (h t))     t = 1: equation 1, otherwise equation 2
          sequence      s b h (34 + 5 a s / h) / t              equation 4
        selective       s b h (10 + 24 / t)
          sequence      34 s b h / t                            equation 6
        full            2 s b h                                 the layer's input, which no rank shards

    The 10 are the inputs and masks of layer norm and dropout, which tensor parallel replicates. sequence: sequence
    parallel, which shards them too. 5 a s / h are the scores of attention, their softmax and its dropout. Selective
    recomputation repeats those.
    Korthikanti, table 2.
    """
    check_choice("recompute", recompute, RECOMPUTE)
    if recompute == "full":
        return 2 * s * b * h
    replicated = 10 / t if sequence else 10
    scores = 5 * a * s / h if recompute == "none" else 0
    return s * b * h * (replicated + 24 / t + scores / t)


def first_stage(p: int, v: int = 1) -> float:
    """Return how many times the activations of all L layers the first of p stages holds.

        1                       1F1B: p micro-batches in L / p layers
        1 + (p - 1) / (p v)     interleaved, with v > 1 chunks a stage

    Korthikanti, section 4.2.3 (v is m there).
    """
    return 1 + (p - 1) / (p * v) if v > 1 else 1


# FLOPs ----------------------------------------------------------------------------------------------------------------


def model_flops(B: int, s: int, L: int, h: int, V: int) -> float:
    """Return the FLOPs of an update's matrix products, without any recomputation.

        72 B L s h^2 (1 + s / (6 h) + V / (12 h L))

    Attention counts in full, although half of its scores are masked.
    Korthikanti, equation 7.
    """
    return 72 * B * L * s * h**2 * (1 + s / (6 * h) + V / (12 * h * L))


def hardware_flops(B: int, s: int, L: int, h: int, V: int, recompute: str = "none") -> float:
    """Return the FLOPs of an update's matrix products, those repeated in backward included.

        none            72 B L s h^2 (1 + s / (6 h) + V / (12 h L))      Korthikanti, equation 7
        selective       72 B L s h^2 (1 + s / (3 h) + V / (12 h L))      Korthikanti, equation 8
        full            96 B L s h^2 (1 + s / (6 h) + V / (16 h L))      Megatron-LM, equation 3

    Full recomputation adds a forward of the layers, without the logits. Selective adds a forward of the products with
    s x s scores, which is s / (18 h). Equation 8, and with it the paper's HFU, counts three of them: the ratio to the
    model's FLOPs is about 1 + s / (6 h) (equation 9).
    """
    check_choice("recompute", recompute, RECOMPUTE)
    if recompute == "full":
        return 96 * B * L * s * h**2 * (1 + s / (6 * h) + V / (16 * h * L))
    attention = s / (3 * h) if recompute == "selective" else s / (6 * h)
    return 72 * B * L * s * h**2 * (1 + attention + V / (12 * h * L))


def utilization(flops: float, seconds: float, gpus: int, peak: float = A100) -> float:
    """Return the share of the GPUs' peak FLOP/s that an update of these FLOPs and seconds reached.

    With `model_flops` it is MFU, the model FLOPs utilization; with `hardware_flops` it is HFU, the hardware's.
    Korthikanti, section 6.3 and table 5.
    """
    return flops / (seconds * gpus * peak)
