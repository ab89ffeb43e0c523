"""Optimizers on flat slices, and clipping by the global norm.

An optimizer sees no parameters, only pairs of flat arrays (data, grad) that it `owned`: the whole model under data
parallel, this rank's shards under ZeRO. The update rules are element by element, so it makes no difference.

The gradient is `factor` times what stands in grad: 1/S for a loss that was multiplied by S (precision.py), and what
clipping takes away. One number instead of another pass over all gradients; and in half precision, the array could not
hold the product. Parameters in half precision have a float32 master, which is what is updated:

    master = master - lr rule(factor grad)        data = master, rounded

An update is often smaller than half the distance to the next number that data can hold: alone, data would stand still.
The master is made at the first update, from what data holds then. An element of data that is no longer its master,
rounded, was set by somebody else (a checkpoint that was restored, say), and the master takes its value.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .backend import Array, fingerprints, wide, xp
from .errors import UserError, check_number
from .observe import ledger

SMALL = 2.0**-96
BLOCK = 32 * 1024  # elements: w, g, m, v and two temporaries stay in the cache (1.5% of a step)

steps_begun = itertools.count()  # numbers the steps of all reducers, so that a scaler can tell what came before


class Slices(Protocol):
    """Whatever holds the gradients: parallel.reducer.Reducer."""

    factor: float

    def owned(self) -> list: ...

    def norm(self) -> float: ...


class Optimizer:
    """`step(lr)` updates every owned slice. States are made at the first step, one list of arrays a slice."""

    states = 0  # arrays of the size of the parameters that the rule remembers
    squares = False  # the rule squares the gradient
    elementwise = True  # the rule treats each element by itself; one that needs the norm of a parameter does not

    def __init__(self, gradients: Slices) -> None:
        """Raises UserError for a rule that needs whole parameters where ranks own shares of them."""
        if not self.elementwise and getattr(gradients, "sharded", False):
            raise UserError(
                f"{type(self).__name__} needs whole parameters, and under ZeRO a rank owns shares, cut anywhere; "
                "use data parallel, or a rule that goes element by element, such as AdamW"
            )
        self.gradients = gradients
        self.updates = 0
        self.state: list[list[Array]] = []
        self.masters: list[Array | None] = []  # the float32 values of slices that are in half precision
        self.prints: dict[int, list[int]] = {}  # fingerprints of such slices, as the last update left them

    def step(self, lr: float) -> None:
        """One update with this learning rate. Raises UserError for one that is negative or NaN."""
        check_number("lr", lr, "at least 0")
        self.updates += 1
        for i, (data, grad, decay) in enumerate(self.gradients.owned()):
            if i == len(self.state):
                self.remember(data)
            kept = self.masters[i]
            master = data if kept is None else self.follow(i, data, kept)
            for lo in range(0, len(data), BLOCK):
                block = slice(lo, lo + BLOCK)
                g = self.gradient(grad[block], master.dtype)
                self.update(master[block], g, [state[block] for state in self.state[i]], lr, decay)
                if master is not data:
                    data[block] = master[block]
            if master is not data:
                self.prints[i] = fingerprints(data)

    def follow(self, i: int, data: Array, master: Array) -> Array:
        """Return the master of slice i, with the values that somebody has set in data since the last update."""
        if fingerprints(data) != self.prints.get(i):
            changed = master.astype(data.dtype) != data
            master[changed] = data[changed]
        return master

    def check_norm(self, norm: float) -> None:
        """Raise UserError for a gradient of this length whose squares the state cannot hold: it would stay infinite.

        Called with the same norm, that of the step, on all ranks.
        """
        owned = self.gradients.owned() if self.squares else ()
        most = min((float(np.finfo(wide(data.dtype)).max) ** 0.5 for data, *_ in owned), default=math.inf)
        if norm > most:
            raise UserError(
                f"the norm of the gradient is {norm:.1e}; {type(self).__name__} keeps squares, of up to {most:.1e}.\n"
                "Clip the gradient (clip=1.0), or give a smaller learning rate"
            )

    def gradient(self, stored: Array, dtype: Any) -> Array:
        """What the rule sees of a stored gradient: in the master's dtype, times the factor."""
        g, factor = stored.astype(dtype, copy=False), self.gradients.factor
        while 0 < factor < SMALL:  # float32 would round it: the gradients are as large as the factor is small
            g, factor = g * g.dtype.type(SMALL), factor / SMALL
        return g if factor == 1 else g * g.dtype.type(factor)

    def remember(self, data: Array) -> None:
        """Makes the state of a slice, and its master."""
        dtype = wide(data.dtype)
        self.state.append([xp.zeros(data.shape, dtype) for _ in range(self.states)])
        self.masters.append(None if data.dtype == dtype else data.astype(dtype))
        for array in (*self.state[-1], self.masters[-1]):
            ledger.hold(array, "optimizer", "optimizer")

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        """The rule, in place on w and state."""
        raise NotImplementedError


