"""Rows first, then columns, with GELU before the sum: gelu(a) + gelu(b) is not gelu(a + b)."""

from minitrain import fused
from minitrain.models import FeedForward, Model
from minitrain.nn import Parameter
from minitrain.parallel.collective_ops import gather_from, split_to
from minitrain.parallel.plan import Plan
from minitrain.parallel.tensor_parallel import BLOCK, TensorIO
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import toy_gpt
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class RowsFirst(FeedForward):
    def shard(self, plan: Plan) -> None:
        plan.row(self.up)
        plan.column(self.down)


def planted(tied: bool) -> Model:
    """Return the toy GPT with this feed-forward layer."""
    model = toy_gpt(tied=tied)
    for block in model.units[1:-1]:
        block.mlp.__class__ = RowsFirst  # type: ignore[attr-defined]
    return model


class GeluBeforeTheSum(TensorIO):
    def row(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        if not gelu:
            return super().row(x, weight, bias, gelu)
        assert bias is not None
        h = fused.linear(split_to(x, self.group, BLOCK, axis=2), weight, None, gelu=True)
        return fused.add_bias(self.leave(h), bias)

    def column(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        y = super().column(x, weight, bias, gelu)
        if gelu or y.ndim > 3:
            return y
        return gather_from(y, self.group, BLOCK, axis=2, n=weight.placement.shape[1])


BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), io=GeluBeforeTheSum, make=planted)
