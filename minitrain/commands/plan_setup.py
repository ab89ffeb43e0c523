"""The setup of a training run, for the planner."""

from ..errors import UserError
from ..planner.setup import Setup
from ..planner.sizes import Sizes
from .config import TrainConfig


def setup_of(config: TrainConfig, vocabulary: int, ranks: int) -> Setup:
    """Return what the planner needs of a run of `minitrain train` with this vocabulary on so many ranks.

    Raise UserError if the ranks do not fit --dp, --pp and --tp.
    """
    m, p, precision = config.model, config.parallel, config.precision
    dp = p.dp or ranks // (p.pp * p.tp)
    if dp * p.pp * p.tp != ranks:
        raise UserError(f"dp {dp} x pp {p.pp} x tp {p.tp} makes {dp * p.pp * p.tp} ranks, but there are {ranks}")
    sizes = Sizes(
        "gpt", vocabulary, m.positions or m.context, m.layers, m.heads, m.width, tied=m.tied, dropout=m.dropout,
        length=m.context,
    )  # fmt: skip
    return Setup(
        sizes, config.data.batch, dp, p.pp, p.tp, config.strategy, p.accumulate,
        "fp64" if m.dtype == "float64" else precision.precision, precision.half_weights,
        scaled=precision.scaler(config.strategy.grad_dtype).value != 1,
    )  # fmt: skip
