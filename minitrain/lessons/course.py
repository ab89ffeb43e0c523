"""The lessons' folders as a package: import_module("minitrain.lessons.course.07_data_parallel.check").

In a clone they are in lessons/, next to minitrain/. An installation without a clone has them in this folder.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
COURSE = HERE / "course" if (HERE / "course").exists() else HERE.parents[1] / "lessons"
__path__ = [str(COURSE)]
