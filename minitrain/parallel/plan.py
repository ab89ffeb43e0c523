"""How the layers of a model are divided among the ranks of the tp axis.

A module describes this in its method `shard`, for the layers below it:

    class SwiGLU(Module):
        def shard(self, plan):
            plan.column(self.gate, self.up)     # x A, with the columns of A divided
            plan.row(self.down)                 # h B, with the rows of B divided: the ranks' results are summed

        def __call__(self, x):
            g = self.gate(x)
            return self.down(g / (F.exp(-g) + 1) * self.up(x))

Only the layers change, in place. The module's own `__call__` runs unmodified; between a column and a row layer it works
on this rank's columns. A divided layer's class inherits from its divided form (divided_layers.py) and from its original
class, so shared layers, paths and isinstance keep working. All communication goes through one object, `io`, which is
what differs between tensor parallel and sequence parallel.

    method      each rank holds                                 input                          output
    column      columns of the matrix (I, *O) and of the bias   the whole x                    its columns
    heads       the same, along the next-to-last axis of *O     the whole x                    its heads
    row         rows of the matrix                              its columns                    the sum over ranks
    vocabulary  rows of a token table, or of a classifier       all ids; the whole x           whole rows; the loss
    split       a slice of one parameter
    inside      all parameters                                  between column and row         the same
    enter       all parameters                                  the whole x                    meets divided columns
    residual    all parameters                                  x outside divided layers       the same
    gather      all parameters                                  the whole x                    unchanged: a loss, logits
    everywhere  all parameters                                  the whole x                    residual again

Under tensor parallel, x and its gradients are the same on all ranks wherever nothing is divided. Under sequence
parallel, each rank has a shard of the sequence there, and parameter gradients are partial sums: a `residual` layer must
therefore treat each position independently, and declares it with `per_position = True`. Gradients of parameters named
`inside` or `enter` are partial sums in both.

A module that divides layers must name every layer below it, including Dropout. In other modules, an unnamed layer is
residual. A wrong or missing name is rejected before the first step (plan_checks.py), or detected during it
(division_checks.py).

Shoeybi et al., arXiv:1909.08053, section 3; Korthikanti et al., arXiv:2205.05198, section 4.2.
"""

from ..comm.mesh import Mesh
from ..errors import UserError, check_whole
from ..models import Model
from ..nn import Classifier, Dropout, Embedding, Linear, Module, Parameter, Shard
from .divided_layers import (
    Column,
    ColumnLinear,
    DividedLayer,
    Entered,
    Everywhere,
    Gathered,
    ResidualDropout,
    Row,
    RowLinear,
    Unit,
    VocabularyClassifier,
    VocabularyEmbedding,
    WholeEmbedding,
    in_form,
)
from .held_parameters import HeldParameters
from .plan_checks import (
    all_named,
    check_divided,
    check_per_position,
    check_shard,
    check_siblings,
    check_things,
    check_words,
    largest_first,
    leaves,
    own_parameters,
    path_of,
    said_about,
)
from .tensor_parallel import TensorIO


