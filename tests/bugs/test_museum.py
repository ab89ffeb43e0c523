"""Every planted bug fails the test that is named for it, and the correct code passes it."""

import pytest

from tests.bugs.museum import exhibits

EXHIBITS = exhibits()


@pytest.mark.parametrize("name", EXHIBITS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_planted_bug(name: str) -> None:
    bug = EXHIBITS[name].BUG
    assert bug.symptom(planted=False) == "", "the correct code fails"
    assert bug.symptom(planted=True) != "", "the bug survives"
