"""A user's model on a mesh against one process: right models, wrong models, and unusable files."""

import math
import re
import runpy
import textwrap
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minitrain
from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.commands.compare_model import CompareModelOptions, Comparison, FullStrategy, MeshOptions, compare_model
from minitrain.commands.own_model import OwnFile
from minitrain.commands.run_differences import Step, apart, differences, farthest, listed, verdict
from minitrain.errors import UserError
from tests.commands.test_cli import command, needs_mpirun
from tests.tiers import full

Capture = pytest.CaptureFixture[str]

MODELS = """
import numpy as np
from minitrain import functional as F
from minitrain.data.batch import Batch, Where
from minitrain.models import GPTConfig, MLPConfig, Model, gpt, mlp
from minitrain.nn import Dropout, Linear, Module, Parameter

class SwiGLU(Module):
    def __init__(self, path, dtype):
        self.path = path
        self.gate, self.up = (Linear(f"{path}.{name}", 6, 5, 0.3, dtype) for name in ("gate", "up"))
        self.down = Linear(f"{path}.down", 5, 6, 0.3, dtype)

    def shard(self, plan):
        plan.column(self.gate, self.up)
        plan.row(self.down)

    def __call__(self, x):
        g = self.gate(x)
        return self.down(g / (F.exp(-g) + 1) * self.up(x))

class Softmax(SwiGLU):
    def __call__(self, x):
        return self.down(F.softmax(self.gate(x)) * self.up(x))

class FullWidth(SwiGLU):
    def __call__(self, x):
        return self.down(F.reshape(self.gate(x), (*x.shape[:-1], 5)))

class Unnamed(SwiGLU):
    def shard(self, plan):
        plan.column(self.gate)

class Misnamed(SwiGLU):
    def __init__(self, path, dtype):
        super().__init__(path, dtype)
        self.scale = Parameter(f"{path}.scale", (), mean=1.0, dtype=dtype)

    def shard(self, plan):
        super().shard(plan)
        plan.residual(self.scale)

    def __call__(self, x):
        return self.down(F.multiply(self.gate(x) * self.up(x), self.scale))

class Misspelt(SwiGLU):
    shard, shards = Module.shard, SwiGLU.shard

class Unused(SwiGLU):
    def __call__(self, x):
        return super().__call__(x) * 0.0

def make_model(kind=SwiGLU, dtype="float64"):
    model = gpt(GPTConfig(11, 6, 2, heads=2, width=6, dropout=0.1, dtype=dtype))
    model.units[2].mlp = kind("blocks.1.mlp", dtype)
    model.units[1].norm2.bias.requires_grad = False
    return model

def softmax(): return make_model(Softmax)
def full_width(): return make_model(FullWidth)
def unnamed(): return make_model(Unnamed)
def misspelt(): return make_model(Misspelt)
def unused(): return make_model(Unused)
def misnamed(): return make_model(Misnamed)
def single(): return make_model(dtype="float32")
def digits(): return mlp(MLPConfig(5, (6,), 3, "float64"))
def fails(): raise KeyError("weights")
def number(): return 3
def needs(width): return make_model()
def bare(): return Model([Dropout("drop", 0.1)])
one = make_model()
def same(): return one
def other():
    model = make_model()
    model.parameters()[0].data = np.random.default_rng().normal(size=(11, 6))
    return model
"""
BATCHES = """
def make_batch(number):
    draw = np.random.default_rng(number)
    where = Where(1, number, 5, 1, slice(0, 5), slice(0, 1))
    return Batch(draw.normal(size=(5, 5)), draw.integers(0, 3, 5), where)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    (path / "own.py").write_text(MODELS)
    (path / "with_batches.py").write_text(MODELS + BATCHES)
    (path / "no_batch.py").write_text(MODELS + "def make_batch(number): return 3\n")
    (path / "broken.py").write_text("import math\nx = 1 / 0\n")
    (path / "leaves.py").write_text("raise SystemExit(3)\n")
    (path / "syntax.py").write_text("def make_model(:\n")
    (path / "own.txt").write_text("")
    return path


def options_of(model: str, options: dict[str, Any], mesh: dict[str, Any]) -> CompareModelOptions:
    """Return the options. mesh: fields of the mesh and of the strategy."""
    axes = {name: value for name, value in mesh.items() if name in ("dp", "tp", "pp", "accumulate", "comm")}
    strategy = {name: value for name, value in mesh.items() if name not in axes}
    return CompareModelOptions(model, parallel=MeshOptions(**axes), strategy=FullStrategy(**strategy), **options)


def compared(ranks: int, model: str, options: dict[str, Any] | None = None, **mesh: Any) -> Comparison:
    """Run the comparison on threads; all ranks return the same."""
    asked = options_of(model, options or {}, mesh)
    first, *others = threads.run(ranks, lambda world: compare_model(asked, world))
    assert all(other == first for other in others)
    assert max(map(len, first.text.splitlines())) <= 80, first.text
    return first


@pytest.mark.parametrize(
    ("ranks", "mesh"),
    [
        (2, {}),
        (2, {"tp": 2}),
        (2, {"tp": 2, "sp": True}),
        (2, {"pp": 2, "accumulate": 3}),
        (3, {"zero": 3, "recompute": 1}),
        full(1, {}),
        full(4, {"tp": 2, "sp": True, "zero": 3, "accumulate": 2}),
        full(8, {"tp": 2, "pp": 2, "zero": 1, "accumulate": 2, "comm": "ring"}),
        full(3, {"reduce": "overlap", "dp": 3}),
    ],
)
def test_a_right_model_is_equal(ranks: int, mesh: dict[str, Any], folder: Path) -> None:
    found = compared(ranks, f"{folder}/own.py:make_model", **mesh)
    assert found.equal and len(found.steps) == 3 and "<--" not in found.text
    assert 0 < max(max(step.most) for step in found.steps) <= 1e-12 or ranks == 1
    assert "equal to one process, within 1e-12" in found.text and "blocks.1.mlp.gate.weight" in found.text
    assert re.search(r"^blocks\.0\.norm2\.bias +- +- +0$", found.text, re.M), "frozen"


@pytest.mark.parametrize("sp", [False, True])
def test_a_softmax_over_divided_columns(sp: bool, folder: Path) -> None:
    """Only this comparison finds it: the softmax's linear layer and all gradients follow the plan."""
    found = compared(2, f"{folder}/own.py:softmax", tp=2, sp=sp)
    assert not found.equal and "DIFFERS from one process in step 0:\n  loss by" in found.text
    worst = re.findall(r"^    (\S+)  \S+$", found.text.partition("largest differences of gradients")[2], re.M)
    far = found.steps[0].gradients
    assert worst == sorted(far, key=lambda path: -far[path])[:3]
    assert re.search(r"^blocks\.1\.mlp\.up\.weight .*<--$", found.text, re.M) and "A softmax" in found.text
    assert compared(2, f"{folder}/own.py:softmax").equal


