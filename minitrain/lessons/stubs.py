"""Generate exercise.py from library functions: keep signature and docstring, drop the body.

"07.2" -> minitrain.parallel.data_parallel:sync_gradients

    def sync_gradients(gradients: Sequence[Array], group: Communicator) -> None:
        \"\"\"Sum each gradient over the group. ...\"\"\"
        raise NotImplementedError("07.2")
"""

import ast
import inspect
import re
import textwrap
from importlib.util import resolve_name

from .manifest import Exercise, Lesson
from .numbers import individual
from .predictions import line_of

TOP = '''"""Lesson {number}, {title}: {sentence}.

Write the functions below; after each: lessons check {number}
"""

'''
KINDS = {
    "I": "write this function",
    "P": "predict: return what comes out, for any arguments",
    "B": "this function has mistakes: find and fix them",
}


def source(exercise: Exercise) -> str:
    """Return the source of the model solution."""
    function = exercise.module
    for name in exercise.target.partition(":")[2].split("."):
        function = getattr(function, name)
    return textwrap.dedent(inspect.getsource(function))


def stub(exercise: Exercise) -> str:
    """Return the function as the student receives it."""
    if exercise.planted:
        return definition(exercise.mutant(exercise.planted).source, exercise.function)
    text = source(exercise)
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    docstring = function.body[0]
    head = text.splitlines()[: docstring.end_lineno]
    return "\n".join([*head, f'    raise NotImplementedError("{exercise.id}")', ""])


def was_given(exercise: Exercise, function: str) -> bool:
    """Return whether a function is one that some students get, with its mistakes."""
    names = [exercise.planted, *(fault.planted for fault in exercise.faults)] if exercise.planted else []
    return any(
        function.strip() == definition(exercise.mutant(name).source, exercise.function).strip() for name in names
    )


def entry(exercise: Exercise, solved: bool = False) -> str:
    """Return what exercise.py has for an exercise: the stub or the model solution, and what is to be predicted."""
    return line_of(exercise, solved) + (source(exercise) if solved else stub(exercise))


def definition(text: str, name: str) -> str:
    """Return the source of one function. Raise LookupError if it is not defined."""
    lo, hi = place(text, name)
    return "\n".join(text.splitlines()[lo:hi]) + "\n"


def place(text: str, name: str) -> tuple[int, int]:
    """Return the line range [lo, hi) that defines this function. Raise LookupError if it is not defined."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1, node.end_lineno or node.lineno
    raise LookupError(f"there is no function {name}")


def exercise_file(lesson: Lesson, solved: bool = False, numbers: str = "") -> str:
    """Return the text of exercise.py with stubs, or with the model solutions. numbers: the student's own, if any."""
    imports: dict[str, set[str]] = {}
    bodies = []
    own = {exercise.function for exercise in lesson.exercises}
    for exercise in (individual(it, numbers) for it in lesson.exercises):
        for origin, names in _imports(exercise).items():
            imports.setdefault(origin, set()).update(names - own)
        bodies.append(f"{_rule(exercise)}\n\n{entry(exercise, solved)}")
    top = TOP.format(number=lesson.number, title=lesson.title, sentence=lesson.sentence)
    return top + _statements(imports) + "\n\n" + "\n\n".join(bodies)


def exercise_cell(exercise: Exercise, solved: bool = False) -> str:
    """Return the text of a notebook's cell: one exercise, as in exercise.py, with its imports."""
    imports = _statements(_imports(exercise))
    body = entry(exercise, solved)
    top = f"# {exercise.id} {KINDS[exercise.kind]}\n{imports}"
    return f"{top}\n\n{body}" if imports else top + body


def replaced(text: str, exercise: Exercise, by: str) -> str:
    """Return the student's file with one function replaced, or appended if it was missing."""
    try:
        lo, hi = place(text, exercise.function)
    except LookupError:
        return f"{text.rstrip()}\n\n\n{by}"
    lines = text.splitlines()
    return "\n".join([*lines[:lo], *by.rstrip().splitlines(), *lines[hi:], ""])


def put(text: str, exercise: Exercise, cell: str) -> str:
    """Return the student's file with a notebook's cell in place of the exercise: what follows its line of dashes."""
    rule = _rule(exercise)
    before, found, after = text.partition(f"{rule}\n")
    if not found:
        return replaced(text, exercise, cell)
    rest = re.search(r"^# \d\d\.\d \w.*-{8}$", after, re.MULTILINE)
    return f"{before}{rule}\n\n{cell.strip()}\n" + (f"\n\n{after[rest.start() :]}" if rest else "")


def _rule(exercise: Exercise) -> str:
    return f"# {exercise.id} {KINDS[exercise.kind]} ".ljust(100, "-")


def _imports(exercise: Exercise) -> dict[str, set[str]]:
    """Return module -> names to import ("" for the module itself) that the model solution and the stub use."""
    module = exercise.module
    used = _names(source(exercise)) | _names(stub(exercise))
    trees = [(ast.parse(inspect.getsource(module)), module.__package__ or "")]
    if exercise.planted:
        trees.append((ast.parse(exercise.mutant(exercise.planted).source), ""))
    found: dict[str, set[str]] = {}
    for tree, package in trees:
        for node in [*tree.body, *(inner for block in tree.body if isinstance(block, ast.If) for inner in block.body)]:
            if isinstance(node, ast.Import):
                names = {_alias(alias) for alias in node.names if (alias.asname or alias.name) in used}
                found.update({name: {""} for name in names})
            elif isinstance(node, ast.ImportFrom):
                origin = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
                names = {_alias(alias) for alias in node.names if (alias.asname or alias.name) in used}
                found.setdefault(origin or "", set()).update(names)
    own = (used & _defined(trees[0][0])) - {exercise.function}
    if re.search(r"\.\d", module.__name__) and own:
        raise ValueError(f"{exercise.id} uses {', '.join(own)} of its lesson, which cannot be imported: pass it in")
    found.setdefault(module.__name__, set()).update(own)
    return found


def _statements(imports: dict[str, set[str]]) -> str:
    """Return import statements, the standard library and NumPy first."""
    lines = []
    for origin, names in sorted(imports.items(), key=lambda pair: (pair[0].startswith("minitrain"), pair[0])):
        if "" in names:
            lines.append(f"import {origin}\n")
        elif names:
            lines.append(f"from {origin} import {', '.join(sorted(names))}\n")
    return "".join(lines)


def _names(text: str) -> set[str]:
    """Return the names that the code uses, also those in quoted annotations."""
    nodes = list(ast.walk(ast.parse(text)))
    annotations = [node.annotation for node in nodes if isinstance(node, ast.arg)]
    quoted = [it.value for it in annotations if isinstance(it, ast.Constant) and isinstance(it.value, str)]
    return {node.id for node in nodes if isinstance(node, ast.Name)}.union(*map(_names, quoted))


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a module defines at top level."""
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _alias(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name
