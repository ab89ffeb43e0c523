"""Invalid strategies are refused in the caller's own terms, in one place, before anything has changed."""

import re
from dataclasses import fields, replace
from typing import Any

import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.commands.options import StrategyOptions
from minitrain.errors import UserError
from minitrain.parallel.parallelize import REDUCERS, parallelize
from minitrain.parallel.pipeline_schedules import SCHEDULES, Do
from minitrain.parallel.strategy import Strategy
from minitrain.precision import DynamicScaler
from minitrain.train.trainer import Trainer
from tests.equivalence.harness import STRATEGIES, toy_gpt
from tests.strategies import named

# fields, axes, micro-batches, the library's message, the command line's message
REFUSED: list[tuple[dict[str, Any], dict[str, int], int | None, str, str]] = [
    ({"zero": 4}, {}, None, "zero is 4; it must be at most 3", "--zero is 4; it must be at most 3"),
    ({"recompute": -1}, {}, None, "recompute is -1; it must be at least 0", "--recompute is -1"),
    ({"bucket_mb": 0}, {}, None, "bucket_mb is 0; it must be a number, above 0", "--bucket-mb is 0"),
    ({"reduce": "ring"}, {}, None, "reduce is 'ring'; allowed: 'bucketed', 'naive', 'overlap'", "--reduce is 'ring'"),
    ({"grad_dtype": "fp8"}, {}, None, "grad_dtype is 'fp8'; allowed: 'full', 'fp16', 'bf16'", "--grad-dtype is 'fp8'"),
    ({"owners": "ranks"}, {}, None, "owners is 'ranks'; allowed: 'elements', 'parameters'", "--owners is 'ranks'"),
    ({"schedule": "2f2b"}, {}, None, "schedule is '2f2b'; allowed: 'naive', 'gpipe'", "--schedule is '2f2b'"),
    ({"prefetch": 3}, {}, None, "prefetch is 3; it must be True or False", "--prefetch is 3"),
    (
        {"zero": 1, "reduce": "naive"}, {}, None,
        "zero=1 reduces bucket by bucket; give reduce='bucketed' or overlap, not naive",
        "--zero 1 reduces bucket by bucket; give --reduce bucketed or overlap, not naive",
    ),
    (
        {"zero": 2, "prefetch": True}, {}, None,
        "prefetch=True gathers parameters, which zero=2 does not divide; give zero=3",
        "--prefetch gathers parameters, which --zero 2 does not divide; give --zero 3",
    ),
    (
        {"zero": 1, "reduce_once": True}, {}, None,
        "reduce_once=True is for zero=2 and 3; zero=1 reduces once anyway",
        "--reduce-once is for --zero 2 and 3; --zero 1 reduces once anyway",
    ),
    ({"zero": 2}, {"pp": 2}, None, "zero=2 with pp=2: ZeRO-2", "--zero 2 with --pp 2: ZeRO-2"),
    (
        {"sp": True}, {}, None,
        "sp=True divides what tp leaves whole, but tp is 1; give tp=2, for example",
        "--sp divides what --tp leaves whole, but --tp is 1; give --tp 2, for example",
    ),
    (
        {"chunks": 2, "schedule": "interleaved"}, {}, None,
        "chunks=2 with schedule='interleaved' and pp=1: several chunks per rank go with interleaved",
        "--chunks 2 with --schedule interleaved and --pp 1: several chunks per rank go with interleaved",
    ),
    (
        {"schedule": "zb-v"}, {}, None,
        "chunks=2 with schedule='zb-v' and pp=1: several chunks per rank go with interleaved, and 2 with zb-v",
        "--chunks 2 with --schedule zb-v and --pp 1: several chunks per rank go with interleaved, and 2 with zb-v",
    ),
    (
        {"schedule": "dualpipe"}, {"pp": 3}, 6,
        "schedule='dualpipe' fills the pipeline from both ends, but you gave pp=3 and accumulate=6; give even",
        "--schedule dualpipe fills the pipeline from both ends, but you gave --pp 3 and --accumulate 6; give even",
    ),
    *[(
        {"schedule": "dualpipe"}, {"pp": 2}, micros,
        f"schedule='dualpipe' fills the pipeline from both ends, but you gave pp=2 and accumulate={micros}",
        f"--schedule dualpipe fills the pipeline from both ends, but you gave --pp 2 and --accumulate {micros}",
    ) for micros in (2, 5)],
    (
        {"schedule": "interleaved"}, {"pp": 2}, 3,
        "schedule='interleaved' passes micro-batches on in groups of pp=2, which does not divide accumulate=3",
        "--schedule interleaved passes micro-batches on in groups of --pp 2, which does not divide --accumulate 3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "axes", "micros", "library", "command"), REFUSED, ids=lambda x: str(x)[:40])
def test_refused_in_the_words_of_who_wrote_it(
    given: dict[str, Any], axes: dict[str, int], micros: int | None, library: str, command: str
) -> None:
    def program(world: Communicator) -> list[str]:
        said = []
        for kind in (Strategy, StrategyOptions):
            with pytest.raises(UserError) as caught:
                kind(**given).check_on(Mesh(world, **axes), micros)
            said.append(str(caught.value))
        return said

    for said in threads.run(axes.get("pp", 1), program):
        assert said[0].startswith(library) and said[1].startswith(command)
        assert "--" not in said[0]


def test_what_goes_together() -> None:
    """Accept every strategy of the matrix, every schedule, and a custom schedule with any number of chunks."""

    def program(world: Communicator) -> None:
        for strategy in STRATEGIES.values():
            strategy.check_on(Mesh(world, dp=2))
            replace(strategy, sp=True).check_on(Mesh(world, tp=2))
        pipeline = Mesh(world, pp=2)
        for name in SCHEDULES:
            Strategy(schedule=name).check_on(pipeline, 4)
            Strategy(schedule=name, chunks=2 if name in ("interleaved", "zb-v", "dualpipe") else 1).check_on(
                pipeline, 4
            )
        Strategy(schedule="interleaved", chunks=3).check_on(pipeline, 4)
        for chunks in (1, 3):
            Strategy(zero=1, schedule=of_my_own, chunks=chunks).check_on(pipeline, 3)

    threads.run(2, program)


def of_my_own(rank: int, stages: int, m: int, chunks: int) -> list[Do]:
    return []


def test_a_refused_strategy_leaves_the_model_as_it_was() -> None:
    model = toy_gpt()
    units, placements = list(model.units), [p.placement for p in model.parameters()]
    for strategy in (Strategy(zero=4), Strategy(sp=True, recompute=1)):
        with pytest.raises(UserError):
            parallelize(model, Mesh(threads.world_of_one()), strategy)
    assert model.units == units and [p.placement for p in model.parameters()] == placements
    parallelize(model, Mesh(threads.world_of_one())).init(1)


def test_each_name_has_its_reducer() -> None:
    assert {named(name).reducer for name in REDUCERS} == REDUCERS.keys()


def test_the_defaults() -> None:
    """Data parallel in buckets of 1 MiB, with all activations kept and the first steps checked."""
    assert Strategy() == Strategy(
        zero=0, reduce="bucketed", bucket_mb=1.0, reduce_once=False, prefetch=False, recompute=0, sp=False,
        schedule="1f1b", chunks=None, grad_dtype="full", owners="elements", check=True,
    )  # fmt: skip


def test_every_field_says_what_it_is() -> None:
    """The command-line options have the same fields and defaults; hidden fields are listed by name."""
    hidden = {"owners", "check"}
    assert {field.name for field in fields(StrategyOptions)} == {field.name for field in fields(Strategy)}
    assert Strategy().__dict__ == StrategyOptions().__dict__, "the same defaults"
    assert hidden < Strategy().__dict__.keys()


@pytest.mark.parametrize(("grad_dtype", "kind"), [("fp16", DynamicScaler), ("bf16", None), ("full", None)])
def test_float16_on_the_wire_has_a_loss_scale(grad_dtype: Any, kind: type | None) -> None:
    made = Trainer(toy_gpt("float32"), threads.world_of_one(), strategy=Strategy(grad_dtype=grad_dtype))
    assert isinstance(made.scaler, DynamicScaler) == (kind is DynamicScaler)
    made.close()


def test_ranks_with_different_strategies() -> None:
    """Strategies that differ between ranks are refused, also if only their schedule functions differ."""

    def program(world: Communicator, one: Strategy, other: Strategy) -> str:
        with pytest.raises(UserError, match="ranks were given different values") as caught:
            parallelize(toy_gpt(), Mesh(world, dp=2), other if world.rank else one)
        return str(caught.value)

    for one, other, said in (
        (Strategy(), Strategy(recompute=1), "recompute: 0 on rank 0; 1 on rank 1"),
        (Strategy(), Strategy(owners="parameters"), "owners: 'elements' on rank 0; 'parameters' on rank 1"),
        (Strategy(), Strategy(schedule=of_my_own), "schedule: '1f1b' on rank 0; 'of_my_own' on rank 1"),
    ):
        for found in threads.run(2, lambda world: program(world, one, other)):  # noqa: B023
            assert re.search(re.escape(said), found)
