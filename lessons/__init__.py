"""The lessons: each has one idea, one command, one picture, a claim that the run proves, and exercises with a checker.

`python -m lessons` is the student's command; README.md explains how to start.
"""
