"""Every public docstring is complete: it says what the reader needs, and names nothing that does not exist.

Public is what has no leading underscore. A rule yields a complaint for each docstring that breaks it; each rule also
has a sample that breaks it and one that does not.
"""

import ast
import builtins
import re
from collections.abc import Callable, Iterator
from functools import cache
from keyword import iskeyword
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

from minitrain import functional, fused
from minitrain.parallel.pipeline_schedules import SCHEDULES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minitrain"
Function: TypeAlias = ast.FunctionDef
SUMMARY = re.compile(r"(?!(?:Returns|Gets|Sets|Computes|Creates|This|The|An?|Each|Whether|Number)\b|\w+ manager\b)")
SHAPE = re.compile(
    r"\((?=[A-Zn.*0-9])(?:(?![a-z]{2})[\w, .*/+-])*\)|shape|elementwise|element|length|flat|\brows?|\bax[ei]s\b"
)
MAPS = ("functional", "fused", "attention", "gelu", "losses", "reductions", "shapes", "nn", "models", "comm")  # rooms
UNITS = {  # argument -> its units
    **dict.fromkeys(("timeout", "wait", "seconds"), "seconds?"),
    **dict.fromkeys(("megabytes", "bucket_mb", "memory_mb"), "MiB"),
    **dict.fromkeys(("patience", "interval", "every", "validate_every", "cooldown"), "updates?|batch(?:es)?|epochs?"),
}
QUIET = ("NotImplementedError", "SystemExit", "KeyboardInterrupt")  # a base class, the end of the process

# What comes from a paper -> what its docstring, or that of its module or package, cites
PAPERS = {
    "autograd": "1502.05767",
    "comm/ring": "Patarasuk, Yuan",
    "attention.causal_attention": "1706.03762",
    "fused.dropout": "Srivastava",
    "gelu.gelu": "1606.08415",
    "fused.layer_norm": "1607.06450",
    "lr_schedules.cosine": "1608.03983",
    "lr_schedules.cosine_restarts": "1608.03983",
    "lr_schedules.inverse_time": "Robbins, Monro",
    "lr_schedules.one_cycle": "1708.07120",
    "lr_schedules.one_cycle_momentum": "1803.09820",
    "lr_schedules.range_test": "1506.01186",
    "lr_schedules.warmup": "1706.02677",
    "models/gpt.Block": "Radford",
    "optim/clip.clip_grad_norm": "1211.5063",
    "optim/rules.Adam": "1412.6980",
    "optim/rules.AdamW": "1711.05101",
    "optim/rules.LAMB": "1904.00962",
    "optim/rules.LARS": "1708.03888",
    "optim/rules.SGD": "Robbins, Monro",
    "parallel/data_parallel": "2006.15704",
    "parallel/half_gradients": "1710.03740",
    "parallel/pipeline_schedules.gpipe": "1811.06965",
    "parallel/pipeline_schedules.interleaved": "2104.04473",
    "parallel/pipeline_schedules.one_forward_one_backward": "2006.09503",
    "parallel/zero_bubble.zero_bubble_h1": "2401.10241",
    "parallel/zero_bubble.zero_bubble_h2": "2401.10241",
    "parallel/zero_bubble.zero_bubble_v": "2401.10241",
    "parallel/zero_bubble.dualpipe": "2412.19437",
    "parallel/recompute": "1604.06174",
    "parallel/sequence_parallel": "2205.05198",
    "parallel/tensor_parallel": "1909.08053",
    "parallel/zero": "1910.02054",
    "precision/policy.StaticPolicy": "1710.03740",
    "precision/scaler.DynamicScaler": "1710.03740",
    "precision/scaler.StaticScaler": "1710.03740",
    "rng": "Salmon",
}


class Thing(NamedTuple):
    """A module, class or function, and what is around it."""

    name: str  # "parallel/zero.Zero1.reduce"
    node: ast.Module | ast.ClassDef | Function
    around: tuple[ast.Module | ast.ClassDef, ...]  # the module, then the class

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def docs(self) -> str:
        """Its docstring, that of its class, that of its __init__, and those of the functions to which it refers."""
        nodes = [self.node, *self.around[1:], *([self.called] if self.called is not None else [])]
        named = re.findall(r"(?:[Ss]ee|as in|[Rr]aise as) `?(\w+)", self.doc)
        nodes += [node for node in self.module.body if isinstance(node, Function) and node.name in named]
        return "\n".join(ast.get_docstring(node) or "" for node in nodes)

    @property
    def module(self) -> ast.Module:
        return self.node if isinstance(self.node, ast.Module) else self.around[0]  # type: ignore[return-value]

    @property
    def decorators(self) -> str:
        return "" if isinstance(self.node, ast.Module) else " ".join(map(ast.unparse, self.node.decorator_list))

    @property
    def called(self) -> Function | None:
        """The function whose arguments the caller gives."""
        if isinstance(self.node, Function):
            return self.node
        return next((it for it in self.node.body if isinstance(it, Function) and it.name == "__init__"), None)


