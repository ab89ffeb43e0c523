import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minitrain.data.bpe import ALL, BytePairTokenizer, Tokenizer
from minitrain.data.text import CharTokenizer, load_text
from minitrain.errors import UserError

tokenizers = pytest.importorskip("tokenizers", reason="byte pairs need the package tokenizers")

SAMPLE = load_text()[:20_000]
TRAINED = BytePairTokenizer.train(SAMPLE, 400)
END = "<|endoftext|>"
TEXTS = [
    SAMPLE,
    "",
    " ",
    "\n\n a\tb  ",
    "caf\u00e9 e\u0301",
    "\U0001f600\u200d\U0001f525",
    "\r\n",
    "\0",
    f"a {END}  b",
    ALL,
]


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """Return a folder with vocab.json and merges.txt, as GPT-2's."""
    bpe = tokenizers.Tokenizer.from_str(TRAINED.json)
    bpe.model.save(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps({**vocabulary, END: len(vocabulary)}), "utf-8")
    return tmp_path


@given(st.text(max_size=40) | st.text("ab \n\t'\u00e9\U0001f600", max_size=200))
@example(ALL)
@example("\0")
def test_round_trip(text: str) -> None:
    ids = TRAINED.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1 and len(ids) <= len(text.encode())
    assert TRAINED.decode(ids) == text


def test_ids_are_those_of_the_package() -> None:
    direct = tokenizers.Tokenizer.from_str(TRAINED.json)
    for text in TEXTS:
        assert TRAINED.encode(text).tolist() == direct.encode(text).ids
    assert TRAINED.size == direct.get_vocab_size() == 400
    assert [TRAINED.decode([i]) for i in TRAINED.encode(SAMPLE[:50])] == [
        direct.decode([i]) for i in direct.encode(SAMPLE[:50]).ids
    ]


def test_the_first_merge_is_the_most_frequent_pair() -> None:
    tokens = BytePairTokenizer.train("abcabcab", 257)
    assert tokens.decode([256]) == "ab" and tokens.decode(tokens.encode("cabab")[1:]) == "abab"
    assert len(tokens.encode("cabab")) == 3


def test_files_of_gpt2(gpt2: Path) -> None:
    """The package's own class for them gives the same ids; the end of a text is one token."""
    tokens = BytePairTokenizer.load(gpt2)
    files = str(gpt2 / "vocab.json"), str(gpt2 / "merges.txt")
    direct = tokenizers.ByteLevelBPETokenizer.from_file(*files)
    direct.add_special_tokens([END])
    for text in TEXTS:
        assert tokens.encode(text).tolist() == direct.encode(text).ids
    assert tokens.size == 401 and tokens.encode(END).tolist() == [400] and tokens.decode([400]) == END


