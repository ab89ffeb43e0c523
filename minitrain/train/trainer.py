"""Train any model on any data and any mesh: single updates, validation, and whole runs.

    trainer = Trainer(mlp(), world, optimizer=Adam, schedule=0.001)
    history = trainer.fit(images, epochs=10, validation=held_out)

    trainer = Trainer(gpt(config), world, schedule=0.003, clip=1.0)
    history = trainer.fit(text, updates=1000, validation=held_out, validate_every=100)

Every rank builds the same global batches and works on its own part of each. Reported values and decisions (losses,
accuracy, when to stop) are sums over the ranks that divide the batch, so they are the same on any number of ranks.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import numpy as np

from .. import debug
from ..autograd import no_grad
from ..backend import Array, to_device, to_host
from ..comm.agreement import agreed, check_same, sum_if_same
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..data.batch import Batch, checksum_of
from ..data.loader import Loader
from ..errors import UserError, check_number, check_state, check_whole
from ..models import Model
from ..nn import watching
from ..observe import ledger, recorder
from ..optim import SGD, Adam, Optimizer
from ..parallel.parallelize import parallelize
from ..parallel.reducer import Reducer
from ..parallel.strategy import Strategy
from ..precision import DynamicPolicy, Precision, Scaler
from . import nonfinite
from .history import History, Update, summed_up
from .progress import Progress
from .step import train_step
from .trainer_arguments import (
    check_fit,
    check_global,
    check_kinds,
    check_loader,
    check_options,
    owners,
    precision_of,
    scaler_for,
)
from .validation import each_once, right_answers

SMALL = 2**16  # batches below this many bytes are compared between ranks in every step


class Trainer:
    """Trains a model on one rank of `world`; all ranks must make the same calls."""

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
        """Divide the model by the mesh and the strategy, and initialize the parameters that have no values.

        optimizer: builds the optimizer from a reducer: a class such as Adam, or partial(AdamW, weight_decay=0.01).
        schedule: the learning rate, or a pure function from the number of updates made so far to the learning rate. A
        function that depends on measurements reads `history`, which covers all calls of `fit` and is the same on all
        ranks: lambda update: reduce_on_plateau(trainer.history.validation_loss, peak=0.001).
        seed: of the initial values; the loader has its own.
        momentum: a function like `schedule` for SGD's momentum or Adam's beta1 (see one_cycle_momentum); None:
        constant.
        mesh: the ranks as dp x pp x tp; None: all ranks are data parallel.
        strategy: e.g. Strategy(zero=2, recompute=1); the default is bucketed data parallel. Ranks own whole parameters
        if the optimizer's class needs them (optim.Matrixwise).
        accumulate: micro-batches per update and rank.
        clip: maximum norm of the gradient, or None.
        precision: a policy from minitrain.precision, such as StaticPolicy("mixed_float16"), for a float32 model.
        half_weights: see precision.use.
        scaler: scales the loss; None: a DynamicScaler for float16, no scaling otherwise.
        advice: the remedy to print when the loss is NaN or infinite.
        parallelize: the function that transforms the model.
        Raise UserError for invalid arguments.
        """
        check_options(optimizer, schedule, momentum, strategy, accumulate, clip)
        check_kinds(model, world, mesh, precision, scaler)
        self.model, self.world, self.schedule, self.momentum = model, world, schedule, momentum
        self.accumulate, self.clip, self.advice = accumulate, clip, advice
        self.mesh = mesh or Mesh(world, dp=world.size)
        strategy.check_on(self.mesh, accumulate)
        self.precision = precision_of(model, precision, half_weights)
        self.scaler = scaler or scaler_for(self.precision, strategy)
        self.layers = [unit.path for unit in model.unrolled()]
        if owners(optimizer) == "parameters":
            strategy = replace(strategy, owners="parameters")
        self.reducer = parallelize(model, self.mesh, strategy)
        given: dict[str, Any] = {"accumulate": accumulate, "clip": clip, "schedule": schedule, "momentum": momentum}
        given |= {"precision": self.precision, "half_weights": half_weights, "scaler": self.scaler}
        try:
            self.reducer.init(seed)
            self.optimizer = optimizer(self.reducer)
            check_same(world, {**given, "optimizer": self.optimizer})
            agreed(world, self.optimizer.read_masters)
        except BaseException:
            self.reducer.release()  # free the model for another attempt
            raise
        self.batches = 0  # number of the next batch; skipped batches count
        self.history = History()  # over all calls of `fit`
        self.progress = Progress(world)
        self.log = self.progress.log  # prints on rank 0

    @property
    def updates(self) -> int:
        """Number of updates made so far: the schedule's argument."""
        return self.optimizer.updates

    # One update -------------------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> Update:
        """Make one update from a global batch, of which this rank takes its part.

        Raise UserError if the loss or the gradient is NaN or infinite, unless only half precision is to blame and the
        scaler has skipped the batch.
        """
        check_global(batch)
        if recorder.meets(self):
            self.report_memory()
        with recorder.span(f"update {self.updates + 1}", "update"):
            return self.recorded_step(batch)

    def recorded_step(self, batch: Batch) -> Update:
        """Make one update, as `step` does, in a span of the recorder. Raise UserError as `step` does."""
        lr, local = self.rate(), self.local_batch(batch)
        scale, skips, at_floor = self.scaler.value, self.scaler.skips, self.scaler.at_floor()
        self.set_momentum()
        with watching(self.precision.watch if isinstance(self.precision, DynamicPolicy) else None):
            loss, norm = train_step(
                self.model, local, self.reducer, self.optimizer, lr, self.accumulate, self.clip, self.scaler
            )
        update = Update(self.loss_of(loss, batch, lr), lr, norm, scale, batch.where.count)
        if not math.isfinite(update.loss) or (update.skipped and self.scaler.skips == skips):
            nonfinite.explain(self, update, local, expected=self.scaler.skips > skips)
        self.batches += 1  # not before: a run that ends with this batch can be continued with it
        if isinstance(self.precision, DynamicPolicy):
            self.adapt(self.precision, update, at_floor)
        return update

    def loss_of(self, part: float, batch: Batch, lr: float) -> float:
        """Sum the per-rank losses to the loss of the global batch. Raise UserError if ranks had different ones."""
        where, world = batch.where, self.mesh.world
        given = {"batch": where.number, "seed": where.seed, "B": where.B, "T": where.T, "learning rate": lr}
        if world.size > 1 and (self.batches == 0 or debug.on or batch.inputs.nbytes < SMALL):
            given["checksum of the data"] = checksum_of(batch)
        part = part if self.mesh.part("matrices") == 0 else 0.0  # tensor-parallel ranks all have the same part
        return sum_if_same(world, part, given, ("dp", "loss"))

    def adapt(self, precision: DynamicPolicy, update: Update, at_floor: bool) -> None:
        """Let the precision adapt to the batch, and print what it changed."""
        if update.skipped:
            precision.skipped(self.reducer, at_floor)
        else:
            precision.stepped()
        for line in precision.log:
            self.log(f"update {self.updates}: {line}")
        precision.log.clear()

    def rate(self) -> float:
        """Return the learning rate of the next update. Raise UserError if the schedule returns an invalid one."""
        if not callable(self.schedule):
            return self.schedule
        lr = self.schedule(self.updates)
        check_number(f"schedule({self.updates})", lr, "at least 0")
        return lr

    def set_momentum(self) -> None:
        """Set the optimizer's momentum for the next update. Raise UserError if it is invalid or cannot be set."""
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
                f"momentum({self.updates}) is {value}, but the optimizer has no momentum to set; "
                "give Adam, AdamW, or SGD created with momentum: partial(SGD, momentum=0.9)"
            )

    def local_batch(self, batch: Batch) -> Batch:
        """Return this rank's part of a global batch; empty if there are more ranks than samples."""
        return batch.part(self.mesh.part("samples"), self.mesh.parts("samples"))

    def over_ranks(self, part: float, name: str, *what: str) -> float:
        """Sum over the ranks that hold different parts of `what` ("samples", "layers"); `name` tags the message."""
        x = to_device(np.array([part], np.float64))
        self.mesh.over(*what).all_reduce(x, ("dp", name))
        return float(x[0])

    # Validation -------------------------------------------------------------------------------------------------------

    def mean_loss(self, batches: Iterable[Batch]) -> float:
        """Return the mean loss over the parts of one global batch, such as a loader's `validation()`.

        Raise NotFinite if it is NaN or infinite.
        """
        loss, bad = 0.0, None
        with no_grad(), recorder.span("validation"):
            for batch in each_once(batches, self.mesh.world):
                part = self.model(local := self.local_batch(batch)).item()
                bad = bad or (None if math.isfinite(part) else local)
                loss += part
        if not math.isfinite(total := self.over_ranks(loss, "loss", "samples", "layers")):
            nonfinite.check_samples(self.world, bad, f"validation, at update {self.updates}")
            raise nonfinite.NotFinite(f"the loss is {total} at update {self.updates}; {self.advice}")
        return total

    def accuracy(self, batches: Iterable[Batch]) -> float:
        """Return the fraction of labels that are the most probable class, over batches as in `mean_loss`.

        Each rank counts in its part of each batch, so each sample is counted once. Raise UserError for a batch without
        labels.
        """
        right, count = 0, 1
        with no_grad():
            for batch in each_once(batches, self.mesh.world):
                right += right_answers(self.model, self.local_batch(batch))
                count = batch.where.count  # of the global batch
        return self.over_ranks(right, "right", "samples") / count

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
        """Train for a number of epochs or updates, printing progress, and return the history.

        The history has one row per epoch or per `validate_every` updates, plus one for the updates left over (a single
        row if `validate_every` is None).
        validation: data to evaluate after each row; it is never trained on.
        patience: stop after this many rows in a row without a better validation loss. The model then takes the weights
        of the best row (each rank keeps a copy of what its optimizer updates).
        A second call continues where the first ended, with its own history and patience. Raise UserError for invalid
        arguments, and for a loss that is NaN or infinite.
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
            with self.progress.task(name, n - done if epochs is None else train.batches, "batches") as task:
                row = summed_up(task.watch(made))
            row = self.agreed(row if validation is None else row + self.validate(validation, name))
            history.add(row)
            self.history.add(row)
            self.log(f"{name}  {history.line()}")
            if patience is None:
                continue
            if history.waited == 0:
                best, weights = n, self.weights()
            if history.waited >= patience:
                self.log(f"stopped: no better validation loss in the {n - best} {unit}(s) after {unit} {best}")
                break
        if patience is not None and history.waited:
            self.put_back(weights)
            self.log(f"restored the weights of {unit} {best}, the best one")
        return history

    def epoch(self, train: Loader) -> Iterator[Update]:
        """Train on the batches of the next epoch, yielding an Update for each. The rest of an unfinished epoch is
        skipped, so that each sample comes once."""
        self.batches = -(-self.batches // train.batches) * train.batches
        for number in range(self.batches, self.batches + train.batches):
            yield self.step(train.batch(number))

    def each_update(self, train: Loader, updates: int) -> Iterator[Update]:
        """Make this many updates from the next batches, one each time the next item is requested.

            for update in trainer.each_update(text, 1000):
                print(trainer.updates, update.loss)

        Batches that the scaler skipped are yielded too, but do not count as updates.
        """
        check_loader("train", train)
        check_whole("updates", updates)
        last = self.updates + updates
        while self.updates < last:
            yield self.step(train.batch(self.batches))

    def report_memory(self) -> None:
        """Report the arrays that live between updates to a ledger that was opened after they were made."""
        for bucket in self.reducer.buckets:
            ledger.hold(bucket.data, "parameters")
            ledger.hold(bucket.shard, "parameters")
        for owned in self.reducer.owned() if self.reducer.finished else ():
            ledger.hold(owned.grad, "gradients")
        for array in chain(*self.optimizer.state, self.optimizer.masters):
            ledger.hold(array, "optimizer")

    def weights(self) -> list[Array]:
        """Return a copy of what this rank's optimizer updates: for half precision, the masters once they exist."""
        data = [held.data for held in self.reducer.held()]
        masters = self.optimizer.masters or data
        return [(x if master is None else master).copy() for x, master in zip(data, masters, strict=True)]

    def put_back(self, weights: list[Array]) -> None:
        """Restore a copy made by `weights`; all ranks must call it. The optimizer's state is unchanged."""
        for i, (held, kept) in enumerate(zip(self.reducer.held(), weights, strict=True)):
            held.data[...] = kept
            if self.optimizer.masters and (master := self.optimizer.masters[i]) is not None:
                master[...] = kept
        self.reducer.gather_parameters()

    def validate(self, data: Loader, name: str = "validation") -> list[float]:
        """Return [mean loss] on all the data, followed by the accuracy if each sample has one label.

        The accuracy takes a second forward: with labels, the model returns only the loss. `name` is for the messages.
        Raise UserError if data.validation() can be iterated over only once.
        """
        with self.progress.task(f"{name}, loss", data.batches, "batches") as task:
            loss = self.mean_loss(task.watch(data.validation()))
        first = next(iter(data.validation()), None)
        if first is None:
            raise UserError(f"{name}: validation() gave batches once, then none; each call must return a new iterator")
        if first.labels is None or first.labels.ndim > 1:
            return [loss]
        with self.progress.task(f"{name}, accuracy", data.batches, "batches") as task:
            return [loss, self.accuracy(task.watch(data.validation()))]

    def agreed(self, row: list[float]) -> list[float]:
        """Return rank 0's numbers on all ranks. Each rank of a tensor-parallel group sums by itself, so the last bit
        may differ, and a rank that stopped alone would leave the others waiting."""
        x = to_device(np.array(row))
        self.world.broadcast(x, 0, ("dp", "history"))
        return to_host(x).tolist()

    # State ------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that later updates depend on, except the weights, the data and the arguments of the constructor. A
        new trainer given these continues bit for bit.

            tensors, state = gather(model, world, reducer=trainer.reducer), trainer.state_dict()

            new = Trainer(new_model, world, ...)
            restore(new_model, tensors)
            new.load_state_dict(state)

        "optimizer" holds this rank's arrays; checkpoint.gather_state makes them whole for another mesh. Everything else
        is numbers, lists and dictionaries, the same on all ranks.
        """
        return {**self.plain_state(), "optimizer": self.optimizer.state_dict()}

    def plain_state(self) -> dict[str, Any]:
        """Return the state without the optimizer's arrays."""
        parts = {name: part.state_dict() for name, part in self.parts_of_state().items()}
        return {"optimizer": {"updates": self.updates}, **parts, "batches": self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; all ranks must call it, before or after the weights are restored.

        Raise UserError on all ranks if the state does not fit on one of them. Scaler, precision, history, optimizer and
        `batches` are unchanged then.
        """
        check_same(self.world, flattened("state", state))
        parts = self.parts_of_state()
        check_state("the state of the trainer", state, ("optimizer", *parts, "batches"))
        check_whole("batches in the state of the trainer", state["batches"])
        for name, part in parts.items():
            copy.copy(part).load_state_dict(state[name])  # raises if the state does not fit
        agreed(self.world, lambda: self.optimizer.parts_of(state["optimizer"]))
        self.optimizer.load_state_dict(state["optimizer"])
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.batches = int(state["batches"])

    def parts_of_state(self) -> dict[str, Scaler | Precision | History]:
        """Return the components whose state is plain data, by name."""
        return {"scaler": self.scaler, "precision": self.precision or Precision(), "history": self.history}

    def close(self) -> None:
        """Stop the communication thread of an overlapped strategy."""
        self.reducer.close()


def flattened(name: str, state: Any) -> dict[str, Any]:
    """Flatten nested dictionaries to path -> value; "optimizer" is listed but not entered."""
    if not isinstance(state, Mapping):
        return {name: state}
    found: dict[str, Any] = {f"names in {name}": sorted(map(str, state))}
    for key, value in state.items():
        found |= {} if key == "optimizer" else flattened(f"{name}.{key}", value)
    return found
