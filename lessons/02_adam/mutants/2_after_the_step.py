"""the weight shrinks after Adam's step, and the step shrinks with it."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
    w *= 1 - lr * weight_decay
