"""the decay is added to the gradient itself, in place (L2)."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    g += weight_decay * w
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
