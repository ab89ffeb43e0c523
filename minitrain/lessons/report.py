"""Findings of a check: claims, each with a message that a student can act on.

    report.equal("bytes", sent, theory, "rank {rank} sent {got} bytes in a step; a ring sends {expected}")

A check continues after a failed claim. The failed claims and their numbers are the *signature* of a mistake: a wrong
solution with the signature of a known one (a mutant) most likely makes the same mistake.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Signature = list[tuple[str, str]]
Reports = dict[int, dict[str, Any]]  # rank -> plain report
ELSEWHERE = "raised elsewhere"  # name of a claim: the exception does not come from the student's function
LONGEST = 1500  # characters of a sentence
LARGEST = 2**26  # bytes of a report
FLOOD = 100_000  # characters of output that are worth mentioning when time is up


@dataclass
class Claim:
    """A claim. got: the number, rounded, for the signature."""

    name: str
    ok: bool
    sentence: str
    got: str


@dataclass
class Report:
    """The claims of one check on one rank, in the order checked."""

    rank: int = 0
    claims: list[Claim] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # said while the function ran, such as what it waits for

    def true(self, name: str, ok: Any, sentence: str, got: Any = "") -> bool:
        """Claim that `ok` holds; the sentence describes the failure."""
        self.claims.append(Claim(name, bool(ok), sentence, _rounded(got)))
        return bool(ok)

    def equal(self, name: str, got: Any, expected: Any, sentence: str) -> bool:
        """Claim got == expected. The sentence may use {got}, {expected} and {rank}."""
        return self.true(name, got == expected, sentence.format(got=got, expected=expected, rank=self.rank), got)

    def close(self, name: str, difference: float, allowed: float, sentence: str) -> bool:
        """Claim difference <= allowed (false for NaN). The numbers are appended to the sentence."""
        ok = bool(difference <= allowed)
        return self.true(name, ok, f"{sentence}: difference {difference:.1e} (allowed {allowed:.0e})", difference)

    @property
    def ok(self) -> bool:
        """Return whether there are claims and all hold."""
        return bool(self.claims) and all(claim.ok for claim in self.claims)

    @property
    def failure(self) -> str:
        """Return the sentence of the first failed claim."""
        return next((claim.sentence for claim in self.claims if not claim.ok), "")

    @property
    def signature(self) -> Signature:
        """Return the failed claims."""
        return [(claim.name, claim.got) for claim in self.claims if not claim.ok]

    def plain(self) -> dict[str, Any]:
        """Return the report as plain data for a file."""
        failure, signature = shortened(self.failure), self.signature
        return {"rank": self.rank, "ok": self.ok, "failure": failure, "signature": signature, "remarks": self.remarks}


def crashed(sentence: str, rank: int, name: str = "raised", got: str = "") -> dict[str, Any]:
    """Return the plain report of a check that did not finish."""
    return Report(rank, [Claim(name, False, sentence, got)]).plain()


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return the text, without its middle if it is too long: a sentence may quote what a function returned."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"


def reports_in(folder: Path) -> Reports:
    """Return rank -> the plain report it left in this folder, in rank order.

    The student's function ran in the process that wrote them and could have written anything: what is no report is
    left out.
    """
    found = {}
    for path in sorted(folder.glob("rank_*.json")):
        with suppress(OSError, ValueError, RecursionError):
            if path.is_file() and path.stat().st_size < LARGEST:
                report = json.loads(path.read_text("utf-8"))
                if _is_report(report) and path.name == f"rank_{report['rank']}.json":
                    found[report["rank"]] = report
    return found


def _is_report(it: Any) -> bool:
    """Return whether it has the fields of a plain report that was written to a file."""
    match it:
        case {"rank": int(), "ok": bool(), "failure": str(), "signature": [*pairs], "remarks": [*_], "printed": [*_]}:
            if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                texts = [*it["remarks"], *it["printed"], *(text for pair in pairs for text in pair)]
                return all(isinstance(text, str) for text in texts)
    return False


def _rounded(got: Any) -> str:
    return f"{got:.2g}" if isinstance(got, float) else str(got)
