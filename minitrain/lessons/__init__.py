"""The course's machine: the student's command `lessons`, the checkers' common parts, the texts' comparison.

The lessons themselves are in the folder lessons/ (course.py): each has one idea, one command, one picture, a claim that
the run proves, and exercises with a checker.
"""
