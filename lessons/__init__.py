"""The lessons: one idea each, one command, one picture, one claim that the run proves, and exercises with a checker.

`python -m lessons` is the student's command; README.md says how to start.
"""
