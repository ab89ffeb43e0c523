"""The checker's messages for solutions that hang, raise or bypass the communicator.

Each is checked once under mpirun, a few at a time; a hang takes no longer than its limit.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from minitrain.lessons import check as checking
from minitrain.lessons.check import check
from minitrain.lessons.manifest import Exercise, Mutant, exercises
from tests.lessons.together import started

SAYING = {f"{e.id}-{m.path.stem}": (e, m) for e in exercises() for m in e.mutants() if m.says}
FIRST = ("10.2-2_gathers_its_share",)
PARAMETERS = [
    pytest.param(*pair, id=name, marks=() if name in FIRST else pytest.mark.full) for name, pair in SAYING.items()
]

Verdicts = dict[tuple, Future]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[Verdicts]:
    """Return the verdicts of all selected solutions, hanging or not; three are checked at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "LIMIT", 30.0)
        patch.setattr(checking, "START", 60.0)
        patch.setattr(checking, "_worker", partial(impatient, checking._worker))
        patch.setattr(checking, "_cause", lambda *_: "")  # the message names the mistake
        yield from started(request, ("exercise", "mutant"), lambda e, m: check(e, m.path, as_given=True), workers=3)


def impatient(worker: Callable[..., list[str]], exercise: Exercise, file: Path, *rest: object) -> list[str]:
    """Return a rank's command: a solution known to hang gets 4 seconds, less than for students."""
    command = worker(exercise, file, *rest)
    hangs = any("waits in" in m.says for m in exercise.mutants() if m.path.name == file.name)
    return [*command[:-1], "4"] if hangs else command


@pytest.mark.parametrize(("exercise", "mutant"), PARAMETERS)
def test_a_sentence_names_the_mistake(exercise: Exercise, mutant: Mutant, verdicts: Verdicts) -> None:
    verdict = verdicts[exercise, mutant].result()
    assert verdict.state == "failed" and mutant.says in verdict.sentence


@pytest.mark.full
@pytest.mark.parametrize(
    ("exercise", "mutant", "says"),
    [
        (*SAYING["00.1-1_rank_0_gathers_alone"], ("no return from gather_objects", "when every rank has called it")),
        (*SAYING["00.2-2_as_given"], ("4,194,304 bytes: no return from wait", "when its receiver has called receive")),
        (*SAYING["00.2-2_receives_first"], ("24 bytes: no return from receive", "nothing is on its way")),
    ],
)
def test_a_hang_is_explained(exercise: Exercise, mutant: Mutant, says: tuple[str, ...], verdicts: Verdicts) -> None:
    """The message includes the message size, which decides whether a send blocks."""
    found = verdicts[exercise, mutant].result()
    assert found.state == "failed"
    assert all(part in " ".join(found.remarks) for part in says), found
    assert found.printed == ()
