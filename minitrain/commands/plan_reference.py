"""What `plan --list` and `plan --published` print: models and machines that it knows, and tables of papers."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from ..errors import UserError
from ..planner import llama3, megatron
from ..planner import published as formulas
from ..planner.machines import COMPUTERS, GIB
from ..planner.presets import MODELS
from .plan_report import held, seconds, size, wrapped

# Korthikanti et al., table 3: model -> (preset, tensor parallel, stages, chunks, samples of a micro-batch)
KORTHIKANTI = {
    "22B": ("korthikanti-22b", 8, 1, 1, 4), "175B": ("korthikanti-175b", 8, 8, 3, 1),
    "530B": ("megatron-530b", 8, 35, 3, 1), "1T": ("megatron-1t", 8, 64, 1, 1),
}  # fmt: skip


def presets() -> Iterator[Any]:
    """Yield a table of the models, and one of the machines."""
    models = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    models.add_column("model", no_wrap=True)
    for heading in ("parameters", "layers", "heads", "width", "context", "vocabulary", "batch"):
        models.add_column(heading, justify="right", no_wrap=True)
    for name, model in MODELS.items():
        s = model.sizes
        sizes = (s.parameters, s.layers, s.heads, s.width, s.context, s.vocabulary, model.batch)
        models.add_row(name, *(f"{n:,}" for n in sizes))
    yield models
    yield ""
    machines = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    machines.add_column("machine", no_wrap=True)
    for heading in ("GFLOP/s", "memory", "latency", "bandwidth", "between", "ranks"):
        machines.add_column(heading, justify="right", no_wrap=True)
    for name, c in COMPUTERS.items():
        machines.add_row(
            name, f"{c.flops / 1e9:,.0f}", held(c.memory), seconds(c.latency), f"{size(c.bandwidth)}/s",
            f"{seconds(c.latency_between)}, {size(c.bandwidth_between)}/s", str(c.per_host),
        )  # fmt: skip
    yield machines
    yield "Figures of a rank, and between hosts of a host: what is reached of the data sheets, 0.6 of the FLOP/s and"
    yield "0.64 of the bandwidths of a GPU. minitrain/planner/machines.py has the sources."


def published() -> Iterator[str]:
    """Yield the tables of papers that the formulas reproduce, and Megatron-LM's runs beside a model of their time."""
    yield "ZeRO (arXiv:1910.02054, table 1), GB of model states per rank: a model of 7.5 B on 64 ranks, of 1 T on 1024"
    for stage in range(4):
        held_by = (P * formulas.zero_bytes_per_parameter(stage, n) for P, n in ((7.5, 64), (1000, 1024)))
        yield f"  stage {stage} " + "".join(f"{gigabytes:>10.2f}" for gigabytes in held_by)
    yield "\nKorthikanti et al. (arXiv:2205.05198, figure 1), GiB per GPU: parameters and optimizer; activations; and"
    yield "activations with sequence parallel and selective recomputation"
    for name, (preset, t, p, v, b) in KORTHIKANTI.items():
        m = MODELS[preset].sizes
        layers = m.layers * formulas.first_stage(p, v)
        none = formulas.layer_activations(m.context, b, m.width, m.heads, t) * layers
        both = formulas.layer_activations(m.context, b, m.width, m.heads, t, True, "selective") * layers
        state = formulas.state_bytes(m.width, m.layers, t, p)
        yield f"  {name:<6}" + "".join(f"{nbytes / GIB:>10.2f}" for nbytes in (state, none, both))
    yield "\nLlama 3 405B (arXiv:2407.21783, table 4), tp x cp x pp x dp for GPUs; the last row as printed in July 2024"
    for mesh in (*llama3.TABLE4, llama3.LONG_V1):
        yield from wrapped(f"{mesh.tp} x {mesh.cp} x {mesh.pp} x {mesh.dp} for {mesh.gpus:,}: {verdict(mesh)}")
    yield "\n" + megatron.report()


def verdict(mesh: llama3.Mesh) -> str:
    """Return whether a printed mesh can be true, or why not."""
    try:
        llama3.check_mesh(mesh)
    except UserError as error:
        return "refused: " + str(error).replace("\n", "; ")
    return "the ranks and the tokens of a batch agree"
