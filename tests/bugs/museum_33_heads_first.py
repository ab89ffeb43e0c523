"""GPT-2's c_attn is taken for heads of (q, k, v), as other programs store it; it has all q, then all k, then all v."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minitrain.backend import Array
from minitrain.models import Model
from minitrain.train.regions import Region
from minitrain.train.weights import StoredParameter, Weights, start_from
from tests.bugs.museum import FolderBug
from tests.train import gpt2_files
from tests.train.test_weights import starts, test_every_strategy_starts_from_them


class HeadsFirst(StoredParameter):
    def read(self, out: Array, held: tuple[slice, ...], run: slice) -> None:
        """Read the whole of qkv as (..., H, 3, D/H)."""
        super().read(out, held, run)
        if ".qkv." in self.path and (shape := Region(held, run).shape)[-3:-2] == (3,):
            *lead, _, H, d = shape
            out[:] = np.swapaxes(out.reshape(*lead, H, 3, d), -3, -2).reshape(-1)


def start(model: Model, weights: Weights) -> None:
    """Start from the weights."""
    for p in model.parameters():
        p.start_from(HeadsFirst(weights, p.placement.path))


def check(folder: Path, start: Callable[[Model, Weights], object] = start_from) -> None:
    """Write a GPT-2 and start from it."""
    gpt2_files.write(folder, gpt2_files.theirs())
    starts(folder, "serial", start)


BUG = FolderBug(test_every_strategy_starts_from_them, check, start=start)
