"""Divided forms of layers: base classes that Plan.change puts in front of a layer's own class."""

from typing import Any

from ..backend import Array
from ..data.batch import Batch
from ..errors import UserError
from ..loss_denominators import batch_at_work
from ..nn import Module, Parameter
from ..tensor import Tensor
from .tensor_parallel import TIME, TensorIO


class DividedLayer(Module):
    """A layer whose input or output passes through `io`."""

    io: TensorIO

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise UserError: a copy (copy.deepcopy, pickle) would hold only this rank's part."""
        raise UserError(
            f"{self.path} cannot be copied: this rank holds only a part of it.\n"
            "Gather the model first (minitrain.train.checkpoint.gather) and restore it into a new one"
        )


class Multiplies(DividedLayer):
    """A layer that holds a part of its matrix. wrong: the message for an x with the wrong number of columns."""

    fan_in: int
    word: str
    wrong: str

    def given(self, x: object) -> Tensor:
        """Return x (..., fan_in). Raise UserError if x is not a Tensor or has a different number of columns."""
        x = first_of(self, self.word, x)
        if x.shape[-1] != self.fan_in:
            raise UserError(self.wrong.format(path=self.path, fan_in=self.fan_in, shape=x.shape))
        return x


def first_of(layer: Module, word: str, x: object) -> Tensor:
    """Return x, the first argument of a layer. Raise UserError if it is not a Tensor."""
    if not isinstance(x, Tensor):
        raise UserError(
            f"plan.{word}({layer.path}): its first positional argument must be a Tensor, because that is what the "
            f"ranks exchange; it got {'none' if x is None else f'a {type(x).__name__}'}"
        )
    return x


class Columns(Multiplies):
    """A layer that holds columns of its matrix; its input is the whole x."""

    word = "column"
    wrong = (
        "plan.column({path}): it needs all {fan_in} columns of x, but x has shape {shape}.\n"
        "After another column layer, use plan.row"
    )


class Rows(Multiplies):
    """A layer that holds rows of its matrix; its input has the matching columns of x."""

    word = "row"
    wrong = (
        "plan.row({path}): this rank holds {fan_in} of its rows, but x has shape {shape}.\n"
        "If that is the whole x, use plan.column; if its columns are heads, use plan.row(it, parts=heads)"
    )


class Column(Columns):
    """Column-divided form of any layer."""

    def __call__(self, x: object = None, *rest: object, **options: object) -> Tensor:
        """x (..., I), whole -> this rank's columns."""
        x = self.io.enter(self.cast_input("linear", self.given(x)))
        return super().__call__(x, *rest, **options)


class Row(Rows):
    """Row-divided form of any linear layer: the ranks' outputs are summed."""

    def __call__(self, x: object = None, *rest: object, **options: object) -> Tensor:
        """x (..., I), this rank's columns -> (..., O), the sum over ranks. The checks raise UserError if not linear."""
        columns = self.given(x)
        y = super().__call__(columns, *rest, **options)
        if self.io.look is not None:
            check_linear(self.path, y, super().__call__(Tensor(columns.data * -2), *rest, **options))
        return self.io.leave(y)


def check_linear(path: str, y: Tensor, other: Tensor) -> None:
    """Raise UserError unless f(-2x) = -2 f(x), where y = f(x) and other = f(-2x)."""
    if not y.data.size:
        return
    bound = (1e-9 if y.dtype.itemsize == 8 else 1e-2) * float(abs(y.data).max())
    if float(abs(other.data + 2 * y.data).max()) <= bound:
        return
    raise UserError(
        f"plan.row({path}): the layer is not linear, so the ranks' results cannot be summed: f(-2x) is not -2 f(x)."
        "\nUse it only to multiply by its matrix, and apply bias and activation afterwards"
    )


class Gathered(DividedLayer):
    """A layer that every rank calls on the whole x. Ids (an Array) and None, for a first unit, are already whole."""

    word = "gather"

    def __call__(self, x: Tensor | Array | None = None, *rest: object, **options: object) -> Tensor:
        """Gather x (B, T or T/t, ...) and call the layer with it. Raise UserError if x is given by keyword."""
        if x is None and any(isinstance(it, Tensor) for it in options.values()):
            first_of(self, self.word, x)
        x = self.taken(x) if isinstance(x, Tensor) else x
        every = [self.all_of(it) for it in rest]
        options = {name: self.all_of(it) for name, it in options.items()}
        return super().__call__(x, *every, **options)

    def taken(self, x: Tensor) -> Tensor:
        """Return the whole x (B, T, ...)."""
        return self.io.whole(x)

    def all_of(self, it: object) -> object:
        """Return a batch with its whole sequence; anything else unchanged."""
        return self.io.all_of(it) if isinstance(it, Batch) else it


