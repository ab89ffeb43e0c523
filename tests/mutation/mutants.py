"""Mutants: the places of a source file where a small mistake can be planted, and the text with it.

A mutant replaces part of a line: `<` by `<=`, `+` by `-`, a condition by its opposite, a statement by `pass`, a result
by None, an argument by nothing. Text for people is not changed: docstrings, messages, types.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: bytes `start` to `end` of the file become `new`. The fields after `new` are for display."""

    file: str
    line: int
    kind: str
    start: int
    end: int
    new: str
    text: str  # of its first line
    was: str
    becomes: str

    def apply(self, source: str) -> str:
        data = source.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()

    @property
    def key(self) -> str:
        """An identifier that does not change if lines are added above."""
        return f"{self.file}: {self.text}: {self.was} -> {self.becomes}"


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """Return every mutant of a file, in file order."""
    source = (root / file).read_text()
    data = source.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, new, kind in _changes(ast.parse(source)):
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        old = data[start:end].decode()
        if isinstance(node, ast.expr) and not isinstance(node, ast.Constant | ast.Name):
            new = f"({new})"
        text = source.splitlines()[node.lineno - 1].strip()
        found.append(Mutant(file, node.lineno, kind, start, end, new, text, _one_line(old), _one_line(new)))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.new))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    """Yield (node, its new text, the kind of change) for every change of the tree."""
    waiting: list[ast.AST] = [tree]
    lengths_to_find: set[ast.AST] = set()  # reshape(-1) is reshape(-2): NumPy finds the length for any negative number
    while waiting:
        node = waiting.pop()
        waiting += (child for child in ast.iter_child_nodes(node) if not _is_for_people(child, node))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("reshape"):
            lengths_to_find |= {length.operand for length in node.args if isinstance(length, ast.UnaryOp)}
        if isinstance(node, ast.expr) and node not in lengths_to_find:
            yield from ((node, new, kind) for new, kind in _of_an_expression(node))
        elif isinstance(node, ast.stmt):
            yield from _of_a_statement(node)


def _is_for_people(node: ast.AST, parent: ast.AST) -> bool:
    """Return whether the node is a docstring, type, f-string, error message or the name in a variable's repr."""
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(parent, ast.Call) and ast.unparse(parent.func) in ("ContextVar", "TypeVar", "ParamSpec"):
        return node in parent.args[:1]
    if isinstance(parent, ast.Raise | ast.Assert):
        return not (isinstance(parent, ast.Assert) and node is parent.test)
    return node in (getattr(parent, "annotation", None), getattr(parent, "returns", None))


def _of_an_expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS.get(type(op), ()):
                ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
                yield ast.unparse(ast.Compare(node.left, ops, node.comparators)), "comparison"
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.unparse(ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)), "operator"
    elif isinstance(node, ast.BoolOp):
        other_op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield ast.unparse(ast.BoolOp(other_op, node.values)), "and, or"
        for i in range(len(node.values)):
            rest = node.values[:i] + node.values[i + 1 :]
            yield ast.unparse(ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]), "part of a condition"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield ast.unparse(node.operand), "sign"
    elif isinstance(node, ast.IfExp):
        yield ast.unparse(node.body), "branch"
        yield ast.unparse(node.orelse), "branch"
    elif isinstance(node, ast.Constant):
        yield from _of_a_constant(node.value)
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        lower, upper, step = node.slice.lower, node.slice.upper, node.slice.step
        for border, cut in ((lower, ast.Slice(None, upper, step)), (upper, ast.Slice(lower, None, step))):
            if border is not None:
                yield ast.unparse(ast.Subscript(node.value, cut, ast.Load())), "border"
    elif isinstance(node, ast.Call):
        for i in range(len(node.keywords)):
            rest_of = node.keywords[:i] + node.keywords[i + 1 :]
            yield ast.unparse(ast.Call(node.func, node.args, rest_of)), "argument left out"
        if len(node.args) == 2:
            yield ast.unparse(ast.Call(node.func, node.args[::-1], node.keywords)), "arguments swapped"
    elif isinstance(node, ast.ListComp | ast.GeneratorExp) and node.generators[0].ifs:
        first = node.generators[0]
        rest_of_it = [ast.comprehension(first.target, first.iter, [], first.is_async), *node.generators[1:]]
        yield ast.unparse(type(node)(node.elt, rest_of_it)), "condition left out"


def _of_a_constant(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool):
        yield str(not value), "constant"
    elif isinstance(value, int):
        yield str(value + 1), "constant"
    elif isinstance(value, float):
        yield str(2 * value + 1), "constant"
    elif isinstance(value, str) and value.isidentifier():
        other = value[::-1]
        yield repr(other if other != value else value + "_"), "constant"


def _of_a_statement(node: ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise) or (
        isinstance(node, ast.Assign) and all(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets)
    ):
        yield node, "pass", "statement left out"
    elif isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
        yield node.value, "None", "result"
    elif isinstance(node, ast.If):
        yield node.test, "True", "condition"
        yield node.test, "False", "condition"
    elif isinstance(node, ast.While):
        yield node.test, "False", "loop"
    elif isinstance(node, ast.For):
        yield node.iter, "()", "loop"
    elif isinstance(node, ast.Break | ast.Continue):
        yield node, "continue" if isinstance(node, ast.Break) else "break", "loop"
