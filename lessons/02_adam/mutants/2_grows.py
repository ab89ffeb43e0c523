"""the sign of the decay is wrong: weights grow."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    w *= 1 + lr * weight_decay
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
