"""The results of a grading as files: rows -> the text of each format.

A student's exception may contain any character, such as a lone surrogate, NUL or an escape sequence. `printable`
replaces those that XML 1.0, a spreadsheet or a terminal cannot take by escapes such as \\x1b.
"""

import csv
import io
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias
from xml.etree import ElementTree

CUT = "not checked: the checks of this folder that did not end in time took {:.0f} s"
VISIBILITIES = ("visible", "hidden", "after_due_date", "after_published")  # of Gradescope
# key of Classroom 50's result.json -> environment variable that its runner sets
CONTEXT = {
    "classroom": "CLASSROOM", "assignment": "ASSIGNMENT", "submission": "SUBMISSION_TAG",
    "commit": "COMMIT_URL", "release": "RELEASE_URL", "review": "REVIEW_URL",
}  # fmt: skip
UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Row:
    """Result of one exercise of one student.

    points, of: weighted. cause: the known mistake that fails the same way. shown: whether the student looked at the
    solution; the student's folder says so, and may be wrong. file: the first 12 digits of the SHA-256 of the
    exercise.py that was checked, "" if there was none. remark: about whose folder it is; usually "".
    """

    student: str
    id: str
    function: str
    kind: str
    passed: bool
    points: float
    of: float
    failure: str
    cause: str
    shown: bool
    file: str
    seconds: float
    remark: str = ""

    @property
    def lesson(self) -> str:
        """Return the number of the exercise's lesson."""
        return self.id.partition(".")[0]


def printable(text: str) -> str:
    """Return the text with control characters (except tab and newline), surrogates and noncharacters escaped."""
    return UNPRINTABLE.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def number(value: float) -> float:
    """Return an int if the value is whole, else at most 4 digits after the point."""
    return int(value) if value == int(value) else round(value, 4)


def points(rows: list[Row]) -> tuple[float, float]:
    """Return the points of these rows, and how many there are to reach."""
    return number(round(sum(row.points for row in rows), 6)), number(round(sum(row.of for row in rows), 6))


def by_student(rows: list[Row]) -> dict[str, list[Row]]:
    """Return student -> rows, in order."""
    return _grouped(rows, lambda row: row.student)


def by_lesson(rows: list[Row]) -> dict[str, list[Row]]:
    """Return lesson number -> rows, in order."""
    return _grouped(rows, lambda row: row.lesson)


