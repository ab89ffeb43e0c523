"""Exercises of students with numbers of their own."""

from minitrain.lessons.manifest import Exercise
from minitrain.lessons.numbers import hashed, individual
from tests.lessons.together import BY_ID

SALT = "a long secret"


def own(id: str, student: str = "anna") -> Exercise:
    """Return an exercise as this student gets it."""
    return individual(BY_ID[id], hashed(SALT, student))
