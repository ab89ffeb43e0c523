"""Published tables of memory and FLOPs, reproduced."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from minitrain.errors import UserError
from minitrain.planner import llama3
from minitrain.planner.published import (
    A100,
    first_stage,
    hardware_flops,
    layer_activations,
    model_flops,
    state_bytes,
    utilization,
    zero_bytes_per_parameter,
)

S, V, GiB = 2048, 51200, 2**30

# ZeRO -----------------------------------------------------------------------------------------------------------------

ZERO = [  # 10^9 parameters, ranks; GB at stages 0 to 3 (arXiv:1910.02054, table 1), and half a unit of the last digit
    (7.5, 64, (120, 31.41, 16.64, 1.88), 0.005),
    (7.5, 1024, (120, 30.1, 15.1, 0.12), 0.05),
    (128, 64, (2048, 536, 284, 32), 0.5),
    (128, 1024, (2048, 513.5, 257.75, 2), 0.001),
    (1000, 1, (16000, 16000, 16000, 16000), 0.001),
    (1000, 1024, (16000, 4011.7, 2013.7, 15.6), 0.05),
]


@pytest.mark.parametrize(("billions", "n", "printed", "half"), ZERO)
def test_zero_table(billions: float, n: int, printed: tuple[float, ...], half: float) -> None:
    assert [billions * zero_bytes_per_parameter(stage, n) for stage in range(4)] == pytest.approx(printed, abs=half)


@pytest.mark.parametrize(("stage", "n"), [(4, 8), (-1, 8), (2, 0), (1.5, 8)])
def test_zero_refuses(stage: int, n: int) -> None:
    with pytest.raises(UserError, match=r"(stage|n) is"):
        zero_bytes_per_parameter(stage, n)


# Korthikanti et al. ---------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A model of arXiv:2205.05198, table 3, and what is printed or was measured with it."""

    a: int
    h: int
    L: int
    t: int
    p: int
    v: int
    b: int
    B: int
    gpus: int
    states: float  # GiB of parameters and optimizer
    kept: tuple[float, float]  # GiB of activations: tensor parallel; also sequence parallel and selective
    percent: tuple[float, float, float, float]  # left of the activations: sequence, selective, both, full
    seconds: tuple[float, float]  # table 5: full recomputation; sequence parallel and selective
    utilization: tuple[float, float]  # table 5: MFU, HFU in percent


MODELS = {
    "22B": Model(
        *(64, 6144, 48, 8, 1, 1, 4, 4, 8, 45.5625, (59.25, 9.5625), (66.84, 49.42, 16.18, 7.64)),
        *((1.42, 1.10), (41.5, 43.7)),
    ),
    "175B": Model(
        *(96, 12288, 96, 8, 8, 3, 1, 64, 64, 45.5625, (66.84375, 12.3515625), (62.04, 56.53, 18.49, 8.71)),
        *((18.13, 13.75), (51.4, 52.8)),
    ),
    "530B": Model(
        *(128, 20480, 105, 8, 35, 3, 1, 280, 280, 31.640625, (114.0234375, 23.076171875), (58.31, 62.04, 20.27, 9.42)),
        *((49.05, 37.83), (56.0, 57.0)),
    ),
    "1T": Model(
        *(160, 25600, 128, 8, 64, 1, 1, 512, 512, 32.958984375, (131.25, 26.5625), (58.31, 62.04, 20.27, 9.42)),
        *((94.42, 71.49), (56.3, 57.0)),
    ),
}
every_model = pytest.mark.parametrize("m", MODELS.values(), ids=MODELS)


def layer(m: Model, sequence: bool = False, recompute: str = "none") -> float:
    return layer_activations(S, m.b, m.h, m.a, m.t, sequence, recompute)


@every_model
def test_memory_to_every_digit(m: Model) -> None:
    layers = m.L * first_stage(m.p, m.v) / GiB
    assert state_bytes(m.h, m.L) == state_bytes(m.h, m.L, m.t, m.p) * m.t * m.p
    assert state_bytes(m.h, m.L, m.t, m.p) / GiB == m.states
    assert layer(m) * layers == pytest.approx(m.kept[0], rel=1e-14)
    assert layer(m, True, "selective") * layers == pytest.approx(m.kept[1], rel=1e-14)


