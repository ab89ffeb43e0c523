"""w becomes a new array in the first line, and the caller's stays unchanged."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    w = w * (1 - lr * weight_decay)
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
