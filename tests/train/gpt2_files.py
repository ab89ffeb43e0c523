"""GPT-2s with random values, written as Hugging Face's transformers saves them, but without it: names by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Values = dict[str, np.ndarray]

SIZES: dict[str, Any] = {
    "model_type": "gpt2",
    **{"vocab_size": 7, "n_positions": 6, "n_layer": 2, "n_head": 4, "n_embd": 8},
    **{"activation_function": "gelu_new", "layer_norm_epsilon": 1e-3, "tie_word_embeddings": True, "n_inner": None},
}


def theirs(dtype: str = "float64", **sizes: int) -> Values:
    """Return random tensors under their names. sizes: V, T, L, D; the standard deviation of 0.3 lets errors show."""
    V, T, L, D = ({"V": 7, "T": 6, "L": 2, "D": 8} | sizes).values()
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, D), "wpe.weight": (T, D)}
    for i in range(L):
        shapes |= {f"h.{i}.ln_1.weight": (D,), f"h.{i}.ln_1.bias": (D,)}
        shapes |= {f"h.{i}.attn.c_attn.weight": (D, 3 * D), f"h.{i}.attn.c_attn.bias": (3 * D,)}
        shapes |= {f"h.{i}.attn.c_proj.weight": (D, D), f"h.{i}.attn.c_proj.bias": (D,)}
        shapes |= {f"h.{i}.ln_2.weight": (D,), f"h.{i}.ln_2.bias": (D,)}
        shapes |= {f"h.{i}.mlp.c_fc.weight": (D, 4 * D), f"h.{i}.mlp.c_fc.bias": (4 * D,)}
        shapes |= {f"h.{i}.mlp.c_proj.weight": (4 * D, D), f"h.{i}.mlp.c_proj.bias": (D,)}
    shapes |= {"ln_f.weight": (D,), "ln_f.bias": (D,)}
    draw = np.random.default_rng(5)
    return {f"transformer.{name}": (0.3 * draw.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}


def ours(values: Values, heads: int = 4) -> Values:
    """Return the tensors under minitrain's names, in its shapes."""
    parts = {
        **{"wte": "embed.tokens", "wpe": "embed.positions", "ln_f": "head.norm", "ln_1": "norm1", "ln_2": "norm2"},
        **{"attn.c_attn": "attn.qkv", "attn.c_proj": "attn.proj", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"},
    }
    made = {}
    for name, x in values.items():
        stem, _, leaf = name.removeprefix("transformer.").rpartition(".")
        number = ""
        if stem.startswith("h."):
            _, i, stem = stem.split(".", 2)
            number = f"blocks.{i}."
        if stem == "attn.c_attn":
            x = x.reshape(*x.shape[:-1], 3, heads, -1)
        made[f"{number}{parts[stem]}.{leaf}"] = x
    return made


def write(folder: Path, values: Values, files: int = 1, **config: Any) -> Path:
    """Write them to a folder, in one file or in several with an index, and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    if files == 1:
        save_file(values, folder / "model.safetensors", {"format": "pt"})
    else:
        names = [f"model-{i:05}-of-{files:05}.safetensors" for i in range(1, files + 1)]
        place = {name: names[i % files] for i, name in enumerate(sorted(values))}
        for name in names:
            save_file({key: values[key] for key, file in place.items() if file == name}, folder / name)
        index = {"metadata": {}, "weight_map": place}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({**SIZES, **config}))
    return folder
