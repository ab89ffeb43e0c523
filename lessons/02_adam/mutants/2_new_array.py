"""w is a new array from the first line on, and the caller's stays as it was."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    w = w * (1 - lr * weight_decay)
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
