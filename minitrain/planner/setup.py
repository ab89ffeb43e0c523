"""Everything that determines an update: the model, the batch, the ranks, the strategy and the precision."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

from ..errors import UserError
from ..parallel.instructions import Layout
from ..parallel.pipeline_schedules import layout_of
from ..parallel.strategy import Strategy
from ..sharding import shard_of
from .sizes import Sizes, Weight

Precision = Literal["fp32", "fp16", "bf16", "fp64"]
Place = tuple[int, int, int]  # a rank's coordinates (dp, pp, tp)


@dataclass(frozen=True)
class Setup:
    """Everything that determines an update.

    batch: samples per update, over all ranks. accumulate: micro-batches. precision: of activations; "fp64" for all.
    half_weights: parameters and gradients in 16 bits, with masters. states: arrays of the optimizer per parameter.
    scaled: whether the ranks agree on an overflow. id_bytes: of a token's id.
    windows: sequences whose ids every rank keeps, if not those of the batch.
    flash: attention as in FlashAttention, which this program does not have.
    Raise UserError for what has no formulas yet.
    """

    sizes: Sizes
    batch: int
    dp: int = 1
    pp: int = 1
    tp: int = 1
    strategy: Strategy = Strategy()
    accumulate: int = 1
    precision: Precision = "fp32"
    half_weights: bool = False
    states: int = 2
    scaled: bool = False
    id_bytes: int = 4
    windows: int = 0
    flash: bool = False

    def weights(self, unit: int) -> tuple[Weight, ...]:
        """Return the parameters of a unit."""
        return self.sizes.weights(unit)

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return self.dp * self.pp * self.tp

    @property
    def acc_item(self) -> int:
        """Bytes of a number in which sums are computed."""
        return 8 if self.precision == "fp64" else 4

    @property
    def item(self) -> int:
        """Bytes of an activation."""
        return 2 if self.precision in ("fp16", "bf16") else self.acc_item

    @property
    def stored(self) -> int:
        """Bytes of a parameter, and of a gradient."""
        return 2 if self.half_weights else self.acc_item

    @property
    def state(self) -> int:
        """Bytes of the optimizer's state per parameter: its arrays, and a master of half-precision parameters."""
        return self.acc_item * (self.states + self.half_weights)

    def __post_init__(self) -> None:
        s = self.strategy
        for name, known in (("grad_dtype", "full"), ("owners", "elements")):
            if getattr(s, name) != known:
                raise UserError(f"no formulas for {s.label(name, getattr(s, name))}; plan with {known}")

    @cached_property
    def layout(self) -> Layout:
        """Which stages the ranks of a pipeline hold."""
        return layout_of(self.strategy.schedule, self.pp, self.strategy.v)

    @cached_property
    def stages(self) -> list[range]:
        """The units of each stage of the pipeline."""
        n = self.layout.stages
        return [units_of(self.sizes, n, stage) for stage in range(n)]

    @cached_property
    def holders(self) -> dict[str, tuple[int, ...]]:
        """Path of a parameter -> the coordinates along pp that use it."""
        found: dict[str, set[int]] = {}
        for stage, units in enumerate(self.stages):
            for unit in units:
                for weight in self.weights(unit):
                    found.setdefault(weight.path, set()).update(rank for rank, _ in self.layout.places(stage))
        return {path: tuple(sorted(stages)) for path, stages in found.items()}

    def rank_at(self, dp: int, pp: int, tp: int) -> int:
        """Return the rank of these coordinates: tp is innermost."""
        return (dp * self.pp + pp) * self.tp + tp

    def places(self) -> Iterator[Place]:
        """Yield the coordinates (dp, pp, tp) of every rank, in order."""
        return product(range(self.dp), range(self.pp), range(self.tp))


def units_of(sizes: Sizes, stages: int, stage: int) -> range:
    """Return the units of a stage, of so many."""
    cut = shard_of(sizes.units, stages, stage)
    return range(cut.start, cut.stop)
