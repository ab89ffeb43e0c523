"""Optimizers on flat pieces of the parameters, and clipping by the global norm.

What an optimizer updates are pairs of flat arrays (data, grad) that it `owned`: the whole model under data parallel,
this rank's shares of it under ZeRO, cut anywhere. There are three kinds of rules:

    Optimizer     element by element: where the cuts are makes no difference              SGD, Adam, AdamW
    Layerwise     with the norm of each parameter: squares are added up over its pieces   LARS, LAMB
    Matrixwise    with each matrix as a whole: ranks own whole parameters                 your own

The gradient is `factor` times what stands in grad: 1/S for a loss that was multiplied by S (precision/scaler.py), and
what clipping takes away. One number instead of another pass over all gradients; and in half precision, the array could
not hold the product. Parameters in half precision have a float32 master, which is what is updated:

    master = master - lr rule(factor grad)        data = master, rounded

An update is often smaller than half the distance to the next number that data can hold: alone, data would stand still.
The master is made at the first update, from what data holds then. An element of data that is no longer its master,
rounded, was set by somebody else (a checkpoint that was restored, say), and the master takes its value.
"""

from .base import BLOCK, Layerwise, Matrixwise, Optimizer, Work, blocks
from .clip import clip_grad_norm
from .pieces import SMALL, Alone, Found, Held, Owned, Piece, Slices, Totals, steps_begun, unscaled
from .rules import LAMB, LARS, SGD, Adam, AdamW, adam_step, adamw_step
from .state import Part, State, fitting

__all__ = [
    "BLOCK",
    "LAMB",
    "LARS",
    "SGD",
    "SMALL",
    "Adam",
    "AdamW",
    "Alone",
    "Found",
    "Held",
    "Layerwise",
    "Matrixwise",
    "Optimizer",
    "Owned",
    "Part",
    "Piece",
    "Slices",
    "State",
    "Totals",
    "Work",
    "adam_step",
    "adamw_step",
    "blocks",
    "clip_grad_norm",
    "fitting",
    "steps_begun",
    "unscaled",
]
