"""Which strategies train a model, in one dataclass: of the library, the command line and the tests.

    parallelize(model, mesh, Strategy(zero=2, recompute=1))        how the ranks divide the work says the mesh

A field's docstring is its help text.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..comm.mesh import Mesh
from ..errors import UserError, check_choice, check_number, check_whole, shown
from ..precision import DTYPES
from .pipeline_schedules import SCHEDULES, Schedule

Reduce = Literal["bucketed", "naive", "overlap"]
Wire = Literal["full", "fp16", "bf16"]
Owners = Literal["elements", "parameters"]
HALVES = {"fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Strategy:
    """How the model, its gradients and its activations are held and sent."""

    zero: int = 0
    """Divide over the ranks: 1 the optimizer's state, 2 the gradients as well, 3 the parameters as well."""
    reduce: Reduce = "bucketed"
    """Gradients are added up in buckets, one by one after backward, or in buckets while backward goes on."""
    bucket_mb: float = 1.0
    """Size of a bucket, in MiB."""
    reduce_once: bool = False
    """ZeRO-2 and -3 with micro-batches: keep the whole gradient and reduce it once, which sends less and holds more."""
    prefetch: bool = False
    """ZeRO-3: gather the next unit's parameters while one is at work."""
    recompute: int = 0
    """Keep only the input of every run of so many units, and compute their forward again in backward; 0 keeps all."""
    sp: bool = False
    """With ranks along tp: divide the residual path along time as well (sequence parallel)."""
    schedule: str | Schedule = "1f1b"
    """The order of a pipeline's forwards and backwards."""
    chunks: int = 1
    """Stages that each rank of an interleaved pipeline holds."""
    wire: Wire = "full"
    """How gradients travel between ranks: as they are, or in 16 bits and added up in 32."""
    owners: Owners = "elements"
    """Where ZeRO cuts between owners: after any element, or after whole parameters only."""
    check: bool = True
    """Look in the first steps whether the layers are divided as their `shard` says (parallel/division.py)."""

    @property
    def reducer(self) -> str:
        """The name of what decides about gradients: see REDUCERS in parallelize.py."""
        return f"zero{self.zero}" if self.zero else self.reduce

    @property
    def wire_dtype(self) -> np.dtype | None:
        """The half precision in which gradients travel, if they do."""
        return None if self.wire == "full" else DTYPES[HALVES[self.wire]]

    def say(self, name: str, value: Any = None) -> str:
        """A field or an axis for a message, as whoever reads it has written it: zero, or zero=2."""
        return name if value is None else f"{name}={value!r}"

    # What cannot be meant ---------------------------------------------------------------------------------------------

    def check_each(self) -> None:
        """Raise UserError for the first field that is wrong by itself."""
        say = self.say
        check_whole(say("zero"), self.zero, 0, 3)
        check_choice(say("reduce"), self.reduce, get_args(Reduce))
        check_number(say("bucket_mb"), self.bucket_mb, "above 0")
        check_whole(say("recompute"), self.recompute)
        if not callable(self.schedule):
            check_choice(say("schedule"), self.schedule, tuple(SCHEDULES))
        check_whole(say("chunks"), self.chunks, 1)
        check_choice(say("wire"), self.wire, get_args(Wire))
        check_choice(say("owners"), self.owners, get_args(Owners))
        for name in ("reduce_once", "prefetch", "sp", "check"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise UserError(f"{say(name)} is {shown(getattr(self, name))}; it must be True or False")

    def check_on(self, mesh: Mesh, micros: int | None = None) -> None:
        """Raise UserError for fields that cannot be meant, or not together, or not on this mesh.

        micros: micro-batches of an update, where they are known.
        """
        self.check_each()
        self._check_zero(mesh)
        self._check_pipeline(mesh, micros)
        (tp,) = mesh.along("matrices")
        if self.sp and mesh.parts("matrices") == 1:
            raise UserError(
                f"{self.say('sp', True)} divides what {self.say(tp)} leaves whole, and {self.say(tp)} is 1; "
                f"give {self.say(tp, 2)}, say"
            )

    def _check_zero(self, mesh: Mesh) -> None:
        say, zero = self.say, self.say("zero", self.zero)
        if self.zero and self.reduce == "naive":
            raise UserError(f"{zero} reduces bucket by bucket; give {say('reduce', 'bucketed')} or overlap, not naive")
        if self.prefetch and self.zero < 3:
            raise UserError(
                f"{say('prefetch', True)} gathers parameters, which {zero} does not divide; give {say('zero', 3)}"
            )
        if self.reduce_once and self.zero < 2:
            raise UserError(f"{say('reduce_once', True)} is for {say('zero', 2)} and 3; {zero} reduces once anyway")
        (pp,), stages = mesh.along("layers"), mesh.parts("layers")
        if self.zero > 1 and stages > 1:
            raise UserError(
                f"{zero} with {say(pp, stages)}: these stages reduce (and at stage 3 gather) around a backward of the "
                f"model, and in a pipeline those of several micro-batches are under way at once; give {say('zero', 1)}"
            )

    def _check_pipeline(self, mesh: Mesh, micros: int | None) -> None:
        say, (pp,), stages = self.say, mesh.along("layers"), mesh.parts("layers")
        named = isinstance(self.schedule, str)
        if (named and (self.chunks > 1) != (self.schedule == "interleaved")) or (self.chunks > 1 and stages == 1):
            schedule = self.schedule if named else getattr(self.schedule, "__name__", self.schedule)
            raise UserError(
                f"{say('chunks', self.chunks)} with {say('schedule', schedule)} and {say(pp, stages)}: several chunks "
                f"a rank are what interleaved is, on several ranks; give {say('chunks', 2)}, "
                f"{say('schedule', 'interleaved')} and {say(pp, 2)}, say, or none of these"
            )
        if micros is not None and self.schedule == "interleaved" and micros % stages:
            raise UserError(
                f"{say('schedule', 'interleaved')} passes micro-batches on in groups of {say(pp, stages)}, which does "
                f"not divide {say('accumulate', micros)}; give a multiple of {stages}"
            )
