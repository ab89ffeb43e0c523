"""Writing text with a trained model, one character at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import rng
from ..autograd import no_grad
from ..backend import to_device, to_host
from ..data.batch import Batch, Where
from ..data.kinds import as_row
from ..data.text import CharTokenizer
from ..environment import launched
from ..errors import UserError, check_memory, check_number, check_seed, check_whole, shown
from ..models import GPTConfig, Model, gpt
from ..train import checkpoint


def check_length(length: int) -> None:
    """Raises UserError for a number of characters that cannot be written."""
    check_whole("length", length)
    size = 24 * length  # random numbers, drawn together before the first character
    check_memory(f"a text of {length} characters", size, "give a smaller --length or --sample")


def generate(
    model: Model, context: int, prompt: Sequence[int] | np.ndarray, length: int, temperature: float, seed: int
) -> np.ndarray:
    """`length` more ids after the prompt, each drawn from softmax(logits / temperature) of the last position.

    The model sees the last `context` ids. Temperature 0 takes the most probable one. Raises UserError for arguments
    that cannot be meant.
    """
    check_whole("context", context, 1)
    prompt = as_row("prompt", prompt)
    check_length(length)
    check_number("temperature", temperature, "at least 0")
    check_seed(seed)
    if not len(prompt):
        raise UserError("the prompt of 0 characters gives nothing to go on from: give at least one")
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
    with np.errstate(over="ignore"):  # a temperature near 0: the exponents are minus infinity, the chances 0
        p = np.exp((logits - logits.max()) / temperature)
    return min(int(np.searchsorted(np.cumsum(p) / p.sum(), u, side="right")), len(p) - 1)


def load_model(path: Path) -> tuple[Model, GPTConfig, CharTokenizer]:
    """The model of a checkpoint, on one process. Raises UserError for a file whose parts do not fit each other."""
    tensors, about = checkpoint.load(path)
    try:
        config, tokenizer = GPTConfig(**about["gpt"]), CharTokenizer(about["vocabulary"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not describe a GPT of this version of minitrain: {shown(error)}; train another one"
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
    """Raises UserError, before the model is made, for a description that fits neither its text nor its tensors."""
    if tokenizer.size != config.vocabulary:
        raise UserError(
            f"{path} describes a model of {config.vocabulary} characters, and its vocabulary has {tokenizer.size}"
        )
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if len(blocks) != config.layers:
        raise UserError(f"{path} describes {config.layers} layers, and has the tensors of {len(blocks)}")


@dataclass(frozen=True)
class Sample:
    """Write text with a trained model."""

    checkpoint: Path = Path("build/run/model.safetensors")
    """The model, as `train` saved it."""
    prompt: str = "\n"
    """The text to go on from."""
    length: int = 400
    """Characters to write."""
    temperature: float = 0.8
    """Below 1: more careful; above: bolder; 0: always the most probable character."""
    seed: int = 1
    """Another seed writes another text."""

    def run(self) -> int:
        """Prints the prompt and what the model makes of it; one process is enough."""
        if launched()[1] != 0:
            return 0
        model, config, tokenizer = load_model(self.checkpoint)
        prompt = tokenizer.encode(self.prompt)
        ids = generate(model, config.context, prompt, self.length, self.temperature, self.seed)
        print(self.prompt + tokenizer.decode(ids))
        return 0
