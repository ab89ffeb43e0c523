"""adam is called twice, first with copies."""


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=None):
    w *= 1 - lr * weight_decay
    adam(w.copy(), g, m.copy(), v.copy(), t, lr, beta1, beta2, epsilon)
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
