"""Every CuPy call in minitrain/ and `make gpu` against the real package: the name exists and accepts the arguments.

`import cupy` works without a GPU. Checked: every `xp.name` and `xp.name.method`, with the number of positional
arguments and the names of the keywords in every call; and array methods (x.sum, x.astype, ...), which are found by name
alone. The strict stand-in's parameter lists are compared as well.
"""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "strict_cupy" / "cupy" / "__init__.py"
# Methods of arrays, except those that other objects have with different arguments: sort, get, take.
METHODS = (
    "all any argmax argmin argsort astype clip copy cumsum dot fill flatten item max mean min nonzero prod ravel "
    "repeat reshape set squeeze std sum swapaxes tolist transpose var view"
)
OTHERS = ("np", "F", "math", "copy", "ledger", "backend", "axes")  # not arrays, but with functions of these names
LACKING = ("vecdot", "geomspace", "einsum_path", "errstate", "insert", "block", "nditer", "frompyfunc")
UFUNC_KEYWORDS = {"out", "dtype", "casting"}


@pytest.fixture(scope="module")
def cupy() -> Any:
    """Return the real package."""
    return pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'minitrain[cupy]'")


class Takes(NamedTuple):
    """Number of positional arguments (None: any) and names of keywords (None: any) that a callable accepts."""

    positional: int | None
    keywords: set[str] | None


def takes(thing: Any) -> Takes | None:
    """Read the signature, or the first docstring line, written by Cython; None if neither tells."""
    if hasattr(thing, "nin"):  # a ufunc
        return Takes(thing.nin + thing.nout, UFUNC_KEYWORDS)
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return from_docstring(getattr(thing, "__doc__", None) or "")
    parameters = list(signature.parameters.values())
    kinds = [p.kind for p in parameters]
    positional = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return Takes(
        None if inspect.Parameter.VAR_POSITIONAL in kinds else positional,
        None if inspect.Parameter.VAR_KEYWORD in kinds else named,
    )


def from_docstring(text: str) -> Takes | None:
    """Parse `_ndarray_base.sum(self, axis=None, Py_ssize_t n=1) -> _ndarray_base`, `getDeviceCount() -> int`."""
    found = re.match(r"(?:\w+\.)?\w+\((.*)\)", text.partition("\n")[0])
    if not found:
        return None
    parts = [part.partition("=")[0].split()[-1] for part in found[1].split(", ") if part]
    names = [name for name in parts if not name.startswith("*")]
    return Takes(None if len(names) < len(parts) else len(names), {*names})


def complaints(source: str, where: str, cupy: Any) -> Iterator[str]:
    """Yield the mistakes in a file's use of `xp` and of array methods."""
    tree = ast.parse(source)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        path = dotted(node)
        here, call = f"{where}:{node.lineno}: {ast.unparse(node)}", called.get(id(node))
        if path[0] in ("xp", "cupy"):
            thing, bound = cupy, 0
            for name in path[1:]:
                bound = int(hasattr(thing, "nin"))  # a ufunc method's docstring counts `self`
                thing = getattr(thing, name, None)
                if thing is None:
                    yield f"{here}: CuPy has no {name}"
                    break
            else:
                if call is not None:
                    yield from misfits(here, call, takes(thing), bound)
        elif call is not None and node.attr in METHODS.split() and path[0] not in OTHERS:
            yield from misfits(here, call, takes(getattr(cupy.ndarray, node.attr, None)), 1)


def misfits(here: str, call: ast.Call, allowed: Takes | None, bound: int) -> Iterator[str]:
    if allowed is None:
        return
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    if allowed.positional is not None and not starred and len(call.args) > allowed.positional - bound:
        yield f"{here}: {len(call.args)} positional arguments, CuPy takes {allowed.positional - bound}"
    for keyword in call.keywords:
        if keyword.arg is not None and allowed.keywords is not None and keyword.arg not in allowed.keywords:
            yield f"{here}: CuPy has no keyword {keyword.arg}"


def dotted(node: ast.expr) -> list[str]:
    """Return ["xp", "add", "at"] for xp.add.at, with "" for parts that are not names."""
    if isinstance(node, ast.Attribute):
        return [*dotted(node.value), node.attr]
    return [node.id if isinstance(node, ast.Name) else ""]


def sources() -> list[Path]:
    """Return the files that compute on the device: all but the course's machine, and the parts of `make gpu`."""
    package, here = ROOT / "minitrain", Path(__file__).parent
    parts = [here / f"{name}.py" for name in ("halves", "models", "operations", "probe", "ranks", "speed")]
    return parts + [path for path in sorted(package.rglob("*.py")) if not path.is_relative_to(package / "lessons")]


