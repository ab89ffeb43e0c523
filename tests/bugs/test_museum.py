"""Every planted bug fails its named test, and the correct code passes it."""

import pytest

from tests.bugs.museum import exhibits
from tests.tiers import full

EXHIBITS = exhibits()
SLOW = ("12_", "13f_", "22_", "pp_sends_that_block")  # time-limited or many steps; their tests run in both tiers


@pytest.mark.parametrize("name", [full(name) if name.startswith(SLOW) else name for name in EXHIBITS])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_planted_bug(name: str) -> None:
    bug = EXHIBITS[name].BUG
    assert bug.symptom(planted=False) == "", "the correct code fails"
    assert bug.symptom(planted=True) != "", "the bug survives"
