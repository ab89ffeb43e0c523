"""Train an MLP on digits with activations in 16 bits, weights and sums in 32.

    python lessons/programs/mixed_precision.py [--policy NAME] [--epochs 10] [--seed 1]

Fixed, compared with the article: its API was removed, and enable_mixed_precision never
existed; here the trainer gets the policy, the loss is scaled, softmax and loss stay in
float32, and there are data.
"""

import argparse

import minitrain
from minitrain.comm.communicator import Communicator
from minitrain.data.digits import load_digits, split_digits
from minitrain.data.loader import ArrayLoader
from minitrain.models import mlp
from minitrain.optim import Adam
from minitrain.precision import POLICIES, DynamicScaler, Scaler, StaticPolicy
from minitrain.train.history import History
from minitrain.train.trainer import Trainer


def run(world: Communicator, epochs: int = 10, seed: int = 1, policy: str = "mixed_float16") -> History:
    """Train 64 -> 128 -> 128 -> 10 on digits in the dtypes of this policy."""
    images, labels = load_digits()
    learned, held_out = split_digits(images.astype("float32"), labels, seed)
    train, validation = ArrayLoader(*learned, batch=32, seed=seed), ArrayLoader(*held_out, batch=32, seed=seed)
    # Only float16 has a range so small that the loss must be scaled; bfloat16 has the range of float32.
    scaler = DynamicScaler() if policy == "mixed_float16" else Scaler()
    trainer = Trainer(
        mlp(), world, optimizer=Adam, schedule=0.001, seed=seed, precision=StaticPolicy(policy), scaler=scaler
    )
    history = trainer.fit(train, epochs, validation=validation)
    trainer.log(f"loss scale {scaler.value:g} at the end; {scaler.skips} of {trainer.batches} batches skipped")
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, default = ", ".join(POLICIES), "mixed_float16"
    parser.add_argument(
        "--policy", metavar="NAME", choices=list(POLICIES), default=default, help=f"{names} ({default})"
    )
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the split, the weights and the order (default: 1)")
    options = parser.parse_args()
    with minitrain.launch() as world:
        run(world, options.epochs, options.seed, options.policy)


if __name__ == "__main__":
    main()
