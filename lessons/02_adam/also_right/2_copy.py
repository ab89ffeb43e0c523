"""works on a copy, calls adam by names, and copies back."""


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=None):
    u = w * (1 - lr * weight_decay)
    adam(w=u, g=g, m=m, v=v, t=t, lr=lr, beta1=beta1, beta2=beta2, epsilon=epsilon)
    w[...] = u
    return w