class Entered(Gathered):
    """A gathered layer whose output meets divided columns: each rank returns only a partial gradient of x."""

    word = "enter"

    def taken(self, x: Tensor) -> Tensor:
        """Return the whole x (B, T, ...); its gradient is summed over ranks."""
        return self.io.enter(x)


class Everywhere(Gathered):
    """A gathered layer that is followed by residual layers."""

    word = "everywhere"

    def __call__(self, x: Tensor | Array | None = None, *rest: object, **options: object) -> Tensor:
        """Return the output; under sequence parallel, this rank's shard of it along time."""
        time = TIME if x is None or isinstance(x, Tensor) else x.ndim - 1
        return self.io.own(super().__call__(x, *rest, **options), time)


class ResidualDropout(DividedLayer):
    """A dropout that draws its mask for whole rows."""

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """Apply dropout to x (B, T, D). During the checks, raise UserError if x differs between ranks."""
        if self.io.look is not None:
            self.io.look.check_dropout(self.path, x)
        return super().__call__(x, batch)


class Unit(DividedLayer):
    """A unit of the model. It tells `io` when it begins, and with which batch."""

    words: str  # how its layers are divided, for a message

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Call the unit. Raise UserError, with advice, if shapes do not match once its layers are divided."""
        borders = self.io.borders
        x = x if x is None or borders is None else borders.enter(self.path, x)
        part = self.io.unit(batch)
        try:
            with batch_at_work(part):
                y = super().__call__(x, part)
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.path}, with its layers divided: {error}.\n{self.advice()}") from error
        finally:
            self.io.entered.clear()
        return y if borders is None else borders.leave(self.path, y)

    def advice(self) -> str:
        """Return advice for a unit that runs on one process but not divided."""
        if self.words:
            return f"If it runs on one process, its `shard` is wrong or incomplete: {self.words}"
        return (
            "If it runs on one process, its `shard` divides no layer. If it computes the loss from the whole x, use "
            "plan.gather(self); if it uses several positions, plan.everywhere(self)"
        )


class ColumnLinear(Columns):
    """nn.Linear divided by columns."""

    weight: Parameter
    bias: Parameter | None

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """x (..., I), whole -> (..., *O), this rank's columns."""
        return self.io.column(self.cast_input("linear", self.given(x)), self.weight, self.bias, gelu)


class RowLinear(Rows):
    """nn.Linear divided by rows."""

    weight: Parameter
    bias: Parameter | None

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """x (..., I), this rank's columns -> (..., O), the sum over ranks."""
        return self.io.row(self.cast_input("linear", self.given(x)), self.weight, self.bias, gelu)


class VocabularyEmbedding(DividedLayer):
    """Token table divided by rows. An id whose row another rank holds gives zeros; the sum over ranks gives its row."""

    weight: Parameter

    def __call__(self, ids: Array) -> Tensor:
        """ids (...) -> (..., D)."""
        return self.io.rows(ids, self.weight, self.compute_dtype("embedding", self.weight.dtype))


class WholeEmbedding(DividedLayer):
    """A token table that every rank holds whole."""

    def __call__(self, ids: Array) -> Tensor:
        """ids (..., T) -> (..., T, D); under sequence parallel (..., T/t, D)."""
        return super().__call__(self.io.own_ids(ids))


class VocabularyClassifier(DividedLayer):
    """Logits for this rank's part of the vocabulary, and their cross-entropy."""

    weight: Parameter

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> the loss (), or all logits (B, T, V) if unlabelled. Raise UserError for a wrong label."""
        return self.io.classify(self.cast_input("linear", x), self.weight, batch)


# A cache: layers of one class keep a common class.
FORMS: dict[tuple[type[DividedLayer], type[Module]], type[Module]] = {}


def in_form(form: type[DividedLayer], kind: type[Module]) -> type[Module]:
    """Return the class `kind` with its divided form in front, under its own name."""
    if (form, kind) not in FORMS:
        FORMS[form, kind] = type(kind.__name__, (form, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
    return FORMS[form, kind]