@every_model
def test_percent_of_activations_left(m: Model) -> None:
    """The percents are bars of figure 7, read off by Calculon's authors."""
    kept = layer(m, True), layer(m, False, "selective"), layer(m, True, "selective"), layer(m, False, "full")
    assert [100 * x / layer(m) for x in kept] == pytest.approx(m.percent, abs=0.15)


def test_sequence_parallel_shards_everything() -> None:
    """Equation 4 is equation 1 divided by t."""
    alone = layer_activations(S, 1, 12288, 96)
    assert alone == S * 12288 * (34 + 5 * 96 * S / 12288)
    assert layer_activations(S, 1, 12288, 96, 8, sequence=True) == alone / 8


def test_first_stage() -> None:
    assert first_stage(1) == first_stage(8) == 1
    assert first_stage(8, 2) == 1 + 7 / 16 and first_stage(35, 3) == pytest.approx(1 + 34 / 105)


@every_model
def test_utilization(m: Model) -> None:
    """MFU and HFU of table 5. The printed seconds of 22B have three digits, so its percents are within 0.25."""
    model, hardware = model_flops(m.B, S, m.L, m.h, V), hardware_flops(m.B, S, m.L, m.h, V, "selective")
    reached = [100 * utilization(flops, m.seconds[1], m.gpus) for flops in (model, hardware)]
    assert reached == pytest.approx(m.utilization, abs=0.25 if m.b == 4 else 0.051)


@pytest.mark.parametrize(("name", "percent"), [("175B", 2.7), ("530B", 1.6)])
def test_selective_recomputation_adds_few_flops(name: str, percent: float) -> None:
    """Section 5 of the paper prints these; equation 9 approximates them."""
    m = MODELS[name]
    model, hardware = model_flops(1, S, m.L, m.h, V), hardware_flops(1, S, m.L, m.h, V, "selective")
    assert 100 * (hardware / model - 1) == pytest.approx(percent, abs=0.051)
    assert hardware / model == pytest.approx(1 + S / (6 * m.h), abs=0.001)


def test_flops_are_those_of_the_products() -> None:
    """24 b s h^2 + 4 b s^2 h a layer and 2 b s h V for the logits, forward; three times as many in an update."""
    B, L, h = 4, 48, 6144
    forward = L * (24 * B * S * h**2 + 4 * B * S**2 * h) + 2 * B * S * h * V
    assert hardware_flops(B, S, L, h, V) == model_flops(B, S, L, h, V) == pytest.approx(3 * forward)
    attention = L * 4 * B * S**2 * h
    assert hardware_flops(B, S, L, h, V, "full") == pytest.approx(4 * forward - 2 * B * S * h * V)
    assert hardware_flops(B, S, L, h, V, "selective") == pytest.approx(3 * forward + 3 * attention)  # one would do
    assert utilization(2 * A100, 1, 8) == 0.25


def test_unknown_recomputation() -> None:
    with pytest.raises(UserError, match="recompute is 'some'"):
        layer_activations(S, 1, 64, 4, recompute="some")
    with pytest.raises(UserError, match="recompute is 'some'"):
        hardware_flops(1, S, 2, 64, V, "some")


# Llama 3 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh", llama3.TABLE4, ids=lambda m: f"{m.gpus}-{m.length}")
def test_llama3_meshes(mesh: llama3.Mesh) -> None:
    llama3.check_mesh(mesh)
    assert 100 * mesh.rate * 1e12 / llama3.H100 == pytest.approx(mesh.mfu, abs=1)


def test_llama3_misprint_is_refused() -> None:
    with pytest.raises(UserError) as error:
        llama3.check_mesh(llama3.LONG_V1)
    assert str(error.value) == (
        "tp 8 x cp 16 x pp 16 x dp 4 is 8,192 ranks for 16,384 GPUs; dp must be 8\n"
        "dp 4 x 16 sequences x 131,072 tokens is a batch of 8,388,608; the table has 16,777,216"
    )


def test_llama3_gpus_that_no_dp_fits() -> None:
    with pytest.raises(UserError, match="2,048 must divide the GPUs"):
        llama3.check_mesh(replace(llama3.LONG_V1, gpus=10_000))
