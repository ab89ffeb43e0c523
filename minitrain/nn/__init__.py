"""Layers, and what they are built from: modules, and parameters that know their place in the logical model."""

from .layers import CausalAttention, Classifier, Dropout, Embedding, LayerNorm, Linear, loss_or_logits
from .module import Module, Watch, check_free, pass_through, watching
from .parameter import Parameter
from .placement import Coordinates, Placement, Replicate, Shard

__all__ = [
    "CausalAttention",
    "Classifier",
    "Coordinates",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "Parameter",
    "Placement",
    "Replicate",
    "Shard",
    "Watch",
    "check_free",
    "loss_or_logits",
    "pass_through",
    "watching",
]
