"""Models and machines to plan for. Every figure has its source.

Sizes of models: GPT-2 (Radford et al., 2019, and its published weights), GPT-3 (arXiv:2005.14165, table 2.1; the 13B is
printed there with a width of 5140, which 40 heads do not divide: 5120 here), Megatron-LM (arXiv:2104.04473, table 1),
Korthikanti et al. (arXiv:2205.05198, table 3) and Llama 3 (arXiv:2407.21783, table 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .sizes import Sizes


@dataclass(frozen=True)
class Model:
    """The sizes of a model, and the sequences per update that it was, or can be, trained with."""

    sizes: Sizes
    batch: int


def _gpt(vocabulary: int, context: int, layers: int, heads: int, width: int, batch: int) -> Model:
    return Model(Sizes("gpt", vocabulary, context, layers, heads, width), batch)


def _llama(layers: int, heads: int, width: int, hidden: int, batch: int) -> Model:
    return Model(Sizes("llama", 128256, 8192, layers, heads, width, 8, hidden, tied=False), batch)


MODELS: Mapping[str, Model] = {
    "minitrain": _gpt(68, 64, 4, 4, 128, 24),  # the default of `train`, on the bundled text
    "minitrain-3m": _gpt(68, 128, 4, 4, 256, 16),
    "minitrain-20m": _gpt(68, 128, 6, 8, 512, 16),
    "gpt2-124m": _gpt(50257, 1024, 12, 12, 768, 480),
    "gpt2-355m": _gpt(50257, 1024, 24, 16, 1024, 512),
    "gpt2-774m": _gpt(50257, 1024, 36, 20, 1280, 512),
    "gpt2-1.5b": _gpt(50257, 1024, 48, 25, 1600, 512),
    "gpt3-6.7b": _gpt(50257, 2048, 32, 32, 4096, 1024),
    "gpt3-13b": _gpt(50257, 2048, 40, 40, 5120, 1024),
    "gpt3-175b": _gpt(50257, 2048, 96, 96, 12288, 1536),
    "megatron-1.7b": _gpt(51200, 2048, 24, 24, 2304, 512),
    "megatron-3.6b": _gpt(51200, 2048, 30, 32, 3072, 512),
    "megatron-7.5b": _gpt(51200, 2048, 36, 32, 4096, 512),
    "megatron-18b": _gpt(51200, 2048, 40, 48, 6144, 1024),
    "megatron-39b": _gpt(51200, 2048, 48, 64, 8192, 1536),
    "megatron-76b": _gpt(51200, 2048, 60, 80, 10240, 1792),
    "megatron-145b": _gpt(51200, 2048, 80, 96, 12288, 2304),
    "megatron-310b": _gpt(51200, 2048, 96, 128, 16384, 2160),
    "megatron-530b": _gpt(51200, 2048, 105, 128, 20480, 2520),  # also Korthikanti's, with a batch of 280
    "megatron-1t": _gpt(51200, 2048, 128, 160, 25600, 3072),  # also Korthikanti's, with a batch of 512
    "korthikanti-22b": _gpt(51200, 2048, 48, 64, 6144, 4),
    "korthikanti-175b": _gpt(51200, 2048, 96, 96, 12288, 64),
    "llama3-8b": _llama(32, 32, 4096, 14336, 1024),
    "llama3-70b": _llama(80, 64, 8192, 28672, 1024),
    "llama3-405b": _llama(126, 128, 16384, 53248, 2048),
}