def test_ids_are_those_of_transformers(gpt2: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokens = BytePairTokenizer.load(gpt2)
    direct = transformers.GPT2Tokenizer(str(gpt2 / "vocab.json"), str(gpt2 / "merges.txt"))
    for text in TEXTS:
        assert tokens.encode(text).tolist() == direct(text)["input_ids"], text[:20]
    assert tokens.decode(tokens.encode(SAMPLE)) == direct.decode(direct(SAMPLE)["input_ids"])


def test_load(tmp_path: Path, gpt2: Path) -> None:
    for place in (tmp_path / "own.json", gpt2 / "tokenizer.json"):  # the latter comes before GPT-2's files
        place.write_text(TRAINED.json, "utf-8")
    for path in (tmp_path / "own.json", str(tmp_path / "own.json"), gpt2):
        assert BytePairTokenizer.load(path).sha256 == TRAINED.sha256


def test_the_sum_is_of_what_decides_the_ids(gpt2: Path) -> None:
    """Not of how a version of the package writes it, nor of the kind of file; a merge more or less changes it."""
    from_two = BytePairTokenizer.load(gpt2)
    given = json.loads(from_two.json)
    assert BytePairTokenizer(json.dumps(given, indent=3, sort_keys=True)).sha256 == from_two.sha256
    given["model"]["merges"] = [" ".join(pair) for pair in given["model"]["merges"]]  # as older versions write them
    given["pre_tokenizer"]["trim_offsets"] ^= True
    assert BytePairTokenizer(json.dumps(given)).sha256 == from_two.sha256
    given["pre_tokenizer"]["use_regex"] ^= True
    assert BytePairTokenizer(json.dumps(given)).sha256 != from_two.sha256
    given["pre_tokenizer"]["use_regex"] ^= True
    del given["model"]["merges"][-1]
    assert BytePairTokenizer(json.dumps(given)).sha256 != from_two.sha256


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt"])
def test_a_pipe_is_not_waited_for(name: str, gpt2: Path) -> None:
    (gpt2 / name).unlink(missing_ok=True)
    os.mkfifo(gpt2 / name)
    with pytest.raises(UserError, match="it is no regular file"):
        BytePairTokenizer.load(gpt2)


def test_training_gives_the_same_in_every_process() -> None:
    """The command line does not import the package before it needs it."""
    program = (
        "import sys, minitrain.cli; from minitrain.data import bpe, text; assert 'tokenizers' not in sys.modules; "
        "print(bpe.BytePairTokenizer.train(text.load_text()[:20_000], 400).sha256)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == TRAINED.sha256 == BytePairTokenizer.train(SAMPLE, 400).sha256


def test_names_and_sums() -> None:
    kinds: list[Tokenizer] = [CharTokenizer("ab\u00e9"), TRAINED]
    assert [kind.name for kind in kinds] == ["characters", "byte pairs"]
    assert kinds[0].sha256 == hashlib.sha256("ab\u00e9".encode()).hexdigest()
    assert len(CharTokenizer("\udc80").sha256) == 64


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "said"), [(256, "at least 257"), (10**15, "yields only 261 tokens"), (262, "yields only 261")]
)
def test_sizes_that_a_text_does_not_yield(size: int, said: str) -> None:
    with pytest.raises(UserError, match=rf"size is {size}[;,].*{said}"):
        BytePairTokenizer.train("abcabcab" * 2, size)


@pytest.mark.parametrize("call", [TRAINED.encode, lambda text: BytePairTokenizer.train(text, 257)])
def test_text_that_utf8_cannot_encode(call: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match=r"lone surrogate, '\\udc80', at position 2"):
        call("ab\udc80")


@pytest.mark.parametrize("wrong", [-1, 400, 2**40])
def test_id_outside_the_vocabulary(wrong: int) -> None:
    with pytest.raises(UserError, match=f"id {wrong} at position 1 .*0 to 399"):
        TRAINED.decode([0, wrong])


def test_ids_of_any_shape() -> None:
    ids = TRAINED.encode("some words")[:4]
    assert TRAINED.decode(ids.reshape(2, 2)) == TRAINED.decode(ids.tolist())
    assert TRAINED.decode(65) == TRAINED.decode([65]) and TRAINED.decode([]) == ""  # type: ignore[arg-type]


def added(content: str, **rest: bool) -> list[dict[str, Any]]:
    flags = {**dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False), "special": True}
    return [{"id": 400, "content": content, **flags, **rest}]


