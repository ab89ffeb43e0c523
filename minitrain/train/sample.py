"""Writing text with a trained model, one character at a time."""

from pathlib import Path

import numpy as np

from .. import rng
from ..autograd import no_grad
from ..backend import to_device, to_host
from ..data.batch import Batch, Where
from ..data.text import CharTokenizer
from ..errors import UserError
from ..models import GPTConfig, Model, gpt
from . import checkpoint


def generate(model: Model, context: int, prompt: np.ndarray, length: int, temperature: float, seed: int) -> np.ndarray:
    """`length` more ids after the prompt, each drawn from softmax(logits / temperature) of the last position.

    The model sees the last `context` ids. Temperature 0 takes the most probable one.
    """
    if not (0 <= temperature < float("inf")):
        raise UserError(f"the temperature is {temperature}; it must be a number of at least 0")
    if length < 0 or not len(prompt):
        raise UserError(f"cannot write {length} characters after a prompt of {len(prompt)}; both must be there")
    ids = prompt.tolist()
    chance = rng.integers(rng.key(seed, "sample"), length, 2**32) / 2**32
    with no_grad():
        for u in chance:
            window = np.array([ids[-context:]])
            where = Where(seed, 0, 1, context, slice(0, 1), slice(0, window.shape[1]), training=False)
            logits = to_host(model(Batch(to_device(window), None, where)).data)[0, -1].astype(np.float64)
            ids.append(_choose(logits, temperature, u))
    return np.array(ids[len(prompt) :])


def _choose(logits: np.ndarray, temperature: float, u: float) -> int:
    if temperature == 0:
        return int(logits.argmax())
    p = np.exp((logits - logits.max()) / temperature)
    return min(int(np.searchsorted(np.cumsum(p) / p.sum(), u, side="right")), len(p) - 1)


def load_model(path: Path) -> tuple[Model, GPTConfig, CharTokenizer]:
    """The model of a checkpoint, on one process."""
    tensors, about = checkpoint.load(path)
    try:
        config, tokenizer = GPTConfig(**about["gpt"]), CharTokenizer(about["vocabulary"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a GPT of this version of minitrain: {error!r}") from error
    model = gpt(config)
    checkpoint.restore(model, tensors)
    return model, config, tokenizer
