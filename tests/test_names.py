"""The names of the field: none of the package's own words for what has a standard term."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import minitrain
from minitrain.cli import main

ROOT = Path(minitrain.__file__).parent

# own word -> standard term
OLD = {
    "Units": "Sequential", "Static": "StaticPolicy", "Dynamic": "DynamicPolicy", "Doors": "Hooks", "doors": "hooks",
    "door": "barrier", "after_step": "gather_parameters", "share": "shard_of", "shares": "even_shards",
    "Cuts": "Shards", "cuts": "shards", "own_cuts": "shard_arguments", "copies": "replicas",
    "with_own_share": "with_own_shard", "over_shares": "over_shards", "own_lines": "communicators_for",
    "ahead_lines": "prefetch_groups", "drawn": "initialized", "check_drawn": "check_initialized",
    "wide": "accumulation_dtype", "judge": "classify", "judged": "loss_or_logits", "look_into": "check_finite",
    "look_into_data": "check_data", "tell": "report", "say": "log", "poison": "nan_fill", "wire": "grad_dtype",
    "wire_dtype": "sent_dtype", "half_wire": "half_gradients", "Wire": "GradDtype",
}  # fmt: skip


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of functions, classes, arguments, attributes and keywords; local variables are free."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Attribute(attr=name):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name, node.lineno
            case _:
                pass


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_identifier_has_an_old_name(path: Path) -> None:
    found = [f"{path.name}:{line} {name}: use {OLD[name]}" for name, line in identifiers(path) if name in OLD]
    assert not found and path.stem not in OLD


@pytest.mark.parametrize("command", ["train", "lr-range", "memory", "timeline"])
def test_no_option_has_an_old_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    page = capsys.readouterr().out
    assert "--wire" not in page and "--least" not in page and "--most" not in page and "--lr" in page