def things(source: str, name: str) -> list[Thing]:
    """Return the module and everything public in it, including special methods such as __call__."""
    tree = ast.parse(source)
    found = [Thing(name, tree, ())]

    def look(node: ast.AST, around: tuple[ast.Module | ast.ClassDef, ...], prefix: str) -> None:
        for inner in ast.iter_child_nodes(node):
            special = isinstance(inner, Function) and re.fullmatch("__.*__", inner.name)
            if isinstance(inner, Function | ast.ClassDef) and (special or not inner.name.startswith("_")):
                made = Thing(f"{prefix}.{inner.name}", inner, around)
                if ".setter" not in made.decorators:  # help() shows the docstring of the getter
                    found.append(made)
                if isinstance(inner, ast.ClassDef):
                    look(inner, (*around, inner), made.name)
            elif isinstance(inner, ast.If | ast.Try):
                look(inner, around, prefix)

    look(tree, (tree,), name)
    return found


@cache
def package() -> list[Thing]:
    return [thing for path, name in modules().items() for thing in things(path.read_text("utf-8"), name)]


def modules() -> dict[Path, str]:
    return {path: path.relative_to(PACKAGE).with_suffix("").as_posix() for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {thing.node.name: thing.node for thing in package() if isinstance(thing.node, ast.ClassDef)}


def special(thing: Thing) -> bool:
    return isinstance(thing.node, Function) and thing.node.name.startswith("__")


def inherited(node: ast.AST, owner: ast.ClassDef) -> str:
    """Return the docstring of the method of this name in a base class; help() shows it."""
    for base in owner.bases:
        above = classes().get(ast.unparse(base).rpartition(".")[2])
        for other in above.body if above is not None else ():
            if isinstance(other, Function) and isinstance(node, Function) and other.name == node.name:
                return ast.get_docstring(other) or (inherited(node, above) if above is not None else "")
        if above is not None and (found := inherited(node, above)):
            return found
    return ""


# The rules ------------------------------------------------------------------------------------------------------------


def is_there(thing: Thing) -> Iterator[str]:
    """Something public has a docstring, its own or a base class's. A method of Operators has that of its function."""
    if thing.doc or special(thing):
        return
    owner = thing.around[-1] if thing.around else None
    if isinstance(owner, ast.ClassDef) and isinstance(thing.node, Function):
        if inherited(thing.node, owner) or (owner.name == "Operators" and hasattr(functional, thing.node.name)):
            return
        if owner.name == "Operators" and hasattr(fused, thing.node.name):
            return
    yield "has no docstring"


def begins_and_ends(thing: Thing) -> Iterator[str]:
    """The first paragraph is made of sentences; that of a function begins with an imperative, a name or a formula."""
    first = thing.doc.partition("\n\n")[0]
    if first and first[-1] not in ".:,":  # a formula may follow
        yield "has a first paragraph without a full stop"
    if isinstance(thing.node, Function) and "property" not in thing.decorators and not SUMMARY.match(first):
        yield f"begins with {first.split()[0]!r}; write what it does: Return, Raise, Divide, ..."


def names_its_errors(thing: Thing) -> Iterator[str]:
    """An exception that a function raises itself is named in its docstring, its class's or its module's."""
    if isinstance(thing.node, Function):
        said = thing.docs + (ast.get_docstring(thing.around[0]) or "")
        for name in sorted(raised(thing.node)):
            if name not in said and name not in QUIET and "__getattr__" not in thing.name:
                yield f"raises {name}, which its docstring does not say"


def raised(function: Function) -> set[str]:
    """Return the names of the exceptions raised in the function's own body, without inner functions."""
    found, rest = set(), list(ast.iter_child_nodes(function))
    while rest:
        node = rest.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found |= {kind.id} if isinstance(kind, ast.Name) and kind.id[0].isupper() else set()
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            rest += ast.iter_child_nodes(node)
    return found


def gives_shapes(thing: Thing) -> Iterator[str]:
    """A function from arrays to arrays says their shapes, or is elementwise, as its module says."""
    function, room = thing.node, re.split(r"[/.]", thing.name)[0]
    if room not in MAPS or not isinstance(function, Function) or not thing.doc:
        return
    arguments = " ".join(ast.unparse(a.annotation) for a in every_argument(function) if a.annotation)
    arrays = r"\b(Array|Tensor|ndarray)\b"
    if re.search(arrays, arguments) and function.returns and re.search(arrays, ast.unparse(function.returns)):
        formula = "elementwise" in (ast.get_docstring(thing.around[0]) or "") and thing.doc.startswith("y = ")
        if not SHAPE.search(thing.doc) and not formula:
            yield "does not say the shapes of its arrays"


def explains_its_arguments(thing: Thing) -> Iterator[str]:
    """A keyword-only argument is named, and a time, a size or a period has its unit."""
    if special(thing) or thing.called is None or not thing.docs.strip():
        return
    for argument in thing.called.args.kwonlyargs:
        if not re.search(rf"\b{argument.arg}\b", thing.docs):
            yield f"does not say what the argument `{argument.arg}` is"
    for argument in every_argument(thing.called):
        number = argument.annotation is not None and re.match("int|float", ast.unparse(argument.annotation))
        unit = UNITS.get(argument.arg) if number else None
        if unit and not re.search(rf"\b(?:{unit})\b", thing.docs):
            yield f"does not give the unit of `{argument.arg}`"


def every_argument(function: Function) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def names_what_exists(thing: Thing) -> Iterator[str]:
    """`name` in backticks, a "name:" that begins a line, and a file exist."""
    own = set().union(*(fields(node) for node in (thing.node, *thing.around[1:])))
    for name in re.findall(r"`([a-zA-Z_]\w*)(?:\(\))?`", thing.doc):
        if name not in own and name not in everything() and not (hasattr(builtins, name) or iskeyword(name)):
            yield f"names `{name}`, which does not exist"
    described = re.findall(r"(?:\A|[.:\n]\n)([a-z_]\w*(?:, [a-z_]\w*)*): ", thing.doc)
    for name in (name for names in described for name in names.split(", ")):
        if not isinstance(thing.node, ast.Module) and name not in own:
            yield f"describes {name}, which is no argument or field of it"
    for file in re.findall(r"\b[\w/]+\.py\b", thing.doc):
        if not any(f"/{path}".endswith(f"/{file}") for path in files()) and not re.match(
            r"FILE|my\.|exercise\.|\w+/K_", file
        ):
            yield f"names the file {file}, which does not exist"


@cache
def fields(node: ast.AST) -> set[str]:
    """Return the names of arguments, variables and attributes in a class, a function or a statement."""
    found = set()
    for inner in ast.walk(node):
        match inner:
            case ast.arg(arg=name) | ast.Attribute(attr=name) | ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
    return found


@cache
def everything() -> set[str]:
    """Return the names of all functions, classes, their fields, module variables and modules, and of three programs."""
    found = {"mt", "mpirun", "lessons"}
    for path in modules():
        tree = ast.parse(path.read_text("utf-8"))
        bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
        found |= {node.name for node in ast.walk(tree) if isinstance(node, Function | ast.ClassDef)} | {path.stem}
        for statement in (it for body in bodies for it in body if isinstance(it, ast.Assign | ast.AnnAssign)):
            found |= fields(statement)
            if ast.unparse(statement).startswith("__slots__"):
                found |= {*re.findall(r"\w+", ast.unparse(statement))}
    return found


@cache
def files() -> list[str]:
    rooms = [ROOT / room for room in ("minitrain", "lessons", "tests")]
    return [path.relative_to(ROOT).as_posix() for room in rooms for path in room.rglob("*.py")]


# rule -> (a sample that breaks it, one that does not)
RULES: dict[Callable[[Thing], Iterator[str]], tuple[str, str]] = {
    is_there: ("def f(): pass", "def _f(): pass"),
    begins_and_ends: ('def f():\n    "Returns x."', 'def f():\n    "Return x."'),
    names_its_errors: (
        'def f(x):\n    "Return x."\n    raise UserError',
        'def f(x):\n    "Return x. Raise UserError for a negative x."\n    raise UserError',
    ),
    gives_shapes: (
        'def f(x: Array) -> Array:\n    "Return x, sorted."',
        'def f(x: Array) -> Array:\n    "Return x (B, T), sorted."',
    ),
    explains_its_arguments: (
        'def f(*, wait: float):\n    "Wait for x: `wait`."',
        'def f(*, wait: float):\n    "Wait for x, at most `wait` seconds."',
    ),
    names_what_exists: ('def f(x):\n    """Return x.\n\n    y: a number.\n    """', 'def f(x):\n    "Return `x`."'),
}
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


@by_rule
def test_docstrings(rule: Callable[[Thing], Iterator[str]]) -> None:
    found = [f"{thing.name} {complaint}" for thing in package() for complaint in rule(thing)]
    assert not found, "\n".join(found)


@by_rule
def test_a_rule_sees_what_breaks_it(rule: Callable[[Thing], Iterator[str]]) -> None:
    seen = [[list(rule(thing)) for thing in things(source, "fused")[1:]] for source in RULES[rule]]
    assert any(seen[0]) and not any(seen[1])


@pytest.mark.parametrize(("name", "paper"), PAPERS.items())
def test_papers(name: str, paper: str) -> None:
    """The docstring of a function, class or module, of its module or of its package cites the paper."""
    module = name.partition(".")[0]
    wanted = (name, module, f"{module.rpartition('/')[0]}/__init__")
    found = [thing for thing in package() if thing.name in wanted]
    assert name in [thing.name for thing in found], "renamed?"
    assert any(paper in thing.docs for thing in found), f"{name} cites no {paper}"


def test_every_optimizer_and_schedule_of_a_pipeline_has_a_paper() -> None:
    rules = {thing.name for thing in package() if thing.name.count(".") == 1 and isinstance(thing.node, ast.ClassDef)}
    made = {
        f"parallel/{function.__module__.rpartition('.')[2]}.{function.__name__}"
        for name, function in SCHEDULES.items()
        if name != "naive"
    }
    assert {name for name in rules if name.startswith("optim/rules.")} | made <= PAPERS.keys()
