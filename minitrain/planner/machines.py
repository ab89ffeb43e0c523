"""Machines to plan for, each figure with its source.

A GPU's figures are those of its data sheet, times what is reached of them: 0.6 of the FLOP/s and 0.64 of the
bandwidths, which the model in megatron.py finds for the published runs of Megatron-LM on A100s. For other GPUs the same
fractions are an assumption. `--measure` measures the machine at hand instead.

    A100, 80 GB    312 TFLOP/s in half precision; NVLink 300 GB/s one way; 8 GPUs a host, with 8 InfiniBand adapters of
                   25 GB/s (NVIDIA's data sheet; arXiv:2104.04473, section 5)
    H100, 80 GB    989 TFLOP/s, without sparsity; NVLink 450 GB/s; 8 adapters of 50 GB/s (data sheets of H100, DGX H100)
    memory         74 GiB of the 80: CUDA, NCCL and fragmentation take some (an estimate)
    latencies      3.4 us a hop over NVLink, 14 us over the network (NCCL's cost model, tuning.cc: Simple, ring)
    laptop         40 GFLOP/s a rank in training, half of what a product of matrices reaches on a core; ranks exchange
                   2 GB/s after 50 us; hosts 0.1 GB/s after 200 us, Gigabit Ethernet (guides: measure your own)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..observe.virtual_time import Link, Machine

GIB = 2**30
PYTHON = 0.09 * GIB  # bytes that a process takes with NumPy and MPI, before it has a model
REACHED, OF_BANDWIDTH = 0.6, 0.64


@dataclass(frozen=True)
class Computer:
    """A host with ranks, and the network to others like it.

    peak, flops: FLOP/s of a rank, on its data sheet and reached. memory: bytes of a rank. bandwidth, latency: of a
    message inside the host, in bytes/s and seconds; bandwidth_between, latency_between: of the host's link to others,
    which its ranks share. per_host: ranks a host. says: what it is.
    """

    says: str
    peak: float
    flops: float
    memory: float
    bandwidth: float
    latency: float
    bandwidth_between: float
    latency_between: float
    per_host: int
    precisions: tuple[str, ...]
    overlap: bool

    @property
    def machine(self) -> Machine:
        """The costs of this computer: seconds per FLOP, per message and per byte."""
        inside = Link(self.latency, 1 / self.bandwidth)
        between = Link(self.latency_between, 1 / self.bandwidth_between)
        return Machine(1 / self.flops, inside, between, self.per_host)


def _gpus(says: str, peak: float, nvlink: float, network: float) -> Computer:
    reached = (nvlink * OF_BANDWIDTH, 3.4e-6, 8 * network * OF_BANDWIDTH, 14e-6)
    return Computer(says, peak, peak * REACHED, 74 * GIB, *reached, 8, ("bf16-weights",), overlap=True)


COMPUTERS: Mapping[str, Computer] = {
    "laptop": Computer("4 cores", 80e9, 40e9, 2 * GIB, 2e9, 50e-6, 0.1e9, 200e-6, 4, ("fp32",), overlap=False),
    "a100": _gpus("hosts of 8 A100 of 80 GB, NVLink, InfiniBand HDR", 312e12, 300e9, 25e9),
    "h100": _gpus("hosts of 8 H100 of 80 GB, NVLink, InfiniBand NDR", 989.4e12, 450e9, 50e9),
}


def altered(computer: Computer, **changes: float | None) -> Computer:
    """Return the computer with other figures; None leaves one as it is. Its peak follows if the FLOP/s exceed it."""
    given = {name: value for name, value in changes.items() if value is not None}
    changed = replace(computer, **given)  # type: ignore[arg-type]
    return replace(changed, peak=max(changed.peak, changed.flops)) if "flops" in given else changed
