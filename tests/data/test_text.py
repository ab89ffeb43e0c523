import codecs
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from minitrain.data.text import CharTokenizer, load_text, split
from minitrain.errors import UserError
from tests.data import derive

FOLDER = derive.HERE


@pytest.fixture(scope="module")
def plays() -> str:
    return load_text()


def test_sums() -> None:
    for line in (FOLDER / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected, name


def test_readme_and_sums_agree() -> None:
    readme = (FOLDER / "README.md").read_text()
    for line in (FOLDER / "SHA256SUMS").read_text().splitlines():
        assert line in readme


def test_bundled_text_is_clean(plays: str) -> None:
    assert len(plays) == 1_027_659
    assert len(set(plays)) == 68
    assert plays.isascii()
    assert plays.endswith("\n") and not plays.endswith("\n\n")
    assert not re.search(r" \n|\n |  |\n\n\n", plays)  # no trailing, leading or doubled blanks, no gaps
    assert not re.search(r"gutenberg|copyright|licen[cs]e[sd]? (under|by)|<[a-z/]", plays, re.IGNORECASE)
    assert plays.count("\n\nACT ") == 5 * 8
    assert "\n\nJULIET.\nO Romeo, Romeo! wherefore art thou Romeo?\n" in plays


def test_validation_lies_within_the_last_play(plays: str) -> None:
    assert 0.8 < plays.index("ROMEO AND JULIET\n\n") / len(plays) < 0.9


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Act 2", "\nACT II.\n"),
        ("SCENE I.--Another part of the island", "\nSCENE I. Another part of the island\n"),
        ("ACT V", "\nACT V.\n"),
        ("Scene changes", "Scene changes"),
        ("Act not", "Act not"),
    ],
)
def test_headings_get_one_form(given: str, expected: str) -> None:
    assert derive.division(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Ham.\nWords, words, words.", "HAM.\nWords, words, words."),
        ("HERMIA\nAy me!", "HERMIA.\nAy me!"),
        ("Lady Capulet\nWhat noise is here?", "LADY CAPULET.\nWhat noise is here?"),
        ("1 Clown.\nA goodly one.", "FIRST CLOWN.\nA goodly one."),
        ("IAGO.\nMy lord?", "IAGO.\nMy lord?"),
        ("[Exit.]", "[Exit.]"),
        ("How now, Oswald!\nWhat, have you writ?", "How now, Oswald!\nWhat, have you writ?"),
    ],
)
def test_speakers_get_one_form(given: str, expected: str) -> None:
    assert derive.speech(given) == expected


def test_check_finds_a_changed_file(tmp_path: Path) -> None:
    names = (derive.TEXT, derive.DIGITS)
    files = {name: (FOLDER / name).read_bytes() for name in names}
    for name in (*names, derive.SUMS):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    assert derive.check(files, tmp_path) == []
    (tmp_path / derive.TEXT).write_bytes(b"something else")
    assert derive.SUMS in derive.check(files, tmp_path)[0]


def test_check_compares_contents_not_packing(tmp_path: Path) -> None:
    text = derive.lzma.compress(b"the same", preset=0)
    (tmp_path / derive.TEXT).write_bytes(text)
    (tmp_path / derive.SUMS).write_text(derive.sums({derive.TEXT: text}))
    assert derive.check({derive.TEXT: derive.lzma.compress(b"the same", preset=9)}, tmp_path) == []
    (wrong,) = derive.check({derive.TEXT: derive.lzma.compress(b"another", preset=9)}, tmp_path)
    assert derive.TEXT in wrong and hashlib.sha256(b"another").hexdigest() in wrong


def test_derive_refuses_another_sdist(tmp_path: Path) -> None:
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"not it")
    with pytest.raises(UserError, match=r"other\.tar\.gz.*" + derive.SDIST_SHA256):
        derive.derive(other)


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(codecs.BOM_UTF8 + "caf\u00e9\r\nline\rend\n".encode())
    assert load_text(path) == load_text(str(path)) == "caf\u00e9\nline\nend\n"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.txt.*does not exist.*bundled"):
        load_text(tmp_path / "nowhere.txt")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path)) + ".*folder"):
        load_text(tmp_path)


