"""The command line: wrong input fails before the first step, help fits a terminal, all ranks agree with one."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import save_file

from minitrain import errors
from minitrain.cli import main
from minitrain.commands import doctor
from minitrain.commands.config import TrainConfig
from minitrain.commands.options import PrecisionOptions
from minitrain.commands.plan import Plan
from minitrain.commands.plan_options import PlannedMachine, PlannedModel, PlannedStrategy
from minitrain.errors import UserError, limit_memory
from minitrain.lr_schedules import warmup_cosine
from minitrain.precision import DynamicPolicy, StaticPolicy
from minitrain.runtime.mpirun import find_mpirun
from tests.tiers import full

Capture = pytest.CaptureFixture[str]
MPIRUN = find_mpirun()
ROOT = Path(__file__).resolve().parents[2]
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")

OPTIONS = """
    --layers 1 --width 16 --heads 2 --context 16 --batch 7 --steps 12 --warmup 2 --dropout 0.1
    --val-every 5 --log-every 4 --sample 20 --bucket-mb 0.005
"""
TINY = OPTIONS.split()
STEPS = 12


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a text of 600 random words, whose letters follow each other in a learnable way."""
    draw = np.random.default_rng(1)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "ate", "one", "rat,", "then", "slept.\n"]
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text(" ".join(draw.choice(words, 600)))
    return path


