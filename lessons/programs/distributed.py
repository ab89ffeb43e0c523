"""Train an MLP on digits by data parallel: N ranks divide each batch and sum the gradients.

    mpirun -n 2 python lessons/programs/distributed.py [--epochs 10] [--seed 1]

Every rank has a replica of the model. The result does not depend on the number of ranks.

Fixed, compared with the article: the model gets the images, not a dictionary that also
holds the labels; the gradient is that of the loss just computed, taken on a tape;
replicas are created and kept equal; there are data.
"""

import argparse

import minitrain
from minitrain.comm.communicator import Communicator
from minitrain.data.digits import load_digits, split_digits
from minitrain.data.loader import ArrayLoader
from minitrain.models import MLPConfig, mlp
from minitrain.optim import Adam
from minitrain.train.history import History
from minitrain.train.trainer import Trainer


def run(world: Communicator, epochs: int = 10, seed: int = 1, dtype: str = "float32") -> History:
    """Train 64 -> 128 -> 128 -> 10 with a replica on every rank, 32 images per update over all ranks together."""
    images, labels = load_digits()
    learned, held_out = split_digits(images.astype(dtype), labels, seed)
    train, validation = ArrayLoader(*learned, batch=32, seed=seed), ArrayLoader(*held_out, batch=32, seed=seed)
    trainer = Trainer(mlp(MLPConfig(dtype=dtype)), world, optimizer=Adam, schedule=0.001, seed=seed)
    return trainer.fit(train, epochs, validation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the split, the weights and the order (default: 1)")
    options = parser.parse_args()
    with minitrain.launch() as world:
        run(world, options.epochs, options.seed)


if __name__ == "__main__":
    main()
