"""The drawn learning rates against formulas written out here."""

import math
from pathlib import Path
from typing import get_args

import pytest

from minitrain.commands.draw.rates import Rates, rates
from minitrain.commands.options import LearningRates
from minitrain.errors import UserError


def test_rates_are_those_of_the_formulas() -> None:
    """200 updates, 20 of warm-up, 180 of decay."""
    found = rates(200, 0.5)["rates"]
    assert tuple(found) == get_args(LearningRates) and all(len(curve) == 200 for curve in found.values())
    for name, curve in found.items():
        assert max(curve) == 0.5
        if name != "one-cycle":
            assert curve[:20] == [0.5 * (t + 1) / 20 for t in range(20)]
    for t in (20, 21, 40, 50, 110, 161, 199):
        past = (t - 20) / 180
        assert found["constant"][t] == 0.5
        assert found["linear"][t] == pytest.approx(0.5 * (1 - past), rel=1e-12)
        assert found["cosine"][t] == pytest.approx(0.25 * (1 + math.cos(math.pi * past)), rel=1e-9)
        assert found["polynomial"][t] == pytest.approx(0.5 * (1 - past) ** 2, rel=1e-12)
        assert found["exponential"][t] == pytest.approx(0.5 * 0.01**past, rel=1e-12)
        assert found["step"][t] == pytest.approx(0.5 * 0.1 ** ((t - 20) // 60), rel=1e-12)
        assert found["inverse-time"][t] == pytest.approx(0.5 / (1 + (t - 20) // 20), rel=1e-12)
    restarts = [t for t in range(21, 200) if found["cosine-restarts"][t] > found["cosine-restarts"][t - 1]]
    assert restarts == [20 + 26, 20 + 78], "periods of 26, 52 and 104 updates"


@pytest.mark.parametrize(("steps", "lr"), [(9, 0.1), (100, 0.0), (100, math.inf)])
def test_a_bad_budget(steps: int, lr: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--steps is 9" if steps == 9 else "--lr is"):
        Rates(tmp_path, steps, lr).drawing()
