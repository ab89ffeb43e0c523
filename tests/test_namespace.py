"""`import minitrain as mt`: what it offers, what it imports, and users' first programs."""

import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import minitrain

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = """
    Tensor backward no_grad functional fused nn optim lr_schedules precision gpt mlp GPTConfig MLPConfig Model Module
    Parameter Trainer Strategy Mesh launch load save SGD Adam AdamW LARS LAMB Scaler StaticScaler DynamicScaler
    TextLoader ArrayLoader Batch Where CharTokenizer load_text load_digits IGNORE UserError
"""


def fresh(program: str) -> str:
    """Return what a program prints in its own process."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names() -> None:
    assert {*EXPECTED.split()} <= {*minitrain.__all__} <= {*dir(minitrain)}
    assert len({*minitrain.__all__}) == len(minitrain.__all__)
    for name in minitrain.__all__:
        assert getattr(minitrain, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'Trainr'; it has .*Trainer"):
        minitrain.Trainr  # type: ignore[attr-defined]  # noqa: B018


def test_the_docstring_of_the_package() -> None:
    """help(minitrain) lists every name; its example runs."""
    text = minitrain.__doc__ or ""
    assert {*minitrain.__all__} <= {*re.findall(r"\w+", text)}
    example = textwrap.dedent(re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)[0])
    assert fresh(example + "\nprint(len(history.loss))").splitlines()[-1] == "1"


def test_type_checkers_see_what_there_is() -> None:
    """Lazily imported names are also listed under TYPE_CHECKING."""
    source = Path(minitrain.__file__).read_text()
    seen = source.partition("if TYPE_CHECKING:")[2].partition("\n__version__")[0]
    assert {*minitrain._HOMES, *minitrain._MODULES} == {*re.findall(r"\w+", re.sub(r"from \S+ import|#.*", "", seen))}


def test_importing_starts_nothing() -> None:
    program = """
import sys, threading
import minitrain
heavy = [name for name in sys.modules if name.partition(".")[0] in ("mpi4py", "tyro", "rich", "safetensors", "torch")]
heavy += [name for name in sys.modules if name.startswith(("minitrain.train", "minitrain.parallel", "minitrain.cli"))]
print(heavy, threading.active_count())
"""
    assert fresh(program) == "[] 1\n" and threading.active_count() >= 1


MICROGRAD = """
import minitrain as mt

a = mt.Tensor(-4.0, requires_grad=True)
b = mt.Tensor(2.0, requires_grad=True)
c = a + b
d = a * b + b**3
c += c + 1
c += 1 + c + (-a)
d += d * 2 + (b + a).relu()
d += 3 * d + (b - a).relu()
e = c - d
f = e**2
g = f / 2.0
g += 10.0 / f
print(f'{g.data:.4f}')
g.backward()
print(f'{a.grad:.4f}')
print(f'{b.grad:.4f}')
"""


def test_the_example_of_micrograd() -> None:
    assert fresh(MICROGRAD).split() == ["24.7041", "138.8338", "645.5773"]


def readme(first: str) -> str:
    """Return the README's program that contains this line."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    found = next(block for block in blocks if first in block)
    return "\n".join(line[4:] for line in found.strip("\n").splitlines())


LLAMA = """
from minitrain.data.batch import Batch, Where
import numpy as np
block = LlamaBlock("block", width=8, heads=2)
block.init(seed=1)
x = mt.Tensor(np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32), requires_grad=True)
y = block(x, Batch(np.zeros((2, 5), int), None, Where(1, 0, 2, 5, slice(0, 2), slice(0, 5))))
y[:, 2].sum().backward()
print(y.shape, y.dtype, x.grad[:, 3:].any(), all(p.grad.any() for p in block.parameters()))
"""


@pytest.mark.full
def test_the_programs_of_the_readme() -> None:
    gpt = readme("tokens = mt.CharTokenizer.of(text)")
    assert len([line for line in gpt.splitlines() if line.strip()]) <= 10
    patient = "from minitrain.train import progress; progress.QUIET = 60.0\n"  # none in between on a busy machine
    lines = fresh(patient + gpt).splitlines()
    assert [line[:12] for line in lines] == ["update 10/20", "update 20/20"] and "validation loss" in lines[1]
    assert fresh(readme("loss = ((x @ x.T")).split()[0] == f"{154**0.5:.4f}"
    assert fresh(readme("class LlamaBlock(nn.Module)") + LLAMA).strip() == "(2, 5, 8) float32 False True"


def in_notebook(*cells: str) -> list[str]:
    """Return what each cell prints in a notebook, or the name of its exception."""
    import nbformat  # here, because the ranks of a job import this file too, and do not need it
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, allow_errors=True, resources={"metadata": {"path": str(ROOT)}}).execute()
    said = lambda cell: "".join(out.get("text", out.get("ename", "")) for out in cell.outputs)
    return [said(cell).strip() for cell in notebook.cells]


def test_the_programs_in_a_notebook() -> None:
    """Each gives what it gives as a program, and an exception under launch() stays one: the kernel goes on."""
    raises = "with mt.launch() as world:\n    raise ValueError(world.size)"
    llama = readme("class LlamaBlock(nn.Module)") + LLAMA
    gpt = readme("tokens = mt.CharTokenizer.of(text)")
    found = in_notebook(MICROGRAD, llama, raises, raises, "print(world.size)", gpt)
    assert found[0].split() == ["24.7041", "138.8338", "645.5773"]
    assert found[1:5] == ["(2, 5, 8) float32 False True", "ValueError", "ValueError", "1"]
    assert "update 20/20" in found[5] and "validation loss" in found[5]
