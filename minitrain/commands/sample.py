"""Generate text with a trained model, on one process, or on the ranks among which the model is divided."""

import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

from ..comm.agreement import agreed, check_same
from ..comm.communicator import Communicator
from ..comm.threads import world_of_one
from ..environment import launched
from ..errors import UserError, check_choice, check_whole
from ..models import gpt
from ..parallel.parallelize import parallelize
from ..parallel.strategy import Strategy
from ..runtime.launch import launch
from ..train.generate import check_choice_of_tokens, check_length, generate
from ..train.progress import Progress
from ..train.weights import find, start_from
from .model_tokenizer import Tokenizer, of_weights
from .options import ParallelOptions, make_mesh

BROKEN = "\ufffd"  # what bytes that are no character are decoded to: some bytes of one may be yet to come


@dataclass(frozen=True)
class Sample:
    """Generate text with a trained model, on one process or divided among ranks."""

    checkpoint: Path = Path("build/run/model.safetensors")
    """Model file, or the folder of a run, of import or export, of a GPT-2, or a checkpoint."""
    prompt: str = "\n"
    """Text to continue."""
    length: int = 400
    """Tokens to generate: characters, unless the model has another tokenizer."""
    temperature: float = 0.8
    """Below 1: more predictable text; above 1: more varied text; 0: always the most probable token."""
    top_k: int | None = None
    """Draw from this many most probable tokens only."""
    top_p: float | None = None
    """Draw from the fewest most probable tokens that together have this probability."""
    seed: int = 1
    """Seed; each one gives a different text."""
    cache: bool = True
    """Keep the keys and values of earlier positions, instead of computing them again for every token."""
    tokenizer: Path | None = None
    """Tokenizer of the model, if it is not beside it."""
    dtype: Literal["float32", "float64"] | None = None
    """Precision of the computation. None: that of the model."""
    tp: int = 1
    """Ranks that divide each matrix (tensor parallel)."""
    pp: int = 1
    """Ranks that divide the layers (pipeline parallel)."""
    zero: Literal[0, 3] = 0
    """3: all ranks divide the parameters, and gather those of a layer when it runs (ZeRO-3)."""

    def run(self) -> int:
        """Print the prompt and its continuation as it grows, on rank 0 only."""
        self.check()
        if self.tp * self.pp > 1 or self.zero:
            with launch() as world:
                self.write(world)
        elif launched()[1] == 0:
            self.write(world_of_one())
        return 0

    def check(self) -> None:
        """Raise UserError for invalid options."""
        check_length(self.length)
        check_choice_of_tokens(self.temperature, self.top_k, self.top_p)
        for name in ("tp", "pp"):
            check_whole(f"--{name}", getattr(self, name), 1)
        if self.dtype is not None:
            check_choice("--dtype", self.dtype, ("float32", "float64"))

    def write(self, world: Communicator) -> None:
        """Print the text. All ranks of `world` call it. Raise UserError if the model cannot be read or divided."""
        if not self.zero and world.size != (n := self.tp * self.pp):
            raise UserError(f"--tp {self.tp} x --pp {self.pp} is for {n} ranks; there are {world.size}: mpirun -n {n}")
        mesh = make_mesh(world, ParallelOptions(tp=self.tp, pp=self.pp))
        with Progress(world, sys.stderr).task("reading the model"):
            weights = find(self.checkpoint, world)
            tokenizer = agreed(world, lambda: of_weights(weights, self.tokenizer))
            check_same(world, {"checksum of the tokenizer": tokenizer.sha256})
            prompt = tokenizer.encode(self.prompt)
            model = gpt(replace(weights.config, dtype=self.dtype or weights.config.dtype))
            start_from(model, weights)
            parallelize(model, mesh, Strategy(zero=self.zero)).init(self.seed)
        show = Typewriter(tokenizer, sys.stdout if world.rank == 0 else io.StringIO())
        show.text(self.prompt)
        generate(
            model, weights.config.context, prompt, self.length, self.temperature, self.seed, top_k=self.top_k,
            top_p=self.top_p, cached=self.cache, world=world if world.size > 1 else None, each=show.token,
        )  # fmt: skip
        show.end()


class Typewriter:
    """Writes tokens to a page as text, each character as soon as all of its bytes are there.

    A token may end in the middle of a character, and the next one complete it and begin another. So the tokens since
    the last complete character are decoded together, and of their text, what has been written is left out.
    """

    def __init__(self, tokenizer: Tokenizer, page: TextIO) -> None:
        self.tokenizer, self.page = tokenizer, page
        self.waiting: list[int] = []
        self.written = 0  # characters of their text

    def text(self, text: str) -> None:
        """Write a text."""
        self.page.write(text)
        self.page.flush()

    def token(self, token: int) -> None:
        """Write what is complete with this token."""
        self.waiting.append(token)
        text = self.tokenizer.decode(self.waiting)
        complete = text.rstrip(BROKEN)
        self.text(complete[self.written :])
        self.written = max(self.written, len(complete))
        if complete == text:
            self.waiting, self.written = [], 0

    def end(self) -> None:
        """Write what is left, and end the line."""
        self.text(self.tokenizer.decode(self.waiting)[self.written :] + "\n")
