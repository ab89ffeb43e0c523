"""What a check found: claims, each with a sentence that a student can act on.

    report.equal("bytes", sent, theory, "rank {rank} sent {got} bytes in a step; a ring sends {expected}")

A check goes on after a claim that fails. Which claims failed, and with what numbers, is the *signature* of a mistake:
a wrong solution whose signature is that of a known one (a mutant) most likely makes the same mistake.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Signature = list[tuple[str, str]]


@dataclass
class Claim:
    """got: the number, rounded, for the signature."""

    name: str
    ok: bool
    sentence: str
    got: str


@dataclass
class Report:
    """The claims of one check on one rank, in the order in which they were examined."""

    rank: int = 0
    claims: list[Claim] = field(default_factory=list)

    def true(self, name: str, ok: Any, sentence: str, got: Any = "") -> bool:
        """The claim holds, or the sentence says what does not."""
        self.claims.append(Claim(name, bool(ok), sentence, _rounded(got)))
        return bool(ok)

    def equal(self, name: str, got: Any, expected: Any, sentence: str) -> bool:
        """got == expected; the sentence may use {got}, {expected} and {rank}."""
        return self.true(name, got == expected, sentence.format(got=got, expected=expected, rank=self.rank), got)

    def close(self, name: str, difference: float, allowed: float, sentence: str) -> bool:
        """difference <= allowed (and not NaN); the numbers are added to the sentence."""
        ok = bool(difference <= allowed)
        return self.true(name, ok, f"{sentence}: difference {difference:.1e} (allowed {allowed:.0e})", difference)

    @property
    def ok(self) -> bool:
        return bool(self.claims) and all(claim.ok for claim in self.claims)

    @property
    def failure(self) -> str:
        """The sentence of the first claim that does not hold."""
        return next((claim.sentence for claim in self.claims if not claim.ok), "")

    @property
    def signature(self) -> Signature:
        """The claims that do not hold."""
        return [(claim.name, claim.got) for claim in self.claims if not claim.ok]

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {"rank": self.rank, "ok": self.ok, "failure": self.failure, "signature": self.signature}


def crashed(sentence: str, rank: int, name: str = "raised", got: str = "") -> dict[str, Any]:
    """The plain report of a check that could not be ended."""
    return Report(rank, [Claim(name, False, sentence, got)]).plain()


def reports_in(folder: Path) -> dict[int, dict[str, Any]]:
    """rank -> the plain report that it has left in this folder, in the order of the ranks."""
    reports = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("rank_*.json"))]
    return {report["rank"]: report for report in reports}


def _rounded(got: Any) -> str:
    return f"{got:.2g}" if isinstance(got, float) else str(got)
