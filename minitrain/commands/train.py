"""Train a GPT on text, as `python -m minitrain train` does: set up the trainer, print progress, log, save."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..comm.agreement import agreed, check_same
from ..comm.communicator import Communicator
from ..comm.ring import RingCommunicator
from ..data.bpe import BytePairTokenizer
from ..data.loader import TextLoader
from ..data.text import CharTokenizer, load_text, split
from ..errors import UserError, left_of_limit, limit_memory, memory_left, memory_used, on_rank_0, reason
from ..models import gpt
from ..optim import AdamW
from ..parallel import reducer
from ..precision import StaticScaler
from ..runtime.launch import launch
from ..train import checkpoint
from ..train.generate import generate
from ..train.history import Update
from ..train.nonfinite import NotFinite
from ..train.progress import Progress, Task
from ..train.trainer import Trainer
from ..train.weights import find, start_from
from .config import TrainConfig
from .model_tokenizer import FILE, chosen, description, missing, unit, write
from .model_tokenizer import check as check_tokenizer
from .options import CheckpointOptions, CurveOptions, RunOptions, TraceOptions, make_mesh
from .run_checkpoints import CHECKPOINTS, NOT_FINITE, RunCheckpoints, Stopped, crc32_of
from .run_folder import RunFolder, write_somewhere
from .start import check_sizes
from .tensorboard import Curves, check_package
from .tracing import traced

LOG, MODEL = "log.jsonl", "model.safetensors"
QUICK_VALIDATION = 200  # windows of a validation during training


class TextTrainer:
    """Train a GPT on text, on one rank of `world`. Raise UserError for an invalid config."""

    def __init__(self, config: TrainConfig, world: Communicator) -> None:
        config.check_each()
        self.config = config
        self.world = world = RingCommunicator(world) if config.parallel.comm == "ring" else world
        self.mesh = make_mesh(world, config.parallel)
        config.strategy.check_on(self.mesh, config.parallel.accumulate)
        config.check(self.mesh.parts("samples"))
        text = load_text(config.data.text)
        given = {
            key: value for group in asdict(config).values() if isinstance(group, dict) for key, value in group.items()
        }
        for key in ("out", "text", "resume", "weights", "tokenizer", "tensorboard", "trace"):
            given[key] = given[key] is not None  # paths may differ between machines
        self.text_crc32, self.tokenizer = crc32_of(text), agreed(world, lambda: chosen(config.data, text))
        sums = {"checksum of the text": self.text_crc32, "checksum of the tokenizer": self.tokenizer.sha256}
        check_same(world, {**given, **sums})
        limit = config.parallel.memory_mb
        before = 0 if limit is None else memory_at_start()
        train, validation = split(self.tokenizer.encode(text), config.data.validation)
        seed, context, batch = config.report.seed, config.model.context, config.data.batch
        self.train_data = TextLoader(train, context, batch, seed)
        self.val_data = TextLoader(validation, context, batch, seed)
        self.gpt_config = config.gpt(self.tokenizer.size)
        left = memory_left() if limit is None else left_of_limit(limit, before)
        config.check_memory(self.gpt_config, self.mesh.parts("samples"), left)
        if limit is not None:
            limit_memory(limit, before)
        self.model = gpt(self.gpt_config)
        self.notes = [] if config.checkpoints.weights is None else self.start_from(config.checkpoints.weights)
        self.trainer = self.make_trainer()
        self.log_ended = ""  # why the log ended, once it can no longer be written
        self.rows = 0  # of the log
        self.curves = self.make_curves(config.curves.tensorboard)

    def start_from(self, path: Path) -> list[str]:
        """Let the model start from these weights. Return what to tell the user. Raise UserError if they do not fit."""
        weights = find(path, self.world)
        check_sizes(weights, self.gpt_config)
        if weights.tokenizer is None and self.config.data.tokenizer is None:
            raise missing(weights)
        check_tokenizer(self.tokenizer, weights)
        return [f"starting from the weights in {weights.path}", *start_from(self.model, weights)]

    def make_trainer(self) -> Trainer:
        """Return the trainer that runs the updates."""
        o = self.config.optimizer
        return Trainer(
            self.model,
            self.world,
            optimizer=partial(AdamW, weight_decay=o.weight_decay, beta2=o.beta2),
            schedule=o.schedule(),
            momentum=o.momentum(),
            seed=self.config.report.seed,
            mesh=self.mesh,
            strategy=self.config.strategy,
            accumulate=self.config.parallel.accumulate,
            clip=o.clip or None,
            precision=self.config.precision.policy(),
            half_weights=self.config.precision.half_weights,
            scaler=self.config.precision.scaler(self.config.strategy.grad_dtype),
            advice=f"try a smaller --lr than {o.lr} or a longer --warmup",
        )

    def make_curves(self, folder: Path | None) -> Curves:
        """Return the curves, which rank 0 writes. Raise UserError, on all ranks, if it cannot."""
        here = self.world.rank == 0 and folder is not None
        agreed(self.world, lambda: check_package() if here else None)
        tokens = self.train_data.B * self.train_data.T
        return agreed(self.world, lambda: Curves(folder if here else None, tokens, self.log))

    def fit(self) -> float:
        """Run all updates and return the loss on the whole validation text, in nats per token.

        Raise UserError if the loss diverges or a file cannot be written, and Stopped if a signal has ended the run.
        """
        with self.open_folder() as folder, closing(self.curves):
            for line in (self.describe(), *self.notes):
                self.log(line)
            checkpoints = RunCheckpoints(self, folder)
            if self.config.checkpoints.resume is not None:
                checkpoints.resume()
            if self.config.checkpoints.weights is not None:
                self.validate_quickly(" before the first update")
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # the trainer checks every loss itself
                    self.train(folder, checkpoints, self.config.optimizer.steps)
                    final = self.validate()
            except NotFinite as error:
                raise checkpoints.rescue(error) from error
            with self.trainer.progress.task("writing the checkpoint"):
                checkpoints.close()
            self.record(folder, {"step": self.trainer.updates, "final_val_loss": final})
            self.log(f"validation loss {final:.4f} nats per {unit(self.tokenizer)}, on the whole validation text")
            self.curves.close()
            with self.trainer.progress.task("writing the model"):
                self.save()
        return final

    def open_folder(self) -> RunFolder:
        """Return the folder of the run; of an earlier run, if this one continues it there.

        Raise UserError if it cannot be used.
        """
        o, resume = self.config.report, self.config.checkpoints.resume
        source = self.config.checkpoints.weights
        inside = lambda path: path is not None and o.out.resolve() in (path.resolve(), *path.resolve().parents)
        goes_on = inside(resume)
        if inside(source) and o.overwrite:
            raise UserError(f"--overwrite would replace the model that --from {source} starts from; give another --out")
        if goes_on and o.overwrite:
            raise UserError(f"--overwrite would replace the run that --resume {resume} continues; give one of the two")
        aside = o.out == RunOptions.out
        return RunFolder(self.world, o.out, (LOG, MODEL, FILE), o.overwrite, aside, (CHECKPOINTS, NOT_FINITE), goes_on)

    def train(self, folder: RunFolder, checkpoints: RunCheckpoints, steps: int) -> None:
        """Run the updates up to `steps`, log a row for each, and save at times. Raise Stopped after a signal."""
        with checkpoints.listening(), self.trainer.progress.task("", steps, "updates", self.trainer.updates) as task:
            for update in self.updates(steps - self.trainer.updates):
                last = self.trainer.updates == steps
                self.record(folder, self.looked_at(update, last, task))
                checkpoints.after(update, last)

    def looked_at(self, update: Update, last: bool, task: Task) -> dict[str, Any]:
        """Show how the run goes, and validate if it is time to. Return the row of the update in the log."""
        o, row = self.config.report, self.row(update)
        if not update.skipped:
            self.show(row, last, task)
        if not update.skipped and row["step"] % o.val_every == 0 and not last:
            row["val_loss"] = self.validate_quickly()
        return row

    def show(self, row: dict[str, Any], last: bool, task: Task) -> None:
        """Show an update: in the bar if there is one, otherwise in a line now and then, and in one at the end."""
        steps, progress = task.count, self.trainer.progress
        task.reach(row["step"])
        rate = f"{self.train_data.B * self.train_data.T * task.rate:,.0f} tokens/s"
        task.note = f"loss {row['loss']:.3f}  {rate}"
        due = progress.terminal is None and row["step"] % self.config.report.log_every == 0
        if due or last or progress.quiet:
            done = f"[{'#' * (10 * task.done // steps):<10}] {task.done:>{len(str(steps))}}/{steps}"
            self.log(f"{done}  loss {row['loss']:.3f}  lr {row['lr']:.1e}  {rate}  {task.left}")

    def updates(self, count: int) -> Iterator[Update]:
        """Yield `count` more updates, each run on demand. Print which batches were skipped."""
        updates = self.trainer.each_update(self.train_data, count)
        for update in traced(updates, count, self.config.tracing, self.world, self.log):
            if update.skipped:
                number, scale = self.trainer.batches - 1, self.trainer.scaler.value
                self.log(f"batch {number} skipped: gradients overflowed; the loss scale is now {scale:g}")
            yield update

    def row(self, update: Update) -> dict[str, Any]:
        """Return the row of an update in the log."""
        row: dict[str, Any] = {"step": self.trainer.updates, "loss": update.loss, "lr": update.lr, "norm": update.norm}
        if isinstance(self.trainer.scaler, StaticScaler):
            row["scale"] = update.scale
        return row | {"skipped": True, "loss": None, "norm": None} if update.skipped else row  # JSON has no infinity

    def validate(self, most: int | None = None) -> float:
        """Return the mean loss over the validation text, or `most` windows of it, in nats per token."""
        data = self.val_data
        batches = -(-min(most or data.windows, data.windows) // data.B)
        with self.trainer.progress.task("validation", batches, "batches") as task:
            return self.trainer.mean_loss(task.watch(data.validation(most)))

    def validate_quickly(self, when: str = "") -> float:
        """Print and return the mean loss over some windows of the validation text. when: to add to what is printed."""
        loss = self.validate(QUICK_VALIDATION)
        self.log(f"validation loss {loss:.3f}{when}, on {min(QUICK_VALIDATION, self.val_data.windows)} windows")
        return loss

    def close(self) -> None:
        """End the communication thread, if there is one."""
        self.trainer.close()

    def log(self, text: str) -> None:
        """Print the text on rank 0."""
        self.trainer.log(text)

    def sample(self, length: int, temperature: float = 0.8) -> str:
        """Return text generated after a newline or, if the text has none, its first character.

        All ranks must call it if the model is divided; otherwise rank 0 calls it alone.
        """
        tokenizer = self.tokenizer
        prompt = tokenizer.encode(tokenizer.vocabulary[0] if isinstance(tokenizer, CharTokenizer) else "\n")
        context, world = self.gpt_config.context, self.world if self.divided else None
        with self.trainer.progress.task("sample", length, "tokens") as task:
            ids = generate(
                self.model, context, prompt, length, temperature, self.config.report.seed, world=world,
                each=lambda token: task.advance(),
            )  # fmt: skip
        return tokenizer.decode(ids)

    @property
    def divided(self) -> bool:
        """Whether no rank holds the whole model."""
        return self.config.strategy.zero == 3 or self.mesh.parts(*reducer.MODEL) > 1

    def about(self) -> dict[str, Any]:
        """Return what a file of the model says: its sizes, its tokenizer, and the options of the run."""
        tokenizer, run = description(self.tokenizer), self.config.plain()
        return {"gpt": asdict(self.gpt_config), "tokenizer": tokenizer, "run": run}

    def save(self) -> None:
        """Write the logical model to out/model.safetensors.

        Raise UserError, on all ranks, if it had to be written elsewhere, or if the log is incomplete.
        """
        held = checkpoint.gather(self.model, self.world, reducer=self.trainer.reducer, root=0)
        masters = self.gathered_masters() if self.config.precision.half_weights else {}
        tensors = {path: x.astype(self.gpt_config.dtype, copy=False) for path, x in (held | masters).items()}

        def write() -> None:
            path, trouble = write_somewhere(
                self.config.report.out / MODEL, lambda to: checkpoint.save(to, tensors, self.about())
            )
            self.log(f"saved {path}")
            if trouble or self.log_ended or self.curves.ended:
                raise UserError(trouble or self.log_ended or self.curves.ended)

        on_rank_0(self.world, write)

    def gathered_masters(self) -> dict[str, np.ndarray]:
        """Return path -> float32 master of half weights; empty before the first update. All ranks call it."""
        state = {name: x for name, x in self.trainer.optimizer.state_dict().items() if name.endswith(".master")}
        whole = checkpoint.gather_state(state, self.world)
        return {name.removesuffix(".master"): x for name, x in whole.items() if isinstance(x, np.ndarray)}

    def describe(self) -> str:
        """Describe the run in two lines, and which ranks communicate if the model is divided."""
        g, d, tokens = self.gpt_config, self.train_data, f"{unit(self.tokenizer)}s"
        return (
            f"GPT of {g.parameters:,} parameters: {g.layers} layers of width {g.width}, {g.vocabulary:,} {tokens}\n"
            f"{len(d.ids):,} {tokens} to train on; {d.B} windows of {d.T} per update, on {self.world.size} rank(s)"
            + ("\n" + self.mesh.table() if self.mesh.parts(*reducer.MODEL) > 1 else "")
        )

    def begin(self, folder: RunFolder) -> None:
        """Make way for the files of this run, and write its tokenizer if it is not there. Raise OSError if it fails."""
        if message := folder.begin():
            self.log(message)
        if isinstance(self.tokenizer, BytePairTokenizer) and not (folder.path / FILE).exists():
            write(self.tokenizer, folder.path / FILE)

    def record(self, folder: RunFolder, row: dict[str, Any]) -> None:
        """Append a row to the log, and to the curves. If one can no longer be written, print that and keep training."""
        self.rows += 1
        self.curves.add(row)
        if self.world.rank != 0 or self.log_ended:
            return
        try:
            if not folder.begun:
                self.begin(folder)
            folder.append(LOG, json.dumps(row) + "\n")
        except OSError as error:
            self.log_ended = f"the log {folder.path / LOG} ends before update {row['step']}: {reason(error)}"
            self.log(self.log_ended)


def memory_at_start() -> int:
    """Return the bytes in use after a first product, for which BLAS allocates memory (or ends the process)."""
    np.ones((256, 256)) @ np.ones((256, 256))
    return memory_used()


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a GPT on text, on one process or under `mpirun -n 2`."""

    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    tracing: TraceOptions = field(default_factory=TraceOptions)
    curves: CurveOptions = field(default_factory=CurveOptions)

    def run(self) -> int:
        """Train, save, and print a sample. Return 130 if a signal has ended the run, after saving."""
        with launch() as world:
            with Progress(world).task("setting up"):
                trainer = TextTrainer(self, world)
            try:
                trainer.fit()
            except Stopped as stop:
                trainer.log(f"minitrain: {stop}")
                trainer.close()
                return 130
            if self.report.sample and (world.rank == 0 or trainer.divided):
                rule = "-" * 80
                trainer.log(f"{rule}\n{trainer.sample(self.report.sample)}\n{rule}")
            trainer.close()
        return 0
