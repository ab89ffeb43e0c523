"""Layering of the rooms: a module imports only from its own room and from rooms to its left."""

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minitrain"
ROOMS = (
    *("errors", "sharding", "environment", "observe", "blas", "compiled", "backend", "rng", "debug", "operands"),
    *("tensor", "autograd", "shapes", "reductions", "functional"),
    *("loss_denominators", "attention", "kv_cache", "gelu", "losses", "fused", "operators"),
    *("data", "nn", "lr_schedules", "optim", "precision", "models"),
    *("comm", "runtime", "parallel", "train", "planner", "commands", "cli", "lessons"),
    *("__init__", "__main__"),  # the namespace, and `python -m minitrain`
)


def room_of(module: str) -> str:
    """Return the room in a module's name; minitrain itself is the namespace."""
    name = f"{module}.".split(".")[1]
    return name if name in ROOMS else "__init__"


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of each import, also inside functions; skip type-only imports, unused at run time."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imported(ast.Module(node.orelse, []), package)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
        else:
            yield from imported(node, package)


def wrong(source: str, module: str, package: str) -> list[str]:
    """Return a module's imports from rooms to its right, or from outside the package (tests)."""
    here = ROOMS.index(room_of(module))
    found = []
    for line, name in imported(ast.parse(source), package):
        top = name.partition(".")[0]
        if top == "tests" or (top == "minitrain" and ROOMS.index(room_of(name)) > here):
            found.append(f"{module}, line {line}: {name}")
    return found


def modules() -> dict[str, Path]:
    """Return dotted name -> file for the whole package."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def test_no_import_leads_upward() -> None:
    every = (wrong(path.read_text("utf-8"), name, name.rpartition(".")[0]) for name, path in modules().items())
    found = [line for lines in every for line in lines]
    assert found == [], "move what is needed to a room further left, or what needs it to one further right"


def test_every_module_has_a_room_and_every_room_a_module() -> None:
    assert {name.split(".")[1] for name in modules()} == set(ROOMS)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("from .layers import Linear", False),
        ("from ..fused import linear", False),
        ("from .. import rng", False),
        ("from ..models import Model", True),
        ("from ..comm.mesh import Mesh", True),
        ("from .. import comm", True),
        ("from .. import Tensor", True),
        ("import minitrain", True),
        ("import minitrain.train.step", True),
        ("def f():\n    from ..models import Model", True),
        ("if TYPE_CHECKING:\n    from ..models import Model", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from ..models import Model", True),
        ("from minitrain.lessons import text", True),
        ("import numpy as np", False),
    ],
)
def test_an_import_that_leads_upward_is_seen(source: str, seen: bool) -> None:
    assert bool(wrong(source, "minitrain.nn.module", "minitrain.nn")) == seen


EXPORTERS = [path for path in sorted(PACKAGE.rglob("*.py")) if "\n__all__ = " in path.read_text("utf-8")]


@pytest.mark.parametrize("path", EXPORTERS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_all_that_a_module_exports_exists(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = import_module(name.removesuffix(".__init__"))
    exported = module.__all__
    assert len(set(exported)) == len(exported) > 0 and all(hasattr(module, each) for each in exported)