def process(command: list[str], ranks: int = 0, limit: float = 60.0, cwd: Path = ROOT) -> tuple[int, str]:
    """Run a command in 80 columns, under mpirun if ranks are given. Return (status, output)."""
    done = subprocess.run(
        [*([str(MPIRUN), "-n", str(ranks)] if ranks else []), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80"},
        timeout=limit,
    )
    return done.returncode, done.stdout


def command(*arguments: str, ranks: int = 0) -> tuple[int, str]:
    """Run python -m minitrain. Return (status, output)."""
    return process([sys.executable, "-m", "minitrain", *arguments], ranks)


def here(*arguments: str) -> int:
    """Run the command in this process. Return its status."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# A run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny run in this process."""
    folder = tmp_path_factory.mktemp("run") / "below" / "here"
    assert here("train", *TINY, "--text", str(text), "--out", str(folder)) == 0
    return folder


def test_every_step_is_in_the_log(run: Path) -> None:
    *steps, last = rows(run)
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    for t, row in enumerate(steps):
        assert math.isfinite(row["loss"]) and row["norm"] > 0
        assert row["lr"] == warmup_cosine(t, 3e-3, 2, STEPS, 1e-4)
    assert [row["step"] for row in steps if "val_loss" in row] == [5, 10]
    assert last["step"] == STEPS and math.isfinite(last["final_val_loss"])
    assert last["final_val_loss"] < steps[0]["loss"]


def test_the_run_is_shown(text: Path, tmp_path: Path, capsys: Capture) -> None:
    assert here("train", *TINY, "--text", str(text), "--out", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    for part in ("4/12", "8/12", "12/12", "tokens/s", "validation loss", str(tmp_path / "model.safetensors")):
        assert part in shown
    windows = math.ceil((round(len(text.read_text()) / 10) - 1) / 16)  # of validation: fewer than requested
    assert shown.count(f", on {windows} windows\n") == 2
    assert "-" * 80 in shown.splitlines()


def test_progress_fits_a_terminal(text: Path, tmp_path: Path, capsys: Capture) -> None:
    assert here("train", *TINY, "--text", str(text), "--out", str(tmp_path)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines and max(map(len, lines)) <= 80, lines


def test_sample(run: Path, text: Path, capsys: Capture) -> None:
    def write(*arguments: str) -> str:
        capsys.readouterr()
        assert here("sample", "--checkpoint", str(run / "model.safetensors"), *arguments) == 0
        return capsys.readouterr().out.removesuffix("\n")

    first = write("--prompt", "the cat", "--length", "40")
    assert first.startswith("the cat") and len(first) == 7 + 40  # longer than the context
    assert set(first) <= set(text.read_text())
    assert write("--prompt", "the cat", "--length", "40") == first
    assert write("--prompt", "the cat", "--length", "40", "--seed", "2") != first
    greedy = [write("--prompt", "a", "--temperature", "0", "--seed", seed) for seed in "12"]
    assert greedy[0] == greedy[1]
    assert write("--prompt", "a", "--length", "0") == "a"


# The same run on any ranks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serial(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """Return the log of the tiny run on one process, in each precision."""
    folder = tmp_path_factory.mktemp("serial")
    for dtype in ("float32", "float64"):
        out = str(folder / dtype)
        assert here("train", *TINY, "--text", str(text), "--dtype", dtype, "--out", out) == 0
    return {dtype: rows(folder / dtype) for dtype in ("float32", "float64")}


@needs_mpirun
def test_sample_under_mpirun_writes_once(run: Path) -> None:
    assert MPIRUN is not None
    command = [MPIRUN, "-n", "2", sys.executable, "-m", "minitrain", "sample", "--checkpoint"]
    shown = [
        subprocess.run([*command, str(path), "--prompt", "a cat"], capture_output=True, text=True, timeout=60)
        for path in (run / "model.safetensors", run / "missing.safetensors")
    ]
    assert shown[0].returncode == 0 and shown[0].stdout.count("a cat") == 1
    assert shown[1].returncode != 0 and shown[1].stderr.count("there is no file or folder") == 1


# One process per rank runs all commands of a file and records each rank's output.
SEVERAL = """
import contextlib, json, sys
from minitrain.cli import main
from minitrain.environment import launched

for number, arguments in enumerate(json.load(open(sys.argv[1]))):
    with open(f"{sys.argv[1]}-{number}-{launched()[1]}", "w") as page, contextlib.redirect_stdout(page):
        status = main(arguments)
    if status != 0:
        sys.exit(status)
"""


class Done(NamedTuple):
    """Result of a command."""

    status: int
    shown: str  # output of all ranks, and the job's other output if the status is not 0
    out: Path  # its --out


def job(ranks: int, lines: list[str], text: Path, folder: Path) -> dict[tuple[int, str], Done]:
    """Run these commands one after another in one job on `ranks` ranks, with the tiny run's options."""
    outs, told = [folder / str(number) for number in range(len(lines))], folder / "commands"
    commands = [
        [name, *TINY, *options, "--text", str(text), "--out", str(out)]
        for (name, *options), out in zip(map(str.split, lines), outs, strict=True)
    ]
    told.write_text(json.dumps(commands))
    status, output = process([sys.executable, "-c", SEVERAL, str(told)], ranks, limit=60.0 + 10.0 * len(lines))
    found = {}
    for number, (line, out) in enumerate(zip(lines, outs, strict=True)):
        printed = [path.read_text() for path in sorted(folder.glob(f"commands-{number}-*"))]
        well = len(printed) == ranks and (status == 0 or (folder / f"commands-{number + 1}-0").exists())
        found[ranks, line] = Done(0, "".join(printed), out) if well else Done(status or 1, f"{printed}\n{output}", out)
    return found


@pytest.fixture(scope="module")
def jobs(
    request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, str], Done]:
    """Run the jobs of all selected tests. Return (ranks, line) -> result."""
    lines: dict[int, list[str]] = defaultdict(list)
    for item in request.session.items:
        given = getattr(item, "callspec", None)
        if item.path == request.path and given is not None and "line" in given.params:
            lines[given.params["ranks"]].append(given.params["line"])
    jobs = [job(ranks, these, text, tmp_path_factory.mktemp(f"on-{ranks}")) for ranks, these in lines.items()]
    return {key: done for found in jobs for key, done in found.items()}


@needs_mpirun
@pytest.mark.parametrize(
    ("ranks", "line"),
    [
        full(1, "train --dtype float32"),
        (3, "train --dtype float32 --dp 3"),
        full(1, "train --dtype float64 --accumulate 3"),
        full(2, "train --dtype float64"),
        (3, "train --dtype float64"),
        full(2, "train --dtype float64 --reduce naive"),
        (3, "train --dtype float64 --reduce naive --accumulate 2"),
        (2, "train --dtype float64 --accumulate 3"),
        full(2, "train --dtype float64 --reduce overlap"),
        (3, "train --dtype float64 --reduce overlap --comm ring --accumulate 2"),
        full(3, "train --dtype float64 --comm ring"),
        full(2, "train --dtype float32 --accumulate 3"),
        (2, "train --dtype float64 --zero 1 --accumulate 3"),
        (3, "train --dtype float64 --zero 2 --reduce overlap --accumulate 2"),
        (3, "train --dtype float64 --zero 3 --prefetch --recompute 2 --comm ring"),
        full(2, "train --dtype float64 --zero 3 --reduce-once --accumulate 3"),
        full(1, "train --dtype float64 --zero 3 --recompute 1"),
        (2, "train --dtype float64 --tp 2"),
        full(4, "train --dtype float64 --dp 2 --tp 2 --zero 1"),
        full(4, "train --dtype float64 --tp 2 --sp --zero 3 --accumulate 2 --recompute 1"),
        (2, "train --dtype float64 --tp 2 --sp --comm ring --reduce overlap"),
        (3, "train --dtype float64 --pp 3 --accumulate 3 --schedule gpipe"),
        full(4, "train --dtype float64 --dp 2 --pp 2 --zero 1 --accumulate 2 --schedule zb-h1 --comm ring"),
        full(8, "train --dtype float64 --dp 2 --pp 2 --tp 2 --zero 1 --accumulate 3"),
    ],
)
def test_equal_losses(ranks: int, line: str, jobs: dict[tuple[int, str], Done], serial: dict) -> None:
    compare_losses(jobs[ranks, line], serial, "float64" if "float64" in line else "float32")


@needs_mpirun
def test_equal_losses_of_a_command(text: Path, serial: dict, tmp_path: Path) -> None:
    """The command is run as at a prompt."""
    status, shown = command("train", *TINY, "--text", str(text), "--out", str(tmp_path), ranks=2)
    compare_losses(Done(status, shown, tmp_path), serial, "float32")


def compare_losses(done: Done, serial: dict[str, list[dict]], dtype: str) -> None:
    assert done.status == 0, done.shown
    bound = {"float64": 1e-12, "float32": 1e-5}[dtype]
    found, true = rows(done.out), serial[dtype]
    assert len(found) == len(true) == STEPS + 1, done.shown
    for row, other in zip(found, true, strict=True):
        assert row.keys() == other.keys()
        for name in {"loss", "norm", "val_loss", "final_val_loss"} & row.keys():
            slack = 10 if name == "norm" else 1
            assert math.isclose(row[name], other[name], rel_tol=slack * bound, abs_tol=0), (row, other)
    assert done.shown.count("on the whole validation text") == 1, done.shown  # only rank 0 prints


@needs_mpirun
@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this system has no RLIMIT_DATA to set")
def test_a_model_that_fits_only_when_it_is_divided(text: Path, tmp_path: Path) -> None:
    """16 bytes per parameter are 97 MiB, and each rank has 90: ZeRO-3 trains on four, stage 0 is refused.

    The limit is real: without the check, stage 0 runs out of memory.
    """
    sizes = "--width 256 --layers 8 --context 16 --batch 4 --steps 2 --warmup 1 --sample 0 --memory-mb 90"
    arguments = [*sizes.split(), "--text", str(text), "--out", str(tmp_path), "--overwrite"]
    status, shown = command("train", *arguments, "--zero", "3", ranks=4)
    assert status == 0 and "saved" in shown, shown
    status, shown = command("train", *arguments, ranks=4)
    assert status != 0 and "needs at least 97 MiB of memory; there are" in shown and "--zero 3" in shown, shown
    unaware = "from minitrain.commands.config import TrainConfig as C; C.check_memory = lambda *a: None; "
    program = f"{unaware} from minitrain.cli import main; main({['train', *arguments]!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode != 0 and "Unable to allocate" in done.stderr, done.stderr
    assert "--memory-mb is 90, which is too little for this run" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this system has no RLIMIT_DATA to set")
@pytest.mark.parametrize("megabytes", ["0.5", "2", str(2**62), "1e300"])
def test_limits_of_memory_that_cannot_be_meant(megabytes: str, text: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = [*TINY, "--width", "128", "--text", str(text), "--out", str(tmp_path)]
    said = refused(capsys, "train", *arguments, "--memory-mb", megabytes)
    few = re.search(r"needs at least 3\.\d MiB of memory; there are [0-2]\.\d MiB.*a larger --memory-mb", said)
    assert few if float(megabytes) < 3 else "this machine has" in said, said


def test_a_system_that_cannot_limit_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limits")

    def setrlimit(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    monkeypatch.setattr(errors, "_limits", [])
    with pytest.raises(UserError, match=r"--memory-mb is 1\.5, but this system cannot limit memory: not allowed"):
        limit_memory(1.5, before=0)


# Wrong input ------------------------------------------------------------------------------------------------

MODEL = ["layers", "heads", "width", "context"]
ZERO = [("zero", value, hint) for value, hint in (("4", "at most 3"), ("-1", "at least 0"), ("x", "INT"))]
COUNTS = [*MODEL, "batch", "steps", "accumulate", "log-every", "val-every", "dp", "tp", "pp", "chunks"]
COUNTS += ["lr-every", "lr-factor", "scale-every", "keep", "positions", "trace-from", "trace-updates"]
SIZES = ["warmup", "sample", "recompute", "save-every"]
NUMBERS = ["lr", "lr-floor", "weight-decay", "clip"]
POSITIVE = ["bucket-mb", "memory-mb", "lr-power", "loss-scale"]
WRONG: list[tuple[str, str, str]] = [
    *((name, value, "INT") for name in [*COUNTS, *SIZES, "seed"] for value in ("x", "1.5", "nan", "")),
    *((name, value, "at least 1") for name in COUNTS for value in ("0", "-3")),
    *((name, value, "at least 0") for name in SIZES for value in ("-3",)),
    *((name, "x", "FLOAT") for name in [*NUMBERS, *POSITIVE, "dropout", "beta2", "validation", "lr-gamma"]),
    *((name, value, "at least 0") for name in NUMBERS for value in ("-0.5", "nan", "inf", "-inf")),
    *((name, value, "less than 1") for name in ("dropout", "beta2") for value in ("-0.5", "1", "nan", "inf")),
    *(("validation", value, "between 0 and 1") for value in ("0", "1", "-0.5", "nan", "inf")),
    *((name, value, "above 0") for name in [*POSITIVE, "lr-gamma"] for value in ("0", "-0.5", "nan", "inf")),
    ("lr-gamma", "1.5", "at most 1"),
    ("lr-schedule", "sine", "one-cycle"),
    *ZERO,
    *((name, "9" * 30, "at most") for name in [*COUNTS, *SIZES, "seed"]),
    *((name, "9" * 5000, "INT") for name in [*COUNTS, *SIZES, "seed"]),  # more digits than Python reads
    *((name, "1000000000", "of memory; there are") for name in ("layers", "width")),
    *((name, "99999999999", "of memory; there are") for name in ("batch", "sample")),
    ("context", "999999999", "window of context + 1 = 1000000000"),
    ("heads", "999999999", "does not divide the width"),
    ("accumulate", "999999999", "micro-batches each need"),
    ("dp", "999999999", "ranks"),
    ("tp", "999999999", "does not divide the 1 ranks"),
    ("pp", "999999999", "does not divide the 1 ranks"),
    ("chunks", "999999999", "several chunks per rank go with interleaved"),
    ("schedule", "2f2b", "gpipe"),
    ("warmup", "999999999", "12 --steps"),
    ("lr", "1e+300", "times --weight-decay"),
    ("weight-decay", "1e+300", "the whole of every weight"),
    ("dp", "2", "there are 1"),
    ("dtype", "float16", "float32"),
    ("precision", "fp8", "fp16"),
    ("scaling", "loud", "dynamic"),
    ("grad-dtype", "fp8", "bf16"),
    ("keep-fp32", "head", "--precision is fp32; give --precision fp16"),
    ("reduce", "ring", "bucketed"),
    ("comm", "tcp", "ring"),
    ("heads", "3", "[1, 2, 4, 8, 16]"),
    ("warmup", "12", "12 --steps"),
    ("validation", "0.0001", "both need at least one"),
]


def refused(capsys: Capture, *arguments: str) -> str:
    """Return the error about invalid arguments as one line, without tyro's frames."""
    capsys.readouterr()
    status = here(*arguments)
    captured = capsys.readouterr()
    assert status == 2, f"status {status}"
    assert "Traceback" not in captured.err and "tokens/s" not in captured.out
    words = "".join(" " if 0x2500 <= ord(c) < 0x2580 else c for c in captured.out + captured.err).split()
    assert words
    return " ".join(words)


def later(name: str, value: str, hint: str) -> bool:
    """Return whether the first tier tests this mistake with another value, or, if not a number, with another option."""
    if hint in ("INT", "FLOAT"):
        return name not in ("seed", "dropout")
    return hint == "at least 1" and value == "-3"


@pytest.mark.parametrize(("name", "value", "hint"), [full(*case) if later(*case) else case for case in WRONG])
def test_wrong_options(name: str, value: str, hint: str, text: Path, tmp_path: Path, capsys: Capture) -> None:
    files = ["--text", str(text), "--out", str(tmp_path / "run")]
    said = refused(capsys, "train", *TINY, *files, f"--{name}", value)
    assert name in said and hint in said, said
    assert value in said or len(value) > 80 or name == "context", said
    assert not (tmp_path / "run" / "log.jsonl").exists()


FLAGS = {"tied", "prefetch", "reduce-once", "sp", "half-weights", "adaptive", "overwrite", "save-async"}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (PrecisionOptions(), type(None)),
        (PrecisionOptions("fp16"), StaticPolicy),
        (PrecisionOptions("bf16", adaptive=True), DynamicPolicy),
    ],
)
def test_options_choose_the_policy(options: PrecisionOptions, kind: type) -> None:
    assert type(options.policy()) is kind


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *((["train", f"--{name}", "perhaps"], "perhaps") for name in sorted(FLAGS)),
        (["train", "--sp"], "--sp divides what --tp leaves whole"),
        (["train", "--half-weights"], "--half-weights needs 16 bits, but --precision is fp32"),
        (["train", "--adaptive"], "--adaptive needs 16 bits, but --precision is fp32"),
        (["train", "--adaptive", "--keep-fp32", "head", "--precision", "fp16"], "give one of the two"),
        (["train", "--precision", "bf16", "--dtype", "float64"], "--dtype is float64; leave it out"),
        (["train", "--keep-fp32", "haed", "--precision", "fp16"], "the pattern 'haed' matches no layer"),
        (["train", "--tp", "2"], "--tp 2 does not divide the 1 ranks"),
        (["train", "--prefetch"], "--prefetch gathers parameters, which --zero 0 does not divide; give --zero 3"),
        (["train", "--reduce-once", "--zero", "1"], "--reduce-once is for --zero 2 and 3"),
        (["train", "--reduce", "naive", "--zero", "1"], "give --reduce bucketed or overlap"),
        (["compare", "everything"], "everything"),
        (["train", "--lr-schedule", "one-cycle", "--steps", "2"], "give 3 steps or more"),
        (["train", "--layerz", "3"], "--layerz"),
        (["train", "extra"], "extra"),
        (["train", "--layers"], "--layers"),
        (["trian"], "trian"),
        ([], "train"),
        (["doctor", "--seconds", "x"], "--seconds"),
        (["doctor", "--seconds", "nan"], "nan"),
        (["doctor", "--seconds", "0"], "0"),
        (["doctor", "--seconds", "-1"], "-1"),
        (["doctor", "--seconds", "inf"], "inf"),
        (["sample", "--length"], "--length"),
        (["sample", "--lenght", "3"], "--lenght"),
        (["doctor", "1"], "1"),
        (["tokenizer", "--size", "x"], "INT"),
    ],
)
def test_wrong_commands(arguments: list[str], said: str, capsys: Capture) -> None:
    assert said in refused(capsys, *arguments)


