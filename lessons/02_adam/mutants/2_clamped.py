"""the factor 1 - lr weight_decay is kept from becoming negative."""


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=None):
    w *= max(0.0, 1 - lr * weight_decay)
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
