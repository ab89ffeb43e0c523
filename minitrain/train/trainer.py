"""Training any model on any data and any mesh: one update, the validation, and many of both.

    trainer = Trainer(mlp(), world, optimizer=Adam, schedule=0.001)
    history = trainer.fit(images, epochs=10, validation=held_out)

    trainer = Trainer(gpt(config), world, schedule=0.003, clip=1.0)
    history = trainer.fit(text, updates=1000, validation=held_out, validate_every=100)

Every rank makes the same global batches and works on its own part of each. What is shown and decided (the losses, the
accuracy, when to stop) are sums over the ranks that divide the batch, so it is the same on any number of ranks.
"""

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .. import debug
from ..autograd import no_grad
from ..backend import Array, checksum, is_finite, to_device, to_host, xp
from ..comm.agreement import agreed, check_same
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..data.batch import Batch
from ..data.loader import Loader
from ..errors import UserError, check_number, check_seed, check_state, check_whole, shown
from ..models import Model
from ..nn import watching
from ..optim import SGD, Adam, Optimizer
from ..parallel.parallelize import parallelize
from ..parallel.reducer import Reducer
from ..parallel.strategy import Strategy
from ..precision import Dynamic, DynamicScaler, Precision, Scaler, first_bad_layer, use
from .history import History
from .step import train_step

SMALL = 2**16  # bytes of a batch that are compared between ranks in every step
QUIET = 2.0  # seconds that fit may work without a word

Item = TypeVar("Item")


class Update(NamedTuple):
    """One batch: its loss, the learning rate, the norm of the gradient before clipping, the loss scale that it had, and
    how many labels the loss is the mean of.

    The norm is no number when gradients overflowed in half precision: then no update was made.
    """

    loss: float
    lr: float
    norm: float
    scale: float = 1.0
    labels: int = 1

    @property
    def skipped(self) -> bool:
        """Whether the batch made no update."""
        return not math.isfinite(self.norm)


