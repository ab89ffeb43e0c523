"""The lines that show how a training run goes."""

import time
from typing import Any


class Progress:
    """Lines that show how far a run is, and how fast."""

    def __init__(self, steps: int, tokens: int, done: int = 0) -> None:
        """done: updates that an earlier process has made."""
        self.steps, self.tokens, self.done = steps, tokens, done
        self.start = time.monotonic()

    def line(self, row: dict[str, Any]) -> str:
        """Return a line of at most 80 columns."""
        step = row["step"]
        seconds = max(time.monotonic() - self.start, 1e-9)
        made = step - self.done
        left = round(seconds / made * (self.steps - step))
        bar = "#" * (10 * step // self.steps)
        return (
            f"[{bar:<10}] {step:>{len(str(self.steps))}}/{self.steps}  loss {row['loss']:.3f}  lr {row['lr']:.1e}  "
            f"{self.tokens * made / seconds:,.0f} tokens/s  {left // 60}:{left % 60:02} left"
        )
