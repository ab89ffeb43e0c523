"""`minitrain`, with one update that takes long.

    python -m tests.kill.slow UPDATE SECONDS MARKER train --save-every 2 ...

It is the one after UPDATE others. The file MARKER appears when it begins.
"""

import sys
import time
from pathlib import Path

from minitrain.cli import main
from minitrain.data.batch import Batch
from minitrain.train.history import Update
from minitrain.train.trainer import Trainer

if __name__ == "__main__":
    number, seconds, marker, *command = sys.argv[1:]
    step = Trainer.step

    def slow(self: Trainer, batch: Batch) -> Update:
        if self.updates == int(number):
            Path(marker).touch()
            time.sleep(float(seconds))
        return step(self, batch)

    Trainer.step = slow  # type: ignore[method-assign]
    sys.exit(main(command))