class Trainer:
    """Trains a model as one of the ranks of `world`; all of them make the same calls."""

    def __init__(
        self,
        model: Model,
        world: Communicator,
        *,
        optimizer: Callable[[Reducer], Optimizer] = Adam,
        schedule: float | Callable[[int], float] = 0.001,
        momentum: Callable[[int], float] | None = None,
        seed: int = 1,
        mesh: Mesh | None = None,
        strategy: Strategy = Strategy(),
        accumulate: int = 1,
        clip: float | None = None,
        precision: Precision | None = None,
        half_weights: bool = False,
        scaler: Scaler | None = None,
        advice: str = "give a smaller learning rate as the `schedule`",
        parallelize: Callable[[Model, Mesh, Strategy], Reducer] = parallelize,
    ) -> None:
        """Divides the model as the mesh and the strategy say. Parameters without values are drawn; others keep theirs.

        optimizer: makes one from the gradients: a class such as Adam, or partial(AdamW, weight_decay=0.01).
        schedule: the learning rate, or a pure function of the number of updates made so far that returns it. One that
        goes by what was measured reads `history`, the same on all ranks, of all that `fit` did so far:
        lambda update: reduce_on_plateau(trainer.history.validation_loss, peak=0.001).
        momentum: such a function for SGD's momentum or Adam's beta1 (see one_cycle_momentum); constant unless given.
        mesh: the ranks as dp x pp x tp; unless given, all of them divide the batch.
        strategy: such as Strategy(zero=2, recompute=1); data parallel in buckets unless given. Ranks own whole
        parameters where the optimizer's class says that it needs them (optim.Matrixwise).
        accumulate: micro-batches per update and rank. clip: largest norm of the gradient, or None.
        precision: for a float32 model, one of minitrain.precision, such as Static("mixed_float16"), with half_weights
        as in precision.use. scaler: scales the loss; for float16 a DynamicScaler unless given.
        advice: what to do about a loss that is no number. parallelize: what transforms the model.
        Raises UserError for values that cannot be meant.
        """
        check_options(optimizer, schedule, momentum, seed, strategy, accumulate, clip)
        check_kinds(model, world, mesh, precision, scaler)
        self.model, self.world, self.schedule, self.momentum = model, world, schedule, momentum
        self.accumulate, self.clip, self.advice = accumulate, clip, advice
        self.precision = chosen(model, precision, half_weights)
        self.scaler = scaler or scaler_for(self.precision, strategy)
        self.layers = [unit.path for unit in model.units]
        self.mesh = mesh or Mesh(world, dp=world.size)
        strategy.check_on(self.mesh, accumulate)
        if owners(optimizer) == "parameters":
            strategy = replace(strategy, owners="parameters")
        self.gradients = parallelize(model, self.mesh, strategy)
        self.gradients.init(seed)
        try:
            self.optimizer = optimizer(self.gradients)
        except BaseException:
            self.gradients.release()  # so that the next try finds the model free
            raise
        given: dict[str, Any] = {"accumulate": accumulate, "clip": clip, "schedule": schedule, "momentum": momentum}
        given |= {"precision": self.precision, "half_weights": half_weights, "scaler": self.scaler}
        check_same(world, {**given, "optimizer": self.optimizer})
        self.batches = 0  # the number of the next one: also those count whose update a scaler left out
        self.history = History()  # of all calls of `fit` so far
        self.told = time.monotonic()  # when something was said last

    @property
    def updates(self) -> int:
        """Made so far: what the schedule counts."""
        return self.optimizer.updates

    # One update -------------------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> Update:
        """One update from a global batch, of which this rank takes its part.

        Raises UserError for a loss or a gradient that is no number, unless half precision is all that is to blame and
        the scaler has skipped the batch.
        """
        check_global(batch)
        lr, scale, skips, mine = self.rate(), self.scaler.value, self.scaler.skips, self.mine(batch)
        at_floor = self.scaler.at_floor()
        self.set_momentum()
        with watching(self.precision.watch if isinstance(self.precision, Dynamic) else None):
            loss, norm = train_step(
                self.model, mine, self.gradients, self.optimizer, lr, self.accumulate, self.clip, self.scaler
            )
        self.batches += 1
        update = Update(self.loss_of(loss, batch, lr), lr, norm, scale, batch.where.count)
        if not math.isfinite(update.loss) or (update.skipped and self.scaler.skips == skips):
            self.look_into(update, mine, expected=self.scaler.skips > skips)
        if isinstance(self.precision, Dynamic):
            self.adapt(self.precision, update, at_floor)
        return update

    def loss_of(self, part: float, batch: Batch, lr: float) -> float:
        """The loss of the global batch, of which the ranks have parts. Raise UserError unless all had the same batch.

        A mark of the batch and its square are added up along with the loss, over all ranks. N times the sum of the
        squares is the square of the sum only if all marks are equal; both are exact.
        """
        where, world = batch.where, self.mesh.world
        given = {"batch": where.number, "seed": where.seed, "B": where.B, "T": where.T, "learning rate": lr}
        if world.size > 1 and (self.batches == 1 or debug.on or batch.inputs.nbytes < SMALL):
            given["checksum of the data"] = checksum_of(batch)
        mark = zlib.crc32(repr(given).encode()) & 0xFFFFF
        mine = part if self.mesh.part("matrices") == 0 else 0.0  # ranks that share the matrices have the same part
        x = to_device(np.array([mine, mark, mark**2], np.float64))
        world.all_reduce(x, ("dp", "loss"))
        loss, marks, squares = to_host(x).tolist()
        if world.size * squares != marks**2:
            check_same(world, given)
        return loss

    def adapt(self, precision: Dynamic, update: Update, at_floor: bool) -> None:
        """Lets the precision learn from a batch, and says what it changed."""
        if update.skipped:
            precision.skipped(self.gradients, at_floor)
        else:
            precision.stepped()
        for line in precision.log:
            self.say(f"update {self.updates}: {line}")
        precision.log.clear()

    def look_into(self, update: Update, mine: Batch, expected: bool) -> None:
        """Raise UserError for a loss or a gradient that is not finite, naming the sample, or else the first layer, that
        is to blame. Silent when the forward is finite in float32 and the scaler `expected` an overflow."""
        self.look_into_data(mine, f"batch {mine.where.number}")
        here = [first_bad_layer(self.model, micro) for micro in mine.split(self.accumulate)]
        found = set(chain(*self.world.gather_objects(here)))
        layer = next((path for path in self.layers if path in found), None)
        what = (
            f"the norm of the gradient is {update.norm}" if math.isfinite(update.loss) else f"the loss is {update.loss}"
        )
        where = f"{what} in batch {mine.where.number}, at update {self.updates}"
        if layer is not None:
            raise UserError(f"{where}; the first layer whose output is no number is {layer}; {self.advice}")
        if self.precision is None:
            raise UserError(f"{where}, though all layers' outputs are finite; {self.advice}")
        if not expected:
            raise UserError(
                f"{where}, though in float32 all layers' outputs are finite: half precision overflows. Give a scaler, "
                "which skips such batches, a Dynamic precision, which takes such layers back to float32, or bfloat16"
            )

    def look_into_data(self, mine: Batch | None, name: str) -> None:
        """Raise UserError, on all ranks, when a sample that one of them has is not finite."""
        here = None if mine is None else first_bad_sample(mine)
        found = [said for said in self.world.gather_objects(here) if said is not None]
        if found:
            raise UserError(
                f"{name}, at update {self.updates}: {min(found)[1]}.\n"
                "No learning rate helps against that: mend or remove the sample"
            )

    def rate(self) -> float:
        """The learning rate of the update that comes next. Raises UserError for one that cannot be meant."""
        if not callable(self.schedule):
            return self.schedule
        lr = self.schedule(self.updates)
        check_number(f"schedule({self.updates})", lr, "at least 0")
        return lr

    def set_momentum(self) -> None:
        """Gives the optimizer the momentum of the update that comes next. Raises UserError for one that cannot be."""
        if self.momentum is None:
            return
        value = self.momentum(self.updates)
        check_number(f"momentum({self.updates})", value, "at least 0 and less than 1")
        if isinstance(self.optimizer, Adam):
            self.optimizer.beta1 = value
        elif isinstance(self.optimizer, SGD) and self.optimizer.momentum:
            self.optimizer.momentum = value
        else:
            raise UserError(
                f"momentum({self.updates}) is {value}, and the optimizer has none to set; "
                "give Adam, AdamW, or SGD with some momentum from the beginning: partial(SGD, momentum=0.9)"
            )

    def mine(self, batch: Batch) -> Batch:
        """This rank's part of a global batch, which is empty when there are more ranks than samples."""
        return batch.part(self.mesh.part("samples"), self.mesh.parts("samples"))

    def over_ranks(self, part: float, name: str, *what: str) -> float:
        """The sum over the ranks that have other parts of this ("samples", "layers"); `name` tags what is sent."""
        x = to_device(np.array([part], np.float64))
        self.mesh.over(*what).all_reduce(x, ("dp", name))
        return float(x[0])

    # Validation -------------------------------------------------------------------------------------------------------

    def mean_loss(self, batches: Iterable[Batch]) -> float:
        """Of batches that are parts of one global batch, such as those of a loader's `validation()`."""
        loss, bad = 0.0, None
        with no_grad():
            for mine in self.parts(batches):
                part = self.model(mine).item()
                bad = bad or (None if math.isfinite(part) else mine)
                loss += part
        if not math.isfinite(total := self.over_ranks(loss, "loss", "samples", "layers")):
            self.look_into_data(bad, "validation")
            raise UserError(f"the loss is {total} at update {self.updates}; {self.advice}")
        return total

    def accuracy(self, batches: Iterable[Batch]) -> float:
        """The share of the labels that are the most probable class, of batches as in `mean_loss`.

        Each rank counts in its part of each batch, so each sample is counted once.
        """
        right, count = 0, 1
        with no_grad():
            for batch in self.parts(batches):
                if batch.labels is None:
                    raise UserError(f"batch {batch.where.number} has no labels, and accuracy compares with them")
                likely = to_host(self.model(Batch(batch.inputs, None, batch.where)).data).argmax(axis=-1)
                right += int((likely == to_host(batch.labels)).sum())
                count = batch.where.count  # of all of them, on all ranks
        return self.over_ranks(right, "right", "samples") / count

    def parts(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This rank's part of each batch. Raise UserError, after the last one, unless together they are one global
        batch, each part once, and the same on all ranks."""
        if not isinstance(batches, Iterable):
            raise UserError(f"batches is {shown(batches)}; give the parts of a global batch, loader.validation()")
        samples, B, data = 0, 1, 0
        for batch in batches:
            samples, B = samples + batch.where.samples.stop - batch.where.samples.start, batch.where.B
            data = checksum_of(batch, data) if self.world.size > 1 else 0
            yield self.mine(batch)
        check_same(self.mesh.world, {"samples": samples, "B": B, "checksum of the data": data})
        if samples != B:
            raise UserError(
                f"the batches hold {samples} samples, of a global batch of {B}: they must be all of it, each once.\n"
                "Give loader.validation(), anew each time, since an iterator ends"
            )

    # Many updates -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Loader,
        epochs: int | None = None,
        validation: Loader | None = None,
        patience: int | None = None,
        *,
        updates: int | None = None,
        validate_every: int | None = None,
    ) -> History:
        """Train for so many epochs, or so many updates, with a line of progress now and then, and return the history.

        The history has a row for each epoch; or for every `validate_every` updates, and for what is left of them at the
        end (one row for all unless given). validation: data to look at after each row and never to learn from.
        patience: stop when so many rows in a row bring no better validation loss; at the end the model has the weights
        of the best row (each rank keeps a copy of what its optimizer updates). A second call goes on where the first
        one ended, with its own history and patience. Raise UserError for values that cannot be meant, and for a loss
        that is no number.
        """
        check_fit(train, epochs, validation, patience, updates, validate_every)
        counts = {"epochs": epochs, "updates": updates, "validate_every": validate_every, "patience": patience}
        check_same(self.world, {**counts, "batches of an epoch": train.batches, "validation": validation is not None})
        unit, last = ("update", updates or 0) if epochs is None else ("epoch", epochs)
        every = validate_every or (last if epochs is None else 1)
        history, best = History(), 0
        for done, n in pairwise([0, *range(every, last, every), last]):
            name = f"{unit} {n:>{len(str(last))}}/{last}"
            made = self.each_update(train, n - done) if epochs is None else self.epoch(train)
            row = summed_up(self.watch(made, n - done if epochs is None else train.batches, name))
            row = self.agreed(row if validation is None else row + self.validate(validation, name))
            history.add(row)
            self.history.add(row)
            self.say(f"{name}  {history.line()}")
            if patience is None:
                continue
            if history.waited == 0:
                best, weights = n, self.weights()
            if history.waited >= patience:
                self.say(f"stopped: no better validation loss in {n - best} {unit}(s) after {unit} {best}")
                break
        if patience is not None and history.waited:
            self.put_back(weights)
            self.say(f"the weights are those of {unit} {best} again, the best one")
        return history

    def epoch(self, train: Loader) -> Iterator[Update]:
        """Work on the batches of the next epoch, one when the next item is asked for. What is left of one that has
        begun is left out, so that each sample comes once."""
        self.batches = -(-self.batches // train.batches) * train.batches
        for number in range(self.batches, self.batches + train.batches):
            yield self.step(train.batch(number))

    def each_update(self, train: Loader, updates: int) -> Iterator[Update]:
        """Make so many updates from the batches that come next, one when the next item is asked for.

            for update in trainer.each_update(text, 1000):
                print(trainer.updates, update.loss)

        Batches that the scaler skipped are among the items, and are no updates.
        """
        check_loader("train", train)
        check_whole("updates", updates)
        last = self.updates + updates
        while self.updates < last:
            yield self.step(train.batch(self.batches))

    def weights(self) -> list[Array]:
        """A copy of what this rank's optimizer updates: the masters of values in half precision, once there are any."""
        data = [held.data for held in self.gradients.held()]
        masters = self.optimizer.masters or data
        return [(x if master is None else master).copy() for x, master in zip(data, masters, strict=True)]

    def put_back(self, weights: list[Array]) -> None:
        """Take such a copy as the values again; called by all ranks. The optimizer's state stays as it is."""
        for i, (held, kept) in enumerate(zip(self.gradients.held(), weights, strict=True)):
            held.data[...] = kept
            if self.optimizer.masters and (master := self.optimizer.masters[i]) is not None:
                master[...] = kept
        self.gradients.after_step()

    def validate(self, data: Loader, name: str = "validation") -> list[float]:
        """[mean loss] on all the data, and where a sample has one label the accuracy, too.

        That takes two forwards: the loss is what the model makes of the labels.
        """
        loss = self.mean_loss(self.watch(data.validation(), data.batches, f"{name}, loss"))
        labels = next(iter(data.validation())).labels
        if labels is None or labels.ndim > 1:
            return [loss]
        return [loss, self.accuracy(self.watch(data.validation(), data.batches, f"{name}, accuracy"))]

    def agreed(self, row: list[float]) -> list[float]:
        """Rank 0's numbers, on all ranks. Where tensor parallel sums twice, once for each of its ranks, the last bit
        may differ, and a rank that stops by itself would leave the others waiting."""
        x = to_device(np.array(row))
        self.world.broadcast(x, 0, ("dp", "history"))
        return to_host(x).tolist()

    # State ------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that later updates depend on, beside the weights, the data and the arguments that this was made with: a
        new trainer that is given these goes on bit for bit.

            tensors, state = gather(model, world, gradients=trainer.gradients), trainer.state_dict()

            restore(new_model, tensors)
            Trainer(new_model, world, ...).load_state_dict(state)

        "optimizer" is of this rank's arrays, which checkpoint.gather_state makes whole for another mesh; all else is
        numbers, lists and dictionaries, the same on all ranks.
        """
        parts = {name: part.state_dict() for name, part in self.parts_of_state().items()}
        return {"optimizer": self.optimizer.state_dict(), **parts, "batches": self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; called by all ranks, before or after weights are restored.

        Raise UserError, on all ranks, for a state that does not fit on one of them: scaler, precision, history and
        `batches` are then as they were, and so is the optimizer of that rank.
        """
        check_same(self.world, leaves("state", state))
        parts = self.parts_of_state()
        check_state("the state of the trainer", state, ("optimizer", *parts, "batches"))
        check_whole("batches in the state of the trainer", state["batches"])
        for name, part in parts.items():
            copy.copy(part).load_state_dict(state[name])  # finds what does not fit
        agreed(self.world, lambda: self.optimizer.load_state_dict(state["optimizer"]))
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.batches = int(state["batches"])

    def parts_of_state(self) -> dict[str, Scaler | Precision | History]:
        """What has a state of plain data, by name."""
        return {"scaler": self.scaler, "precision": self.precision or Precision(), "history": self.history}

    # What is shown ----------------------------------------------------------------------------------------------------

    def watch(self, items: Iterable[Item], count: int, name: str) -> Iterator[Item]:
        """The items; in between, a line that tells how far they are when nothing was said for two seconds."""
        for n, item in enumerate(items, 1):
            yield item
            if n < count and time.monotonic() - self.told > QUIET:
                self.say(f"{name}: {n} of {count} batches")

    def say(self, text: str) -> None:
        """Prints on rank 0, whole lines, at once: under mpirun the terminal is not ours."""
        self.told = time.monotonic()
        if self.world.rank == 0:
            print(text, flush=True)

    def close(self) -> None:
        """Ends what runs beside the training: the communication thread of an overlapped strategy."""
        self.gradients.close()


def summed_up(updates: Iterable[Update]) -> list[float]:
    """[mean loss over the labels, learning rate of the last update]

    A label's loss is that before the update which it took part in; batches count by their labels, which may be fewer in
    the last one of an epoch, or ignored.
    """
    loss, labels, lr = 0.0, 0, math.nan
    for update in updates:
        lr = update.lr
        if math.isfinite(update.loss):  # the others were skipped: half precision was too narrow for them
            loss, labels = loss + update.loss * update.labels, labels + update.labels
    return [loss / labels if labels else math.nan, lr]


def leaves(name: str, state: Any) -> dict[str, Any]:
    """What is in nested dictionaries, by its path; of "optimizer" only that it is there."""
    if not isinstance(state, Mapping):
        return {name: state}
    found: dict[str, Any] = {f"names in {name}": sorted(map(str, state))}
    for key, value in state.items():
        found |= {} if key == "optimizer" else leaves(f"{name}.{key}", value)
    return found


def checksum_of(batch: Batch, before: int = 0) -> int:
    """A number that is another one for other inputs or labels, or for others `before`."""
    for array in (batch.inputs, batch.labels):
        before = before if array is None else checksum(array, before)
    return before


def first_bad_sample(batch: Batch) -> tuple[int, str] | None:
    """Where in the global batch the first sample is that holds NaN or infinity, and a sentence on it; None for none."""
    for name, array in (("inputs", batch.inputs), ("labels", batch.labels)):
        if array is None or array.dtype.kind in "iu" or is_finite(array):
            continue
        i = int(to_host(~xp.isfinite(array).reshape(len(array), -1).all(axis=1)).argmax())
        number, row = batch.where.samples.start + i, "" if batch.rows is None else f", row {batch.rows[i]} of the data,"
        return number, f"sample {number}{row} has {name} that are NaN or infinite"
    return None


def owners(optimizer: Callable[..., Optimizer]) -> str:
    """What ranks have to own for this optimizer, as its class says; of a partial, the class inside."""
    made: Any = optimizer
    while isinstance(made, partial):
        made = made.func
    return getattr(made, "owners", "elements")


def scaler_for(precision: Precision | None, strategy: Strategy) -> Scaler:
    """A dynamic loss scale for float16, also where gradients only travel in it; none for what has float32's range."""
    halves = [strategy.wire_dtype, precision and precision.half]
    return DynamicScaler() if np.float16 in halves else Scaler()


def check_options(
    optimizer: Any, schedule: Any, momentum: Any, seed: Any, strategy: Any, accumulate: Any, clip: Any
) -> None:
    """Raises UserError for arguments of `Trainer` that cannot be meant."""
    if not callable(optimizer):
        raise UserError(
            f"optimizer is {shown(optimizer)}; it must make one from the gradients: give the class Adam, say"
        )
    if not callable(schedule):
        check_number("schedule", schedule, "at least 0")
    if momentum is not None and not callable(momentum):
        raise UserError(
            f"momentum is {shown(momentum)}; it must be a function of the update, or None for a constant one"
        )
    check_seed(seed)
    if not isinstance(strategy, Strategy):
        raise UserError(f"strategy is {shown(strategy)}; it must be a Strategy: give Strategy(zero=1), say")
    check_whole("accumulate", accumulate, 1)
    if clip is not None:
        check_number("clip", clip, "above 0")


def check_kinds(model: Any, world: Any, mesh: Any, precision: Any, scaler: Any) -> None:
    """Raise UserError for arguments of `Trainer` of another kind."""
    kinds = {"model": (model, Model), "world": (world, Communicator), "mesh": (mesh, Mesh | None)}
    kinds |= {"precision": (precision, Precision | None), "scaler": (scaler, Scaler | None)}
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            raise UserError(f"{name} is {shown(value)}; it must be a {getattr(kind, '__name__', kind)}")


def chosen(model: Model, precision: Precision | None, half_weights: bool) -> Precision | None:
    """Return the precision that the model computes in from now on: the given one, or that of a model that has one, as a
    copy does."""
    own = next((module.precision for module in model.modules() if module.precision is not None), None)
    if precision is None or precision is own:
        if half_weights and own is None:
            raise UserError("half_weights is True, and there is no precision that says in which half: give one")
        return own
    use(model, precision, half_weights)
    return precision


def check_global(batch: Any) -> None:
    """Raise UserError unless this is a whole global batch with labels."""
    if not isinstance(batch, Batch) or batch.labels is None:
        raise UserError(f"the batch is {shown(batch)}; training takes a Batch with labels, such as a loader's")
    samples, B = batch.where.samples, batch.where.B
    if samples != slice(0, B):
        raise UserError(
            f"the batch holds samples {samples.start}:{samples.stop} of {B}; "
            "every rank gives step the whole global batch, and works on its own part of it"
        )


def check_fit(train: Any, epochs: Any, validation: Any, patience: Any, updates: Any, validate_every: Any) -> None:
    """Raise UserError for arguments of `fit` that cannot be meant."""
    check_loader("train", train)
    if validation is not None:
        check_loader("validation", validation)
    if (epochs is None) == (updates is None):
        raise UserError(
            f"epochs is {shown(epochs)} and updates is {shown(updates)}; one of the two says how long to train: "
            "give epochs=10 or updates=1000, say"
        )
    counts = {"epochs": epochs, "updates": updates, "validate_every": validate_every, "patience": patience}
    for name, count in counts.items():
        if count is not None:
            check_whole(name, count, 1)
    if validate_every is not None and updates is None:
        raise UserError(f"validate_every is {validate_every} updates, and epochs have a row each: give updates instead")
    if patience is not None and validation is None:
        raise UserError(f"patience is {patience}, which waits for a better validation loss: give a validation, too")


def check_loader(name: str, data: Any) -> None:
    """Raise UserError unless training can take its batches from there."""
    if not isinstance(data, Loader) or isinstance(data, type):
        raise UserError(
            f"{name} is {shown(data)}; it must be a loader: "
            "give ArrayLoader(inputs, labels, batch=32, seed=1) or TextLoader(ids, context=64, batch=24, seed=1), say"
        )
    check_whole(f"{name}.batches", data.batches, 1)
