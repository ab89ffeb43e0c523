"""A file of somebody's own: the function in it that makes a model, and the batches that the model is shown.

    FILE.py:make_model      takes no argument and returns a new minitrain.models.Model
    make_batch(number)      in the same file, if there is one: global batch `number`; otherwise ids at random

Whatever goes wrong in it is said in a sentence, with the line, on every rank alike.
"""

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from .. import rng
from ..backend import to_device
from ..comm.threads import RankFailed
from ..data.batch import Batch, Where
from ..errors import UserError, shown
from ..models import Model
from ..nn import Embedding
from ..parallel.parallelize import kinds_of
from ..train.checks import check_global

CONTEXT = 7  # odd, so that no number of ranks divides it
Made = TypeVar("Made")


class OwnFile:
    """The file, imported."""

    def __init__(self, where: str) -> None:
        """where: FILE.py:function. Raise UserError for a file or a function that is not there, or fails."""
        file, _, self.function = where.rpartition(":") if ":" in where else (where, "", "make_model")
        self.path = Path(file).resolve()
        if not self.path.is_file() or self.path.suffix != ".py":
            raise UserError(f"there is no Python file {shown(file)}; give FILE.py:make_model, a function that is in it")
        module = self.imported()
        make, self.make_batch = getattr(module, self.function, None), getattr(module, "make_batch", None)
        if not callable(make):
            own = [name for name, x in vars(module).items() if isfunction(x) and x.__module__ == module.__name__]
            raise UserError(
                f"{file} has no function {shown(self.function)} (it has {', '.join(own[:5]) or 'none'}); "
                "give FILE.py:make_model, a function without arguments that returns a new minitrain.models.Model"
            )
        self.make = make

    def imported(self) -> ModuleType:
        """The module, for which files beside it can be imported as well."""
        name = f"own_{self.path.stem}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        assert spec is not None and spec.loader is not None  # it is a .py
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        if str(self.path.parent) not in sys.path:
            sys.path.append(str(self.path.parent))
        with self.blamed("cannot be imported"):
            spec.loader.exec_module(module)
        return module

    def models(self) -> tuple[Model, Model]:
        """Two models, alike. Raise UserError for what is no model, and for two that are not."""
        made = []
        for _ in range(2):
            with self.blamed(f"failed: {self.function}() is called without arguments, and"):
                model = self.make()
            if not isinstance(model, Model):
                raise UserError(
                    f"{self.function}() in {self.path.name} returned {shown(model)}; "
                    "it must return a minitrain.models.Model, such as Model([unit, unit, ...])"
                )
            made.append(model)
        one, other = made
        kinds = [kinds_of(model) for model in made]
        if not kinds[0]:
            raise UserError(f"the model of {self.function}() has no parameters, and there is nothing to compare")
        path = next((path for path in {**kinds[0], **kinds[1]} if kinds[0].get(path) != kinds[1].get(path)), None)
        if path is not None or {*one.parameters()} & {*other.parameters()}:
            what = "the same parameters" if path is None else f"another {path}"
            raise UserError(
                f"{self.function}() returned {what} when it was called again: it must make a new model in each call, "
                "with the same values (a seed for random numbers), or without values, which are then drawn"
            )
        return one, other

    def batches(self, model: Model, steps: int, seed: int, sizes: dict[str, int | None], samples: int) -> list[Batch]:
        """The global batches of all steps. sizes: what was asked for; samples: of a batch, unless it was.

        Raise UserError for batches that are none, and where nothing tells the vocabulary.
        """
        if self.make_batch is not None:
            given = next((f"--{name} {n}" for name, n in sizes.items() if n is not None), None)
            if given is not None:
                raise UserError(
                    f"{given} is for ids drawn at random, and {self.path.name} has make_batch: leave it out"
                )
            return [self.own_batch(number) for number in range(steps)]
        tables = dict.fromkeys(m.weight.placement.shape[0] for m in model.modules() if isinstance(m, Embedding))
        rows = list(tables)  # the first is of tokens; the second, if any, of positions
        V, B = sizes["vocabulary"] or (rows[0] if rows else 0), sizes["batch"] or samples
        if not V:
            raise UserError(
                "the model has no nn.Embedding, whose rows would say how many ids there are: give --vocabulary, or, "
                "for other inputs than ids, define make_batch(number) in the file, which returns a Batch with labels"
            )
        T = sizes["context"] or min([CONTEXT, *rows[1:2]])
        return [ids(seed, number, B, T, V) for number in range(steps)]

    def own_batch(self, number: int) -> Batch:
        """What make_batch returns. Raise UserError unless it is a whole global batch with labels."""
        with self.blamed(f"failed: make_batch({number})"):
            batch = self.make_batch(number)  # type: ignore[misc]
        try:
            check_global(batch)
        except UserError as error:
            raise UserError(f"make_batch({number}) in {self.path.name}: {error}") from error
        return batch

    def alone(self, run: Iterator[Made]) -> Made:
        """The next step on one process. Raise UserError where the model does not even do that."""
        try:
            with self.blamed("does not run on one process:"):
                return next(run)
        except UserError as error:
            if self.make_batch is not None:
                raise
            raise UserError(
                f"{error}\nThe model was given ids at random: see --vocabulary and --context; for other inputs define "
                "make_batch(number) in the file"
            ) from error

    @contextmanager
    def blamed(self, said: str, all_errors: bool = True) -> Iterator[None]:
        """Raise what is raised meanwhile as a UserError with the line of the file; all_errors: also without one."""
        try:
            yield
        except (UserError, RankFailed):
            raise
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in frames[::-1] if frame.filename == str(self.path)), None)
            if line is None and not all_errors:
                raise
            at = "" if line is None else f", at line {line}"
            raise UserError(f"{self.path.name} {said} raised {type(error).__name__}: {error}{at}") from error


def ids(seed: int, number: int, B: int, T: int, V: int) -> Batch:
    """Global batch `number`: B rows of T ids below V, each labelled with the next one."""
    drawn = rng.integers(rng.key(seed, "compare model", number), B * (T + 1), V).reshape(B, T + 1)
    where = Where(seed, number, B, T, slice(0, B), slice(0, T))
    return Batch(to_device(drawn[:, :-1]), to_device(drawn[:, 1:]), where)
