"""Whose folder is it? A student's own numbers are checked with the lecturer's salt; what a folder says of itself may be
another's."""

from dataclasses import replace
from unicodedata import normalize

from .numbers import hashed
from .submissions import Submission

UNVERIFIED = "own numbers, not verified without --salt"


def identified(found: list[Submission], salt: str) -> list[Submission]:
    """Return the submissions with the numbers that their students should have, and remarks about what does not fit.

    The ID is the one in the folder, or the folder's name if there is none. Without a salt, numbers stay as they are.
    """
    if not salt:
        return [replace(it, remark=UNVERIFIED) if it.numbers else it for it in found]
    ids = [normalize("NFC", it.id or it.folder) for it in found]
    owners = {hashed(salt, id): id for id in ids}
    identified = []
    for it, id in zip(found, ids, strict=True):
        same = [other.student for other, its in zip(found, ids, strict=True) if its == id and other is not it]
        remarks = [*_of_one(it, id, hashed(salt, id), owners), *(f"the same ID as {name}" for name in same[:3])]
        identified.append(replace(it, numbers=hashed(salt, id), remark="; ".join(remarks)))
    return identified


def _of_one(it: Submission, id: str, numbers: str, owners: dict[str, str]) -> list[str]:
    """Say what does not fit in one folder. owners: the numbers of the class -> ID."""
    if not it.id:
        return [f"no student ID: checked with the numbers of {id!r}"]
    remarks = []
    if it.numbers != numbers:
        has = f"has those of {owners[it.numbers]!r}" if it.numbers in owners else "does not have them"
        remarks.append(f"checked with the numbers of {id!r}, but the folder {has}")
    if id != normalize("NFC", it.folder):
        remarks.append(f"its ID is {id!r}")
    return remarks
