"""GPT-2's weights as Hugging Face's transformers stores them: config.json, and the names and shapes of tensors.

    here                                         there, after "transformer."        shape there
    embed.tokens.weight       (V, D)             wte.weight                         (V, D)
    embed.positions.weight    (T, D)             wpe.weight                         (T, D)
    blocks.0.norm1            (D)                h.0.ln_1                           (D)
    blocks.0.attn.qkv.weight  (D, 3, H, D/H)     h.0.attn.c_attn.weight             (D, 3 D)
    blocks.0.attn.qkv.bias    (3, H, D/H)        h.0.attn.c_attn.bias               (3 D)
    blocks.0.attn.proj        (D, D)             h.0.attn.c_proj                    (D, D)
    blocks.0.norm2            (D)                h.0.ln_2                           (D)
    blocks.0.mlp.up           (D, 4 D)           h.0.mlp.c_fc                       (D, 4 D)
    blocks.0.mlp.down         (4 D, D)           h.0.mlp.c_proj                     (4 D, D)
    head.norm                 (D)                ln_f                               (D)
    head.classifier.weight    (V, D)             lm_head.weight, if it is not tied to wte

GPT-2's layers are Conv1D there: y = x W + b with W (in, out), as here, and not (out, in) as in PyTorch's Linear. So the
bytes of each tensor are the same in both layouts; only its name and its shape differ.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, check_choice, check_names, shown
from ..models import GPTConfig, gpt

CONFIG = "config.json"
SIZES = {
    "vocab_size": "vocabulary", "n_positions": "context", "n_layer": "layers", "n_head": "heads", "n_embd": "width"
}  # fmt: skip
PREFIX, HEAD = "transformer.", "lm_head.weight"
PARTS = {
    "embed.tokens": "wte",
    "embed.positions": "wpe",
    "norm1": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.proj": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "head.norm": "ln_f",
}
# What the model here always does: the values of config.json with which GPT-2 does the same, the default first.
FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")  # constants that older files hold


def name_there(path: str) -> str:
    """Return the name of a parameter in GPT-2's files.

    >>> name_there("blocks.0.attn.qkv.weight")
    'transformer.h.0.attn.c_attn.weight'
    """
    if path == "head.classifier.weight":
        return HEAD
    module, _, leaf = path.rpartition(".")
    block, found = "", re.fullmatch(r"blocks\.(\d+)\.(.*)", module)
    if found:
        block, module = f"h.{found[1]}.", found[2]
    return f"{PREFIX}{block}{PARTS[module]}.{leaf}"


def shape_there(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a parameter in GPT-2's files: q, k and v of all heads stand in one axis."""
    heads = shape[-3:] if path.endswith((".qkv.weight", ".qkv.bias")) else ()
    return shape if not heads else (*shape[:-3], heads[0] * heads[1] * heads[2])


def layout(config: GPTConfig) -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Return for each parameter its name there, its shape there, and its shape here."""
    shapes = {p.placement.path: p.placement.shape for p in gpt(config).parameters()}
    return {path: (name_there(path), shape_there(path, shape), shape) for path, shape in shapes.items()}


def needed(
    place: Path, config: GPTConfig, given: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return for each tensor that a model needs, by its name there, its path and its shape here.

    given: the names and shapes of the tensors that are there. Raise UserError unless they are exactly those that the
    config describes, apart from constants, and from a tied head that is there as well, or instead of the table.
    """
    layers = len({found[2] for name in given if (found := re.match(r"(transformer\.)?h\.(\d+)\.", name))})
    if layers != config.layers:  # before the model is made
        raise UserError(f"{place} has the tensors of {layers} layers, but its {CONFIG} says {config.layers}")
    bare = not any(name.startswith(PREFIX) for name in given)  # saved without its head
    wanted = {
        (theirs.removeprefix(PREFIX) if bare else theirs): (path, there, here)
        for path, (theirs, there, here) in layout(config).items()
    }
    spare = {name for name in given if MASK.fullmatch(name)}
    if config.tied and HEAD in given:
        table = next(name for name, (path, _, _) in wanted.items() if path == "embed.tokens.weight")
        if table in given:
            spare.add(HEAD)
        else:
            wanted[HEAD] = wanted.pop(table)
    cure = f"Its {CONFIG} says {config.layers} layers, {'a tied' if config.tied else 'an untied'} head"
    check_names(f"GPT-2 in {place}", CONFIG, given.keys() - spare, wanted.keys(), cure)
    for name, (_, there, _) in wanted.items():
        if given[name] != there:
            raise UserError(f"{place} has shape {given[name]} for {name}, but with its {CONFIG} it must be {there}")
    return {name: (path, here) for name, (path, _, here) in wanted.items()}


def read_config(path: Path, given: Mapping[str, Any]) -> GPTConfig:
    """Return the sizes in GPT-2's config.json. Dropout is no part of them: it is an option of training.

    Raise UserError, naming the file and the entry, for another architecture, and for entries that are missing, invalid,
    or ask for something that the model here does not do.
    """
    if given.get("model_type") != "gpt2":
        raise UserError(
            f"{path} describes a model of the type {shown(given.get('model_type'))}; minitrain imports 'gpt2' only"
        )
    if missing := [key for key in SIZES if key not in given]:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    for key, (default, *more) in FIXED.items():
        if (value := given.get(key, default)) not in (default, *more) or type(value) is not type(default):
            raise UserError(f"{path}: {key} is {shown(value)}; minitrain's GPT has {default!r}")
    sizes = {ours: given[theirs] for theirs, ours in SIZES.items()}
    try:
        config = GPTConfig(
            **sizes, tied=given.get("tie_word_embeddings", True), epsilon=given.get("layer_norm_epsilon", 1e-5)
        )
    except UserError as error:
        entries = ", ".join(f"{ours}: {theirs}" for theirs, ours in SIZES.items())
        raise UserError(f"{path}: {error}.\nIts entries are called {entries}") from error
    if given.get("n_inner") not in (None, 4 * config.width):
        raise UserError(f"{path}: n_inner is {shown(given['n_inner'])}; minitrain's GPT has 4 n_embd, or null")
    return config


def config_there(config: GPTConfig) -> dict[str, Any]:
    """Return the config.json of a model."""
    check_choice("dtype", config.dtype, ("float32", "float64"))
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    dropout = {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": 0.0}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **sizes,
        "n_inner": None,
        **{key: values[0] for key, values in FIXED.items()},
        "layer_norm_epsilon": config.epsilon,
        "tie_word_embeddings": bool(config.tied),
        **dropout,
        "dtype": config.dtype,
        "bos_token_id": None,
        "eos_token_id": None,
    }
