"""The training strategies behind large models, written out in plain code.

    import minitrain as mt

    images, labels = mt.load_digits()
    data = mt.ArrayLoader(images.astype("float32"), labels, batch=32, seed=1)
    with mt.launch() as world:                      # one process, or a rank under mpirun: the same run
        trainer = mt.Trainer(mt.mlp(), world, strategy=mt.Strategy(zero=1))
        history = trainer.fit(data, epochs=1)

A program finds here:

    arrays that record gradients    Tensor, backward, no_grad; their operations: functional, fused
    models                          gpt, GPTConfig, mlp, MLPConfig; to write your own: Model, Module, Parameter, nn
    data                            load_text, CharTokenizer, TextLoader; load_digits, ArrayLoader; Batch, Where, IGNORE
    optimizers                      SGD, Adam, AdamW, LARS, LAMB; to write your own: optim; learning rates: lr_schedules
    ranks and strategies            launch, Mesh, Strategy
    training                        Trainer; checkpoints: save, load
    16 bits                         StaticPolicy, DynamicPolicy, Scaler, StaticScaler, DynamicScaler; precision
    mistakes that you can fix       UserError

The strategies themselves are in minitrain.parallel, and communicators in minitrain.comm. README.md has the order in
which to read. On the command line, `python -m minitrain --help` lists what there is.

Importing the package does not start MPI. It has one side effect: it sets variables that BLAS reads, unless they are
set. OPENBLAS_NUM_THREADS (and OMP_, MKL_, VECLIB_MAXIMUM_THREADS) become 1, because the ranks share the cores. On AMD's
Zen 4, OPENBLAS_CORETYPE becomes Zen, because OpenBLAS's kernels with AVX2 are faster there than those with AVX-512.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from .environment import for_blas

for _name, _value in for_blas().items():  # BLAS reads these variables when NumPy is imported, so set them first
    os.environ.setdefault(_name, _value)

from .errors import UserError
from .runtime.mpirun import not_installed, report_error

try:
    from . import compiled, operators  # noqa: F401 - reads its variable; attaches the operators to Tensor
    from .autograd import backward, no_grad
    from .fused import IGNORE
    from .runtime.launch import launch
    from .tensor import Tensor
except UserError as error:  # an unusable MINITRAIN_BACKEND, _BLAS or _KERNELS, raised before `main` can catch it
    if sys.argv[0] != "-m":  # Python's placeholder while it locates the module to run
        raise
    sys.exit(report_error(error))
except ModuleNotFoundError as error:  # run by a Python outside the environment
    if sys.argv[0] != "-m":
        raise
    sys.exit(report_error(not_installed(error)))

if TYPE_CHECKING:  # at run time, __getattr__ imports these on first use
    from . import functional, fused, lr_schedules, nn, optim, precision
    from .comm.mesh import Mesh
    from .data.batch import Batch, Where
    from .data.digits import load_digits
    from .data.loader import ArrayLoader, TextLoader
    from .data.text import CharTokenizer, load_text
    from .models.gpt import GPTConfig, gpt
    from .models.mlp import MLPConfig, mlp
    from .models.model import Model
    from .nn import Module, Parameter
    from .optim import LAMB, LARS, SGD, Adam, AdamW
    from .parallel.strategy import Strategy
    from .precision import DynamicPolicy, DynamicScaler, Scaler, StaticPolicy, StaticScaler
    from .train.checkpoint import load, save
    from .train.trainer import Trainer

__version__ = "0.1.0"

_MODULES = ("functional", "fused", "lr_schedules", "nn", "optim", "precision")
_NAMES = {
    "comm.mesh": ("Mesh",),
    "data.batch": ("Batch", "Where"),
    "data.digits": ("load_digits",),
    "data.loader": ("ArrayLoader", "TextLoader"),
    "data.text": ("CharTokenizer", "load_text"),
    "models": ("GPTConfig", "MLPConfig", "Model", "gpt", "mlp"),
    "nn": ("Module", "Parameter"),
    "optim": ("SGD", "Adam", "AdamW", "LARS", "LAMB"),
    "parallel.strategy": ("Strategy",),
    "precision": ("StaticPolicy", "DynamicPolicy", "Scaler", "StaticScaler", "DynamicScaler"),
    "train.checkpoint": ("load", "save"),
    "train.trainer": ("Trainer",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name on first use. Raise AttributeError for an unknown name."""
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name not in _HOMES:
            raise AttributeError(f"module 'minitrain' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names, imported yet or not."""
    return sorted({*globals(), *__all__})


__all__ = [
    "IGNORE",
    "LAMB",
    "LARS",
    "SGD",
    "Adam",
    "AdamW",
    "ArrayLoader",
    "Batch",
    "CharTokenizer",
    "DynamicPolicy",
    "DynamicScaler",
    "GPTConfig",
    "MLPConfig",
    "Mesh",
    "Model",
    "Module",
    "Parameter",
    "Scaler",
    "StaticPolicy",
    "StaticScaler",
    "Strategy",
    "Tensor",
    "TextLoader",
    "Trainer",
    "UserError",
    "Where",
    "backward",
    "functional",
    "fused",
    "gpt",
    "launch",
    "load",
    "load_digits",
    "load_text",
    "lr_schedules",
    "mlp",
    "nn",
    "no_grad",
    "optim",
    "precision",
    "save",
]
