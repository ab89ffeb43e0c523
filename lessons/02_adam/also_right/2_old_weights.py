"""decays after the step, by the weights from before it."""


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=None):
    old = w.copy()
    adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
    w -= lr * weight_decay * old