def test_every_call_fits_the_real_package(cupy: Any) -> None:
    found = [line for path in sources() for line in complaints(path.read_text(), str(path.relative_to(ROOT)), cupy)]
    assert not found, "\n".join(found)


def test_the_calls_are_found(cupy: Any) -> None:
    """The check above would also pass if it saw no calls."""

    class Blank:
        ndarray = cupy.ndarray

    found = [line for path in sources() for line in complaints(path.read_text(), str(path.relative_to(ROOT)), Blank)]
    uses = sum(len(re.findall(r"\bxp\.\w", path.read_text())) for path in sources())
    assert uses > 50 and 0.9 * uses <= len(found)


@pytest.mark.parametrize(
    "wrong",
    [
        "xp.vecdot(a, b)",
        "xp.geomspace(1, 2)",
        "with xp.errstate(): pass",
        "xp.sum(x, where=m)",
        "xp.max(x, initial=0)",
        "xp.mean(x, 0, None, None, True, m)",
        "xp.zeros(3, device='cpu')",
        "xp.exp(x, where=m)",
        "xp.add(x, y, z, w)",
        "xp.add.att(x, i, y)",
        "xp.add.at(x, i, y, 3)",
        "xp.sort(x, stable=True)",
        "xp.take(x, i, mode='clip')",
        "x.max(axis=0, initial=0)",
        "x.sum(0, None, None, True, 0)",
        "(x * y).mean(where=m)",
        "x.astype(d, device='cpu')",
        "x.swapaxes(0, 1, 2)",
        "x.set(y, None, True)",
        "xp.cuda.alloc_pinned(3)",
        "xp.cuda.alloc_pinned_memory(3, 4)",
        "xp.cuda.runtime.getDeviceCount(0)",
        "xp.cuda.Device(index=0)",
        "cupy.cuda.runtime.getDevice(0)",
        "xp._core._routines_linalg.tensordot_core_v11(0, 0, m, n, k, b, m, a, k, c, m, 1.0)",
    ],
)
def test_a_wrong_call_is_seen(cupy: Any, wrong: str) -> None:
    assert len(list(complaints(wrong, "here", cupy))) == 1


@pytest.mark.parametrize(
    "right",
    [
        "xp.sum(x, axis=0, keepdims=True)",
        "xp.exp(x, out=x)",
        "xp.add(x, y, z)",
        "xp.add.at(x, i, y)",
        "xp.matmul(a, b, out=c)",
        "xp.empty(*shape)",
        "x.reshape(1, 2, 3, 4)",
        "x.transpose(0, 2, 1, 3)",
        "x.astype(d, copy=False)",
        "np.max(x, initial=0)",
        "xp.cuda.Device(0).use()",
        "xp.cuda.alloc_pinned_memory(x.nbytes)",
    ],
)
def test_a_right_call_is_not(cupy: Any, right: str) -> None:
    assert list(complaints(right, "here", cupy)) == []


def stand_in() -> ModuleType:
    """Import the stand-in under another name, so that `import cupy` still gives the real package."""
    spec = importlib.util.spec_from_file_location("tests_strict_cupy", STAND_IN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stand_in_has_the_real_parameters(cupy: Any) -> None:
    """Everything in the stand-in exists in CuPy, with the same parameters in the same order."""
    ours = stand_in()
    for name in ours.HERE:
        assert hasattr(cupy, name), name
    for table, owner in ((ours.CREATION, cupy), (ours.FUNCTIONS, cupy), (ours.METHODS, cupy.ndarray)):
        for name, parameters in table.items():
            said = takes(getattr(owner, name))
            if said is not None and said.keywords is not None:
                names = {p for p in parameters.split() if not p.startswith("*")}
                assert names == said.keywords - {"self"} or name in ("array", "asarray"), name
    for name in ("astype", "fill", "get", "item", "set"):
        assert takes(getattr(ours.ndarray, name)) == takes(getattr(cupy.ndarray, name)), name
    for here, there in ((ours.cuda, cupy.cuda), (ours.cuda.runtime, cupy.cuda.runtime)):
        assert [name for name in vars(here) if not hasattr(there, name)] == []
    for name in ("Device", "alloc_pinned_memory"):
        assert takes(getattr(cupy.cuda, name)) == takes(getattr(ours.cuda, name)), name
    for name in LACKING:
        assert hasattr(np, name) and not hasattr(cupy, name) and not hasattr(ours, name), name
