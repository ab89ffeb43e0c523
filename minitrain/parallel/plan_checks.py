"""Check what `shard` declares about layers and parameters, before the first step of a divided model (see plan.py).

Mistakes that show only while the model computes are found in the first steps: see division_checks.py.
"""

import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError, shown
from ..nn import CausalAttention, Embedding, Module, Parameter

Names = Mapping[Module | Parameter, str]  # layer or parameter -> the plan method that named it
LOOK = "Then compare with the serial run: python -m minitrain compare model --help"
WORDS = ("column", "heads", "row", "vocabulary", "split", "inside", "enter", "residual", "gather", "everywhere")
DIVIDES = ("column", "heads", "row", "split", "inside", "enter")  # if one is used, every sibling needs a name


def leaves(module: Module) -> list[Module]:
    """Return the modules at or below this one that have no children."""
    return [m for m in module.modules() if not any(True for _ in m.children())]


def own_parameters(module: Module) -> list[Parameter]:
    """Return the parameters of the module itself, without those of its children."""
    return [value for _, value in module.members() if isinstance(value, Parameter)]


def path_of(thing: Module | Parameter) -> str:
    """Return the path of a parameter or a module; the class name of a module without one."""
    return thing.placement.path if isinstance(thing, Parameter) else thing.path or type(thing).__name__


def check_things(word: str, things: Sequence[Any], *kinds: type) -> None:
    """Raise UserError for an argument that is not of one of these types. word: the name of the plan method."""
    for thing in things:
        if not isinstance(thing, kinds):
            names = " or ".join("layers" if kind is Module else "parameters" for kind in kinds)
            raise UserError(
                f"plan.{word} got {shown(thing)}; it takes {names}, one by one"
                + (": plan.split(parameter, axis)" if isinstance(thing, Parameter) else "")
            )


def check_shard(module: Module) -> None:
    """Raise UserError if `shard` cannot be called with one argument, the plan."""
    try:
        inspect.signature(module.shard).bind(None)
    except TypeError as error:
        raise UserError(
            f"{path_of(module)}: `shard` of {type(module).__name__} takes {inspect.signature(module.shard)}; "
            "write def shard(self, plan)"
        ) from error


def check_divided(model: Module, tp: int) -> None:
    """Raise UserError if no module of the model defines `shard`."""
    if tp > 1 and all(type(module).shard is Module.shard for module in model.modules()):
        raise UserError(
            f"--tp is {tp}, but no layer of the model is divided: none of its modules defines `shard`.\n"
            "Write `def shard(self, plan)` in the class of each block (see parallel/plan.py), or omit --tp"
        )


@contextmanager
def check_words(plan: object) -> Iterator[None]:
    """Raise UserError if code in this context calls a method that the plan does not have."""
    try:
        yield
    except AttributeError as error:
        if error.obj is not plan:
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"plan.{error.name}, at line {at.lineno} of {Path(at.filename).name}, does not exist; use one "
            f"of {', '.join(WORDS)}: see minitrain/parallel/plan.py"
        ) from error


def largest_first(layer: Module) -> list[Parameter]:
    """Return a layer's own parameters, the one with the most axes (its matrix) first."""
    return sorted(own_parameters(layer), key=lambda p: -len(p.placement.shape))


def check_siblings(named: Names, module: Module, tp: int) -> list[Module]:
    """Return all layers below a module if it divides some of them, else []. Raise UserError if one is unnamed."""
    children = [child for _, child in module.children()]
    siblings: list[Module | Parameter] = [*children, *own_parameters(module)]
    word = next((named[thing] for thing in siblings if named.get(thing) in DIVIDES), None)
    if word is None or not children:
        return []
    check_heads(module, [child for child in children if named.get(child) == "heads"], tp)
    below = [layer for child in children for layer in leaves(child)]
    things: list[Module | Parameter] = [*below, *own_parameters(module)]
    for thing in things:
        if not all_named(named, thing):
            raise UserError(
                f"{path_of(module)} divides layers (plan.{word}) but does not name "
                f"{path_of(thing)}: name it in `shard`.\n"
                "plan.column, heads, row: divided; plan.inside: between column and row; plan.enter: whole, but meets "
                "divided columns; plan.residual: elsewhere.\n"
                f"{LOOK}"
            )
    return below


def all_named(named: Names, thing: Module | Parameter) -> bool:
    """Return whether the layer or parameter has a name, or all of the layer's own parameters do.

    CausalAttention needs no name: it works with any number of heads, and itself rejects a shard of the sequence.
    """
    inside = own_parameters(thing) if isinstance(thing, Module) else []
    return thing in named or isinstance(thing, CausalAttention) or bool(inside and all(p in named for p in inside))


def check_heads(module: Module, layers: list[Module], tp: int) -> None:
    """Raise UserError if layers have different numbers of heads, and tp does not divide all of these numbers."""
    heads = {largest_first(layer)[0].placement.shape[-2] for layer in layers}
    if len(heads) > 1 and any(n % tp for n in heads):
        raise UserError(
            f"--tp is {tp}, but {path_of(module)} has layers of {' and of '.join(map(str, sorted(heads)))} "
            "heads, so a rank's heads in one would not match its heads in another.\nUse a --tp that divides all these "
            "numbers, or divide the groups: a matrix (I, groups, heads per group, D/H) and plan.column with axis=0"
        )


def check_per_position(layer: Module, units: Sequence[Module]) -> None:
    """Raise UserError for a residual layer that may use several positions (neither per_position nor an Embedding)."""
    where = "in its own class: def shard(self, plan): plan.everywhere(self)"
    cure = where if layer in units else "in the `shard` around it: plan.everywhere(it)"
    if not layer.per_position and not isinstance(layer, Embedding):
        raise UserError(
            f"sequence parallel gives {path_of(layer)} a shard of the sequence, but its class {type(layer).__name__} "
            "does not declare that it treats each position independently.\n"
            f"If it does, set per_position = True in the class. If not, or if it looks up ids, write {cure}.\n"
            f"{LOOK}"
        )


def said_about(named: Names, unit: Module) -> str:
    """List how the layers of a unit are divided, for a message."""
    things: list[Module | Parameter] = []
    for module in unit.modules():
        things += [module, *own_parameters(module)]
    words = {thing: named[thing] for thing in things if named.get(thing) in DIVIDES}
    return ", ".join(
        f"plan.{word}({path_of(thing)})"
        for thing, word in words.items()
        if isinstance(thing, Module) or word == "split"
    )