class Plan:
    """The methods that a `shard` calls, and a record of what each was called for.

    io: how activations enter and leave divided layers; its group is the tp axis.
    """

    def __init__(self, io: TensorIO) -> None:
        self.io, self.tp, self.sequence = io, io.group.size, io.sequence
        self.named: dict[Module | Parameter, str] = {}
        self.held = HeldParameters(self.sequence)
        self.places: dict[str, int] = {}  # path of a unit -> its index in the whole model
        self.joined = False  # whether divided activations may pass from unit to unit, as in the MLP
        self.looks = False  # whether a layer checks its own input: see TensorIO.look

    # Methods for `shard` ----------------------------------------------------------------------------------------------

    def column(self, *layers: Module, axis: int = 0, word: str = "column") -> None:
        """Divide the columns of a matrix (I, *O) and of a bias (*O) along axis `axis` of *O.

        Columns are cut in storage order. If a later reshape would split them into heads, put the heads in the shape
        and use `heads`. word: the method's name, for messages. Raise UserError for a layer without one such matrix, or
        an invalid axis.
        """
        check_things(word, layers, Module)
        for layer in layers:
            if self.name(layer, word):
                matrix, *biases = self.matrices(layer, word)
                check_whole(f"plan.{word}({path_of(layer)}): axis", axis, 0, len(matrix.placement.shape) - 2)
                for p, dim in ((matrix, 1 + axis), *((bias, axis) for bias in biases)):
                    self.divide(p, dim, matrix.placement.shape[1 + axis], layer)
                self.change(layer, ColumnLinear if calls(layer, Linear) else Column)
                layer.fan_in = matrix.shape[0]

    def heads(self, *layers: Module) -> None:
        """Divide the columns by heads: the next-to-last axis of *O, as in (3, H, D/H) and (H, D/H).

        Raise UserError if the matrix has no such axis, or fewer heads than there are ranks.
        """
        check_things("heads", layers, Module)
        for layer in layers:
            shape = self.matrices(layer, "heads")[0].placement.shape
            if len(shape) < 3:
                raise UserError(
                    f"plan.heads({path_of(layer)}) needs a matrix (I, ..., H, D/H), not {shape}.\n"
                    "Give it that shape, or use plan.column if the columns are independent"
                )
            if self.tp > shape[-2]:
                around = path_of(layer).rpartition(".")[0] or path_of(layer)
                raise UserError(f"--tp is {self.tp}, but {around} has {shape[-2]} heads; allowed: 1 to {shape[-2]}")
            self.column(layer, axis=len(shape) - 3, word="heads")

    def row(self, *layers: Module, parts: int = 0) -> None:
        """Divide the rows of a matrix (I, O), in `parts` equal blocks that stay whole, such as heads, or row by row.

        Raise UserError for a layer other than nn.Linear that adds a bias.
        """
        check_things("row", layers, Module)
        for layer in layers:
            if self.name(layer, "row"):
                matrix, *biases = self.matrices(layer, "row")
                if biases and not calls(layer, Linear):
                    raise UserError(
                        f"plan.row({path_of(layer)}): {type(layer).__name__} adds {biases[0].placement.path}, "
                        "which every rank would add.\nUse nn.Linear itself, or a layer without a bias"
                    )
                self.divide(matrix, 0, parts or matrix.placement.shape[0], layer)
                self.held.record(biases, "whole", layer)
                self.looks |= not calls(layer, Linear)
                self.change(layer, RowLinear if calls(layer, Linear) else Row)
                layer.fan_in = matrix.shape[0]

    def vocabulary(self, *layers: Module) -> None:
        """Divide the rows (one per id) of an nn.Embedding or an nn.Classifier. Raise UserError for other layers."""
        check_things("vocabulary", layers, Module)
        for layer in layers:
            kind = Embedding if isinstance(layer, Embedding) else Classifier
            if not isinstance(layer, (Embedding, Classifier)):
                raise UserError(
                    f"plan.vocabulary({path_of(layer)}) is for an nn.Embedding or an nn.Classifier, but this is a "
                    f"{type(layer).__name__}; use plan.column or plan.row for a layer that multiplies by a matrix"
                )
            if not calls(layer, kind):
                word = "everywhere" if kind is Embedding else "gather"
                raise UserError(
                    f"plan.vocabulary({path_of(layer)}): {type(layer).__name__} defines its own __call__, which a "
                    f"divided vocabulary would replace.\nAdd to the class: def shard(self, plan): plan.{word}(self)"
                )
            if self.name(layer, "vocabulary"):
                weight: Parameter = layer.weight
                self.divide(weight, 0, weight.placement.shape[0], layer)
                self.change(layer, VocabularyEmbedding if kind is Embedding else VocabularyClassifier)

    def split(self, p: Parameter, dim: int, unit: int = 1) -> None:
        """Divide dimension `dim` of a parameter in steps of `unit`, such as a vector that scales a layer's columns.

        Raise UserError for an axis that p does not have, or a size that is not a multiple of `unit`.
        """
        check_things("split", (p,), Parameter)
        shape = p.placement.shape
        check_whole(f"plan.split({p.placement.path}), of shape {shape}: the axis", dim, 0, len(shape) - 1)
        check_whole(f"plan.split({p.placement.path}): unit", unit, 1)
        if shape[dim] % unit:
            raise UserError(
                f"plan.split({p.placement.path}): axis {dim} has size {shape[dim]}, which is not a multiple of {unit}"
            )
        if self.name(p, "split"):
            self.divide(p, dim, shape[dim] // unit, None)

    def inside(self, *things: Module | Parameter) -> None:
        """Name what is whole on every rank between a column and a row: a norm over each head, or attention itself.

        Raise UserError for a Dropout with p > 0.
        """
        check_things("inside", things, Module, Parameter)
        for thing in things:
            for layer in leaves(thing) if isinstance(thing, Module) else ():
                if isinstance(layer, Dropout) and layer.p:
                    raise UserError(
                        f"plan.inside({path_of(layer)}): a Dropout draws its mask for whole rows, but here each rank "
                        "has only some columns.\nMove it after the row layer, or set p = 0"
                    )
            self.keep(thing, "inside")

    def enter(self, *layers: Module) -> None:
        """Name layers that are whole on every rank and compute from the whole x what meets divided columns.

        Examples: the one head of k and v in multi-query attention; a gate that multiplies each head.
        """
        check_things("enter", layers, Module)
        for layer in layers:
            self.keep(layer, "enter", Entered)

    def residual(self, *things: Module | Parameter) -> None:
        """Name layers or parameters that are whole on every rank and lie before the columns or after the rows."""
        for thing in things:
            self.keep(thing, "residual")

    def gather(self, *things: Module | Parameter) -> None:
        """Name what is whole on every rank and needs the whole x; its output stays as it is, like a loss."""
        for thing in things:
            self.keep(thing, "gather", Gathered)

    def everywhere(self, *things: Module | Parameter) -> None:
        """Name what is whole on every rank, needs the whole x, and is followed by residual layers."""
        for thing in things:
            self.keep(thing, "everywhere", Everywhere)

    # What these methods do --------------------------------------------------------------------------------------------

    def name(self, thing: Module | Parameter, word: str) -> bool:
        """Record the name. Return False if it was given before; raise UserError if a different one was."""
        before = self.named.get(thing)
        if before not in (None, word):
            raise UserError(f"{path_of(thing)} is named twice: plan.{before} and plan.{word}; remove one")
        self.named[thing] = word
        return before is None

    def keep(self, thing: Module | Parameter, word: str, form: type[DividedLayer] | None = None) -> None:
        """Record a layer (with all below it) or a parameter that is whole on every rank; `form`: its divided form."""
        check_things(word, (thing,), Module, Parameter)
        if not self.name(thing, word):
            return
        if isinstance(thing, Parameter):
            self.held.record([thing], word, None)
            return
        for layer in thing.modules():
            self.held.record(own_parameters(layer), word, layer)
            below: list[Module | Parameter] = [layer, *own_parameters(layer)]
            for one in below:
                self.named.setdefault(one, word)
            if word == "residual" and isinstance(layer, Embedding):
                self.change(layer, WholeEmbedding)
        if form is not None:
            self.change(thing, form)

    def divide(self, p: Parameter, dim: int, n: int, layer: Module | None) -> None:
        """Reduce p to this rank's shard of dimension dim, in steps of shape[dim] / n. Divide a shared parameter once.

        Raise UserError if n is 1 (a rank holding the whole parameter would mistake it for a replicated one) or does
        not divide shape[dim].
        """
        if self.tp > n == 1:
            raise UserError(f"--tp is {self.tp}, but {p.placement.path} has size 1 along the divided axis; allowed: 1")
        if p.placement.shape[dim] % n:
            raise UserError(
                f"{p.placement.path} has shape {p.placement.shape}: axis {dim} does not divide into {n} equal parts"
            )
        self.held.record([p], f"divided along axis {dim} into {n}", layer)
        if p.placement.local == p.placement.shape:
            (axis,), how = Mesh.along("matrices"), Shard(dim, p.shape[dim] // n)
            p.placement = p.placement.shard(axis, how, self.tp, self.io.group.rank)

    def matrices(self, layer: Module, word: str) -> list[Parameter]:
        """Return [matrix (I, *O), biases (*O) ...] of a layer. Raise UserError if it has other parameters."""
        parameters = largest_first(layer)
        shapes = [p.placement.shape for p in parameters]
        if isinstance(layer, (Embedding, Classifier)):
            raise UserError(f"plan.{word}({path_of(layer)}) is for layers that multiply; use plan.vocabulary")
        if not parameters or len(shapes[0]) < 2 or any(shape != shapes[0][1:] for shape in shapes[1:]):
            raise UserError(
                f"plan.{word}({path_of(layer)}) needs a layer with one matrix (I, *O) and biases (*O), but it has "
                f"{', '.join(map(str, shapes)) or 'no parameters'}.\nBuild it from layers that have one matrix each"
            )
        return parameters

    def change(self, layer: Module, form: type[DividedLayer]) -> None:
        """Put the divided form in front of the layer's own class."""
        layer.__class__ = in_form(form, type(layer))
        layer.io = self.io

    # The whole model --------------------------------------------------------------------------------------------------

    def follow(self, model: Model) -> None:
        """Call the model's `shard`, check that every layer is named that must be, and change each unit to a Unit.

        Raise UserError if nothing is divided, or a name is missing or wrong.
        """
        for module in model.modules():
            check_shard(module)
        self.joined = type(model).shard is not Module.shard  # it covers all units at once
        with check_words(self):
            model.shard(self)
        check_divided(model, self.tp)
        for module in model.modules():
            for layer in check_siblings(self.named, module, self.tp):
                if isinstance(layer, Dropout) and layer.p and self.named[layer] == "residual":
                    self.change(layer, ResidualDropout)
                    self.looks = True
        for layer in leaves(model):
            if not all_named(self.named, layer):
                self.keep(layer, "residual")
            if self.sequence and self.named.get(layer) == "residual":
                check_per_position(layer, model.units)
        for module in model.modules():  # a parent may own a parameter, or share one of its children's
            if module not in self.named:
                self.held.record([p for p in own_parameters(module) if p not in self.named], "residual", module)
        for i, unit in enumerate(dict.fromkeys(model.units)):
            self.change(unit, Unit)
            unit.path = unit.path or f"units.{i}"  # a unit without a path would not be checked
            unit.words = said_about(self.named, unit)
            self.places[unit.path] = i


def calls(layer: Module, kind: type[Module]) -> bool:
    """Return whether the layer uses the `__call__` of this class, which a subclass may override."""
    return isinstance(layer, kind) and type(layer).__call__ is kind.__call__
