"""The files of a grading are valid, whatever a student's exception, folder or file contains."""

import csv
import io
import json
import re
from dataclasses import asdict
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrain.lessons import exports
from minitrain.lessons.exports import CONTEXT, CUT, VISIBILITIES, Row, note, points, printable

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # also surrogates and control characters


few = settings(max_examples=40)


@st.composite
def results(draw: st.DrawFn, students: int = 3) -> list[Row]:
    """Draw the rows of a few students."""
    names = draw(st.lists(ANY_TEXT.filter(bool), min_size=1, max_size=students, unique_by=printable))
    rows = []
    for name in names:
        for id in ("06.1", "07.1", "07.2"):
            passed, of = draw(st.booleans()), draw(st.sampled_from([10.0, 0.0, 20.0, 2.5]))
            said = "" if passed else draw(ANY_TEXT)
            file = draw(st.sampled_from(["", "0123456789ab"]))
            rows.append(
                Row(name, id, "f", "I", passed, of * passed, of, said, draw(ANY_TEXT), draw(st.booleans()), file, 0.5)
            )
    return rows


def row(**changes: object) -> Row:
    plain = Row(
        "anna", "07.1", "shard_of", "I", False, 0.0, 10.0, "it is wrong", "a mistake", False, "0123456789ab", 1.0
    )
    return Row(**{**asdict(plain), **changes})


@given(ANY_TEXT)
def test_printable(text: str) -> None:
    clean = printable(text)
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", clean)
    assert printable(clean) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\0b", "a\\x00b"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\ud800", "\\ud800"),
        ("\uffff", "\\uffff"),
        ("\x9b", "\\x9b"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\rb", "a\\x0db"),
        ("ä中😀", "ä中😀"),
    ],
)
def test_what_is_escaped(text: str, clean: str) -> None:
    assert printable(text) == clean


@few
@given(results())
def test_json(rows: list[Row]) -> None:
    found = json.loads(encoded(exports.to_json(rows)))
    assert [(it["id"], it["passed"], it["points"]) for it in found] == [(r.id, r.passed, r.points) for r in rows]
    assert [it["failure"] for it in found] == [printable(r.failure) for r in rows]
    assert [it["cause"] for it in found] == [printable(r.cause) for r in rows]


@few
@given(results())
def test_csv(rows: list[Row]) -> None:
    found = list(csv.DictReader(io.StringIO(encoded(exports.to_csv(rows)), newline="")))
    assert [(it["id"], it["passed"], float(it["points"])) for it in found] == [
        (r.id, str(r.passed), r.points) for r in rows
    ]
    for line in found:
        assert not any(value.startswith(("=", "+", "-", "@", "\t")) for value in line.values())


@few
@given(results())
def test_totals(rows: list[Row]) -> None:
    found = list(csv.DictReader(io.StringIO(encoded(exports.to_totals(rows)), newline="")))
    assert sum(float(it["points"]) for it in found) == pytest.approx(points(rows)[0])
    assert sum(float(it["06"]) + float(it["07"]) for it in found) == pytest.approx(points(rows)[0])
    assert len(found) == len({r.student for r in rows})


@few
@given(results())
def test_junit(rows: list[Row]) -> None:
    top = ElementTree.fromstring(encoded(exports.to_junit(rows)).encode("utf-8"))
    suites = [top] if top.tag == "testsuite" else list(top)
    assert [suite.get("name") for suite in suites] == [printable(name) for name in exports.by_student(rows)]
    for suite in [*suites, top]:
        cases = list(suite.iter("testcase"))
        failures = [case for case in cases if case.find("failure") is not None]
        assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), str(len(failures)))
        assert suite.get("errors") == "0" and float(suite.get("time") or -1) == pytest.approx(0.5 * len(cases))
    found = [failure.get("message") for failure in top.iter("failure")]
    assert found == [printable(r.failure) for r in rows if not r.passed]