def test_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"inside.*cannot be read"):
        load_text(tmp_path / "file" / "inside")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read any file")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(UserError, match=r"secret\.txt.*cannot be read"):
        load_text(path)


@pytest.mark.skipif(os.name != "posix", reason="another system's devices")
def test_a_device() -> None:
    """Of a pipe, each rank would read a part."""
    with pytest.raises(UserError, match=r"'/dev/null' is not a regular file, and every rank reads all of it: save it"):
        load_text("/dev/null")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"one\ntwo caf\xe9 three\n")
    with pytest.raises(UserError, match=r"latin\.txt.*0xe9 at position 14, in line 2.*UTF-8"):
        load_text(path)


@pytest.mark.parametrize("content", [b"", b" \n\n", codecs.BOM_UTF8])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"empty\.txt.*is empty"):
        load_text(path)


def test_round_trip(plays: str) -> None:
    tokens = CharTokenizer.of(plays)
    ids = tokens.encode(plays)
    assert ids.dtype == np.int32 and ids.shape == (len(plays),)
    assert tokens.vocabulary == "".join(sorted(set(plays))) and tokens.size == len(tokens.vocabulary)
    assert np.array_equal(np.unique(ids), np.arange(tokens.size))
    assert tokens.decode(ids) == plays


def test_ids_are_places_in_the_vocabulary() -> None:
    tokens = CharTokenizer("ba\U0001f600\udc80")
    assert tokens.encode("ab\U0001f600\udc80").tolist() == [1, 0, 2, 3]
    assert tokens.decode([1, 0, 2, 3]) == "ab\U0001f600\udc80"


def test_nothing_encodes_to_nothing() -> None:
    tokens = CharTokenizer("ab")
    assert tokens.encode("").shape == (0,) and tokens.encode("").dtype == np.int32
    assert tokens.decode([]) == ""


@pytest.mark.parametrize("stranger", ["c", "A", "\x00", "\U0001f600", "\udc80"])
def test_character_outside_the_vocabulary(stranger: str) -> None:
    with pytest.raises(UserError) as error:
        CharTokenizer("abd").encode("abba" + stranger + "b")
    assert f"character {stranger!r} at position 4" in str(error.value)
    assert "'abd'" in str(error.value)


def test_large_vocabulary_is_shown_in_part() -> None:
    with pytest.raises(UserError) as error:
        CharTokenizer("".join(map(chr, range(0x4E00, 0x5E00)))).encode("x")
    assert "4096 characters" in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_id_outside_the_vocabulary(wrong: int) -> None:
    with pytest.raises(UserError, match=f"id {wrong} at position 1 .*0 to 2"):
        CharTokenizer("abc").decode([0, wrong])


def test_vocabulary_is_refused_when_empty_or_repeated() -> None:
    with pytest.raises(UserError, match="empty"):
        CharTokenizer.of("")
    with pytest.raises(UserError, match=r"'abca' repeats 'a'"):
        CharTokenizer("abca")


@pytest.mark.parametrize(("n", "validation", "sizes"), [(100, 0.1, (90, 10)), (7, 0.3, (5, 2)), (2, 0.5, (1, 1))])
def test_split(n: int, validation: float, sizes: tuple[int, int]) -> None:
    train, held_out = split(np.arange(n), validation)
    assert (len(train), len(held_out)) == sizes
    assert np.array_equal(np.concatenate([train, held_out]), np.arange(n))


@pytest.mark.parametrize("validation", [0, 1, -0.1, 1.5, float("nan")])
def test_split_refuses_other_fractions(validation: float) -> None:
    with pytest.raises(UserError, match=f"{validation} is not between 0 and 1"):
        split(np.arange(100), validation)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_split_refuses_to_leave_a_side_empty(n: int) -> None:
    with pytest.raises(UserError, match=f"0.1 of {n} leaves {n} for training and 0"):
        split(np.arange(n))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_text_in_utf_16_without_a_mark(encoding: str, tmp_path: Path) -> None:
    """Such a file is also valid UTF-8, but every second character is NUL."""
    path = tmp_path / "wide.txt"
    path.write_bytes("some plain text".encode(encoding))
    with pytest.raises(UserError, match=r"wide\.txt' has a NUL character at position [01].*save it as UTF-8"):
        load_text(path)
