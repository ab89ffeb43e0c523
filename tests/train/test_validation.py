"""Validation: no dropout, and each sample once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minitrain.comm.threads import world_of_one
from minitrain.data.batch import Batch
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import toy_batch, toy_gpt


def test_nothing_is_dropped_in_validation() -> None:
    """Validation never applies dropout, whatever the batch's `training` flag says."""
    made = Trainer(toy_gpt(dropout=0.5), world_of_one())
    batches = [[*toy_whole(training)] for training in (True, False)]
    assert made.mean_loss(batches[0]) == made.mean_loss(batches[1])


def test_a_loss_of_validation_that_is_no_number() -> None:
    """The data are finite, so the advice is the trainer's."""
    made = Trainer(toy_gpt(), world_of_one(), advice="do something")
    made.model.parameters()[0].data[...] = np.nan
    with pytest.raises(UserError, match=r"^the loss is nan at update 0; do something$"):
        made.mean_loss([toy_batch(0)])


def test_accuracy_needs_labels() -> None:
    batch = toy_batch(0)
    with pytest.raises(UserError, match=r"^batch 0 has no labels, which accuracy needs$"):
        Trainer(toy_gpt(), world_of_one()).accuracy([Batch(batch.inputs, None, batch.where)])


def toy_whole(training: bool) -> Iterator[Batch]:
    batch = toy_batch(0)
    yield replace(batch, where=replace(batch.where, training=training))


class Once(ArrayLoader):
    """A loader whose validation is a single iterator, usable once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches_left = super().validation()

    def validation(self) -> Iterator[Batch]:
        return self.batches_left


def test_a_validation_that_ends_for_good() -> None:
    draw = np.random.default_rng(1).standard_normal
    data = [kind(draw((9, 6)), np.arange(9) % 3, batch=4, seed=1) for kind in (ArrayLoader, Once)]
    made = Trainer(mlp(MLPConfig(6, (4,), 3, dtype="float64")), world_of_one())
    with pytest.raises(UserError, match=r"validation\(\) gave batches once, then none"):
        made.fit(data[0], 1, validation=data[1])
