"""Train an MLP on digits at the learning rate 0.001 / (1 + epoch), or by another schedule.

    python lessons/programs/dynamic_rate.py [--schedule NAME] [--epochs 10] [--seed 1]

Fixed, compared with the article: the rate is set before the update it is for, not after
it, by a pure function of the update number; a stray character before `optimizer` (a
syntax error) is removed; there are data.

With larger batches an epoch has fewer updates, and 0.001 / (1 + epoch) is nearly used
up after two epochs, before the model has learned: see --batch 128.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import minitrain
from minitrain import lr_schedules
from minitrain.comm.communicator import Communicator
from minitrain.data.digits import load_digits, split_digits
from minitrain.data.loader import ArrayLoader
from minitrain.models import mlp
from minitrain.optim import Adam
from minitrain.train.history import History
from minitrain.train.trainer import Trainer

PEAK = 0.001
Losses = Callable[[], Sequence[float]]  # the validation losses so far


def schedules(per_epoch: int, updates: int, losses: Losses = list) -> dict[str, lr_schedules.Schedule]:
    """Return learning rates as functions of the update. updates: of the whole run; per_epoch: of one epoch."""
    warm, third = updates // 10, -(-updates // 3)
    return {
        "inverse-time": partial(lr_schedules.inverse_time, peak=PEAK, every=per_epoch),
        "constant": partial(lr_schedules.constant, peak=PEAK),
        "linear": partial(lr_schedules.linear, peak=PEAK, updates=updates),
        "cosine": partial(lr_schedules.cosine, peak=PEAK, updates=updates),
        "exponential": partial(lr_schedules.exponential, peak=PEAK, gamma=0.01, every=updates),
        "step": partial(lr_schedules.step, peak=PEAK, gamma=0.1, every=third),
        "warmup-cosine": partial(lr_schedules.warmup_cosine, peak=PEAK, warm=warm, updates=updates),
        "one-cycle": partial(lr_schedules.one_cycle, peak=PEAK, updates=updates),
        "plateau": lambda update: lr_schedules.reduce_on_plateau(losses(), PEAK, patience=1),
    }


def run(
    world: Communicator, epochs: int = 10, seed: int = 1, schedule: str = "inverse-time", batch: int = 32
) -> History:
    """Train 64 -> 128 -> 128 -> 10 on digits by this schedule."""
    images, labels = load_digits()
    learned, held_out = split_digits(images.astype("float32"), labels, seed)
    train, validation = ArrayLoader(*learned, batch, seed), ArrayLoader(*held_out, batch, seed)
    rates = schedules(train.batches, epochs * train.batches, lambda: trainer.history.validation_loss)
    trainer = Trainer(mlp(), world, optimizer=Adam, schedule=rates[schedule], seed=seed)
    return trainer.fit(train, epochs, validation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(schedules(1, 10))
    parser.add_argument("--schedule", metavar="NAME", choices=names, default=names[0], help=", ".join(names))
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images (default: 10)")
    parser.add_argument("--batch", type=int, default=32, help="images per update (default: 32)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the split, the weights and the order (default: 1)")
    options = parser.parse_args()
    with minitrain.launch() as world:
        run(world, options.epochs, options.seed, options.schedule, options.batch)


if __name__ == "__main__":
    main()
