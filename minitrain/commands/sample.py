"""Generate text with a trained model, one character at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import rng
from ..autograd import no_grad
from ..backend import to_device, to_host
from ..data.batch import Batch, Where
from ..data.sample_checks import as_row
from ..data.text import CharTokenizer
from ..environment import launched
from ..errors import UserError, check_memory, check_number, check_seed, check_whole, shown
from ..models import GPTConfig, Model, gpt
from ..train import checkpoint


def check_length(length: int) -> None:
    """Raise UserError for a length that is invalid, or needs too much memory."""
    check_whole("length", length)
    size = 24 * length  # bytes: all random numbers are drawn before the first character
    check_memory(f"a text of {length} characters", size, "give a smaller --length or --sample")


def generate(
    model: Model, context: int, prompt: Sequence[int] | np.ndarray, length: int, temperature: float, seed: int
) -> np.ndarray:
    """Return `length` ids that continue the prompt, each drawn from softmax(logits / temperature) at the last position.

    The model sees the last `context` ids. Temperature 0 takes the most probable id. Raise UserError for invalid
    arguments.
    """
    check_whole("context", context, 1)
    prompt = as_row("prompt", prompt)
    check_length(length)
    check_number("temperature", temperature, "at least 0")
    check_seed(seed)
    if not len(prompt):
        raise UserError("the prompt is empty: give at least one character")
    ids = prompt.tolist()
    chance = rng.integers(rng.key(seed, "sample"), length, 2**32) / 2**32
    with no_grad():
        for u in chance:
            window = np.array([ids[-context:]])
            where = Where(seed, 0, 1, context, slice(0, 1), slice(0, window.shape[1]), training=False)
            logits = to_host(model(Batch(to_device(window), None, where)).data)[0, -1].astype(np.float64)
            ids.append(_choose(logits, temperature, u))
    return np.array(ids[len(prompt) :], np.int64)


def _choose(logits: np.ndarray, temperature: float, u: float) -> int:
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # near temperature 0, exponents are -inf and probabilities 0
        p = np.exp((logits - logits.max()) / temperature)
    return min(int(np.searchsorted(np.cumsum(p) / p.sum(), u, side="right")), len(p) - 1)


def load_model(path: Path) -> tuple[Model, GPTConfig, CharTokenizer]:
    """Return the model of a checkpoint, on one process. Raise UserError if the parts of the file do not match."""
    tensors, about = checkpoint.load(path)
    try:
        config, tokenizer = GPTConfig(**about["gpt"]), CharTokenizer(about["vocabulary"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not describe a GPT of this version of minitrain: {shown(error)}; train a new one"
        ) from error
    except UserError as error:
        raise UserError(f"{path} does not describe a GPT: {error}") from error
    check_parts(path, config, tokenizer, tensors)
    model = gpt(config)
    try:
        checkpoint.restore(model, tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return model, config, tokenizer


def check_parts(path: Path, config: GPTConfig, tokenizer: CharTokenizer, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise UserError, before the model is made, if the sizes do not match the vocabulary or the tensors."""
    if tokenizer.size != config.vocabulary:
        raise UserError(
            f"{path} describes a model of {config.vocabulary} characters, but its vocabulary has {tokenizer.size}"
        )
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if len(blocks) != config.layers:
        raise UserError(f"{path} describes {config.layers} layers, but has the tensors of {len(blocks)}")


@dataclass(frozen=True)
class Sample:
    """Generate text with a trained model."""

    checkpoint: Path = Path("build/run/model.safetensors")
    """Model file saved by `train`."""
    prompt: str = "\n"
    """Text to continue."""
    length: int = 400
    """Characters to generate."""
    temperature: float = 0.8
    """Below 1: more predictable text; above 1: more varied text; 0: always the most probable character."""
    seed: int = 1
    """Seed; each one gives a different text."""

    def run(self) -> int:
        """Print the prompt and its continuation, on rank 0 only."""
        if launched()[1] != 0:
            return 0
        model, config, tokenizer = load_model(self.checkpoint)
        prompt = tokenizer.encode(self.prompt)
        ids = generate(model, config.context, prompt, self.length, self.temperature, self.seed)
        print(self.prompt + tokenizer.decode(ids))
        return 0