class SGD(Optimizer):
    """w -= lr v with v = momentum v + g (without momentum, v is g)."""

    def __init__(self, gradients: Slices, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(gradients)
        check_number("momentum", momentum, "at least 0 and less than 1")
        check_number("weight_decay", weight_decay, "at least 0")
        self.momentum, self.weight_decay = momentum, weight_decay
        self.states = 1 if momentum else 0

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        if decay and self.weight_decay:
            g = g + self.weight_decay * w
        if self.momentum:
            (v,) = state
            v *= self.momentum
            v += g
            g = v
        w -= lr * g


def adam_step(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Adam's update number t (from 1), in place on w, m and v, all of shape (n).

        m = beta1 m + (1 - beta1) g        m_hat = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2      v_hat = v / (1 - beta2^t)
        w = w - lr m_hat / (sqrt(v_hat) + epsilon)

    m and v start at 0 and are too small at first; the two divisors mend that. (For speed: lr and the corrections are
    single numbers. Joined first, they cost fewer passes over arrays.) Kingma, Ba, "Adam", arXiv:1412.6980, algorithm 1.
    """
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    denominator = xp.sqrt(v)
    denominator *= (1 - beta2**t) ** -0.5
    denominator += epsilon
    w -= (lr / (1 - beta1**t)) * m / denominator


def adamw_step(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    adam: Callable[..., None] = adam_step,
) -> None:
    """Update number t of Adam, and beside it w shrinks by lr x weight_decay. In place, all arrays of shape (n).

        w = w - lr weight_decay w - lr m_hat / (sqrt(v_hat) + epsilon)

    On the right stands the w from before the update, both times. The decay goes past m and v. Added to the gradient it
    would be divided by sqrt(v_hat), too: weights with large gradients would hardly decay. For the other part, call the
    argument `adam`, with the arguments of adam_step.
    Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.
    """
    if weight_decay:
        w *= 1 - lr * weight_decay
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)


class Adam(Optimizer):
    """See adam_step. 8 bytes a parameter in fp32."""

    states, squares = 2, True

    def __init__(
        self,
        gradients: Slices,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        rule: Callable[..., None] = adam_step,
    ) -> None:
        super().__init__(gradients)
        check_number("beta1", beta1, "at least 0 and less than 1")
        check_number("beta2", beta2, "at least 0 and less than 1")
        check_number("epsilon", epsilon, "at least 0")
        self.beta1, self.beta2, self.epsilon, self.rule = beta1, beta2, epsilon, rule

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        self.rule(w, g, *state, self.updates, lr, self.beta1, self.beta2, self.epsilon)


class AdamW(Adam):
    """See adamw_step. Only slices that say so decay."""

    def __init__(  # type: ignore[no-untyped-def]
        self, gradients: Slices, weight_decay: float = 0.1, *, rule: Callable[..., None] = adamw_step, **adam
    ) -> None:
        super().__init__(gradients, rule=rule, **adam)
        check_number("weight_decay", weight_decay, "at least 0")
        self.weight_decay = weight_decay

    def update(self, w: Array, g: Array, state: list[Array], lr: float, decay: bool) -> None:
        rate = self.weight_decay if decay else 0.0
        self.rule(w, g, *state, self.updates, lr, self.beta1, self.beta2, self.epsilon, rate)


def clip_grad_norm(gradients: Slices, limit: float) -> float:
    """Shortens the gradient of the whole logical model to `limit` if it is longer: g = g min(1, limit / |g|).

    Returns the length it had. One factor for all, so the direction stays, and it is all that is noted: see the top of
    this file. After the loss scale has been taken out. Raises UserError unless limit is above 0.
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063.
    """
    check_number("limit", limit, "above 0")
    norm = gradients.norm()
    if norm > limit:
        gradients.factor *= limit / norm
    return norm