def test_the_longest_patience_of_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patience longer than the system's clocks can count is cut to their maximum."""
    monkeypatch.setattr(doctor, "examine", lambda seconds: 0 if seconds == threading.TIMEOUT_MAX else 1)
    assert here("doctor", "--seconds", "1e300") == 0


def test_every_option_is_tried() -> None:
    """A new option must be added to the lists above."""
    files, named = (
        {"text", "tokenizer", "out", "resume", "weights", "tensorboard", "trace"},
        {name for name, _, _ in WRONG} | FLAGS,
    )
    config = TrainConfig()
    groups = [getattr(config, group.name) for group in dataclasses.fields(TrainConfig)]
    options = {option.name.replace("_", "-") for group in groups for option in dataclasses.fields(group)}
    assert named | files == options - {"owners", "check", "epsilon", "characters"}, "these are no flags"


# What is wrong with an option of plan, without a run.
PLAN_COUNTS = ["layers", "heads", "width", "hidden", "vocabulary", "context", "batch", "ranks", "per-host", "dp", "pp"]
PLAN_COUNTS += ["tp", "accumulate", "top", "kv-heads"]
PLAN_FIGURES = ["memory-gb", "host-memory-gb", "gflops", "bandwidth-gb", "bandwidth-between-gb"]
PLAN_LATENCIES = ["latency-us", "latency-between-us"]
PLAN_FLAGS = {"flash", "measure", "list", "published", "variants"}
WRONG_PLANS: list[tuple[str, str, str]] = [
    *((name, value, "INT") for name in [*PLAN_COUNTS, "zero", "recompute"] for value in ("x", "1.5", "nan", "")),
    *((name, value, "at least 1") for name in PLAN_COUNTS for value in ("0", "-3")),
    *((name, "9" * 30, "at most") for name in [*PLAN_COUNTS, "zero", "recompute"]),
    *((name, "-1", "at least 0") for name in ("zero", "recompute")),
    ("zero", "4", "at most 3"),
    ("recompute", "2", "at most 1"),
    *((name, "x", "FLOAT") for name in [*PLAN_FIGURES, *PLAN_LATENCIES]),
    *((name, value, "above 0") for name in PLAN_FIGURES for value in ("0.0", "-0.5", "nan", "inf")),
    *((name, value, "at least 0") for name in PLAN_LATENCIES for value in ("-0.5", "nan", "inf")),
    *((name, "1e+300", "at most 1e+09") for name in [*PLAN_FIGURES, *PLAN_LATENCIES]),
    *((name, "1e-300", "at least 1e-06") for name in [*PLAN_FIGURES, *PLAN_LATENCIES]),
    ("layers", "999999999", "at most 10000"),
    ("per-host", "999999999", "at most 65536"),
    ("heads", "3", "does not divide the width 128"),
    ("kv-heads", "2", "minitrain is a GPT"),
    ("machine", "tpu", "a100"),
    ("precision", "fp8", "bf16-weights"),
    ("schedule", "2f2b", "zb-h1"),
    ("sp", "perhaps", "True"),
    ("dp", "3", "--dp 3 does not divide the 4 ranks; give --ranks 3"),
    ("tp", "5", "--tp 5 does not divide the 4 ranks"),
    ("out", "plan.txt", "ends in .json or .csv"),
    ("out", "missing-folder/plan.json", "cannot write missing-folder/plan.json"),
]


