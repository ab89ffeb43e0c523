"""Grades: check every exercise again and report the results as a table and in machine-readable files.

Stored results are not trusted; the folder only tells whether a model solution was viewed. The library is the model
solution of kind I: for marks, count P and B, and run this in a container of your own.
"""

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.progress import track
from rich.table import Table

from .check import check
from .manifest import exercises

FORMS = ("json", "junit", "csv", "gradescope")


def grade(folder: Path, files: dict[str, Path]) -> int:
    """Check everything in `folder` and print a table. files: format -> output path. Return 0 if all passed."""
    rows = results(folder)
    table = Table("exercise", "function", box=None, pad_edge=False)
    for heading in ("points", "of", "shown"):
        table.add_column(heading, justify="right")
    for r in rows:
        table.add_row(r["id"], r["function"], str(r["points"]), str(r["of"]), "yes" if r["shown"] else "")
    Console(width=80, highlight=False).print(table)
    print(f"{sum(r['points'] for r in rows)} of {sum(r['of'] for r in rows)} points")
    for form, path in files.items():
        path.write_text({"json": _json, "junit": _junit, "csv": _csv, "gradescope": _gradescope}[form](rows), "utf-8")
    return int(any(not r["passed"] for r in rows))


def results(folder: Path) -> list[dict[str, Any]]:
    """Return one row per exercise."""
    state = json.loads((folder / ".lessons.json").read_text("utf-8"))
    rows = []
    for exercise in track(exercises(), "checking", console=Console(stderr=True), transient=True):
        verdict = check(exercise, folder / exercise.lesson.folder.name / "exercise.py")
        passed = verdict.state == "passed"
        rows.append({
            "id": exercise.id, "function": exercise.function, "kind": exercise.kind, "passed": passed,
            "points": exercise.points if passed else 0, "of": exercise.points, "failure": verdict.sentence,
            "cause": verdict.cause, "shown": bool(state.get(exercise.id, {}).get("shown")),
        })  # fmt: skip
    return rows


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1) + "\n"


def _csv(rows: list[dict[str, Any]]) -> str:
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys() if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _junit(rows: list[dict[str, Any]]) -> str:
    suite = ElementTree.Element("testsuite", name="lessons", tests=str(len(rows)))
    for r in rows:
        case = ElementTree.SubElement(suite, "testcase", classname="lessons", name=f"{r['id']} {r['function']}")
        if not r["passed"]:
            ElementTree.SubElement(case, "failure", message=r["failure"])
    suite.set("failures", str(sum(not r["passed"] for r in rows)))
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def _gradescope(rows: list[dict[str, Any]]) -> str:
    tests = [
        {"name": f"{r['id']} {r['function']}", "score": r["points"], "max_score": r["of"], "output": r["failure"]}
        for r in rows
    ]
    return json.dumps({"tests": tests}, indent=1) + "\n"
