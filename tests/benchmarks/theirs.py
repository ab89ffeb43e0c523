"""PyTorch's side: the same GPT, as PyTorch users would write it for speed.

That is nn.Linear in its own layout, scaled_dot_product_attention, fused Adam, gradients set to None, and for two ranks
DistributedDataParallel with gradients as views of its buckets. torch.compile is omitted: it needs a C++ compiler, and
we compare one operation after another. Modules have our paths, so that weights can be copied.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.sizes import LR, Size, Values


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        B, T, D = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).split(D, dim=-1)
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in qkv)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["proj"](y.transpose(1, 2).reshape(B, T, D))
        return x + self.mlp["down"](F.gelu(self.mlp["up"](self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT with learned positions and a tied embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        D = size.width
        self.embed = nn.ModuleDict({"tokens": nn.Embedding(size.V, D), "positions": nn.Embedding(size.T, D)})
        self.blocks = nn.Sequential(*(Block(D, size.heads) for _ in range(size.layers)))
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(D)})
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """inputs, labels (B, T) -> the mean loss."""
        tokens = self.embed["tokens"]
        x = self.blocks(tokens(inputs) + self.embed["positions"].weight)
        logits = F.linear(self.head["norm"](x), tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    @torch.no_grad()
    def copy(self, values: Values) -> None:
        """Copy our parameters' values; our linear weights are (in, *out), PyTorch's (out, in)."""
        for path, module in self.named_modules():
            for name, p in module.named_parameters(recurse=False):
                value = torch.from_numpy(values[f"{path}.{name}"])
                turned = isinstance(module, nn.Linear) and name == "weight"
                p.copy_(value.flatten(1).T if turned else value.reshape(p.shape))


class Theirs:
    """One rank of a data-parallel run, or a whole run on one rank."""

    def __init__(self, size: Size, rank: int = 0, ranks: int = 1, device: str = "cpu", half: bool = False) -> None:
        """half: compute in float16, with autocast and a dynamic loss scale."""
        torch.set_num_threads(1)
        torch.manual_seed(1)
        with torch.device(device):
            self.model = GPT(size)
        self.autocast = torch.autocast(device, torch.float16, enabled=half)
        self.scaler = torch.amp.GradScaler(device, enabled=half)
        self.run = DistributedDataParallel(self.model, gradient_as_bucket_view=True) if ranks > 1 else self.model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR, fused=True)
        ids = torch.from_numpy(size.ids(ranks)[rank * size.B : (rank + 1) * size.B]).to(device)
        self.inputs, self.labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def forward(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            self.mean = self.run(self.inputs, self.labels)

    def backward(self) -> None:
        self.scaler.scale(self.mean).backward()

    def update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def loss(self) -> float:
        """Return the loss of the last forward: the mean over this rank's part."""
        return self.mean.item()