@pytest.mark.parametrize(("name", "value", "hint"), WRONG_PLANS)
def test_wrong_plans(name: str, value: str, hint: str, capsys: Capture) -> None:
    said = refused(capsys, "plan", f"--{name}", value)
    assert name in said and hint in said and (value in said or value.endswith("folder/plan.json")), said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nosuchmodel", "the model is 'nosuchmodel'; allowed: 'minitrain'"),
        ("minitrain extra", "extra"),
        *((f"minitrain --{name} perhaps", "perhaps") for name in sorted(PLAN_FLAGS)),
        ("llama3-8b --kv-heads 3", "--kv-heads is 3, which does not divide the 32 --heads"),
        ("llama3-8b --heads 12 --width 4104", "--kv-heads is 8, which does not divide the 12 --heads"),
        ("--memory-gb 1 --host-memory-gb 1", "give one of the two"),
        ("--host-memory-gb 0.3", "Python takes 0.09 for each rank"),
        ("--gflops 10 --measure", "--gflops is 10.0, but --measure measures it"),
        ("--list --out plan.json", "--list plans nothing"),
        ("--dp 4 --tp 4", "--dp 4 --tp 4 does not divide the 4 ranks; give --ranks 16"),
        ("--dp 1 --pp 2 --tp 1", "makes 2 ranks, but there are 4; give --ranks 2"),
    ],
)
def test_options_of_plan_that_cannot_be_together(arguments: str, said: str, capsys: Capture) -> None:
    assert said in refused(capsys, "plan", *arguments.split())


