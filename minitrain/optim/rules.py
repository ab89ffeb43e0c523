"""The rules: SGD, Adam, AdamW, LARS, LAMB. Each raises UserError for an argument outside its range."""

from collections.abc import Callable, Iterable, Sequence

from ..backend import Array, xp
from ..compiled import or_compiled
from ..errors import check_number
from ..nn import Parameter
from .base import Layerwise, Optimizer
from .pieces import Slices


class SGD(Optimizer):
    """Stochastic gradient descent: w -= lr v with v = momentum v + g (without momentum, v = g).

    With weight decay, weight_decay w is first added to g. 4 bytes of state per parameter in fp32 with momentum, else 0.
    Robbins, Monro, "A Stochastic Approximation Method", 1951; momentum: Polyak, "Some methods of speeding up the
    convergence of iteration methods", 1964.
    """

    def __init__(
        self, reducer: Slices | Iterable[Parameter], *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(reducer)
        check_number("momentum", momentum, "at least 0 and less than 1")
        check_number("weight_decay", weight_decay, "at least 0")
        self.momentum, self.weight_decay = momentum, weight_decay
        self.states = ("velocity",) if momentum else ()

    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
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
    """Apply update number t (from 1) of Adam in place to w, m and v, all of shape (n). Do not change g.

        m = beta1 m + (1 - beta1) g        m_hat = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2      v_hat = v / (1 - beta2^t)
        w = w - lr m_hat / (sqrt(v_hat) + epsilon)

    m and v start at 0 and are too small at first; the two divisors correct this bias. (For speed, lr and the
    corrections are combined as scalars, which saves passes over arrays.)
    Kingma, Ba, "Adam", arXiv:1412.6980, algorithm 1.
    """
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    denominator = xp.sqrt(v)
    denominator *= (1 - beta2**t) ** -0.5
    denominator += epsilon
    w -= (lr / (1 - beta1**t)) * m / denominator


FAST_ADAM = or_compiled(adam_step)


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
    adam: Callable[..., None] = FAST_ADAM,
) -> None:
    """Apply update number t (from 1) of Adam with decoupled weight decay in place; all arrays have shape (n).

        w = w - lr weight_decay w - lr m_hat / (sqrt(v_hat) + epsilon)

    Both terms use w before the update. The decay bypasses m and v. Added to the gradient, it would also be divided by
    sqrt(v_hat), and weights with large gradients would hardly decay.
    adam: the function to call once for the Adam part, with the arguments of adam_step, even if weight_decay is 0.
    Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.
    """
    if weight_decay:
        w *= 1 - lr * weight_decay
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)


class Adam(Optimizer):
    """Adam: see adam_step, for which `rule` may be another function. 8 bytes of state per parameter in fp32."""

    states, squares = ("m", "v"), True

    def __init__(
        self,
        reducer: Slices | Iterable[Parameter],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        rule: Callable[..., None] = FAST_ADAM,
    ) -> None:
        super().__init__(reducer)
        check_number("beta1", beta1, "at least 0 and less than 1")
        check_number("beta2", beta2, "at least 0 and less than 1")
        check_number("epsilon", epsilon, "at least 0")
        self.beta1, self.beta2, self.epsilon, self.rule = beta1, beta2, epsilon, rule
        if FAST_ADAM is not adam_step and rule in (FAST_ADAM, adamw_step):
            self.block = 2**18  # one pass over memory needs no cache, and fewer calls take less time

    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
        self.rule(w, g, *state, self.updates, lr, self.beta1, self.beta2, self.epsilon)


class AdamW(Adam):
    """AdamW: see adamw_step. Only pieces with `decay` set are decayed. 8 bytes of state per parameter in fp32.

    beta1, beta2, epsilon: as in adam_step. rule: a function with the arguments of adamw_step.
    """

    def __init__(
        self,
        reducer: Slices | Iterable[Parameter],
        *,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        rule: Callable[..., None] = adamw_step,
    ) -> None:
        super().__init__(reducer, beta1=beta1, beta2=beta2, epsilon=epsilon, rule=rule)
        check_number("weight_decay", weight_decay, "at least 0")
        self.weight_decay = weight_decay

    def update(self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool) -> None:
        rate = self.weight_decay if decay else 0.0
        self.rule(w, g, *state, self.updates, lr, self.beta1, self.beta2, self.epsilon, rate)


class LARS(Layerwise):
    """SGD with momentum and a learning rate proportional to |w| for each parameter w. 4 bytes of state per parameter
    in fp32.

        rate = lr eta |w| / (|g| + weight_decay |w|)            rate = lr if |w| or |g| is 0
        v = momentum v + rate (g + weight_decay w)
        w = w - v

    You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv:1708.03888, algorithm 1.
    """

    states = ("step",)  # not called velocity as in SGD: it includes the learning rate

    def __init__(
        self,
        reducer: Slices | Iterable[Parameter],
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
    ) -> None:
        super().__init__(reducer)
        check_number("momentum", momentum, "at least 0 and less than 1")
        check_number("weight_decay", weight_decay, "at least 0")
        check_number("eta", eta, "above 0")
        self.momentum, self.weight_decay, self.eta = momentum, weight_decay, eta

    def direction(self, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        return g

    def update_with(
        self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool, w_norm: float, x_norm: float
    ) -> None:
        weight_decay = self.weight_decay if decay else 0.0
        ratio = self.eta * w_norm / (x_norm + weight_decay * w_norm) if w_norm and x_norm else 1.0
        (v,) = state
        v *= self.momentum
        v += lr * ratio * (g + weight_decay * w if weight_decay else g)
        w -= v


class LAMB(Layerwise, Adam):
    """Adam's direction, scaled to length |w| for each parameter w. 8 bytes of state per parameter in fp32.

        x = m_hat / (sqrt(v_hat) + epsilon) + weight_decay w        m, v as in adam_step
        w = w - lr |w| / |x| x                                      w - lr x if |w| or |x| is 0

    You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv:1904.00962,
    algorithm 2.
    """

    def __init__(
        self,
        reducer: Slices | Iterable[Parameter],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(reducer, beta1=beta1, beta2=beta2, epsilon=epsilon)
        check_number("weight_decay", weight_decay, "at least 0")
        self.weight_decay = weight_decay

    def direction(self, w: Array, g: Array, state: Sequence[Array], decay: bool) -> Array:
        m, v = state
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * (g * g)
        x = self.adam(m, v)
        if decay and self.weight_decay:
            x += self.weight_decay / self.scale() * w
        return x

    def adam(self, m: Array, v: Array) -> Array:
        """Return m_hat / (sqrt(v_hat) + epsilon) / scale, which saves a pass over the array.

        An update computes it twice, since keeping it until its norm is known would take as much memory as m.
        """
        x = xp.sqrt(v)
        x += self.epsilon * (1 - self.beta2**self.updates) ** 0.5
        return xp.divide(m, x, out=x)

    def scale(self) -> float:
        """Return the factor that the direction lacks. It cancels in x / |x|."""
        return (1 - self.beta2**self.updates) ** 0.5 / (1 - self.beta1**self.updates)

    def update_with(
        self, w: Array, g: Array, state: Sequence[Array], lr: float, decay: bool, w_norm: float, x_norm: float
    ) -> None:
        rate = lr * (w_norm / x_norm if w_norm and x_norm else self.scale())
        x = self.adam(*state)
        x *= rate
        if decay and self.weight_decay:
            w *= 1 - rate * self.weight_decay / self.scale()
        w -= x
