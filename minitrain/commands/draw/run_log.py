"""Read what a run has left in its folder: the rows of its log, and its options."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError, reason
from ...train.checkpoint_folder import candidates
from ...train.weights import metadata
from ..train import LOG, MODEL

Row = dict[str, Any]
MOST = 3  # options in a label


def rows_of(run: Path) -> list[Row]:
    """Return the rows of a run's log, one for each batch and a last one with the final validation.

    Raise UserError if the folder has no log, or one that is empty or damaged.
    """
    path = run / LOG
    if not path.is_file():
        what = f"{run} has no {LOG}" if run.is_dir() else f"there is no folder {run}"
        raise UserError(f"{what}; give the folder of a run: python -m minitrain train --out FOLDER makes one")
    try:
        lines = path.read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:  # ValueError: neither text nor JSON
        raise UserError(f"{path} cannot be read: {reason(error)}; it is no log of a run, or damaged") from error
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise UserError(f"{path} is no log of a run: each line must be an object with a step")
    if not any("loss" in row for row in rows):
        raise UserError(f"{path} has no updates yet: wait until the run has made some")
    return rows


def options_of(run: Path) -> Row:
    """Return the options of a run, from its model or its last checkpoint; empty if it has neither."""
    if (run / MODEL).is_file():
        about = json.loads(metadata(run / MODEL).get("minitrain", "{}"))
    else:
        found, _ = candidates(run)
        about = found[0][1].about if found else {}
    return {name: value for group in about.get("run", {}).values() for name, value in group.items()}


def labels(runs: Sequence[Path]) -> list[str]:
    """Return a name for each run: the options in which it differs from the others, such as "lr 0.01".

    Runs that differ in none or in many are named by their folders.
    """
    every = [options_of(run) for run in runs]
    differ = [name for name in every[0] if any(options.get(name) != every[0][name] for options in every)]
    named = [", ".join(f"{name.replace('_', '-')} {options.get(name)}" for name in differ) for options in every]
    good = all(every) and 0 < len(differ) <= MOST and len(set(named)) == len(runs)
    return named if good else [str(run) for run in runs]
