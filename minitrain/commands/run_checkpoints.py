"""The checkpoints of `train`: at fixed intervals, on a signal, before a loss that is not finite; and their resumption.

    python -m minitrain train --save-every 100 --keep 2         build/run/checkpoints/step-100, step-200, ...
    python -m minitrain train --resume                          continues build/run from the last complete one

A resumed run has the options of the one it continues, unless others are given. Its log is cut back to the update of the
checkpoint: in the end, it is the log of a run without interruption.
"""

import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ..errors import UserError, check_whole, reason, shown
from ..runtime.terminal import fresh_line
from ..train.checkpoint_folder import CHECKPOINTS, candidates, newest, none_in
from ..train.checkpoint_index import INDEX, Index
from ..train.checkpoints import Checkpoints
from ..train.history import Update
from ..train.resharding import load
from .model_tokenizer import FILE, check_described
from .options import DataOptions, RunOptions
from .run_folder import RunFolder
from .signals import Signals

if TYPE_CHECKING:
    from .config import TrainConfig
    from .train import TextTrainer


NOT_FINITE = "not-finite"  # the folder of the state before a loss that is not finite


class Stopped(Exception):
    """Raised when a signal has asked the run to end, and it has saved."""


class RunCheckpoints:
    """Saves and resumes one run. All ranks make the same calls."""

    def __init__(self, text: "TextTrainer", folder: RunFolder) -> None:
        self.text, self.folder, self.options = text, folder, text.config.checkpoints
        self.made: Checkpoints | None = None
        self.signals: Signals | None = None
        self.saved = -1  # number of updates of the last save

    def listening(self) -> AbstractContextManager[Any]:
        """Return a context in which signals are noted, if the run saves at all."""
        if not self.options.save_every:
            return nullcontext()
        note = f"{fresh_line()}minitrain: interrupted; saving after this update (once more: end at once)\n"
        self.signals = Signals(note if self.text.world.rank == 0 else "")
        return self.signals

    def after(self, update: Update, last: bool) -> None:
        """Save if it is time to. Raise Stopped, after saving, if any rank was signalled to end."""
        if not self.options.save_every:
            return
        updates = self.text.trainer.updates
        if not update.skipped and (updates % self.options.save_every == 0 or last):
            self.save()
        if self.checkpoints.look(self.signals is not None and self.signals.heard):
            if self.saved != updates or update.skipped:
                self.save()
            saved = self.checkpoints.finish() and self.saved == updates
            self.close()
            raise Stopped(self.farewell(updates, saved))

    def farewell(self, updates: int, saved: bool) -> str:
        """Return what to tell the user of a run that a signal has ended."""
        last = self.checkpoints.last
        how = f"saved {last}" if saved else f"not saved; the last complete checkpoint is {last}"
        cure = f". Continue with:\n{self.command()} --resume {self.folder.path}" if last else ""
        return f"interrupted after {updates} of {self.text.config.optimizer.steps} updates; {how}{cure}"

    def command(self) -> str:
        """Return how this run was started, without its options."""
        ranks = self.text.world.size
        return f"{f'mpirun -n {ranks} ' if ranks > 1 else ''}python -m minitrain train"

    @property
    def checkpoints(self) -> Checkpoints:
        """The folder's checkpoints. It is opened late, since an earlier run's files are first moved out of the way."""
        if self.made is None:
            o = self.options
            path = self.folder.path / CHECKPOINTS
            self.made = Checkpoints(path, self.text.world, o.keep, o.save_async, self.text.trainer.log)
        return self.made

    def save(self) -> bool:
        """Save the whole state now. Return whether that has succeeded, or in the background, has begun."""
        if self.text.world.rank == 0 and not self.text.log_ended:
            try:
                self.folder.sync("log.jsonl")  # the checkpoint says how many rows it has
            except OSError as error:
                self.text.log(f"the log may lack rows after a loss of power: {reason(error)}")
        self.text.curves.flush()
        with self.text.trainer.progress.task("writing a checkpoint"):
            begun = self.checkpoints.save(self.text.trainer, self.about())
        self.saved = self.text.trainer.updates if begun else -1
        return begun

    def about(self) -> dict[str, Any]:
        """Return what a checkpoint says of the run: its options, the text, the tokenizer, and the rows of its log."""
        text = self.text
        return {
            **text.about(),
            "log_rows": text.rows,
            "text_crc32": text.text_crc32,
            "random": {"seed": text.config.report.seed, "next batch": text.trainer.batches},
        }

    def rescue(self, error: UserError) -> UserError:
        """Return the error of a loss that is not finite, with the checkpoints there are: the last of the run, and the
        state before this batch, which is saved apart, since it may already be beyond help."""
        if not self.options.save_every:
            return error
        self.close()
        last, lines = self.checkpoints.last, [f"{error}."]
        if last is not None:
            lines += [f"The last checkpoint is {last}. Continue it, for example, with:"]
            lines += [f"{self.command()} --resume {last} --lr SMALLER"]
        if self.saved != self.text.trainer.updates and (apart := self.save_apart()) is not None:
            lines += [f"The state before this batch is in {apart}. To see the error again:"]
            lines += [f"{self.command()} --resume {apart}"]
        return UserError("\n".join(lines))

    def save_apart(self) -> Path | None:
        """Save the state in a folder of its own, where it replaces no other. Return where; None if that has failed."""
        path = self.folder.path / NOT_FINITE
        apart = Checkpoints(path, self.text.world, keep=1, log=self.text.log)
        apart.save(self.text.trainer, self.about())
        apart.close()
        return apart.last

    def close(self) -> None:
        """Complete the last save."""
        if self.made is not None:
            self.made.close()

    # Resumption -------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Continue from the last complete checkpoint. Raise UserError if there is none, or if it does not fit."""
        text = self.text
        assert self.options.resume is not None
        with text.trainer.progress.task("checking the checkpoint"):
            found, index = newest(self.options.resume, text.world, text.log)
        check_about(found, index)
        check_described(str(found), index.about["tokenizer"], text.tokenizer)
        if index.updates > text.config.optimizer.steps:
            raise UserError(
                f"{found} has made {index.updates} updates, but --steps is {text.config.optimizer.steps}: "
                f"give more, or --resume an earlier checkpoint in {found.parent}"
            )
        with text.trainer.progress.task("reading the checkpoint"):
            notes = load(text.trainer, found, index)
        for line in (*notes, *self.differences(index)):
            text.log(line)
        self.saved = index.updates
        text.curves.resume(index.updates, text.trainer.scaler.skips)
        text.log(f"continuing {found}: {index.updates} of {text.config.optimizer.steps} updates are made")
        if index.updates == text.config.optimizer.steps:
            text.log("no update is left; give more --steps to train on")
        if self.folder.goes_on:
            text.rows = index.about["log_rows"]
            self.folder.cut_back("log.jsonl", text.rows)
        else:
            text.log(f"writing to {self.folder.path}, where the log begins with update {index.updates + 1}")

    def differences(self, index: Index) -> list[str]:
        """Return, in lines, what differs from the run that is continued: the text, options, the mesh."""
        text, lines = self.text, []
        if index.about["text_crc32"] != text.text_crc32:
            lines += ["the text is not the one of the checkpoint: the batches to come are others than they were"]
        lines += changes(index.about["run"], text.config.plain())
        if index.mesh != text.mesh.sizes:
            lines += [f"{named(text.mesh.sizes)} from here on; it was {named(index.mesh)}: the last digits may differ"]
        return lines


