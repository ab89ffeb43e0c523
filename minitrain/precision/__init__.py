"""Mixed precision: activations in 16 bits, sums and masters in 32, and a loss scale that keeps gradients in range.

                   bits: sign, exponent, fraction     largest     smallest normal, subnormal     next to 1
    float32        1, 8, 23                           3.4e38      1.2e-38   1.4e-45              1 + 1.2e-7
    float16        1, 5, 10                           65504       6.1e-5    6.0e-8               1 + 9.8e-4
    bfloat16       1, 8, 7                            3.4e38      1.2e-38   9.2e-41              1 + 7.8e-3

Half the bytes of activations, and of what is gathered from ranks or passed between stages; sums over ranks are made in
float32 and travel in it, unless parallel/half_wire.py carries them. On a GPU products are many times faster. (On a CPU
nothing is gained: NumPy converts. A product of halves is summed in float32 and rounded once, as in a tensor core.)

Three things go wrong in float16, and each has its remedy here:

    gradients are small, and become 0      the loss is multiplied by S, and so is every gradient; the optimizer's are
                                           divided by S again, in float32. "Loss scaling": StaticScaler, DynamicScaler
    updates are small against weights      the optimizer has the weights in float32 (a master), see optim/
    sums and large numbers overflow        sums are made in float32; layers can be kept in it: Static, Dynamic

bfloat16 has the range of float32 and needs no scale; it has fewer digits.

What is stored, in bytes a parameter with Adam, on N ranks (parallel/zero.py):

                   weights  gradients  optimizer                 data parallel   stage 1   stage 2   stage 3
    autocast       4        4          4 + 4                     16              8 + 8/N   4 + 12/N  16/N
    half weights   2        2          4 + 4, and the master 4   16              4 + 12/N  2 + 14/N  16/N

`use` arranges the one or the other. Autocast rounds the float32 weights where they are used. With half weights ranks
hold and gather 2 bytes; gradients that several micro-batches add to have 4 bytes at stages 2 and 3 (2 + 16/N, 18/N), in
the owner's share, and are added up in half otherwise.

Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, sections 3.1 to 3.3. That the scale moves
by itself is only sketched there; the numbers 2^16, x 2, x 1/2, 2000 are PyTorch's. Bytes: Rajbhandari et al., "ZeRO",
arXiv:1910.02054, section 3.1.
"""

from .diagnose import first_bad_layer
from .fallback import CASTS, GIVEN, HALF, LAYERS, Dynamic, not_finite
from .policy import DTYPES, POLICIES, Precision, Static, use
from .scaler import OVERFLOW, DynamicScaler, Scaler, StaticScaler, agree, all_finite, check_scale, next_scale

__all__ = [
    "CASTS",
    "DTYPES",
    "GIVEN",
    "HALF",
    "LAYERS",
    "OVERFLOW",
    "POLICIES",
    "Dynamic",
    "DynamicScaler",
    "Precision",
    "Scaler",
    "Static",
    "StaticScaler",
    "agree",
    "all_finite",
    "check_scale",
    "first_bad_layer",
    "next_scale",
    "not_finite",
    "use",
]
