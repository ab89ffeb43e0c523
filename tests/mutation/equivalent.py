"""Mutants that no test can detect because their behavior is unchanged, and why."""

EQUIVALENT: dict[str, str] = {
    (
        "minitrain/fused.py: return apply(y.astype(dtype, copy=False), (x,), vjp, "
        "[(weight, weight_vjp), (bias, bias_vjp)], saved=(n, r)): False -> True"
    ): "a copy of y, which has no other user",
    (
        "minitrain/fused.py: wide = x.data.astype(acc_dtype, copy=False): "
        "x.data.astype(acc_dtype, copy=False) -> (x.data.astype(acc_dtype))"
    ): "a copy of x, which has no other user",
    (
        "minitrain/fused.py: y, slope = gelu_and_slope(y, dtype) if gelu else (y.astype(dtype, copy=False), None): "
        "y.astype(dtype, copy=False) -> (y.astype(dtype))"
    ): "a copy of y, which has no other user",
    (
        'minitrain/precision/scaler.py: world.all_reduce(flag, OVERFLOW, op="max"): '
        'world.all_reduce(flag, OVERFLOW, op="max") -> (world.all_reduce(flag, OVERFLOW))'
    ): "a sum of flags is 0 where their maximum is, and nowhere else",
    (
        'minitrain/precision/fallback.py: world.all_reduce(found, LAYERS, op="max"): '
        'world.all_reduce(found, LAYERS, op="max") -> (world.all_reduce(found, LAYERS))'
    ): "a sum of flags is 0 where their maximum is, and nowhere else",
    "minitrain/optim/base.py: self.prints[i] = fingerprints(it.data): self.prints[i] = fingerprints(it.data) -> pass": (
        "a shortcut: without it, every element is compared with its master, and the same ones are adopted"
    ),
    (
        "minitrain/attention.py: def causal_attention(qkv: Tensor, start: int = 0, scale: float | None = None) "
        "-> Tensor:: 0 -> 1"
    ): "queries and keys both start there, and only the difference counts",
    (
        "minitrain/attention.py: gs = xp.subtract(gp, backend.row_dots(gp, wide_p), out=gp): "
        "backend.row_dots(gp, wide_p) -> (backend.row_dots(wide_p, gp))"
    ): "a product of two numbers is the same in both orders",
    "minitrain/autograd.py: for root, seed in zip(roots, seeds, strict=True):: zip(roots, seeds, strict=True) -> "
    "(zip(roots, seeds))": "there is a seed for each root: _seeds has compared their numbers",
    (
        "minitrain/precision/scaler.py: if self.scaled > self.moved:: "
        "self.scaled > self.moved -> (self.scaled >= self.moved)"
    ): "both are numbers of one counter, so they are equal only before the first step, which begins a round",
    (
        "minitrain/parallel/plan.py: self.joined = False  # whether divided activations may pass from unit to unit, "
        "as in the MLP: self.joined = False -> pass"
    ): "`follow` sets it before anything reads it",
    "minitrain/comm/mpi.py: info.Free(): info.Free() -> pass": "a few bytes of MPI's, once in a process",
    "minitrain/parallel/reducer.py: if self.mesh.parts(*MODEL) == 1:: self.mesh.parts(*MODEL) == 1 -> (False)": (
        "a group of one rank would gather its own part: the same number, and nothing is sent"
    ),
    "minitrain/parallel/pipeline.py: _, y, sent = self.forward(self.chunks[c], c, 0, batch): 0 -> 1": (
        "in an evaluation the number only tells messages apart, and sender and receiver use the same"
    ),
    "minitrain/comm/mpi.py: start, pause = time.perf_counter(), 0.0: 0.0 -> 1.0": (
        "the pauses between two looks: they begin with the longest one, and nothing but the time differs"
    ),
}
