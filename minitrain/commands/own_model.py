"""A user's own file: a function that makes a model, and the batches for it.

    FILE.py:make_model      takes no argument and returns a new minitrain.models.Model
    make_batch(number)      optional, in the same file: returns global batch `number`; without it, ids are random

An error in the file is reported in one sentence with its line number, the same on every rank.
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
from ..train.trainer_arguments import check_global

CONTEXT = 7  # not a multiple of 2, 3, 4, 5 or 6 ranks
Made = TypeVar("Made")


class OwnFile:
    """A user's file, imported."""

    def __init__(self, where: str) -> None:
        """where: FILE.py:function. Raise UserError if the file or the function is missing, or the import fails."""
        file, _, self.function = where.rpartition(":") if ":" in where else (where, "", "make_model")
        self.path = Path(file).resolve()
        if not self.path.is_file() or self.path.suffix != ".py":
            raise UserError(f"there is no Python file {shown(file)}; give FILE.py:make_model, a function in that file")
        module = self.imported()
        make, self.make_batch = getattr(module, self.function, None), getattr(module, "make_batch", None)
        if not callable(make):
            functions = [name for name, x in vars(module).items() if isfunction(x) and x.__module__ == module.__name__]
            raise UserError(
                f"{file} has no function {shown(self.function)} (it has {', '.join(functions[:5]) or 'none'}); "
                "give FILE.py:make_model, a function without arguments that returns a new minitrain.models.Model"
            )
        self.make = make

    def imported(self) -> ModuleType:
        """Import and return the module, which can import from its own folder. Raise UserError if that fails."""
        name = f"own_{self.path.stem}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        assert spec is not None and spec.loader is not None  # it is a .py
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        if str(self.path.parent) not in sys.path:
            sys.path.append(str(self.path.parent))
        with self.blamed("cannot be imported: it"):
            spec.loader.exec_module(module)
        return module

    def models(self) -> tuple[Model, Model]:
        """Return two equal models. Raise UserError unless the function returns a new, equal Model on each call."""
        made = []
        for _ in range(2):
            with self.blamed(f"failed: {self.function}(), called without arguments,"):
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
            raise UserError(f"the model of {self.function}() has no parameters, so there is nothing to compare")
        path = next((path for path in {**kinds[0], **kinds[1]} if kinds[0].get(path) != kinds[1].get(path)), None)
        if path is not None or {*one.parameters()} & {*other.parameters()}:
            what = "the same parameters" if path is None else f"a different {path}"
            raise UserError(
                f"{self.function}() returned {what} when it was called again: it must make a new model on each call, "
                "either with the same values (use a seed for random numbers) or with uninitialized parameters"
            )
        return one, other

    def batches(self, model: Model, steps: int, seed: int, sizes: dict[str, int | None], samples: int) -> list[Batch]:
        """Return the global batches of all steps. sizes: options, None if not given; samples: the default batch size.

        Raise UserError for invalid batches, or if the size of the vocabulary is unknown.
        """
        if self.make_batch is not None:
            given = next((f"--{name} {n}" for name, n in sizes.items() if n is not None), None)
            if given is not None:
                raise UserError(f"{given} is for random ids, but {self.path.name} has make_batch: leave it out")
            return [self.own_batch(number) for number in range(steps)]
        tables = dict.fromkeys(m.weight.placement.shape[0] for m in model.modules() if isinstance(m, Embedding))
        rows = list(tables)  # the first table is for tokens; the second, if any, for positions
        V, B = sizes["vocabulary"] or (rows[0] if rows else 0), sizes["batch"] or samples
        if not V:
            raise UserError(
                "the model has no nn.Embedding to take the number of ids from: give --vocabulary. If its inputs are "
                "not ids, define make_batch(number) in the file, which returns a Batch with labels"
            )
        T = sizes["context"] or min([CONTEXT, *rows[1:2]])
        return [ids(seed, number, B, T, V) for number in range(steps)]

    def own_batch(self, number: int) -> Batch:
        """Return what make_batch returns. Raise UserError unless it is a whole global batch with labels."""
        with self.blamed(f"failed: make_batch({number})"):
            batch = self.make_batch(number)  # type: ignore[misc]
        try:
            check_global(batch)
        except UserError as error:
            raise UserError(f"make_batch({number}) in {self.path.name}: {error}") from error
        return batch

    def alone(self, run: Iterator[Made]) -> Made:
        """Return the next step on one process. Raise UserError if the model fails even there."""
        try:
            with self.blamed("does not run on one process: it"):
                return next(run)
        except UserError as error:
            if self.make_batch is not None:
                raise
            raise UserError(
                f"{error}\nThe model was given random ids: see --vocabulary and --context. For other inputs, define "
                "make_batch(number) in the file"
            ) from error

    @contextmanager
    def blamed(self, doing: str, all_errors: bool = True) -> Iterator[None]:
        """Re-raise an exception as a UserError with the line in the file. all_errors: even if there is no such line."""
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
            raise UserError(f"{self.path.name} {doing} raised {type(error).__name__}: {error}{at}") from error


def ids(seed: int, number: int, B: int, T: int, V: int) -> Batch:
    """Return global batch `number`: B rows of T random ids below V, each labelled with the next id."""
    drawn = rng.integers(rng.key(seed, "compare model", number), B * (T + 1), V).reshape(B, T + 1)
    where = Where(seed, number, B, T, slice(0, B), slice(0, T))
    return Batch(to_device(drawn[:, :-1]), to_device(drawn[:, 1:]), where)
