"""The two models, as lists of units. Each is written for a single process and knows nothing about ranks.

GPT   [Embed, Block, Block, ..., Head]        MLP   [Dense, Dense, DenseHead]
"""

from .gpt import Attention, Block, Embed, FeedForward, GPTConfig, Head, check_heads, gpt, like
from .mlp import MLP, Dense, DenseHead, MLPConfig, as_input, mlp
from .model import DTYPES, Loop, Model, Sequential, check_paths

__all__ = [
    "DTYPES",
    "MLP",
    "Attention",
    "Block",
    "Dense",
    "DenseHead",
    "Embed",
    "FeedForward",
    "GPTConfig",
    "Head",
    "Loop",
    "MLPConfig",
    "Model",
    "Sequential",
    "as_input",
    "check_heads",
    "check_paths",
    "gpt",
    "like",
    "mlp",
]
