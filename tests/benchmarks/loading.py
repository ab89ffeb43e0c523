"""What a rank's memory is when it loads a large model: its share, and little more.

    python -m tests.benchmarks.loading                             GPT-2 of 1.5 billion parameters: 6.2 GB of disk, 7 GB
    python -m tests.benchmarks.loading --layers 12 --width 768     smaller

Writes a GPT-2 of random values in its own layout, in files of 2 GB, starts two ranks under ZeRO-3, and compares the
peak of each process's memory, less what it had before, with its share of the parameters.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.benchmarks import jobs

RANKS = 2


def main() -> int:
    """Write the model, load it, and print the result. Return 1 if a rank takes more than 1.1 times its share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--width", type=int, default=1600)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        parameters = write(Path(folder), given.layers, given.width)
        print(f"wrote {parameters:,} parameters in {perf_counter() - start:.0f} s", flush=True)
        found = jobs.result(jobs.mpirun(RANKS, "loading", folder))
    for rank, (peak, share, seconds) in enumerate(found):
        sizes = f"{peak / 1e6:,.0f} MB at most, its share is {share / 1e6:,.0f} MB"
        print(f"rank {rank}: {sizes}: {peak / share:.3f}; loaded in {seconds:.1f} s")
    return int(max(peak / share for peak, share, _ in found) > 1.1)


def write(folder: Path, layers: int, width: int) -> int:
    """Write a GPT-2 with the vocabulary and context of OpenAI's, one tensor at a time. Return its parameters."""
    import numpy as np

    from minitrain.models import GPTConfig
    from minitrain.train import gpt2_layout
    from minitrain.train.model_files import write_json, write_model
    from minitrain.train.tensor_file import Later

    config = GPTConfig(50257, 1024, layers, heads=width // 64, width=width)
    few = (0.02 * np.random.default_rng(1).standard_normal(1_000_003)).astype(np.float32)  # then repeated

    def later(shape: tuple[int, ...]) -> Later:
        return Later(few.dtype, shape, lambda: np.resize(few, shape))

    tensors = {name: later(shape) for name, shape, _ in gpt2_layout.layout(config).values()}
    write_model(folder, tensors, {"format": "pt"}, 2e9)
    write_json(folder / gpt2_layout.CONFIG, gpt2_layout.config_there(config))
    return config.parameters


def run(folder: Path) -> None:
    """Run as one rank under mpirun."""
    import minitrain
    from minitrain.comm.mesh import Mesh
    from minitrain.models import gpt
    from minitrain.parallel.parallelize import parallelize
    from minitrain.parallel.strategy import Strategy
    from minitrain.train.weights import find, start_from

    with minitrain.launch() as world:
        weights = find(folder, world)
        model = gpt(weights.config)
        start_from(model, weights)
        reducer = parallelize(model, Mesh(world, dp=world.size), Strategy(zero=3))
        before, start = peak(), perf_counter()
        reducer.init(1)
        world.barrier()
        share = sum(b.shard.nbytes for b in reducer.buckets if b.shard is not None)
        found: list[Any] = world.gather_objects((peak() - before, share, perf_counter() - start))
        if world.rank == 0:
            jobs.report(found)


def peak() -> int:
    """Return the most bytes of memory that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


if __name__ == "__main__":
    if jobs.JOB in jobs.os.environ:
        jobs.begin()
        run(Path(sys.argv[1]))
    else:
        sys.exit(main())