def test_what_is_divided_is_said(folder: Path) -> None:
    """A misspelt `shard` gives equal results and divides nothing."""
    mesh: dict[str, Any] = {"tp": 2, "pp": 2, "recompute": 1, "accumulate": 2}
    right, wrong = (compared(4, f"{folder}/own.py:{name}", **mesh).text for name in ("make_model", "misspelt"))
    whole = "of the elements; not in\n  embed.positions\n"
    assert f"\ndivided along tp: 15 of 30 parameters, 87% {whole}\n" in right
    assert f"\ndivided along tp: 10 of 30 parameters, 76% {whole}  blocks.1.mlp\n\n" in wrong
    assert "divided along" not in compared(2, f"{folder}/own.py:misspelt").text


def test_what_no_step_has_used_is_said(folder: Path) -> None:
    """A gradient that is zero everywhere is equal whatever `shard` says."""
    found = compared(2, f"{folder}/own.py:unused", tp=2)
    paths = found.text.partition("make_batch(number) for them\n")[2].split()
    layers = ("norm2", "mlp.gate", "mlp.up", "mlp.down")
    assert found.equal and "equal to one process, within 1e-12, in all that these 3 step(s) use" in found.text
    assert paths == [f"blocks.1.{layer}.{what}" for layer in layers for what in ("weight", "bias")]
    assert listed("these", list("abcdefghijklmn")).endswith("  l\n  and 2 more")


def test_without_the_look_of_the_first_step(folder: Path) -> None:
    """With --no-check, a model that would be refused is compared."""
    with pytest.raises(RuntimeError, match=r"blocks\.1\.mlp\.scale has a different gradient on each rank along tp"):
        compared(2, f"{folder}/own.py:misnamed", tp=2)
    found = compared(2, f"{folder}/own.py:misnamed", {"check": False}, tp=2)
    first = {path for path, x in found.steps[0].gradients.items() if x > 1e-12}
    assert not found.equal and first == {"blocks.1.mlp.scale"}


def test_any_kind_of_batch(folder: Path) -> None:
    """Batches come from make_batch if it exists; the default function is make_model."""
    assert compared(2, f"{folder}/with_batches.py:digits", tp=2).equal
    assert compared(2, f"{folder}/own.py", {"batch": 2, "context": 3, "vocabulary": 4, "steps": 1, "seed": -1}).equal