def named(mesh: Mapping[str, int]) -> str:
    """Return the axes of a mesh that have several ranks: "dp 2 x tp 2"."""
    return " x ".join(f"{axis} {n}" for axis, n in mesh.items() if n != 1) or "one rank"


def check_about(folder: Path, index: Index) -> None:
    """Raise UserError unless `train` has saved the checkpoint."""
    about = index.about
    tokenizer = about.get("tokenizer")
    described = isinstance(about.get("run"), dict) and isinstance(tokenizer, dict)
    if not described or not {"log_rows", "text_crc32"} <= about.keys():
        raise UserError(f"{folder} was not saved by train: load it with minitrain.train.resharding.load")
    check_whole(f"{folder}: log_rows", about["log_rows"])


def crc32_of(text: str) -> int:
    """Return the CRC-32 of a text."""
    return zlib.crc32(text.encode())


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each option that differs from the run that is continued."""
    flag = lambda key: "--" + key.replace("_", "-")
    return [
        f"{flag(key)} is {shown(now[group][key])} from here on; it was {shown(x)}"
        for group, options in before.items()
        for key, x in options.items()
        if key in now.get(group, {}) and now[group][key] != x
    ]


# On the command line --------------------------------------------------------------------------------------------------


def resumed(arguments: list[str], config: "TrainConfig") -> "TrainConfig":
    """Return the options that hold where the command line gives none: those of the run that it resumes.

    arguments: of `train`, changed so that --resume has a folder. Raise UserError if there is nothing to resume.
    """
    place = next((i for i, word in enumerate(arguments) if word.partition("=")[0] == "--resume"), None)
    if place is None:
        return config
    _, given, folder = arguments[place].partition("=")
    if not given and place + 1 < len(arguments) and not arguments[place + 1].startswith("-"):
        folder = arguments[place + 1]
    elif not given:
        folder = value_of("--out", arguments) or str(RunOptions.out)
        arguments.insert(place + 1, folder)
    path = Path(folder)
    found, troubles = candidates(path)
    if not found and {"-h", "--help"}.intersection(arguments):
        return config
    if not found:
        raise UserError(none_in(path, troubles))
    check_about(*found[0])
    saved = found[0][1].about["run"]
    run = path.parent.parent if (path / INDEX).exists() else path if (path / CHECKPOINTS).exists() else path.parent
    try:
        groups = {name: filled(getattr(config, name), saved[name]) for name in vars(config).keys() & saved.keys()}
    except (TypeError, AttributeError) as error:
        raise UserError(f"{found[0][0]} has options that are none of train: {error}") from error
    made = replace(config, **groups)
    data = with_tokenizer(made.data, run, found[0][1].about["tokenizer"], arguments)
    report, checkpoints = replace(made.report, out=run), replace(made.checkpoints, resume=Path(folder))
    return replace(made, data=data, report=report, checkpoints=checkpoints)


def with_tokenizer(data: DataOptions, run: Path, about: Mapping[str, Any], arguments: list[str]) -> DataOptions:
    """Return the options with a run's own tokenizer. about: what its checkpoint says of it. Raise UserError if there is
    none, and the command line gives none."""
    beside, characters = run / FILE if (run / FILE).exists() else None, about.get("vocabulary")
    if characters is None and beside is None and value_of("--tokenizer", arguments) is None:
        raise UserError(f"{run} has lost its tokenizer, {FILE}: give it with --tokenizer")
    return replace(data, characters=characters, tokenizer=beside)


def value_of(flag: str, arguments: list[str]) -> str | None:
    """Return the value of a flag on the command line, the last one if there are several; None if it is not there."""
    found: str | None = None
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, given, value = word.partition("=")
        if name == flag:
            found = value if given else following
    return found


def filled(options: Any, values: Mapping[str, Any]) -> Any:
    """Return a group of options with saved values; those that this version does not have are left out."""
    hints = get_type_hints(type(options))
    path = lambda key: Path in (hints[key], *get_args(hints[key]))
    known = {key: Path(x) if x is not None and path(key) else x for key, x in values.items() if key in hints}
    return replace(options, **known)
