"""Reused models: with values of their own, returned by a trainer that failed, or only partly divided."""

from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError
from minitrain.models import Model, gpt
from minitrain.models.gpt import GPTConfig
from minitrain.optim import Optimizer
from minitrain.parallel.plan import Plan
from minitrain.parallel.strategy import Strategy
from minitrain.precision import DynamicPolicy, StaticPolicy
from minitrain.train.checkpoint import gather, restore
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import toy_batch, toy_gpt

FAILS = "no optimizer today"


def no_optimizer(reducer: Any) -> Optimizer:
    raise UserError(FAILS)


def small(dtype: str = "float32") -> Model:
    return gpt(GPTConfig(11, 5, layers=2, heads=3, width=9, dtype=dtype, std=0.3))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_values_that_a_model_had_are_held_once(zero: int) -> None:
    """Changes made before the first step are trained. Under ZeRO-3 there are no values to read or change."""

    def program(world: Communicator) -> None:
        model = toy_gpt()
        model.init(3)
        made = Trainer(model, world, strategy=Strategy(zero=zero))
        p = model.parameters()[0]
        if zero == 3:
            with pytest.raises(RuntimeError, match="has no values here"):
                p.data *= 0
            restore(model, {q.placement.path: np.zeros(q.placement.shape) for q in model.parameters()})
        else:
            p.data *= 0
        assert not gather(model, world, reducer=made.reducer)[p.placement.path].any()

    threads.run(2, program)


def refuses(self: Any, plan: Plan) -> None:
    raise UserError("not this one")


@pytest.mark.parametrize("then", [{"dp": 2}, {"tp": 2}])
def test_a_model_that_was_divided_half_way(then: dict[str, int]) -> None:
    """Each rank holds a part of some layers, but would train the model as if it were whole."""

    def program(world: Communicator) -> None:
        model = small()
        head: Any = model.units[-1]
        head.__class__ = type("OwnHead", (type(head),), {"shard": refuses})
        with pytest.raises(UserError, match="not this one"):
            Trainer(model, world, mesh=Mesh(world, tp=2))
        with pytest.raises(UserError, match=r"was divided for another trainer, such as .*\nMake a new model"):
            Trainer(model, world, mesh=Mesh(world, **then))

    threads.run(2, program)


@pytest.mark.parametrize("axis", ["tp", "pp"])
def test_a_divided_model_is_not_given_back(axis: str) -> None:
    def program(world: Communicator) -> None:
        model = small()
        with pytest.raises(UserError, match=FAILS):
            Trainer(model, world, mesh=Mesh(world, **{axis: 2}), optimizer=no_optimizer)
        with pytest.raises(UserError, match=r"belongs to a trainer already|was divided for another trainer"):
            Trainer(model, world)

    threads.run(2, program)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strategy": Strategy(recompute=2)},
        {"strategy": Strategy(zero=1)},
        {"half_weights": True},
    ],
    ids=["plain", "recompute", "zero1", "half weights"],
)
def test_a_second_try(options: dict[str, Any]) -> None:
    """After a mistake in another argument, the run matches one that was right at once."""
    losses = []
    for tries in (1, 2):
        model, given = small(), dict(options)
        if "half_weights" in given:
            given["precision"] = StaticPolicy("mixed_bfloat16")
        if tries == 2:
            for wrong in ({"optimizer": no_optimizer}, {"strategy": Strategy(sp=True)}):
                with pytest.raises(UserError):
                    Trainer(model, world_of_one(), **{**given, **wrong})
        made = Trainer(model, world_of_one(), **given)
        assert made.layers == ["embed", "blocks.0", "blocks.1", "head"]
        losses.append([made.step(toy_batch(n)).loss for n in range(3)])
    assert losses[0] == losses[1]


def test_layers_of_a_model_that_was_in_segments_have_their_names() -> None:
    """Overflow handling finds layers by these names."""
    model = small()
    with pytest.raises(UserError, match=FAILS):
        Trainer(model, world_of_one(), strategy=Strategy(recompute=2), optimizer=no_optimizer)
    precision = DynamicPolicy("bfloat16")
    Trainer(model, world_of_one(), strategy=Strategy(recompute=2), precision=precision)
    assert precision.layers == ("embed", "blocks.0", "blocks.1", "head")


def test_prefetched_values_are_not_kept_over_a_step() -> None:
    """In backward, nobody fetches a frozen first unit's values; kept until the next forward, they would be stale."""

    def program(world: Communicator) -> tuple[float, float]:
        model = toy_gpt(dropout=0)
        for p in model.units[0].parameters():
            p.requires_grad = False
        made = Trainer(model, world, strategy=Strategy(zero=3, prefetch=True))
        made.step(toy_batch(0))
        restore(model, {path: 3 * x for path, x in gather(model, world, reducer=made.reducer).items()})
        losses = [made.mean_loss([toy_batch(1)]) for _ in range(2)]
        made.close()
        return losses[0], losses[1]

    for first, second in threads.run(2, program):
        assert first == second


@pytest.mark.parametrize("seed", [2**64, 1.5, "1"])
def test_a_seed_is_checked_even_if_the_model_has_values(seed: Any) -> None:
    """Nothing is drawn from it then, but batches and dropout may be, later."""
    model = small()
    model.init(3)
    with pytest.raises(UserError, match="seed is"):
        Trainer(model, world_of_one(), seed=seed)
