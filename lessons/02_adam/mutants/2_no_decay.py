"""there is no decay: this is Adam."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
