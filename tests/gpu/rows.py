"""The rows of build/gpu.json, and the table of `make gpu`.

A row has a bound that its value must not exceed, or none, if it is only measured. Imports nothing beyond Python's own
library, since it must also tell that NumPy is missing.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

OK, MEASURED, FAILED, LEFT_OUT = "ok", "measured", "FAILED", "left out"


class Row(TypedDict):
    """state: OK, MEASURED, FAILED or LEFT_OUT. why: the reason for the last two; for others, a remark."""

    name: str
    value: float | None
    unit: str
    bound: float | None
    state: str
    why: str


def row(name: str, value: float, unit: str = "", bound: float | None = None, why: str = "") -> Row:
    """Return a result. It fails if the value is above the bound, or not finite, which JSON cannot tell."""
    if not math.isfinite(value):
        return without_value(name, FAILED, f"the value is {value}; {why}".rstrip("; "))
    state = MEASURED if bound is None else OK if value <= bound else FAILED
    return Row(name=name, value=value, unit=unit, bound=bound, state=state, why=why)


def without_value(name: str, state: str, why: str) -> Row:
    """Return the row of what FAILED, or was LEFT_OUT, and why."""
    return Row(name=name, value=None, unit="", bound=None, state=state, why=why)


@dataclass
class Report:
    """What the terminal and the file show: each row at once."""

    path: Path
    machine: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # module or program -> what is left out without it
    rows: dict[str, list[Row]] = field(default_factory=dict)  # by part
    seconds: dict[str, float] = field(default_factory=dict)  # that each part took
    finished: bool = False

    def add(self, part: str, row: Row) -> None:
        """Show and keep a row."""
        self.rows.setdefault(part, []).append(row)
        print(f"  {line(row)}", flush=True)
        self.write()

    def write(self) -> None:
        """Replace the file as a whole, so that it is valid whenever the run ends."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(vars(self) | {"path": str(self.path)}, indent=1) + "\n")
        partial.replace(self.path)

    def all(self) -> list[Row]:
        """Return the rows of all parts."""
        return [row for rows in self.rows.values() for row in rows]

    def table(self) -> str:
        """Return all rows, those of the steps beside PyTorch's."""
        lines = []
        for part, rows in self.rows.items():
            theirs = {row["name"]: row for row in self.rows.get(beside(part), [])}
            title = f"{part}, {self.seconds[part]:.0f} s" if part in self.seconds else part
            lines += [title, *(f"  {line(row, theirs.get(row['name']))}" for row in rows)]
        return "\n".join(lines)

    def total(self) -> str:
        """Return how many rows have which state."""
        states = [row["state"] for row in self.all()]
        return ", ".join(f"{states.count(state)} {state}" for state in (OK, MEASURED, FAILED, LEFT_OUT))


def beside(part: str) -> str:
    """Return the name of PyTorch's part that measures the same as this one of ours."""
    return f"PyTorch, {part}"


def line(row: Row, theirs: Row | None = None) -> str:
    """Return a row as one line; with PyTorch's row, both values and their ratio."""
    if row["value"] is None:
        return f"{row['name']:<46} {row['state']}: {row['why']}"
    cells = f"{row['name']:<46} {number(row['value']):>9} {row['unit']:<9}"
    if theirs is not None and theirs["value"]:
        cells += f" PyTorch {number(theirs['value'])}, ratio {row['value'] / theirs['value']:.2f}"
    elif row["bound"] is not None:
        cells += f" at most {number(row['bound'])}  {row['state']}"
    return f"{cells}  {row['why']}".rstrip()


def number(value: float) -> str:
    """Return three digits: 0.00123, 12.3, 1230, 1.2e-13."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def parsed(text: str) -> Row | None:
    """Return the row that a part printed as a line of JSON; None for other lines."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, Mapping) and found.keys() == Row.__annotations__.keys() else None  # type: ignore[return-value]


def values(path: Path, parts: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of the rows of these parts in a file that a Report writes."""
    found = json.loads(path.read_text())["rows"]
    for part in parts:
        yield from ((row["name"], row["value"]) for row in found.get(part, []) if row["value"] is not None)