def _grouped(rows: list[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def note(rows: list[Row]) -> str:
    """Return what a lecturer should know about this student's points; usually ""."""
    lessons = by_lesson(rows)
    without = [lesson for lesson, of_it in lessons.items() if not of_it[0].file]
    parts = [rows[0].remark] if rows[0].remark else []
    if without and len(without) == len(lessons):
        parts.append(rows[0].failure)
    elif without:
        parts.append(f"no exercise.py: {' '.join(without)}")
    if any(row.failure.startswith(CUT.partition(":")[0]) for row in rows):
        parts.append("stopped: too many checks did not end in time")
    if shown := sum(row.shown and row.passed for row in rows):
        parts.append(f"looked at {shown} solution{'s' * (shown > 1)}")
    return "; ".join(parts)


def to_json(rows: list[Row]) -> str:
    """Return a list of objects, one for each row."""
    return json.dumps([_plain(row) for row in rows], indent=1) + "\n"


def to_csv(rows: list[Row]) -> str:
    """Return a table with a line for each row."""
    return _table([_plain(row) for row in rows])


def to_totals(rows: list[Row]) -> str:
    """Return a table with a line for each student: the points in total and by lesson."""
    lines = []
    for student, of_student in by_student(rows).items():
        lessons = by_lesson(of_student)
        got, most = points(of_student)
        lines.append(
            {"student": printable(student), "points": got, "of": most}
            | {lesson: points(of_it)[0] for lesson, of_it in lessons.items()}
            | {"note": printable(note(of_student))}
            | {f"file {lesson}": of_it[0].file for lesson, of_it in lessons.items()}
        )
    return _table(lines)


def to_junit(rows: list[Row]) -> str:
    """Return JUnit's XML: a suite for each student, inside <testsuites> if there are several."""
    suites = [_suite(student, of_student) for student, of_student in by_student(rows).items()]
    top = suites[0] if len(suites) == 1 else _element("testsuites", rows)
    if len(suites) != 1:
        top.extend(suites)
    return ElementTree.tostring(top, encoding="unicode") + "\n"


def to_gradescope(rows: list[Row], visibility: str = "visible") -> str:
    """Return Gradescope's results.json for one student. visibility: of the tests, one of VISIBILITIES."""
    tests = [
        {
            "name": f"{row.id} {row.function}", "score": number(row.points), "max_score": number(row.of),
            "status": "passed" if row.passed else "failed", "output": _output(row), "number": row.id,
            "tags": [f"lesson {row.lesson}", f"kind {row.kind}"], "visibility": visibility,
        }
        for row in rows
    ]  # fmt: skip
    result = {
        "score": points(rows)[0], "execution_time": round(sum(row.seconds for row in rows)),
        "visibility": visibility, "stdout_visibility": "hidden", "tests": tests,
    }  # fmt: skip
    return json.dumps(result, indent=1) + "\n"


def to_classroom(rows: list[Row], environment: Mapping[str, str] = os.environ) -> str:
    """Return Classroom 50's result.json for one student. Its runner names the submission in the environment."""
    tests = [
        {
            "test-name": f"{row.id} {row.function}", "passed": row.passed,
            "score": int(row.points), "max-score": int(row.of),
        }
        for row in rows
    ]  # fmt: skip
    context = {key: printable(environment.get(name, "").strip()) or "unknown" for key, name in CONTEXT.items()}
    result = {
        "schema": "classroom50/result/v1", **context, "datetime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "score": sum(int(row.points) for row in rows), "max-score": sum(int(row.of) for row in rows), "tests": tests,
    }  # fmt: skip
    return json.dumps(result, indent=1) + "\n"


Form: TypeAlias = Callable[[list[Row]], str]
FORMS: dict[str, Form] = {
    "json": to_json, "csv": to_csv, "totals": to_totals, "junit": to_junit, "gradescope": to_gradescope,
    "classroom": to_classroom,
}  # fmt: skip
OF_ONE = ("gradescope", "classroom")  # these describe one student


def _plain(row: Row) -> dict[str, Any]:
    return {
        name: printable(value) if isinstance(value, str) else number(value) if isinstance(value, float) else value
        for name, value in asdict(row).items()
    }


def _table(lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0].keys() if lines else [])
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def _cell(value: object) -> object:
    """Return the value; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value


def _suite(student: str, rows: list[Row]) -> ElementTree.Element:
    suite = _element("testsuite", rows, name=printable(student))
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"lessons.{row.lesson}", name=f"{row.id} {row.function}",
            time=f"{row.seconds:.3f}",
        )  # fmt: skip
        if not row.passed:
            reason = printable(row.failure)
            ElementTree.SubElement(case, "failure", message=reason).text = _output(row)
    return suite


def _element(tag: str, rows: list[Row], **attributes: str) -> ElementTree.Element:
    failures, seconds = sum(not row.passed for row in rows), sum(row.seconds for row in rows)
    counts = {"tests": str(len(rows)), "failures": str(failures), "errors": "0", "time": f"{seconds:.3f}"}
    return ElementTree.Element(tag, {**attributes, **counts})


def _output(row: Row) -> str:
    """Return what a student reads about an exercise."""
    lines = [row.failure, f"looks like: {row.cause}" * bool(row.cause)]
    lines.append(f"checked: exercise.py with SHA-256 {row.file}..." if row.file else "")
    return printable("\n".join(filter(None, lines)))