def test_every_option_of_plan_is_tried() -> None:
    groups = (Plan, PlannedModel, PlannedMachine, PlannedStrategy)
    options = {option.name.replace("_", "-") for group in groups for option in dataclasses.fields(group)}
    assert {name for name, _, _ in WRONG_PLANS} | PLAN_FLAGS == options - {"model", "strategy"}, "these are no options"


def test_missing_and_empty_text(tmp_path: Path, capsys: Capture) -> None:
    missing, empty, short = tmp_path / "missing.txt", tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_text(" \n")
    short.write_text("a short text, of 31 characters.")
    out = ["--out", str(tmp_path / "run")]
    assert "missing.txt' does not exist" in refused(capsys, "train", "--text", str(missing), *out)
    assert "empty.txt' is empty" in refused(capsys, "train", "--text", str(empty), *out)
    assert "context + 1 = 65" in refused(capsys, "train", "--text", str(short), *out)
    said = refused(capsys, "train", "--text", str(short), "--context", "16", *out)
    assert "text of 3 tokens" in said  # the validation part is too short
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_folder_that_cannot_be_written(text: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("in the way")
    said = refused(capsys, "train", *TINY, "--text", str(text), "--out", str(tmp_path / "file" / "run"))
    assert "file/run" in said and "--out" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "the %"], "'%' at position 4"),
        (["--prompt", ""], "prompt is empty"),
        (["--length", "-1"], "-1"),
        (["--length", "1.5"], "INT"),
        (["--length", "999999999999"], "of memory; there are"),
        (["--length", "9" * 30], "at most"),
        (["--seed", "9" * 30], "at most"),
        (["--seed", "nan"], "INT"),
        (["--temperature", "nan"], "at least 0"),
        (["--temperature", "-1"], "at least 0"),
        (["--temperature", "inf"], "at least 0"),
        (["--temperature", "x"], "FLOAT"),
        (["--seed", "x"], "INT"),
    ],
)
def test_wrong_samples(arguments: list[str], said: str, run: Path, capsys: Capture) -> None:
    assert said in refused(capsys, "sample", "--checkpoint", str(run / "model.safetensors"), *arguments)


