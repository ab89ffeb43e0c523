"""`minitrain`, with one update that takes long.

python -m tests.kill.slow UPDATE SECONDS train --save-every 2 ...
"""

import sys
import time

from minitrain.cli import main
from minitrain.data.batch import Batch
from minitrain.train.history import Update
from minitrain.train.trainer import Trainer

if __name__ == "__main__":
    number, seconds, *command = sys.argv[1:]
    step = Trainer.step

    def slow(self: Trainer, batch: Batch) -> Update:
        if self.updates == int(number):
            time.sleep(float(seconds))
        return step(self, batch)

    Trainer.step = slow  # type: ignore[method-assign]
    sys.exit(main(command))
