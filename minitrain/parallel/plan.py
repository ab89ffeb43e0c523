"""How the layers of a model are divided among the ranks of a tp axis.

A module says it in its method `shard`, about the layers below it:

    class SwiGLU(Module):
        def shard(self, plan):
            plan.column(self.gate, self.up)     # x A, with the columns of A divided
            plan.row(self.down)                 # h B, with the rows of B divided: the ranks' results are added up

        def __call__(self, x):
            g = self.gate(x)
            return self.down(g / (F.exp(-g) + 1) * self.up(x))

Only layers change, in place: the module's own `__call__` runs as it is, and what it computes between a column and a row
it computes on a part of the columns. A layer keeps its class, behind that of its divided form (tensor_parallel.py), so
that shared layers, paths and isinstance stay. What is sent stands in one object, `io`, in which tensor parallel and
sequence parallel differ.

    word        the layer has                                   it is given                    it gives
    column      columns of its matrix (I, *O), of its bias      the whole x                    its columns
    heads       the same, by the next to last axis of *O        the whole x                    its heads
    row         rows of its matrix                              its columns                    the sum over ranks
    vocabulary  rows of a token table, or of a classifier       all ids; the whole x           all; the loss
    split       a slice of a parameter, as said
    inside      all of its parameters                           what lies between              the same
    enter       all of its parameters                           the whole x                    what meets columns
    residual    all of its parameters                           x between such divisions       the same
    gather      all of its parameters                           the whole x                    as it is: a loss, logits
    everywhere  all of its parameters                           the whole x                    residual again

Under tensor parallel x is the same on all ranks wherever nothing is divided, and so are the gradients there. Under
sequence parallel it is a share of the time there, with partial gradients: so a `residual` layer has to work on each
position by itself, and says so by `per_position = True`. The gradient of what is named `inside` or `enter` is partial
in both.

In a module that divides layers each layer below it has to be named, Dropout as well; elsewhere one without a name is
residual. What is named wrongly, or not named, is refused before the first step, or found in it (division.py).

Shoeybi et al., arXiv:1909.08053, section 3; Korthikanti et al., arXiv:2205.05198, section 4.2.
"""

from ..comm.mesh import Mesh
from ..errors import UserError, check_whole
from ..models import Model
from ..nn import Classifier, Dropout, Embedding, Linear, Module, Parameter, Shard
from .divided_layers import (
    Column,
    ColumnLinear,
    Divided,
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
)
from .naming import (
    all_named,
    check_beside,
    check_per_position,
    check_shard,
    check_things,
    check_words,
    largest_first,
    leaves,
    own_parameters,
    path_of,
    said_about,
    spoken,
)
from .tensor_parallel import TensorIO


