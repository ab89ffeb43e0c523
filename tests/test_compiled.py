"""A compiled loop computes what NumPy's form does, to the last bit, and is used only where it is asked for."""

import builtins
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from minitrain import compiled
from minitrain.errors import UserError
from minitrain.optim import rules

NUMBA = {**os.environ, "MINITRAIN_KERNELS": "numba", "MINITRAIN_BACKEND": "numpy"}


@pytest.fixture
def numba() -> None:
    pytest.importorskip("numba", reason="Numba is not installed: pip install 'minitrain[numba]'")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_adam(n: int, dtype: type, numba: None) -> None:
    """Many updates, also with zero gradients and epsilon 0, where an element that never had a gradient becomes NaN."""
    draw = np.random.default_rng(n)
    for epsilon in (1e-8, 0.0):
        ours: list[np.ndarray] = [draw.standard_normal(n).astype(dtype), np.zeros(n, dtype), np.zeros(n, dtype)]
        theirs = [x.copy() for x in ours]
        for t in (1, 2, 3, 10**6):
            g: np.ndarray = draw.standard_normal(n).astype(dtype) * (draw.random(n) < 0.7).astype(dtype)
            g.flags.writeable = False
            with np.errstate(invalid="ignore"):
                for (w, m, v), step in ((ours, compiled.adam_step), (theirs, rules.adam_step)):
                    step(w, g, m, v, t, 1e-2, 0.9, 0.999, epsilon)
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_same_bits_wherever_the_array_is_cut(numba: None) -> None:
    """Ranks that own shards, cut anywhere, make the update of one process."""
    draw = np.random.default_rng(0)
    w, g, m, v = (draw.random(101, np.float32) for _ in range(4))
    whole, parts = [[x.copy() for x in (w, m, v)] for _ in range(2)]
    for (w, m, v), cuts in ((whole, [slice(101)]), (parts, [slice(5), slice(5, 6), slice(6, 50), slice(50, 101)])):
        for cut in cuts:
            compiled.adam_step(w[cut], g[cut], m[cut], v[cut], 3, 1e-2, 0.9, 0.999, 1e-8)
    assert [x.tobytes() for x in whole] == [x.tobytes() for x in parts]


def test_only_where_asked_for(numba: None) -> None:
    program = "import minitrain as mt; from minitrain.optim import Adam, AdamW, adam_step, rules; "
    program += "w = mt.mlp().parameters(); made = Adam(w), AdamW(w), Adam(w, rule=adam_step); "
    program += "print(rules.FAST_ADAM.__module__, *[optimizer.block for optimizer in made])"
    ours, theirs = f"{rules.__name__} 0 0 0", "minitrain.compiled 262144 262144 0"
    for kernels, found in (("numba", theirs), ("numpy", ours), ("", ours)):
        environment = {**NUMBA, "MINITRAIN_KERNELS": kernels}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.stdout == f"{found}\n", done.stderr


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITRAIN_KERNELS", "numbers")
    with pytest.raises(UserError, match="MINITRAIN_KERNELS is 'numbers'; allowed: 'numpy', 'numba'"):
        compiled.chosen()
    monkeypatch.setenv("MINITRAIN_KERNELS", "numba")
    monkeypatch.setenv("MINITRAIN_BACKEND", "cupy")
    with pytest.raises(UserError, match="is for NumPy's arrays; unset it, or MINITRAIN_BACKEND"):
        compiled.chosen()


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "numba":
            raise ImportError("No module named 'numba'")
        return real(name, *arguments, **options)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setenv("MINITRAIN_BACKEND", "numpy")
    monkeypatch.setenv("MINITRAIN_KERNELS", "numba")
    with pytest.raises(UserError, match=r"No module named 'numba'\): pip install 'minitrain\[numba\]'"):
        compiled.chosen()
    monkeypatch.delenv("MINITRAIN_KERNELS")
    assert compiled.chosen() == "numpy"


def test_a_command_says_it_in_one_line() -> None:
    command = [sys.executable, "-m", "minitrain", "doctor"]
    done = subprocess.run(command, env={**NUMBA, "MINITRAIN_KERNELS": "numbers"}, capture_output=True, text=True)
    assert done.stderr == "minitrain: error: MINITRAIN_KERNELS is 'numbers'; allowed: 'numpy', 'numba'\n"
    assert done.returncode == 2
