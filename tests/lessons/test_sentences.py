"""The checker's messages for solutions that hang, raise or bypass the communicator.

A hang takes as long as its limit, so hangs are checked while other tests run (conftest.py). Mistakes that end by
themselves are checked with threads as ranks, and those that call MPI directly share a job.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.lessons.check import Verdict
from minitrain.lessons.manifest import Exercise, Mutant, exercises
from minitrain.lessons.report import Reports
from tests.lessons.together import checked, examined, parameters
from tests.tiers import full

SAYING = {f"{e.id}-{m.path.stem}": (e, m) for e in exercises() for m in e.mutants() if m.says}
HANGING = {name: pair for name, pair in SAYING.items() if "waits in" in pair[1].says}
PAST_US = {f"{name}-{e.ranks} ranks": (e, m, e.ranks) for name, (e, m) in SAYING.items() if "mpi4py" in m.says}
ENDING = {name: pair for name, pair in SAYING.items() if name not in HANGING and "mpi4py" not in pair[1].says}
FIRST = ("10.2-2_gathers_its_share",)

Verdicts = dict[tuple[str, Path], Verdict]


@pytest.mark.full
@pytest.mark.parametrize(("exercise", "mutant"), HANGING.values(), ids=HANGING)
def test_a_sentence_says_where_it_hangs(exercise: Exercise, mutant: Mutant, hangs: Future[Verdicts]) -> None:
    verdict = hangs.result()[exercise.id, mutant.path]
    assert verdict.state == "failed" and mutant.says in verdict.sentence


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, Path], Future[Reports]]]:
    """Return the ranks' reports about all selected solutions that end; two are checked at a time."""
    with checked([(given["exercise"].id, given["mutant"].path) for given in parameters(request)], workers=2) as futures:
        yield futures


@pytest.mark.parametrize(
    ("exercise", "mutant"), [pair if name in FIRST else full(*pair) for name, pair in ENDING.items()], ids=ENDING
)
def test_a_sentence_names_the_mistake(
    exercise: Exercise, mutant: Mutant, reports: dict[tuple[str, Path], Future[Reports]]
) -> None:
    found = reports[exercise.id, mutant.path].result().values()
    wrong = [report["failure"] for report in found if not report["ok"]]
    assert wrong and mutant.says in wrong[0]


@pytest.mark.full
@pytest.mark.parametrize(("exercise", "mutant", "world"), PAST_US.values(), indirect=["world"], ids=PAST_US)
def test_a_sentence_names_a_library_that_was_called(exercise: Exercise, mutant: Mutant, world: Communicator) -> None:
    wrong = [report["failure"] for report in examined(world, exercise, mutant.path).values() if not report["ok"]]
    assert wrong and mutant.says in wrong[0]


@pytest.mark.full
@pytest.mark.parametrize(
    ("exercise", "mutant", "says"),
    [
        (*SAYING["00.1-1_rank_0_gathers_alone"], ("no return from gather_objects", "when every rank has called it")),
        (*SAYING["00.2-2_as_given"], ("4,194,304 bytes: no return from wait", "when its receiver has called receive")),
        (*SAYING["00.2-2_receives_first"], ("24 bytes: no return from receive", "nothing is on its way")),
    ],
)
def test_a_hang_is_explained(
    exercise: Exercise, mutant: Mutant, says: tuple[str, ...], hangs: Future[Verdicts]
) -> None:
    """The message includes the message size, which decides whether a send blocks."""
    found = hangs.result()[exercise.id, mutant.path]
    assert found.state == "failed"
    assert all(part in " ".join(found.remarks) for part in says), found
    assert found.printed == ()