@few
@given(results(students=1), st.sampled_from(VISIBILITIES))
def test_gradescope(rows: list[Row], visibility: str) -> None:
    result = json.loads(encoded(exports.to_gradescope(rows, visibility)))
    assert set(result) <= {
        "score",
        "execution_time",
        "output",
        "visibility",
        "stdout_visibility",
        "leaderboard",
        "tests",
    }
    assert result["visibility"] == visibility and result["stdout_visibility"] in VISIBILITIES
    assert isinstance(result["score"], int | float) and isinstance(result["execution_time"], int)
    for test in result["tests"]:
        assert set(test) == {"name", "score", "max_score", "status", "output", "tags", "number", "visibility"}
        assert test["status"] in ("passed", "failed") and test["visibility"] == visibility
        assert 0 <= test["score"] <= test["max_score"]
        assert all(isinstance(text, str) for text in (test["name"], test["output"], test["number"], *test["tags"]))
    assert result["score"] == pytest.approx(sum(test["score"] for test in result["tests"]))


def test_the_output_of_the_autograder_stays_hidden_with_the_tests() -> None:
    """Nothing outside the tests repeats what a hidden test says."""
    result = json.loads(exports.to_gradescope([row()], "hidden"))
    assert result["stdout_visibility"] == "hidden" and "it is wrong" in result["tests"][0]["output"]
    assert "it is wrong" not in json.dumps({**result, "tests": []})


@few
@given(results(students=1), st.dictionaries(st.sampled_from(list(CONTEXT.values())), ANY_TEXT))
def test_classroom(rows: list[Row], environment: dict[str, str]) -> None:
    """The keys are checked strictly by Classroom 50; points are whole."""
    rows = [row(**{**asdict(r), "of": 10.0, "points": 10.0 * r.passed}) for r in rows]
    result = json.loads(encoded(exports.to_classroom(rows, environment)))
    assert list(result) == ["schema", *CONTEXT, "datetime", "score", "max-score", "tests"]
    assert result["schema"] == "classroom50/result/v1"
    assert all(isinstance(result[key], str) and result[key] for key in CONTEXT)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result["datetime"])
    for test in result["tests"]:
        assert list(test) == ["test-name", "passed", "score", "max-score"]
        assert isinstance(test["passed"], bool) and type(test["score"]) is type(test["max-score"]) is int
        assert test["score"] == test["max-score"] * test["passed"] and len(test["test-name"].encode()) <= 100
    assert len({test["test-name"] for test in result["tests"]}) == len(rows)
    for key in ("score", "max-score"):
        assert result[key] == sum(test[key] for test in result["tests"])


def test_the_runner_of_classroom_50_names_the_submission() -> None:
    told = {name: f"the {name}" for name in CONTEXT.values()}
    result = json.loads(exports.to_classroom([row()], told))
    assert {key: result[key] for key in CONTEXT} == {key: f"the {name}" for key, name in CONTEXT.items()}


def test_a_cause_and_the_file_are_in_the_output() -> None:
    text = "it is wrong\nlooks like: a mistake\nchecked: exercise.py with SHA-256 0123456789ab..."
    assert json.loads(exports.to_gradescope([row()]))["tests"][0]["output"] == text
    failure = ElementTree.fromstring(exports.to_junit([row()])).find("testcase/failure")
    assert failure is not None and failure.text == text


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(), row(id="07.2", passed=True)], ""),
        ([row(shown=True)], ""),
        ([row(shown=True, passed=True)], "looked at 1 solution"),
        ([row(file="", failure="there is none"), row(id="06.1")], "no exercise.py: 07"),
        ([row(file="", failure="there is none")], "there is none"),
        ([row(), row(id="07.2", failure=CUT.format(60))], "stopped: too many checks did not end in time"),
    ],
)
def test_notes(rows: list[Row], says: str) -> None:
    assert note(rows) == says


def encoded(text: str) -> str:
    """Return the text as it is read back from a file."""
    return text.encode("utf-8").decode("utf-8")
