"""Has everything a name that needs one? What plan.py looks at before a divided model has its first step."""

import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError, shown
from ..nn import CausalAttention, Embedding, Module, Parameter

Names = Mapping[Module | Parameter, str]  # what is named -> the word
LOOK = "Then see whether it is the serial run: python -m minitrain compare model --help"
WORDS = ("column", "heads", "row", "vocabulary", "split", "inside", "enter", "residual", "gather", "everywhere")
DIVIDES = ("column", "heads", "row", "split", "inside", "enter")  # words that ask for a name of every layer beside


def leaves(module: Module) -> list[Module]:
    """The modules at or below this one that have no modules below them."""
    return [m for m in module.modules() if not any(True for _ in m.children())]


def own_parameters(module: Module) -> list[Parameter]:
    """Those of the module itself."""
    return [value for _, value in module.members() if isinstance(value, Parameter)]


def spoken(how: str, layer: str) -> str:
    """How a parameter is held, in the words of a `shard`."""
    if how.startswith("divided"):
        return how
    return f"the bias behind plan.row({layer})" if how == "whole" else f"plan.{how}"


def path_of(thing: Module | Parameter) -> str:
    return thing.placement.path if isinstance(thing, Parameter) else thing.path or type(thing).__name__


def check_things(word: str, things: Sequence[Any], *kinds: type) -> None:
    """Raise UserError for what a word is not about."""
    for thing in things:
        if not isinstance(thing, kinds):
            names = " or ".join("layers" if kind is Module else "parameters" for kind in kinds)
            raise UserError(
                f"plan.{word} is given {shown(thing)}; it names {names}, one by one"
                + (": plan.split(parameter, axis)" if isinstance(thing, Parameter) else "")
            )


def check_shard(module: Module) -> None:
    """Raise UserError for a `shard` that cannot be called with the plan."""
    try:
        inspect.signature(module.shard).bind(None)
    except TypeError as error:
        raise UserError(
            f"{path_of(module)}: `shard` of {type(module).__name__} takes {inspect.signature(module.shard)}; "
            "write def shard(self, plan)"
        ) from error


@contextmanager
def check_words(plan: object) -> Iterator[None]:
    """Raise UserError for a word that the plan does not have."""
    try:
        yield
    except AttributeError as error:
        if error.obj is not plan:
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"plan.{error.name}, at line {at.lineno} of {Path(at.filename).name}, is no word of a `shard`; the words "
            f"are {', '.join(WORDS)}: see minitrain/parallel/plan.py"
        ) from error


def largest_first(layer: Module) -> list[Parameter]:
    """A layer's own parameters, the one with most axes first: its matrix."""
    return sorted(own_parameters(layer), key=lambda p: -len(p.placement.shape))


def check_beside(named: Names, module: Module, tp: int) -> list[Module]:
    """Return the layers below a module that divides some of them. Raise UserError where one of them has no name."""
    children = [child for _, child in module.children()]
    beside: list[Module | Parameter] = [*children, *own_parameters(module)]
    word = next((named[thing] for thing in beside if named.get(thing) in DIVIDES), None)
    if word is None or not children:
        return []
    check_heads(module, [child for child in children if named.get(child) == "heads"], tp)
    below = [layer for child in children for layer in leaves(child)]
    things: list[Module | Parameter] = [*below, *own_parameters(module)]
    for thing in things:
        if not all_named(named, thing):
            raise UserError(
                f"{path_of(module)} divides layers (plan.{word}) and does not name "
                f"{path_of(thing)}: say in its `shard` what that is.\n"
                "plan.column, heads, row: divided; plan.inside: between column and row; plan.enter: whole, but meets "
                "what is divided; plan.residual: elsewhere.\n"
                f"{LOOK}"
            )
    return below


def all_named(named: Names, thing: Module | Parameter) -> bool:
    """Whether it has a name, or all its parameters have.

    Attention itself needs none: it takes whatever heads there are, and refuses a share of the time by itself.
    """
    own = own_parameters(thing) if isinstance(thing, Module) else []
    return thing in named or isinstance(thing, CausalAttention) or bool(own and all(p in named for p in own))


def check_heads(module: Module, layers: list[Module], tp: int) -> None:
    """Raise UserError where some have more heads than others, and ranks would get unlike shares of them."""
    heads = {largest_first(layer)[0].placement.shape[-2] for layer in layers}
    if len(heads) > 1 and any(n % tp for n in heads):
        raise UserError(
            f"--tp is {tp}, and {path_of(module)} has layers of {' and of '.join(map(str, sorted(heads)))} "
            "heads, of which ranks would get shares that do not belong together.\nGive a number that divides them; "
            "or divide the groups: a matrix (I, groups, heads of a group, D/H), plan.column, axis 0"
        )


def check_per_position(layer: Module, units: Sequence[Module]) -> None:
    """Raise UserError for a residual layer that may look at several positions."""
    where = "in its own class: def shard(self, plan): plan.everywhere(self)"
    cure = where if layer in units else "in the `shard` around it: plan.everywhere(it)"
    if not layer.per_position and not isinstance(layer, Embedding):
        raise UserError(
            f"sequence parallel gives {path_of(layer)} a share of the time, and its class {type(layer).__name__} does "
            "not say that it treats each position by itself.\n"
            f"If it does: per_position = True in the class. If not, or if it looks ids up, say {cure}.\n"
            f"{LOOK}"
        )


def said_about(named: Names, unit: Module) -> str:
    """What is said about the layers of a unit, for a message."""
    things: list[Module | Parameter] = []
    for module in unit.modules():
        things += [module, *own_parameters(module)]
    said = {thing: named[thing] for thing in things if named.get(thing) in DIVIDES}
    return ", ".join(
        f"plan.{word}({path_of(thing)})" for thing, word in said.items() if isinstance(thing, Module) or word == "split"
    )