class Plan:
    """The words, and what has been named by them."""

    def __init__(self, io: TensorIO) -> None:
        self.io, self.tp, self.sequence = io, io.group.size, io.sequence
        self.named: dict[Module | Parameter, str] = {}
        self.held: dict[Parameter, tuple[str, str]] = {}  # how a parameter is held, and for which layer
        self.places: dict[str, int] = {}  # path of a unit -> its place in the whole model
        self.joined = False  # whether what is divided may pass from unit to unit, as in the MLP
        self.looks = False  # whether a layer looks at what it is given: see TensorIO.look

    # The words --------------------------------------------------------------------------------------------------------

    def column(self, *layers: Module, axis: int = 0, word: str = "column") -> None:
        """Divide the columns, axis `axis` of *O: of a matrix (I, *O) and of a bias (*O).

        They are cut as they lie. What a reshape makes heads of later belongs into the shape, and is for `heads`.
        """
        check_things(word, layers, Module)
        for layer in layers:
            if self.name(layer, word):
                matrix, *biases = self.matrices(layer, word)
                check_whole(f"plan.{word}({path_of(layer)}): axis", axis, 0, len(matrix.placement.shape) - 2)
                for p, dim in ((matrix, 1 + axis), *((bias, axis) for bias in biases)):
                    self.cut(p, dim, matrix.placement.shape[1 + axis], layer)
                self.change(layer, ColumnLinear if calls(layer, Linear) else Column)
                layer.fan_in = matrix.shape[0]

    def heads(self, *layers: Module) -> None:
        """Divide the columns by heads: the next to last axis of *O, as in (3, H, D/H) and (H, D/H)."""
        check_things("heads", layers, Module)
        for layer in layers:
            shape = self.matrices(layer, "heads")[0].placement.shape
            if len(shape) < 3:
                raise UserError(
                    f"plan.heads({path_of(layer)}) needs a matrix (I, ..., H, D/H), not {shape}.\n"
                    "Give it that shape; or plan.column, if each column is used by itself"
                )
            if self.tp > shape[-2]:
                around = path_of(layer).rpartition(".")[0] or path_of(layer)
                raise UserError(f"--tp is {self.tp}, but {around} has {shape[-2]} heads; allowed: 1 to {shape[-2]}")
            self.column(layer, axis=len(shape) - 3, word="heads")

    def row(self, *layers: Module, parts: int = 0) -> None:
        """Divide the rows of a matrix (I, O): into `parts` whole things, such as heads, or one by one."""
        check_things("row", layers, Module)
        for layer in layers:
            if self.name(layer, "row"):
                matrix, *biases = self.matrices(layer, "row")
                if biases and not calls(layer, Linear):
                    raise UserError(
                        f"plan.row({path_of(layer)}): {type(layer).__name__} adds {biases[0].placement.path}, and "
                        "every rank would add it.\nUse nn.Linear as it is, or a layer without a bias"
                    )
                self.cut(matrix, 0, parts or matrix.placement.shape[0], layer)
                self.hold(biases, "whole", layer)
                self.looks |= not calls(layer, Linear)
                self.change(layer, RowLinear if calls(layer, Linear) else Row)
                layer.fan_in = matrix.shape[0]

    def vocabulary(self, *layers: Module) -> None:
        """Divide the rows of an nn.Embedding, one for each id, or of an nn.Classifier."""
        check_things("vocabulary", layers, Module)
        for layer in layers:
            kind = Embedding if isinstance(layer, Embedding) else Classifier
            if not isinstance(layer, (Embedding, Classifier)):
                raise UserError(
                    f"plan.vocabulary({path_of(layer)}) is for an nn.Embedding or an nn.Classifier, and this is a "
                    f"{type(layer).__name__}; a layer that multiplies is plan.column or plan.row"
                )
            if not calls(layer, kind):
                word = "everywhere" if kind is Embedding else "gather"
                raise UserError(
                    f"plan.vocabulary({path_of(layer)}): {type(layer).__name__} has a __call__ of its own, which a "
                    f"divided vocabulary would replace.\nGive the class: def shard(self, plan): plan.{word}(self)"
                )
            if self.name(layer, "vocabulary"):
                weight: Parameter = layer.weight
                self.cut(weight, 0, weight.placement.shape[0], layer)
                self.change(layer, VocabularyEmbedding if kind is Embedding else VocabularyClassifier)

    def split(self, p: Parameter, dim: int, unit: int = 1) -> None:
        """Divide dimension `dim` of a parameter, in steps of `unit`: what multiplies the columns of a layer, say."""
        check_things("split", (p,), Parameter)
        shape = p.placement.shape
        check_whole(f"plan.split({p.placement.path}), of shape {shape}: the axis", dim, 0, len(shape) - 1)
        check_whole(f"plan.split({p.placement.path}): unit", unit, 1)
        if shape[dim] % unit:
            raise UserError(f"plan.split({p.placement.path}): axis {dim} has size {shape[dim]}, no multiple of {unit}")
        if self.name(p, "split"):
            self.cut(p, dim, shape[dim] // unit, None)

    def inside(self, *things: Module | Parameter) -> None:
        """What lies between a column and a row and is whole on every rank: a norm over a head, attention itself."""
        check_things("inside", things, Module, Parameter)
        for thing in things:
            for layer in leaves(thing) if isinstance(thing, Module) else ():
                if isinstance(layer, Dropout) and layer.p:
                    raise UserError(
                        f"plan.inside({path_of(layer)}): a Dropout draws its mask for whole rows, and here each rank "
                        "has some of the columns.\nPut it behind the row, or give it p = 0"
                    )
            self.keep(thing, "inside")

    def enter(self, *layers: Module) -> None:
        """What is whole on every rank, and makes of the whole x what meets divided columns: one head of k and v for all
        heads of q, or a gate that each head is multiplied by.
        """
        check_things("enter", layers, Module)
        for layer in layers:
            self.keep(layer, "enter", Entered)

    def residual(self, *things: Module | Parameter) -> None:
        """What lies before the columns, or behind the rows, and is whole on every rank."""
        for thing in things:
            self.keep(thing, "residual")

    def gather(self, *things: Module | Parameter) -> None:
        """What is whole on every rank and needs the whole x; what it makes stays as it is, like a loss."""
        for thing in things:
            self.keep(thing, "gather", Gathered)

    def everywhere(self, *things: Module | Parameter) -> None:
        """What is whole on every rank and needs the whole x, and is followed by residual layers."""
        for thing in things:
            self.keep(thing, "everywhere", Everywhere)

    # What the words do ------------------------------------------------------------------------------------------------

    def name(self, thing: Module | Parameter, word: str) -> bool:
        """Note the word. False if it was said before; raise UserError if another one was."""
        before = self.named.get(thing)
        if before not in (None, word):
            raise UserError(f"{path_of(thing)} is named twice: plan.{before} and plan.{word}; leave one out")
        self.named[thing] = word
        return before is None

    def keep(self, thing: Module | Parameter, word: str, form: type[Divided] | None = None) -> None:
        """Note what is whole on every rank."""
        check_things(word, (thing,), Module, Parameter)
        if not self.name(thing, word):
            return
        if isinstance(thing, Parameter):
            self.hold([thing], word, None)
            return
        for layer in thing.modules():
            self.hold(own_parameters(layer), word, layer)
            below: list[Module | Parameter] = [layer, *own_parameters(layer)]
            for one in below:
                self.named.setdefault(one, word)
            if word == "residual" and isinstance(layer, Embedding):
                self.change(layer, WholeEmbedding)
        if form is not None:
            self.change(thing, form)

    def cut(self, p: Parameter, dim: int, n: int, layer: Module | None) -> None:
        """Leave p this rank's share of dimension dim, in steps of shape[dim] / n. A shared one is cut once.

        Raise UserError where n is 1: the rank that held it all would take it for a parameter that every rank holds.
        """
        if self.tp > n == 1:
            raise UserError(f"--tp is {self.tp}, but {p.placement.path} has size 1 where it is divided; allowed: 1")
        if p.placement.shape[dim] % n:
            raise UserError(f"{p.placement.path} has shape {p.placement.shape}: axis {dim} has no {n} equal parts")
        self.hold([p], f"divided along axis {dim} into {n}", layer)
        if p.placement.local == p.placement.shape:
            (axis,), how = Mesh.along("matrices"), Shard(dim, p.shape[dim] // n)
            p.placement = p.placement.shard(axis, how, self.tp, self.io.group.rank)

    def hold(self, parameters: list[Parameter], how: str, layer: Module | None) -> None:
        """Note how parameters are held. Raise UserError for one that two layers want in different ways."""
        kind = lambda how: how if how.startswith("divided") else self.has_part(how)
        for p in parameters:
            mine = path_of(layer or p)
            before, other = self.held.setdefault(p, (how, mine))
            if kind(before) != kind(how):
                raise UserError(
                    f"{p.placement.path} is {spoken(before, other)} in {other} and {spoken(how, mine)} in {mine}, and "
                    "there is one of it.\n"
                    "Name the two alike, or give each a weight of its own"
                )

    def matrices(self, layer: Module, word: str) -> list[Parameter]:
        """[the matrix (I, *O), the biases (*O)] of a layer. Raise UserError for a layer that has others."""
        own = largest_first(layer)
        shapes = [p.placement.shape for p in own]
        if isinstance(layer, (Embedding, Classifier)):
            raise UserError(f"plan.{word}({path_of(layer)}) is for layers that multiply; name it plan.vocabulary")
        if not own or len(shapes[0]) < 2 or any(shape != shapes[0][1:] for shape in shapes[1:]):
            raise UserError(
                f"plan.{word}({path_of(layer)}) is for a layer of a matrix (I, *O) and biases (*O), and it has "
                f"{', '.join(map(str, shapes)) or 'no parameters'}.\nMake it of layers that have one matrix each"
            )
        return own

    def change(self, layer: Module, form: type[Divided]) -> None:
        """Give the layer its divided form; its own class stays behind."""
        layer.__class__ = in_form(form, type(layer))
        layer.io = self.io

    # All of the model -------------------------------------------------------------------------------------------------

    def follow(self, model: Model) -> None:
        """Ask the model, look whether all is named that has to be, and let the units say when they begin."""
        for module in model.modules():
            check_shard(module)
        self.joined = type(model).shard is not Module.shard  # it speaks for all of its units
        with check_words(self):
            model.shard(self)
        if self.tp > 1 and all(type(module).shard is Module.shard for module in model.modules()):
            raise UserError(
                f"--tp is {self.tp}, and no layer of the model is divided: none of its modules says so in `shard`.\n"
                "Write `def shard(self, plan)` in the class of each block, as in parallel/plan.py, or leave --tp out"
            )
        for module in model.modules():
            for layer in check_beside(self.named, module, self.tp):
                if isinstance(layer, Dropout) and layer.p and self.named[layer] == "residual":
                    self.change(layer, ResidualDropout)
                    self.looks = True
        for layer in leaves(model):
            if not all_named(self.named, layer):
                self.keep(layer, "residual")
            if self.sequence and self.named.get(layer) == "residual":
                check_per_position(layer, model.units)
        for module in model.modules():  # one with layers below may have a parameter of its own, or one of theirs
            if module not in self.named:
                self.hold([p for p in own_parameters(module) if p not in self.named], "residual", module)
        for i, unit in enumerate(dict.fromkeys(model.units)):
            self.change(unit, Unit)
            unit.path = unit.path or f"units.{i}"  # what has no path is not looked at
            unit.words = said_about(self.named, unit)
            self.places[unit.path] = i

    def partial(self, p: Parameter) -> bool:
        """Whether a parameter that is whole on every rank has a partial gradient on each."""
        return self.has_part(self.held.get(p, ("residual", ""))[0])

    def has_part(self, how: str) -> bool:
        return how in ("inside", "enter") or (self.sequence and how in ("residual", "whole"))


def calls(layer: Module, kind: type[Module]) -> bool:
    """Whether the layer is called as this class is: a subclass may have a `__call__` of its own."""
    return isinstance(layer, kind) and type(layer).__call__ is kind.__call__


FORMS: dict[tuple[type[Divided], type[Module]], type[Module]] = {}  # made so far: layers of one class stay of one class


def in_form(form: type[Divided], kind: type[Module]) -> type[Module]:
    """The class `kind` in its divided form, under its own name."""
    if (form, kind) not in FORMS:
        FORMS[form, kind] = type(kind.__name__, (form, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
    return FORMS[form, kind]
