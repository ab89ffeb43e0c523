"""the decay is added to the gradient (L2), so it goes through m and v."""

from minitrain.optim import adam_step


def adamw_step(w, g, m, v, t, lr, beta1, beta2, epsilon, weight_decay, adam=adam_step):
    adam(w, g + weight_decay * w, m, v, t, lr, beta1, beta2, epsilon)