def test_checkpoints_that_are_none(run: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = (run / "model.safetensors").read_bytes()
    missing, garbage, cut, other = (tmp_path / name for name in ("missing", "garbage", "cut", "other"))
    garbage.write_bytes(b"not a checkpoint")
    cut.write_bytes(whole[: len(whole) // 2])
    save_file({"x": np.ones(3)}, other)
    for path, said in (
        (missing, "there is no file or folder"),
        (tmp_path, "nor a complete checkpoint; check the path (nothing is downloaded), or train a model first"),
        (garbage, "cannot be read as a checkpoint"),
        (cut, "cannot be read as a checkpoint"),
        (other, "not one that minitrain wrote"),
    ):
        words = refused(capsys, "sample", "--checkpoint", str(path))
        assert said in words and str(path) in words


@pytest.mark.parametrize("about", ["{}", "[]", "{", '{"gpt": {"sizes": 3}, "tokenizer": null}'])
def test_checkpoints_with_a_wrong_description(about: str, tmp_path: Path, capsys: Capture) -> None:
    """The description may come from another version of minitrain, for instance."""
    path = tmp_path / "other.safetensors"
    save_file({"x": np.ones(3)}, path, metadata={"minitrain": about})
    assert str(path) in refused(capsys, "sample", "--checkpoint", str(path))


@needs_mpirun
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--dp 3", "dp 3 makes 3 ranks, but there are 2: run mpirun -n 3"),
        full("--batch 1", "--batch is 1, but 2 ranks with 1 micro-batches each need at least 2"),
        full("--batch 7 --accumulate 4", "at least 8"),
        full("--heads 3", "heads is 3, which does not divide the width 16"),
        full("--text nowhere.txt", "'nowhere.txt' does not exist"),
        full("--layers x", "--layers"),
        full("--layerz 3", "--layerz"),
    ],
)
def test_wrong_input_is_told_once(arguments: str, said: str, text: Path, tmp_path: Path) -> None:
    start = [*TINY, "--text", str(text), "--out", str(tmp_path / "run")]
    status, shown = command("train", *start, *arguments.split(), ranks=2)
    assert status == 2 and "Traceback" not in shown, shown
    assert said in shown and sum("rror" in line for line in shown.splitlines()) <= 2, shown
    assert shown.count("minitrain: error") <= 1 and not (tmp_path / "run" / "log.jsonl").exists()


# Help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "train", "sample", "doctor", "lr-range", "compare", "tokenizer", "export", "import", "plan"]
)
def test_help(name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert here(*name.split(), "--help") == 0
    first, *lines = (shown := capsys.readouterr().out).splitlines()
    assert name in ("", "tokenizer", "import") or len(first) <= 80  # these are one line: the terminal wraps it
    wide = [line for line in lines if len(line) > 80]
    assert not wide, wide
    expected = {"": "train", "train": "--bucket-mb", "sample": "--prompt", "doctor": "--seconds"}
    expected |= {
        "lr-range": "--min-lr",
        "compare": "{schedules",
        "tokenizer": "--size",
        "export": "--layout",
        "import": "--to",
        "plan": "--bandwidth-between-gb",
    }
    assert expected[name] in shown


@needs_mpirun
def test_help_is_shown_once() -> None:
    status, shown = command("sample", "--help", ranks=2)
    assert status == 0 and shown.count("--prompt") == 1
    assert max(map(len, shown.splitlines())) <= 80


# Memory -----------------------------------------------------------------------------------------------------


@needs_mpirun
@pytest.mark.parametrize("ranks", [3])
@pytest.mark.parametrize(("line", "states"), [("memory --zero 0", 16.0), ("memory --zero 3", 16 / 3)])
def test_what_is_held_is_drawn(ranks: int, line: str, states: float, jobs: dict[tuple[int, str], Done]) -> None:
    """Each rank has a chart and a row in 80 columns: parameters, gradients and state, in bytes per parameter."""
    status, shown, _ = jobs[ranks, line]
    assert status == 0, shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80 and "o parameters   . gradients" in lines[0]
    rows = [line.split() for line in lines if line.startswith("rank ")]
    assert [row[:2] for row in rows] == [["rank", str(r)] for r in range(3)]
    unit = 8.0 if states < 16 else 0.01  # this small model is mostly its largest unit
    assert all(states <= float(row[-1]) + 0.01 <= states + unit + 0.01 for row in rows)


# Timeline ---------------------------------------------------------------------------------------------------


@needs_mpirun
@pytest.mark.parametrize("ranks", [3])
@pytest.mark.parametrize(
    ("line", "idle", "peaks"),
    [
        ("timeline --pp 3 --accumulate 6 --schedule gpipe", "1/4", "[6, 6, 6]"),  # (p-1)/(m+p-1)
        ("timeline --pp 3 --accumulate 6", "1/4", "[3, 2, 1]"),
        ("timeline --pp 3 --accumulate 6 --schedule naive", "2/3", "[1, 1, 1]"),  # 1 - 1/p
        ("timeline --pp 3 --accumulate 6 --schedule zb-h1", "1/10", "[3, 3, 3]"),  # (p-1)(F+I-W) of 3 m + p - 1
    ],
)
def test_a_run_in_virtual_time(ranks: int, line: str, idle: str, peaks: str, jobs: dict[tuple[int, str], Done]) -> None:
    status, shown, _ = jobs[ranks, line]
    assert status == 0, shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80 and [line[:6] for line in lines[1:4]] == ["rank 0", "rank 1", "rank 2"]
    assert lines[4] == f"idle {idle} of the time; activations in flight {peaks}"
    inside = ["idle between a rank's first and last instruction: 2, 1, 0"] if "zb-h1" in line else []  # p-1-r
    assert lines[5:] == inside


@needs_mpirun
def test_a_timeline_as_a_picture(text: Path, tmp_path: Path) -> None:
    """The picture has a box with the micro-batch number for each instruction, a name for each rank, and a legend."""
    path = tmp_path / "timeline.svg"
    options = [*TINY, "--text", str(text), "--pp", "2", "--accumulate", "3", "--svg"]
    assert command("timeline", *options, str(path), ranks=2)[0] == 0
    picture = ElementTree.fromstring(path.read_text())
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert words[:14] == ["rank 0", *"010212", "rank 1", *"001122"]
    assert words[14:] == ["forward", "backward", "virtual time: 0 to 12"]
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == 12 + 2
    status, shown = command("timeline", *options, str(tmp_path), ranks=2)
    assert status == 2 and "give another file with --svg" in shown, shown


def test_a_timeline_needs_a_pipeline(text: Path, capsys: Capture) -> None:
    assert "--pp 4 --accumulate 8" in refused(capsys, "timeline", *TINY, "--text", str(text))
