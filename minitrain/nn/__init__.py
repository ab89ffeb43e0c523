"""Layers, and what they are built from: modules, and parameters that know their place in the logical model."""

from .checks import check_free, check_paths
from .layers import CausalAttention, Classifier, Dropout, Embedding, LayerNorm, Linear, loss_or_logits
from .module import Module, Watch, pass_through, watching
from .parameter import Coordinates, Parameter, Placement, Replicate, Shard

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
    "check_paths",
    "loss_or_logits",
    "pass_through",
    "watching",
]