def test_float32_is_said(folder: Path) -> None:
    found = compared(2, f"{folder}/own.py:single", tp=2)
    assert found.equal and "within 2e-05" in found.text and "not float64: the bound is that of float32" in found.text
    assert max(found.steps[0].most) > 1e-12
    assert not compared(2, f"{folder}/own.py:softmax", tp=2).equal


@pytest.mark.parametrize(
    ("model", "options", "mesh", "said"),
    [
        ("none.py:make_model", {}, {}, "there is no Python file '.*none.py'; give FILE.py:make_model"),
        ("own.txt:make_model", {}, {}, "there is no Python file"),
        (".:make_model", {}, {}, "there is no Python file"),
        ("own.py:nothing", {}, {}, r"own.py has no function 'nothing' \(it has make_model, softmax, .*\); give"),
        ("own.py:np", {}, {}, "has no function 'np'"),
        ("own.py:fails", {}, {}, r"own.py failed: fails\(\), .* raised KeyError: 'weights', at line \d+$"),
        ("own.py:needs", {}, {}, r"called without arguments.* TypeError: needs\(\) missing 1 .* 'width'"),
        ("own.py:number", {}, {}, r"number\(\) in own.py returned 3; it must return a minitrain.models.Model"),
        ("own.py:bare", {}, {}, r"the model of bare\(\) has no parameters, so there is nothing to compare"),
        ("own.py:same", {}, {}, r"same\(\) returned the same parameters when it was called again"),
        ("own.py:other", {}, {}, r"other\(\) returned a different embed.tokens.weight when .*a seed"),
        ("broken.py", {}, {}, "cannot be imported.* ZeroDivisionError: division by zero, at line 2"),
        ("leaves.py", {}, {}, "cannot be imported.* SystemExit: 3, at line 1"),
        ("syntax.py", {}, {}, "cannot be imported.* SyntaxError"),
        ("own.py:digits", {}, {}, "give --vocabulary.* define make_batch"),
        ("own.py:digits", {"vocabulary": 5}, {}, "\n.*define make_batch"),
        ("own.py", {"context": 99}, {}, "the model's context is 6.*\n.*\n.*see --vocabulary and --context"),
        ("own.py", {"vocabulary": 12}, {}, "does not run on one process.* IndexError: .*\n.*--vocabulary"),
        ("with_batches.py:digits", {"batch": 4}, {}, "--batch 4 is for random ids.* with_batches.py has make_batch"),
        ("with_batches.py", {}, {}, "^with_batches.py does not run on one process: .*$"),
        ("no_batch.py", {}, {}, r"make_batch\(0\) in no_batch.py: the batch is 3"),
        ("own.py", {"steps": 0}, {}, "--steps is 0; it must be at least 1"),
        ("own.py", {"batch": 0}, {}, "--batch is 0; it must be at least 1"),
        ("own.py", {"batch": 1}, {}, "--batch is 1, but 2 ranks"),
        ("own.py", {"lr": 1e200}, {}, "the loss on one process is nan after 1 updates; give a smaller --lr"),
        ("own.py", {}, {"tp": 3}, "--tp 3 does not divide the 2 ranks"),
        ("own.py", {}, {"dp": 3}, "dp 3 makes 3 ranks, but there are 2"),
        ("own.py", {}, {"sp": True}, "--sp divides what --tp leaves whole"),
        ("own.py", {}, {"pp": 2, "zero": 3}, "--zero 3 with --pp"),
        ("own.py:unnamed", {}, {"tp": 2}, "does not name blocks.1.mlp.up.*\n.*\n.*minitrain compare model"),
        (
            "own.py:full_width",
            {},
            {"tp": 2},
            r"blocks.1, with its layers divided: reshape: .*\n.*`shard` is wrong",
        ),
    ],
)
def test_what_is_refused(model: str, options: dict[str, Any], mesh: dict[str, Any], said: str, folder: Path) -> None:
    """All ranks raise before the first step on the mesh."""

    def ask(world: Any) -> str:
        with pytest.raises(UserError, match=said) as caught, np.errstate(all="ignore"):
            compare_model(options_of(f"{folder}/{model}", options, mesh), world)
        return str(caught.value)

    texts = {re.sub(r"\(3, 6, [23]\)|size \d+", "", text) for text in threads.run(2, ask)}  # a rank's own columns
    assert len(texts) == 1


def test_an_error_on_the_mesh_is_blamed_on_the_file_if_it_has_the_line(folder: Path) -> None:
    file, doing = OwnFile(f"{folder}/own.py:fails"), "runs on one process, but on the mesh it"
    said = rf"own\.py {doing} raised KeyError: 'weights', at line \d+"
    with pytest.raises(UserError, match=said), file.blamed(doing, all_errors=False):
        file.make()
    with pytest.raises(ZeroDivisionError), file.blamed(doing, all_errors=False):
        1 / 0  # noqa: B018


