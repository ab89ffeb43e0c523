"""the decay is not multiplied by the learning rate."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    w *= 1 - weight_decay
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
