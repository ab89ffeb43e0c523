"""What `make gpu` needs works with NumPy alone: a Python on a machine with a GPU often has nothing else."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFUSED = "tyro safetensors rich ml_dtypes mpi4py torch pytest hypothesis matplotlib"
FINDER = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {REFUSED.split()}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which Python, and each process that it starts, refuses all packages but NumPy."""
    (tmp_path / "sitecustomize.py").write_text(FINDER)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


def test_training_needs_only_numpy(bare: dict[str, str]) -> None:
    """A model trains, also in float16; bfloat16 and checkpoint files say what they need."""
    program = """
        import sys
        from minitrain.comm.threads import world_of_one
        from minitrain.errors import UserError
        from minitrain.precision import DynamicPolicy, StaticPolicy
        from minitrain.train import checkpoint
        from tests.benchmarks import ours, sizes, timing
        from tests.gpu import strict_run

        timing.step(ours.Ours(sizes.SIZES["tiny"], world_of_one()))
        for policy in (StaticPolicy, DynamicPolicy):
            policy()
        ways = (
            lambda: StaticPolicy("mixed_bfloat16"),
            lambda: StaticPolicy(layers={"head": "bfloat16"}),
            lambda: DynamicPolicy("bfloat16"),
        )
        for way in ways:
            try:
                way()
            except UserError as error:
                print(error)
        try:
            checkpoint.load(sys.executable)
        except ModuleNotFoundError as error:
            print(error)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=bare, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("bfloat16 needs the package ml_dtypes") == 3
    assert ended.stdout.count("No module named 'safetensors'") == 1
