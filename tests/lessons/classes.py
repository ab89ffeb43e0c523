"""A class of students' folders, good, middling and hostile, with the points that each must get.

    python -m tests.lessons.classes FOLDER [NUMBER OF EACH]

makes the folders; `lessons grade FOLDER/*` grades them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from minitrain.lessons.manifest import Lesson, written
from minitrain.lessons.stubs import exercise_file, replaced, source


def perfect(lessons: list[Lesson], folder: Path, number: int) -> int:
    """Write all model solutions, each student's with a comment of its own."""
    for lesson in lessons:
        _write(folder, lesson, f"# the work of student {number}\n" + exercise_file(lesson, solved=True))
    return sum(exercise.points for lesson in lessons for exercise in lesson.exercises)


def partly(lessons: list[Lesson], folder: Path, number: int) -> int:
    """Write some solutions, one mistake in each lesson, and leave the rest; each student in another way."""
    points = 0
    for lesson in lessons:
        text = exercise_file(lesson)
        for place, exercise in enumerate(lesson.exercises):
            what = (place + number) % 3
            if what == 0:
                text = replaced(text, exercise, source(exercise))
                points += exercise.points
            elif what == 1 and (mutants := [m for m in exercise.mutants() if not m.says]):
                mutant = mutants[number % len(mutants)].path.read_text("utf-8")
                text = f"{mutant}\n\n{replaced(text, exercise, '')}"
        _write(folder, lesson, text)
    return points


def hostile(lessons: list[Lesson], folder: Path, number: int) -> int:
    """Write the same prank for all exercises of all lessons."""
    prank = PRANKS[number % len(PRANKS)]
    for lesson in lessons:
        _write(folder, lesson, prank(lesson))
    return 0


def _write(folder: Path, lesson: Lesson, text: str) -> None:
    path = folder / lesson.folder.name / "exercise.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", "surrogatepass")


def _body(line: str) -> Callable[[Lesson], str]:
    def file(lesson: Lesson) -> str:
        functions = [f"def {e.function}(*arguments, **options):\n    {line}\n" for e in lesson.exercises]
        return "import os, signal, subprocess, sys, time\nfrom pathlib import Path\n\n" + "\n".join(functions)

    file.__name__ = line
    return file


DAEMON = "subprocess.Popen(['sleep', '7654'], start_new_session=True{})"
PRANKS: list[Callable[[Lesson], str]] = [
    _body(f"{DAEMON.format('')}; {DAEMON.format(', env={}')}; return 1"),
    _body("os._exit(0)"),
    _body("while True: pass"),
    _body("os.fork(); os.fork(); return 1"),
    _body("while True: os.fork()"),
    _body("[os.write(2, b'x' * 10**6) for _ in range(200)]; print('y' * 200 * 10**6)"),
    _body(
        "[Path('../' * i + 'prank.txt').write_text('x') for i in range(4)]; Path.home().joinpath('prank.txt').touch()"
    ),
    _body("raise ValueError('\\0 \\x1b[2J ' + chr(0xD800) + ' ]]> <&\"')"),
    _body("os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)"),
    lambda lesson: "x = 1\n\\" + "(" * 5000,
    _body("Path(sys.argv[3], 'rank_0.json').write_text('[' * 10**6); os.kill(os.getpid(), 9)"),
    _body("[Path(str(i)).write_bytes(bytes(10**8)) for i in range(10**6)]"),
    _body("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(10**6)"),
    _body("x = [bytes(10**9) for _ in range(10**6)]"),
]


def make(folder: Path, each: int, lessons: list[Lesson] | None = None) -> dict[str, int]:
    """Make `each` folders of each kind for these lessons, all by default. Return student -> the right points."""
    chosen = written() if lessons is None else lessons
    return {
        f"{kind.__name__}{number:02}": kind(chosen, folder / f"{kind.__name__}{number:02}", number)
        for kind in (perfect, partly, hostile)
        for number in range(each)
    }


if __name__ == "__main__":
    for student, right in make(Path(sys.argv[1]), int((sys.argv[2:] or ["10"])[0])).items():
        print(f"{student} {right}")
