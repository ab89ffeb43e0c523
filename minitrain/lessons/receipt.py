"""The table that ends every lesson's run: each claim, its theoretical and measured value, and whether they agree.

    receipt = Receipt()
    receipt.equal("bytes of a step", theory=2 * (N - 1) * M, measured=sent)
    receipt.below("largest difference, SGD", bound=1e-12, measured=difference)
    receipt.print(world)                    ends the run with status 2 if a row fails

A number whose digits may differ between machines is printed with "≈".
"""

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from ..comm.communicator import Communicator
from ..errors import UserError


class Receipt:
    """Rows of the table. They hold only counted or computed values, never times."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, bool | None]] = []  # claim, theory, measured, ok; None: not measured

    def equal(self, claim: str, theory: Any, measured: Any) -> None:
        """Claim measured == theory, exactly."""
        self.rows.append((claim, plain(theory), plain(measured), bool(measured == theory)))

    def below(self, claim: str, bound: float, measured: float) -> None:
        """Claim measured <= bound, for a rounding error, say; false for NaN."""
        self.rows.append((claim, f"<= {bound:.0e}", f"≈ {measured:.1e}", bool(measured <= bound)))

    def near(self, claim: str, theory: float, measured: float, relative: float = 0.01) -> None:
        """Claim that measured is theory to within a relative tolerance."""
        ok = bool(abs(measured - theory) <= relative * abs(theory))
        self.rows.append((claim, f"{theory:.4g}", f"≈ {measured:.4g}", ok))

    def true(self, claim: str, ok: Any, theory: Any = "yes", measured: Any = None) -> None:
        """Claim that something holds."""
        shown = ("yes" if ok else "no") if measured is None else plain(measured)
        self.rows.append((claim, plain(theory), shown, bool(ok)))

    def need_mpirun(self, *claims: str) -> None:
        """Name claims about processes, which ranks that are threads cannot measure. They are not counted."""
        self.rows += [(claim, "", "needs mpirun", None) for claim in claims]

    def print(self, world: Communicator | None = None) -> None:
        """Print the table on rank 0, in 80 columns. Raise UserError if a row fails, which ends the run."""
        table = Table("claim", box=None, pad_edge=False)
        for heading in ("theory", "measured", "ok"):
            table.add_column(heading, justify="right", no_wrap=True)
        for claim, theory, measured, ok in self.rows:
            table.add_row(claim, theory, measured, "" if ok is None else "ok" if ok else "NO")
        if world is None or world.rank == 0:
            text = io.StringIO()
            console = Console(
                file=text, width=80, highlight=False, markup=False, color_system=None, force_jupyter=False
            )
            console.print(table)
            print("\n" + "\n".join(line.rstrip() for line in text.getvalue().splitlines()), flush=True)
        wrong = [claim for claim, _, _, ok in self.rows if ok is False]
        if wrong or all(ok is None for *_, ok in self.rows):
            raise UserError(f"the receipt does not add up: {', '.join(wrong) or 'it is empty'}")


def plain(value: Any) -> str:
    """Format numbers with thousands separators, other values as they are."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
