"""What `make gpu` needs works with NumPy alone: a Python on a machine with a GPU often has nothing else."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFUSED = "tyro safetensors rich ml_dtypes mpi4py torch pytest hypothesis matplotlib"
FINDER = """
import sys

class Refuse:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders if hasattr(finder, "find_spec"))
        return next(filter(None, found), None)

sys.meta_path[:] = [Refuse(sys.meta_path[:])]
"""


def refusing(folder: Path, refused: str = REFUSED) -> Path:
    """Return a folder: a Python that has it on its path, and each that it starts, cannot import these packages."""
    folder = folder / "refuse"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FINDER.format(refused=refused.split()))
    return folder


def test_training_needs_only_numpy(tmp_path: Path) -> None:
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
    path = os.pathsep.join(map(str, [refusing(tmp_path), ROOT]))
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("bfloat16 needs the package ml_dtypes") == 3
    assert ended.stdout.count("No module named 'safetensors'") == 1
