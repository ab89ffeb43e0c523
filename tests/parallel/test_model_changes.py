"""A model whose parameters change after it was divided into buckets is refused at the next step."""

from collections.abc import Callable
from typing import Any

import pytest

from minitrain.comm import threads
from minitrain.comm.mesh import Mesh
from minitrain.errors import UserError
from minitrain.models import Model
from minitrain.nn import Linear, Module, Parameter
from minitrain.optim import SGD
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.reducer import Reducer
from minitrain.parallel.strategy import Strategy
from minitrain.train.step import train_step
from tests.equivalence.harness import toy_batch, toy_gpt


class Counting(Model):
    """Counts how often its parameters were enumerated."""

    looks = 0

    def parameters(self) -> list[Parameter]:
        vars(self)["looks"] = self.looks + 1  # does not count as setting a member
        return super().parameters()


def counting() -> tuple[Counting, Reducer, SGD]:
    model = Counting(toy_gpt().units)
    reducer = parallelize(model, Mesh(threads.world_of_one()))
    reducer.init(1)
    return model, reducer, SGD(reducer)


def test_an_unchanged_model_is_not_looked_through_in_every_step() -> None:
    model, reducer, optimizer = counting()
    looks = []
    for number in range(40):
        before = model.looks
        train_step(model, toy_batch(number), reducer, optimizer, 0.01)
        looks.append(model.looks - before)
    assert [n for n, count in enumerate(looks) if count] == [0, 1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("step", [1, 3, 5, 11])
def test_a_layer_that_is_added_is_seen_at_once(step: int) -> None:
    model, reducer, optimizer = counting()
    for number in range(step):
        train_step(model, toy_batch(number), reducer, optimizer, 0.01)
    block: Any = model.units[1]
    block.more = Linear("more", 2, 3)
    with pytest.raises(UserError, match=r"more.weight was added .*\n?.*minitrain.parallel.parallelize"):
        reducer.start_step()
    del block.more
    reducer.start_step()
    bias = block.attn.proj.bias
    vars(block.attn.proj).pop("bias")  # bypasses __delattr__, so nothing is noticed
    block.attn.proj.name = "what is set last"
    with pytest.raises(UserError, match=r"attn.proj.bias was removed"):
        reducer.start_step()
    block.attn.proj.bias = bias
    reducer.start_step()
    del block.attn.proj.bias
    with pytest.raises(UserError, match=r"attn.proj.bias was removed"):
        reducer.start_step()


def test_what_is_put_into_a_list_is_seen_by_the_next_power_of_two() -> None:
    """Creating the layer beforehand matters: constructing one sets members, which triggers a rescan."""

    class Pair(Module):
        def __init__(self) -> None:
            self.layers = [Linear("a", 2, 3)]

    model, more = Model([Pair()]), Linear("b", 3, 2)
    reducer = parallelize(model, Mesh(threads.world_of_one()))
    reducer.init(1)
    for _ in range(5):  # steps 0 to 4
        reducer.start_step()
    unit: Any = model.units[0]
    unit.layers.append(more)
    for _ in range(3):
        reducer.start_step()
    with pytest.raises(UserError, match=r"b.weight was added"):
        reducer.start_step()  # step 8


@pytest.mark.parametrize("step", [3, 7])
def test_a_parameter_that_is_frozen_is_seen_at_once(step: int) -> None:
    model, reducer, optimizer = counting()
    for number in range(step):
        train_step(model, toy_batch(number), reducer, optimizer, 0.01)
    model.parameters()[0].requires_grad = False
    with pytest.raises(UserError, match=r"embed.tokens.weight was frozen after"):
        reducer.start_step()


def freeze(made: Model) -> None:
    made.parameters()[0].requires_grad = False


def add(made: Model) -> None:
    block: Any = made.units[1]
    block.units[0].more = toy_gpt().parameters()[0]


@pytest.mark.parametrize("change", [freeze, add])
def test_a_model_that_was_changed_after_it_was_divided(change: Callable[[Model], None]) -> None:
    made = toy_gpt()
    reducer = parallelize(made, Mesh(threads.world_of_one()), Strategy(zero=3))
    reducer.init(1)
    train_step(made, toy_batch(0), reducer, SGD(reducer), 0.1)
    change(made)
    with pytest.raises(UserError, match=r"embed.tokens.weight .* after"):
        train_step(made, toy_batch(0), reducer, SGD(reducer), 0.1)
