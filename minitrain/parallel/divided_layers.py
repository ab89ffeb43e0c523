"""Layers in their divided form, which comes before their own class: see Plan.change."""

from typing import Any

from ..autograd import Tensor
from ..backend import Array
from ..data.batch import Batch
from ..denominators import batch_at_work
from ..errors import UserError
from ..nn import Module, Parameter
from .tensor_parallel import TIME, TensorIO


class Divided(Module):
    """A layer whose input or output passes through `io`."""

    io: TensorIO

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise UserError: a copy (copy.deepcopy, pickle) would be of one rank's part."""
        raise UserError(
            f"{self.path} cannot be copied: this rank holds a part of it.\n"
            "Gather the model first, minitrain.train.checkpoint.gather, and restore it into a new one"
        )


class Multiplies(Divided):
    """What has a part of its matrix. wrong: what is said of an x with another number of columns."""

    fan_in: int
    word: str
    wrong: str

    def given(self, x: Any) -> Tensor:
        """x. Raise UserError for what this part of the matrix does not multiply."""
        x = first_of(self, self.word, x)
        if x.shape[-1] != self.fan_in:
            raise UserError(self.wrong.format(path=self.path, fan_in=self.fan_in, shape=x.shape))
        return x


def first_of(layer: Module, word: str, x: Any) -> Tensor:
    """x, the first argument of a layer. Raise UserError for what is no Tensor."""
    if not isinstance(x, Tensor):
        raise UserError(
            f"plan.{word}({layer.path}): it must be called with a Tensor as its first argument, by position, since "
            f"that is what ranks send each other; it is given {'none' if x is None else f'a {type(x).__name__}'}"
        )
    return x


class Columns(Multiplies):
    """What has columns of its own is given the whole x."""

    word = "column"
    wrong = (
        "plan.column({path}): it multiplies {fan_in} columns, and is given x {shape}, a part of them.\n"
        "Behind another column it is plan.row(it)"
    )


class Rows(Multiplies):
    """What has rows of its own is given as many columns, divided as they are."""

    word = "row"
    wrong = (
        "plan.row({path}): this rank has {fan_in} of its rows, and it is given x {shape}.\n"
        "Name it column if that is the whole x; if these are heads, plan.row(it, parts=heads)"
    )


class Column(Columns):
    """Any layer that multiplies by its own columns."""

    def __call__(self, x: Any = None, *rest: Any, **options: Any) -> Tensor:
        x = self.io.enter(self.at("linear", self.given(x)))
        return super().__call__(x, *rest, **options)  # type: ignore[misc]


class Row(Rows):
    """Any layer that is linear: what it makes is added up."""

    def __call__(self, x: Any = None, *rest: Any, **options: Any) -> Tensor:
        y = super().__call__(self.given(x), *rest, **options)  # type: ignore[misc]
        if self.io.look is not None:
            check_linear(self.path, y, super().__call__(Tensor(x.data * -2), *rest, **options))  # type: ignore[misc]
        return self.io.leave(y)


def check_linear(path: str, y: Tensor, other: Tensor) -> None:
    """Raise UserError unless the other, made of -2 x, is -2 y."""
    if not y.data.size:
        return
    bound = (1e-9 if y.dtype.itemsize == 8 else 1e-2) * float(abs(y.data).max())
    if float(abs(other.data + 2 * y.data).max()) <= bound:
        return
    raise UserError(
        f"plan.row({path}): the layer is not linear, so the ranks' results cannot be added up: of -2 x it does not "
        "make -2 times what it makes of x.\nLet it multiply only, and do the rest (bias, activation) after it"
    )


class Gathered(Divided):
    """A layer that every rank calls alike; ids are whole as they are, and so is what a first unit is given: nothing."""

    word = "gather"

    def __call__(self, x: Tensor | Array | None = None, *rest: Any, **options: Any) -> Tensor:
        if x is None and any(isinstance(it, Tensor) for it in options.values()):
            first_of(self, self.word, x)
        x = self.taken(x) if isinstance(x, Tensor) else x
        every = [self.all_of(it) for it in rest]
        options = {name: self.all_of(it) for name, it in options.items()}
        return super().__call__(x, *every, **options)  # type: ignore[misc]

    def taken(self, x: Tensor) -> Tensor:
        return self.io.whole(x)

    def all_of(self, it: Any) -> Any:
        """A batch as such a layer sees it; anything else as it is."""
        return self.io.all_of(it) if isinstance(it, Batch) else it


class Entered(Gathered):
    """And whose result meets what is divided: the gradient that comes back to x is a part of it on each rank."""

    word = "enter"

    def taken(self, x: Tensor) -> Tensor:
        return self.io.enter(x)


class Everywhere(Gathered):
    """A gathered one that is followed by residual layers."""

    word = "everywhere"

    def __call__(self, x: Tensor | Array | None = None, *rest: Any, **options: Any) -> Tensor:
        time = TIME if x is None or isinstance(x, Tensor) else x.ndim - 1
        return self.io.own(super().__call__(x, *rest, **options), time)


class ResidualDropout(Divided):
    """A dropout of whole rows."""

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        if self.io.look is not None:
            self.io.look.check_dropout(self.path, x)
        return super().__call__(x, batch)  # type: ignore[misc]


class Unit(Divided):
    """A unit of the model: it says when it begins, and with which batch."""

    words: str  # what is said about its layers

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Raise UserError for shapes that do not fit: those of its layers are not what its author had before him."""
        borders = self.io.borders
        x = x if x is None or borders is None else borders.enter(self.path, x)
        part = self.io.unit(batch)
        try:
            with batch_at_work(part):
                y = super().__call__(x, part)  # type: ignore[misc]
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.path}, with its layers divided: {error}.\n{self.advice()}") from error
        finally:
            self.io.entered.clear()
        return y if borders is None else borders.leave(self.path, y)

    def advice(self) -> str:
        """What to look at, if it runs on one process."""
        if self.words:
            return f"If it runs on one process, what `shard` says is wrong, or something is left out: {self.words}"
        return (
            "If it runs on one process: its `shard` names no layer that is divided. One that makes the loss from all "
            "of x says plan.gather(self), one that looks at several positions plan.everywhere(self)"
        )


class ColumnLinear(Columns):
    """nn.Linear by columns."""

    weight: Parameter
    bias: Parameter | None

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        return self.io.column(self.at("linear", self.given(x)), self.weight, self.bias, gelu)


class RowLinear(Rows):
    """nn.Linear by rows."""

    weight: Parameter
    bias: Parameter | None

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        return self.io.row(self.at("linear", self.given(x)), self.weight, self.bias, gelu)


class VocabularyEmbedding(Divided):
    """Rows of the table: an id that is another rank's gives a row of zeros here, and the sum has the right one."""

    weight: Parameter

    def __call__(self, ids: Array) -> Tensor:
        return self.io.rows(ids, self.weight, self.chosen("embedding", self.weight.dtype))


class WholeEmbedding(Divided):
    """A table that every rank has."""

    def __call__(self, ids: Array) -> Tensor:
        return super().__call__(self.io.own_ids(ids))  # type: ignore[misc]


class VocabularyClassifier(Divided):
    """Logits of this rank's part of the vocabulary, and their cross-entropy."""

    weight: Parameter

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.io.judge(self.at("linear", x), self.weight, batch)