def test_ranks_with_different_files(folder: Path, tmp_path: Path) -> None:
    """One rank has no file: all ranks say so, and none waits."""

    def ask(world: Any) -> None:
        with pytest.raises(UserError, match="there is no Python file"):
            compare_model(CompareModelOptions(f"{tmp_path if world.rank else folder}/own.py"), world)

    threads.run(3, ask)


def test_how_far() -> None:
    """The largest difference over ranks; small tensors relative to the largest; NaN or missing is infinite."""
    b: dict[str, np.ndarray] = {
        "a": np.array([1000.0, -1.0]),
        "b": np.array([0.0, 1e-3]),
        "c": np.zeros((2, 0)),
        "d": np.array([0.5]),
    }
    a = {**b, "b": np.array([0.1, 1e-3]), "d": np.array([np.nan])}
    assert differences(a, b) == {"a": 0, "b": 0.1, "c": 0, "d": math.inf}
    assert differences({}, {"a": np.zeros(1)}) == {"a": math.inf} == differences({"a": np.ones(1)}, {"a": np.zeros(1)})
    steps = [apart(Step(loss, x, b), Step(2.0, b, b)) for loss, x in ((2.0, a), (3.0, b), (2.5, b))]
    most = farthest(steps)
    assert (most.loss, most.gradients, most.most) == (0.5, differences(a, b), (0.5, math.inf, 0))
    assert "DIFFERS from one process in step 1" in verdict([steps[1]._replace(loss=0.0), most], 1e-12)


# The README ----------------------------------------------------------------------------------------------------------

AROUND = """
from minitrain import functional as F
from minitrain.models import GPTConfig, Model, gpt
from minitrain.nn import Linear, Module, loss_or_logits

{0}

class Own(SwiGLU):
    def __init__(self, path):
        self.path = path
        self.gate, self.up = (Linear(f"{{path}}.{{name}}", 6, 5, 0.3, "float64") for name in ("gate", "up"))
        self.down = Linear(f"{{path}}.down", 5, 6, 0.3, "float64")

class Pool(Module):
    def __init__(self):
        self.path, self.out = "head", Linear("head.out", 6, 3, 0.3, "float64")

    def shard(self, plan):
        plan.gather(self)

    def __call__(self, x, batch):
        return loss_or_logits(self.out(F.mean(x, axis=1)), batch)

def make_model():
    model = gpt(GPTConfig(11, 7, 2, heads=2, width=6, dtype="float64"))
    model.units[2].mlp = Own("blocks.1.mlp")
    return Model([*model.units[:-1], Pool()])

{1}
"""


def test_the_programs_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class with a `shard`, a make_batch and a run on the mesh work as printed in the README."""
    text = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    section = text.partition("### Your own model on a mesh\n")[2].partition("\n### ")[0]
    programs = [textwrap.dedent(block) for block in re.findall(r"(?:^(?: {4}.*)?\n)+", section, re.M) if block.strip()]
    layer, batches, trains = (next(x for x in programs if word in x) for word in ("SwiGLU", "make_batch", "Trainer"))
    (tmp_path / "my.py").write_text(AROUND.format(layer, batches))
    assert compared(2, f"{tmp_path}/my.py", tp=2).equal and compared(2, f"{tmp_path}/my.py", tp=2, sp=True).equal
    here = threading.local()
    monkeypatch.setattr(minitrain, "launch", lambda: nullcontext(here.world))

    def program(world: Communicator) -> list[float]:
        here.world, names = world, runpy.run_path(f"{tmp_path}/my.py")
        exec(compile(trains, "README.md", "exec"), names)
        return names["losses"]

    first, second = threads.run(2, program)
    assert first == second and len(first) == 3


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(folder: Path, capsys: Capture) -> None:
    assert main(["compare", "model", f"{folder}/own.py:make_model", "--zero", "3", "--steps", "1"]) == 0
    assert "equal to one process" in capsys.readouterr().out


def test_help_fits(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "model", "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80, shown
    assert all(word in shown for word in ("make_batch", "--zero", "--steps", "Exit status"))
    assert "--memory-mb" not in shown


@needs_mpirun
@pytest.mark.parametrize(
    ("model", "status", "said"),
    [
        ("softmax", 1, "DIFFERS"),
        full("make_model", 0, "equal to one"),
        full("unnamed", 2, "minitrain: error: blocks.1.mlp divides"),
    ],
)
def test_under_mpirun(model: str, status: int, said: str, folder: Path) -> None:
    """The message is printed once and the status matches."""
    found, shown = command("compare", "model", f"{folder}/own.py:{model}", "--tp", "2", ranks=2)
    assert found == status and shown.count(said) == 1 and "Traceback" not in shown, shown
