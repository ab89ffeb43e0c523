"""Inputs of loaders and tokenizers: every dtype and form is taken as it is or refused by name."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minitrain.backend import is_float
from minitrain.data.batch import IGNORE
from minitrain.data.digits import split_digits
from minitrain.data.loader import ArrayLoader, TextLoader
from minitrain.data.sample_checks import as_row, as_samples
from minitrain.data.text import CharTokenizer, split
from minitrain.errors import UserError
from minitrain.models import GPTConfig, gpt
from minitrain.train.generate import generate

N = 12
WHOLE = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
OTHERS = ["bool", "complex64", "complex128", "object", "U3", "S3", "datetime64[s]", "timedelta64[s]", "longdouble"]
DTYPES = [*WHOLE, "float16", "float32", "float64", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, *OTHERS]
MODEL = gpt(GPTConfig(vocabulary=2, context=4, layers=1, heads=1, width=4, std=0.5))
MODEL.init(1)


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


def big_endian(x: np.ndarray) -> np.ndarray:
    return x if x.dtype.isbuiltin == 2 else x.astype(x.dtype.newbyteorder(">"))  # ml_dtypes have a single byte order


# A form equivalent to the plain array, and forms that are not a row or hold invalid values.
ALIKE: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "read-only": read_only,
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "Fortran": np.asfortranarray,
    "big-endian": big_endian,
}
WRONG: dict[str, Callable[[np.ndarray], Any]] = {
    "masked": lambda x: np.ma.masked_array(x, mask=np.arange(x.size).reshape(x.shape) == 1),
    "0-d": lambda x: x.reshape(-1)[:1].reshape(()),
    "scalar": lambda x: x.reshape(-1)[0],
    "ragged": lambda x: [x[:2].tolist(), 1],
    "nothing": lambda x: None,
    "a word": lambda x: "ids",
}


def of_kind(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 2).reshape(shape).astype(dtype)


def refuses(call: Callable[[], Any], name: str) -> None:
    with pytest.raises((UserError, TypeError, ValueError)) as caught:
        call()
    said = str(caught.value)
    assert said.startswith(f"{name} is ") and said.count("\n") < 3 and len(said) < 600, said


def text_loader(ids: Any) -> np.ndarray:
    loader = TextLoader(ids, context=3, batch=2, seed=1)
    labels = [b.labels[b.labels != IGNORE] for b in loader.validation() if b.labels is not None]
    return np.concatenate([loader.ids[:1], *labels]).astype(loader.ids.dtype)


def array_labels(labels: Any) -> np.ndarray:
    loader = ArrayLoader(np.zeros((N, 2), np.float32), labels, batch=5, seed=1)
    return np.concatenate([b.labels for b in loader.validation() if b.labels is not None])


def decoded(ids: Any) -> np.ndarray:
    tokens = CharTokenizer("ab")
    return tokens.encode(tokens.decode(ids))


def both_parts(ids: Any) -> np.ndarray:
    return np.concatenate(split(ids, 0.3))


def digit_labels(labels: Any) -> np.ndarray:
    """Return the labels in the original order: the images are row numbers."""
    parts = split_digits(np.arange(N, dtype=float)[:, None], labels, seed=1)
    rows, found = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return found[rows[:, 0].argsort()]


def prompt(ids: Any) -> np.ndarray:
    """Return 0, 1, 0, 1, ... as int64 if these ids generate what it generates; otherwise an empty array."""
    true = generate(MODEL, 4, of_kind(np.int64, (N,)), 2, 0, 1)
    return of_kind(np.int64, (N,)) if (generate(MODEL, 4, ids, 2, 0, 1) == true).all() else np.empty(0)


ROWS: dict[str, tuple[Callable[[Any], np.ndarray], str]] = {
    "TextLoader": (text_loader, "ids"),
    "ArrayLoader": (array_labels, "labels"),
    "split": (both_parts, "ids"),
    "split_digits": (digit_labels, "labels"),
    "generate": (prompt, "prompt"),
    "as_row": (lambda ids: as_row("ids", ids), "ids"),
}
sweep = settings(max_examples=250)
forms = st.sampled_from([*ALIKE, *WRONG])


@pytest.mark.parametrize("entry", ROWS)
@sweep
@given(st.sampled_from(DTYPES), forms)
@example("int8", "list").via("a list of whole numbers")
@example("uint16", "big-endian").via("of another machine")
def test_ids_and_labels(entry: str, dtype: Any, form: str) -> None:
    call, name = ROWS[entry]
    value = {**ALIKE, **WRONG}[form](of_kind(dtype, (N,)))
    seen = np.asarray(value) if form in ("list", "tuple") else of_kind(dtype, (N,))
    if form in WRONG or seen.dtype.kind not in "iu":
        refuses(lambda: call(value), name)
    else:
        found = call(value)
        assert found.dtype.kind in "iu" and found.dtype.isnative and found.tolist() == [0, 1] * 6


@pytest.mark.parametrize("entry", ROWS)
@pytest.mark.parametrize("shape", [(N, 1), (1, N), (2, 0)])
def test_ids_have_one_axis(entry: str, shape: tuple[int, ...]) -> None:
    call, name = ROWS[entry]
    refuses(lambda: call(of_kind(np.int64, shape)), name)


def images(inputs: Any) -> np.ndarray:
    loader = ArrayLoader(inputs, list(range(N)), batch=5, seed=1)
    batch = loader.batch(1)
    assert batch.rows is not None and np.array_equal(batch.inputs, loader.inputs[batch.rows])
    return np.concatenate([b.inputs for b in loader.validation()])


def digit_images(inputs: Any) -> np.ndarray:
    parts = split_digits(inputs, range(N), seed=1)  # type: ignore[arg-type]
    found, rows = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return found[rows.argsort()]


SAMPLES: dict[str, tuple[Callable[[Any], np.ndarray], str]] = {
    "ArrayLoader": (images, "inputs"),
    "split_digits": (digit_images, "images"),
    "as_samples": (lambda x: as_samples("inputs", x), "inputs"),
}


@pytest.mark.parametrize("entry", SAMPLES)
@sweep
@given(st.sampled_from(DTYPES), forms, st.sampled_from([(N, 2), (N,), (N, 2, 3)]))
def test_samples(entry: str, dtype: Any, form: str, shape: tuple[int, ...]) -> None:
    call, name = SAMPLES[entry]
    true = of_kind(dtype, shape)
    value = {**ALIKE, **WRONG}[form](of_kind(dtype, shape))
    seen = np.asarray(value).dtype if form in ("list", "tuple") else true.dtype
    if form in WRONG or not (is_float(seen) or seen.kind in "iu"):
        refuses(lambda: call(value), name)
    else:
        found = call(value)
        assert found.dtype == seen and found.tolist() == true.tolist()


@pytest.mark.parametrize(
    ("inputs", "labels", "says"),
    [
        ([], [], "there are 0 inputs and 0 labels"),
        (np.empty((0, 3), np.float32), np.empty(0, int), "there are 0 inputs and 0 labels"),
        ([[1.0], [2.0]], [0], "there are 2 inputs and 1 labels"),
        ([[1.0], [2.0]], [0, -1], "the label of row 1 is -1; classes are counted from 0"),
        ([[1.0], [2.0]], [IGNORE, -101], "the label of row 1 is -101"),
    ],
)
def test_wrong_numbers_of_samples_and_labels(inputs: Any, labels: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ArrayLoader(inputs, labels, 1, 1)


def test_ids_below_0() -> None:
    with pytest.raises(UserError, match="the smallest id is -100; ids are counted from 0"):
        TextLoader([0, 1, IGNORE], 1, 1, 1)


def test_numbers_of_images_and_labels_to_split() -> None:
    with pytest.raises(UserError, match="there are 3 images and 4 labels"):
        split_digits(np.ones((3, 2)), [0, 1, 0, 1], seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [CharTokenizer, CharTokenizer.of, CharTokenizer("ab").encode])
@pytest.mark.parametrize("value", [None, 3, b"ab", ["a", "b"], ("a",), np.array(["a", "b"]), np.array("ab"), {"a"}])
def test_text_is_a_string(call: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(UserError, match=r"(vocabulary|text) is .*; it must be a string"):
        call(value)


def test_a_batch_knows_the_rows_of_its_samples() -> None:
    """A batch knows its rows, so that messages can name them; each part knows its own."""
    loader = ArrayLoader(np.arange(N, dtype=float)[:, None], [0] * N, batch=5, seed=1)
    for batch in [loader.batch(0), loader.batch(2), *loader.validation()]:
        for part in batch.split(3):
            assert part.rows is not None and part.rows.tolist() == part.inputs[:, 0].tolist()
    text = TextLoader(np.arange(40), context=3, batch=5, seed=1)
    for batch in [text.batch(0), *text.validation()]:
        for part in batch.split(2):
            assert part.rows is not None and part.rows.tolist() == part.inputs[:, 0].tolist()
