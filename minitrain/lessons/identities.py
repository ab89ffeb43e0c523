"""Whose folder is it? A student's own numbers are checked with the lecturer's salt; what a folder says of itself may be
another's."""

from collections.abc import Iterable
from dataclasses import replace
from unicodedata import normalize

from ..errors import UserError
from .manifest import Exercise
from .numbers import hashed, individual
from .predictions import is_right, name_of, said
from .submissions import Submission

UNVERIFIED = "own numbers, not verified without --salt"
FEW = 3  # students; a prediction that is right for more of them tells nothing


def identified(found: list[Submission], salt: str) -> list[Submission]:
    """Return the submissions with the numbers that their students should have, and remarks about what does not fit.

    The ID is the one in the folder, or the folder's name if there is none. Without a salt, numbers stay as they are.
    Raise UserError if no folder of several has numbers of this salt.
    """
    ids = [normalize("NFC", it.id or it.folder) for it in found]
    due = {id: hashed(salt, id) for id in ids} if salt else {}
    numbered = [it.numbers for it in found if it.id and it.numbers]
    if salt and len(numbered) > 1 and not set(numbered) & set(due.values()):
        raise UserError(
            f"the salt is another one than that of `lessons init`: none of {len(numbered)} folders has its numbers"
        )
    identified = []
    for it, id in zip(found, ids, strict=True):
        same = [other.student for other, its in zip(found, ids, strict=True) if other.id and its == id]
        remarks = [*_of_the_numbers(it, id, due), *_of_the_id(it, id)]
        remarks += [f"the same ID as {name}" for name in same[: FEW + 1] if it.id and name != it.student]
        identified.append(replace(it, numbers=due.get(id, it.numbers), remark="; ".join(remarks)))
    return identified


def _of_the_numbers(it: Submission, id: str, due: dict[str, str]) -> list[str]:
    """Say what does not fit in a folder's numbers. due: ID -> the right ones; {} if they are not known."""
    if not due:
        return [UNVERIFIED] if it.numbers else []
    if not it.id:
        return [f"no student ID: checked with the numbers of {id!r}"]
    if it.numbers == due[id]:
        return []
    owners = [owner for owner, numbers in due.items() if numbers == it.numbers]
    has = f"has those of {owners[0]!r}" if owners else "does not have them"
    return [f"checked with the numbers of {id!r}, but the folder {has}"]


def _of_the_id(it: Submission, id: str) -> list[str]:
    return [f"its ID is {id!r}"] if it.id and id != normalize("NFC", it.folder) else []


def compared(found: list[Submission], chosen: Iterable[Exercise]) -> list[Submission]:
    """Return the submissions with a remark on wrong predictions that are right for another student of the class."""
    remarks = {it.student: [it.remark] if it.remark else [] for it in found}
    for exercise in chosen:
        own = {it.student: individual(exercise, it.numbers) for it in found if it.numbers and exercise.own}
        for it in found:
            text = it.files.get(exercise.lesson.number, b"").decode("utf-8", "replace")
            value = said(own[it.student], text) if it.student in own else None
            if value is None or is_right(own[it.student], value):
                continue
            others = [name for name, theirs in own.items() if is_right(theirs, value)]
            if 0 < len(others) <= FEW:
                remarks[it.student].append(f"{name_of(exercise)} is that of {', '.join(others)}")
    return [replace(it, remark="; ".join(remarks[it.student])) for it in found]
