"""The training strategy as one dataclass, for the library, the command line and the tests.

    parallelize(model, mesh, Strategy(zero=2, recompute=1))        the mesh says how ranks divide the work

The docstring of a field is also its help text.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..comm.mesh import Mesh
from ..errors import UserError, check_choice, check_number, check_whole, shown
from ..precision import DTYPES
from .pipeline_schedules import SCHEDULES, Schedule, default_chunks

Reduce = Literal["bucketed", "naive", "overlap"]
GradDtype = Literal["full", "fp16", "bf16"]
Owners = Literal["elements", "parameters"]
HALVES = {"fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Strategy:
    """How to store and communicate the model, its gradients and its activations."""

    zero: int = 0
    """ZeRO stage: 1 shards the optimizer state over the ranks, 2 also the gradients, 3 also the parameters."""
    reduce: Reduce = "bucketed"
    """bucketed: reduce gradients in buckets; naive: one by one, after backward; overlap: in buckets, by a thread."""
    bucket_mb: float = 1.0
    """Size of a bucket, in MiB."""
    reduce_once: bool = False
    """ZeRO-2 and -3 with micro-batches: keep the whole gradient, reduce it once. Sends less, needs more memory."""
    prefetch: bool = False
    """ZeRO-3: gather the next unit's parameters while computing the current one."""
    recompute: int = 0
    """Units per recomputed segment, of which only the input is kept for backward. 0: keep all activations."""
    sp: bool = False
    """With tp > 1: also divide the residual stream along time (sequence parallel)."""
    schedule: str | Schedule = "1f1b"
    """Order of the forwards and backwards in a pipeline."""
    chunks: int | None = None
    """Stages per rank of a pipeline. None: 2 for interleaved, zb-v and dualpipe, otherwise 1."""
    grad_dtype: GradDtype = "full"
    """Dtype in which ranks send gradients: full (their own), or 16 bits with sums in 32."""
    owners: Owners = "elements"
    """Where ZeRO may cut buckets between ranks: at any element, or only between whole parameters."""
    check: bool = True
    """Check in the first steps that layers are divided as their `shard` methods say (parallel/division_checks.py)."""

    @property
    def reducer(self) -> str:
        """The name of the reducer in REDUCERS (parallelize.py)."""
        return f"zero{self.zero}" if self.zero else self.reduce

    @property
    def v(self) -> int:
        """Stages per rank of a pipeline: `chunks`, or the schedule's default."""
        return default_chunks(self.schedule) if self.chunks is None else self.chunks

    @property
    def sent_dtype(self) -> np.dtype | None:
        """The half-precision dtype in which gradients are sent, or None."""
        return None if self.grad_dtype == "full" else DTYPES[HALVES[self.grad_dtype]]

    def label(self, name: str, value: Any = None) -> str:
        """Return a field or an axis as its user wrote it, for messages: zero, or zero=2."""
        return name if value is None else f"{name}={value!r}"

    # Validation -------------------------------------------------------------------------------------------------------

    def check_each(self) -> None:
        """Raise UserError for the first field with an invalid value."""
        label = self.label
        check_whole(label("zero"), self.zero, 0, 3)
        check_choice(label("reduce"), self.reduce, get_args(Reduce))
        check_number(label("bucket_mb"), self.bucket_mb, "above 0")
        check_whole(label("recompute"), self.recompute)
        if not callable(self.schedule):
            check_choice(label("schedule"), self.schedule, tuple(SCHEDULES))
        if self.chunks is not None:
            check_whole(label("chunks"), self.chunks, 1)
        check_choice(label("grad_dtype"), self.grad_dtype, get_args(GradDtype))
        check_choice(label("owners"), self.owners, get_args(Owners))
        for name in ("reduce_once", "prefetch", "sp", "check"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise UserError(f"{label(name)} is {shown(getattr(self, name))}; it must be True or False")

    def check_on(self, mesh: Mesh, micros: int | None = None) -> None:
        """Raise UserError for an invalid field, or one that conflicts with another field or with the mesh.

        micros: micro-batches per update, if known.
        """
        self.check_each()
        self._check_zero(mesh)
        self._check_pipeline(mesh, micros)
        (tp,) = mesh.along("matrices")
        if self.sp and mesh.parts("matrices") == 1:
            raise UserError(
                f"{self.label('sp', True)} divides what {self.label(tp)} leaves whole, but {self.label(tp)} is 1; "
                f"give {self.label(tp, 2)}, for example"
            )

    def _check_zero(self, mesh: Mesh) -> None:
        label, zero = self.label, self.label("zero", self.zero)
        if self.zero and self.reduce == "naive":
            raise UserError(
                f"{zero} reduces bucket by bucket; give {label('reduce', 'bucketed')} or overlap, not naive"
            )
        if self.prefetch and self.zero < 3:
            raise UserError(
                f"{label('prefetch', True)} gathers parameters, which {zero} does not divide; give {label('zero', 3)}"
            )
        if self.reduce_once and self.zero < 2:
            raise UserError(f"{label('reduce_once', True)} is for {label('zero', 2)} and 3; {zero} reduces once anyway")
        (pp,), stages = mesh.along("layers"), mesh.parts("layers")
        if self.zero > 1 and stages > 1:
            raise UserError(
                f"{zero} with {label(pp, stages)}: ZeRO-2 and -3 reduce (ZeRO-3 also gathers) around one backward of "
                f"the model, but a pipeline has several micro-batches in progress at once; give {label('zero', 1)}"
            )

    def _check_pipeline(self, mesh: Mesh, micros: int | None) -> None:
        label, (pp,), stages = self.label, mesh.along("layers"), mesh.parts("layers")
        named, v = isinstance(self.schedule, str), self.v
        fits = v > 1 if self.schedule == "interleaved" else v == default_chunks(self.schedule)
        if (named and not fits) or (v > 1 and stages == 1):
            schedule = self.schedule if named else getattr(self.schedule, "__name__", self.schedule)
            raise UserError(
                f"{label('chunks', v)} with {label('schedule', schedule)} and {label(pp, stages)}: several chunks per "
                f"rank go with interleaved, and 2 with zb-v and dualpipe, on several ranks; give {label('chunks', 2)}, "
                f"{label('schedule', 'interleaved')} and {label(pp, 2)}, for example, or none of these"
            )
        if self.schedule == "dualpipe" and (stages % 2 or (micros is not None and (micros % 2 or micros < 2 * stages))):
            given = label(pp, stages) + (f" and {label('accumulate', micros)}" if micros else "")
            raise UserError(
                f"{label('schedule', 'dualpipe')} fills the pipeline from both ends, but you gave {given}; give even "
                f"numbers, and at least twice as many micro-batches as ranks, such as {label(pp, 4)} and "
                f"{label('accumulate', 8)}"
            )
        if micros is not None and self.schedule == "interleaved" and micros % stages:
            raise UserError(
                f"{label('schedule', 'interleaved')} passes micro-batches on in groups of {label(pp, stages)}, which "
                f"does not divide {label('accumulate', micros)}; give a multiple of {stages}"
            )
