"""The losses of all strategies are those of a loop on one process, and are drawn as they are."""

from functools import partial
from pathlib import Path

import pytest

from minitrain.comm.threads import world_of_one
from minitrain.commands.draw.same_run import BOUND, MESHES, NONE, SameRun, compared
from minitrain.commands.options import DataOptions, ModelOptions
from minitrain.data.loader import TextLoader
from minitrain.data.text import CharTokenizer, load_text, split
from minitrain.errors import UserError
from minitrain.lr_schedules import cosine, warmup
from minitrain.models import GPTConfig, gpt
from minitrain.optim import AdamW
from minitrain.train.trainer import Trainer

MODEL = ModelOptions(layers=6, heads=4, width=16, context=8, dtype="float64")


def losses_of_a_loop(updates: int, batch: int) -> list[float]:
    """Train the same model with the library alone."""
    text = load_text()
    tokenizer = CharTokenizer.of(text)
    train, _ = split(tokenizer.encode(text), 0.1)
    model = gpt(GPTConfig(tokenizer.size, 8, 6, 4, 16, dtype="float64"))
    rate = partial(warmup, updates=10, then=partial(cosine, peak=0.003, floor=1e-4, updates=updates - 10))
    optimizer = partial(AdamW, weight_decay=0.1, beta2=0.99)
    trainer = Trainer(model, world_of_one(), optimizer=optimizer, schedule=rate, seed=1, clip=1.0)
    return [update.loss for update in trainer.each_update(TextLoader(train, 8, batch, 1), updates)]


def test_every_run_is_that_of_a_loop(tmp_path: Path) -> None:
    runs = SameRun(updates=12, model=MODEL, data=DataOptions(batch=9), to=tmp_path).drawing().numbers["runs"]
    assert [run["name"] for run in runs] == [*MESHES]
    true = losses_of_a_loop(12, 9)
    for run in runs:
        assert run["loss"] == pytest.approx(true, rel=BOUND)
        assert max(run["apart"]) <= BOUND
    assert sum(any(run["apart"]) for run in runs[1:]) > 1, "other orders of addition"


def test_a_difference_is_relative_and_one_of_each_update() -> None:
    first, other = compared({"one": [2.0, 4.0], "other": [2.0, 5.0]})
    assert first["apart"] == [0, 0] and other["apart"] == [0, 0.25]
    assert NONE < 2**-53 < BOUND


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--updates is 0"):
        SameRun(updates=0, to=tmp_path).drawing()
    with pytest.raises(UserError, match="8 stages of 3 units"):
        SameRun(updates=11, model=ModelOptions(layers=1, heads=4, width=16, context=8), to=tmp_path).drawing()
