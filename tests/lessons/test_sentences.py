"""The checker's messages for solutions that hang, raise or bypass the communicator.

A hang takes as long as its limit, and its message comes from the process that waits: each is checked once under mpirun,
a few at a time. Mistakes that end by themselves are checked with threads as ranks, and those that call MPI directly
share a job.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from minitrain.comm.communicator import Communicator
from minitrain.lessons import check as checking
from minitrain.lessons.check import Verdict, check
from minitrain.lessons.manifest import Exercise, Mutant, exercises
from minitrain.lessons.report import Reports
from tests.lessons.together import checked, examined, parameters, started
from tests.tiers import full

SAYING = {f"{e.id}-{m.path.stem}": (e, m) for e in exercises() for m in e.mutants() if m.says}
HANGING = {name: pair for name, pair in SAYING.items() if "waits in" in pair[1].says}
PAST_US = {f"{name}-{e.ranks} ranks": (e, m, e.ranks) for name, (e, m) in SAYING.items() if "mpi4py" in m.says}
ENDING = {name: pair for name, pair in SAYING.items() if name not in HANGING and "mpi4py" not in pair[1].says}
FIRST = ("10.2-2_gathers_its_share",)

Verdicts = dict[tuple, Future]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[Verdicts]:
    """Return the verdicts of all selected solutions that hang; three are checked at a time.

    Those of lesson 00, about processes, run under mpirun; the others wait in the same functions of the library.
    """

    def verdict(exercise: Exercise, mutant: Mutant) -> Verdict:
        return check(exercise, mutant.path, as_given=True, threads=exercise.lesson.number != "00")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "START", 60.0)
        patch.setattr(checking, "_worker", partial(impatient, checking._worker))
        patch.setattr(checking, "_cause", lambda *_: "")  # the message names the mistake
        yield from started(request, ("exercise", "mutant"), verdict, workers=3)


def impatient(worker: Callable[..., list[str]], exercise: Exercise, file: Path, *rest: object) -> list[str]:
    """Return a rank's command: a solution known to hang gets 4 seconds, less than for students.

    After three, the library says what it waits for.
    """
    return [*worker(exercise, file, *rest)[:-1], "4"]


@pytest.mark.full
@pytest.mark.parametrize(("exercise", "mutant"), HANGING.values(), ids=HANGING)
def test_a_sentence_says_where_it_hangs(exercise: Exercise, mutant: Mutant, verdicts: Verdicts) -> None:
    verdict = verdicts[exercise, mutant].result()
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
def test_a_hang_is_explained(exercise: Exercise, mutant: Mutant, says: tuple[str, ...], verdicts: Verdicts) -> None:
    """The message includes the message size, which decides whether a send blocks."""
    found = verdicts[exercise, mutant].result()
    assert found.state == "failed"
    assert all(part in " ".join(found.remarks) for part in says), found
    assert found.printed == ()