GIVEN = json.loads(TRAINED.json)
MODEL, SPLIT = GIVEN["model"], GIVEN["pre_tokenizer"]
SEQUENCE = [{"Sequence": {"id": "A", "type_id": 0}}]
BEGIN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "!", "type_id": 0}}, *SEQUENCE],
    "pair": [*SEQUENCE, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"!": {"id": "!", "ids": [0], "tokens": ["!"]}},
}
NO_TOKENIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "lowercase": ({"normalizer": {"type": "Lowercase"}}, "'Probe .* becomes 'probe .* parts are Lowercase, ByteLevel"),
    "composed": ({"normalizer": {"type": "NFC"}}, "changes text: .* parts are NFC"),
    "prefix space": ({"pre_tokenizer": {**SPLIT, "add_prefix_space": True}}, "'Probe .* becomes ' Prob"),
    "begin": ({"post_processor": BEGIN}, "becomes '!Prob.* parts are ByteLevel, TemplateProcessing"),
    "no decoder": ({"decoder": None}, "becomes ' r o"),
    "no bytes": ({"pre_tokenizer": None}, "changes text"),
    "white space": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, SPLIT]}},
        "changes text: '  it.* at position 5 becomes 'it,now",
    ),
    "strips": ({"added_tokens": added("<x>", lstrip=True)}, "changes text: '  <x>"),
    "a token that is bytes": ({"added_tokens": added("\u0120\u0120")}, "changes text: '\u0120"),
    "random": ({"model": {**MODEL, "dropout": 0.1}}, r"at random: set its dropout, 0\.1, to null"),
    "hole": ({"model": {**MODEL, "vocab": {**MODEL["vocab"], "x.": 500}}}, "401 tokens, but none with id 400"),
    "too few bytes": ({"model": {**MODEL, "vocab": {"a": 0}, "merges": []}}, "changes text: 'Probe"),
    "unigram": ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}}, "is a Unigram tokenizer; .* BPE"),
    "word pieces": (
        {
            "model": {
                "type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 9, "vocab": {"a": 0},
            }
        },
        "is a WordPiece tokenizer; .* BPE",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_TOKENIZERS)
def test_tokenizers_that_are_refused(kind: str, tmp_path: Path) -> None:
    changed, said = NO_TOKENIZERS[kind]
    (tmp_path / "tokenizer.json").write_text(json.dumps({**copy.deepcopy(GIVEN), **changed}), "utf-8")
    with pytest.raises(UserError, match=rf"(?s)tokenizer '.*{tmp_path.name}' .*{said}"):
        BytePairTokenizer.load(tmp_path)


def test_what_a_probe_does_not_find_is_found_in_the_text() -> None:
    replaces = {"type": "Replace", "pattern": {"String": "colour"}, "content": "color"}
    tokens = BytePairTokenizer(json.dumps({**GIVEN, "normalizer": replaces}))
    with pytest.raises(UserError, match=r"the tokenizer changes text: 'ur' at position 6 becomes 'r'.*Replace"):
        tokens.encode("a colour")


def test_limits_of_length_are_dropped() -> None:
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    assert BytePairTokenizer(json.dumps({**GIVEN, "truncation": cut})).json == TRAINED.json


@pytest.mark.parametrize("content", ["hello", "", "[]", "{}", '{"model": 3}'])
def test_files_that_are_no_tokenizer(content: str, tmp_path: Path) -> None:
    (path := tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json' is not the JSON of a tokenizer: .*; give a tokenizer\.json"):
        BytePairTokenizer.load(path)


def test_files_that_cannot_be_read(tmp_path: Path, gpt2: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'{"caf\xe9": 1}')
    (gpt2 / "merges.txt").write_text("#version: 0.2\nzq zq\n")
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "nowhere", r"nowhere' cannot be read: No such file.*tokenizer\.json"),
        (tmp_path / "latin.json", r"latin\.json' cannot be read: 'utf-8' codec"),
        (tmp_path / "empty", r"a folder without tokenizer\.json, or vocab\.json and merges\.txt"),
        (gpt2, r"has no valid vocab\.json and merges\.txt: .*zq"),
        ("a\0b", "cannot be read: No such file"),
        (3, "path is 3; it must be the path of a tokenizer.json"),
    ):
        with pytest.raises(UserError, match=said):
            BytePairTokenizer.load(path)  # type: ignore[arg-type]


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for call in (lambda: BytePairTokenizer.train("abab", 257), lambda: BytePairTokenizer(TRAINED.json)):
        with pytest.raises(UserError, match=r"cannot be imported .*pip install -e '\.\[tokenizers\]'"):
            call()
