"""Mixed precision: activations in 16 bits, sums and master weights in 32, and a loss scale to keep gradients in range.

                   bits: sign, exponent, fraction     largest     smallest normal, subnormal     next to 1
    float32        1, 8, 23                           3.4e38      1.2e-38   1.4e-45              1 + 1.2e-7
    float16        1, 5, 10                           65504       6.1e-5    6.0e-8               1 + 9.8e-4
    bfloat16       1, 8, 7                            3.4e38      1.2e-38   9.2e-41              1 + 7.8e-3

Activations take half the bytes, as does what is gathered from ranks or passed between stages. Sums over ranks are
computed and sent in float32 unless parallel/half_gradients.py sends them in half. On a GPU, matrix products are many
times faster; on a CPU they are not, since NumPy first converts to float32. A product of halves is summed in float32 and
rounded once, as in a tensor core.

Three things can go wrong in float16, and each has its remedy here:

    small gradients underflow to 0         multiply the loss, and so every gradient, by S; divide by S again in float32
                                           before the optimizer. "Loss scaling": StaticScaler, DynamicScaler
    updates too small for half weights     the optimizer keeps the weights in float32 (a master), see optim/
    sums and large numbers overflow        sum in float32; keep layers in float32: StaticPolicy, DynamicPolicy

bfloat16 has the range of float32 and needs no loss scale, but has fewer digits than float16.

Storage in bytes per parameter with Adam, on N ranks (parallel/zero.py):

                   weights  gradients  optimizer                 data parallel   stage 1   stage 2   stage 3
    autocast       4        4          4 + 4                     16              8 + 8/N   4 + 12/N  16/N
    half weights   2        2          4 + 4, and the master 4   16              4 + 12/N  2 + 14/N  16/N

`use` sets up either one. Autocast rounds the float32 weights where they are used. With half weights, ranks hold and
gather 2 bytes. At stages 2 and 3, gradients accumulated over several micro-batches take 4 bytes in the owner's shard
(in total, 2 + 16/N and 18/N); otherwise they are accumulated in half.

Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, sections 3.1 to 3.3. The paper only
sketches a dynamic loss scale; the numbers 2^16, x 2, x 1/2, 2000 are PyTorch's. Bytes: Rajbhandari et al., "ZeRO",
arXiv:1910.02054, section 3.1.
"""

from .diagnose import first_bad_layer
from .fallback import CASTS, GIVEN, HALF, LAYERS, DynamicPolicy, not_finite
from .policy import DTYPES, POLICIES, Precision, StaticPolicy, use
from .scaler import OVERFLOW, DynamicScaler, Scaler, StaticScaler, agree, all_finite, check_scale, next_scale

__all__ = [
    "CASTS",
    "DTYPES",
    "GIVEN",
    "HALF",
    "LAYERS",
    "OVERFLOW",
    "POLICIES",
    "DynamicPolicy",
    "DynamicScaler",
    "Precision",
    "Scaler",
    "StaticPolicy",
    "StaticScaler",
    "agree",
    "all_finite",
    "check_scale",
    "first_bad_layer",
    "next_scale",
    "not_finite",
    "use",
]
