"""Import, train --from, sample and export on the command line, with characters and byte pairs."""

import io
import json
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minitrain.comm.threads import world_of_one
from minitrain.commands.config import TrainConfig
from minitrain.commands.options import DataOptions, OptimizerOptions, RunOptions
from minitrain.commands.sample import Typewriter
from minitrain.commands.start import from_weights
from minitrain.commands.train import TextTrainer
from minitrain.data.text import load_text
from minitrain.errors import UserError
from tests.commands.test_cli import SEVERAL, Capture, here, needs_mpirun, process, refused
from tests.tiers import full
from tests.train import gpt2_files

bpe = pytest.importorskip("minitrain.data.bpe")
pytest.importorskip("tokenizers", reason="tokenizers is not installed: pip install 'minitrain[tokenizers]'")

ROOT = Path(__file__).resolve().parents[2]
V, T = 300, 24
SHORT = ["--steps", "4", "--batch", "3", "--context", "12", "--warmup", "1", "--val-every", "9", "--log-every", "2"]
SHORT += ["--sample", "0", "--save-every", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of random values with its tokenizer, and a text, in one folder."""
    made = tmp_path_factory.mktemp("weights")
    text = load_text()[:20_000]
    (made / "text.txt").write_text(text)
    values = gpt2_files.theirs("float64", V=V, T=T)
    gpt2_files.write(made / "gpt2", values, files=2, vocab_size=V, n_positions=T)
    (made / "gpt2" / "tokenizer.json").write_text(bpe.BytePairTokenizer.train(text, V).json)
    return made


@pytest.fixture
def there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it as the working folder."""
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"


def train(*arguments: str) -> int:
    return here("train", *SHORT, "--text", "text.txt", *arguments)


def rows(run: str) -> list[str]:
    return Path(run, "log.jsonl").read_text().splitlines()


def printed(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    assert here(*arguments) == 0
    return capsys.readouterr().out


# In, through and out --------------------------------------------------------------------------------------------------


def test_from_a_gpt2_and_out_again(there: Path, capsys: Capture) -> None:
    """Imported or directly, the run is the same; its model, its checkpoint and its export give the same text."""
    said = printed(capsys, "import", "gpt2", "--to", "imported", "--shard-mb", "0.02")
    for part in ("2 layers of width 8, 4 heads, float64", "writing model-00001-of-0000", "wrote imported\n"):
        assert part in said
    assert (there / "imported" / "tokenizer.json").exists()
    assert train("--from", "imported", "--out", "a") == train("--from", "gpt2", "--out", "b") == 0
    assert rows("a") == rows("b") and len(rows("a")) == 5
    assert json.loads(rows("a")[0])["lr"] == 1e-4 and json.loads(rows("a")[3])["lr"] < 5e-5  # low, as in fine-tuning
    assert "starting from the weights in gpt2" in (said := capsys.readouterr().out)
    assert "300 tokens" in said and "nats per token" in said
    sample = ["sample", "--prompt", "What, ho!", "--length", "9", "--checkpoint"]
    text = printed(capsys, *sample, "a/model.safetensors")
    assert text.startswith("What, ho!") and len(text) > 12
    for other in ("a", "a/checkpoints", "a/checkpoints/step-4"):
        assert printed(capsys, *sample, other) == text
    printed(capsys, "export", "a", "--to", "out")
    assert printed(capsys, *sample, "out") == text
    before, after = load_file("a/model.safetensors"), load_file("out/model.safetensors")
    true = gpt2_files.ours(after)
    assert before.keys() == true.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(x, true[path], err_msg=path, strict=True)
    config = json.loads(Path("out/config.json").read_text())
    assert (config["n_positions"], config["n_head"], config["layer_norm_epsilon"]) == (T, 4, 1e-3)


def test_windows_may_be_shorter_than_the_model_s_positions(there: Path, capsys: Capture) -> None:
    assert train("--from", "gpt2", "--out", "a") == 0  # 12 of 24
    assert "windows of 12 per update" in capsys.readouterr().out
    assert load_file("a/model.safetensors")["embed.positions.weight"].shape == (T, 8)
    assert "--context is 25, but the model has 24 positions" in refused(
        capsys, "train", "--text", "text.txt", "--from", "gpt2", "--context", "25", "--out", "b"
    )


def test_a_run_on_byte_pairs_is_resumed(there: Path, capsys: Capture) -> None:
    """From the tokenizer that the run has kept, with the same log to the last byte, also in another folder."""
    assert train("--from", "gpt2", "--out", "a", "--steps", "6", "--save-every", "3") == 0
    shutil.rmtree("a/checkpoints/step-6")
    before, tokenizer = rows("a"), Path("gpt2/tokenizer.json").read_text()
    shutil.rmtree("gpt2")
    assert here("train", "--resume", "a", "--text", "text.txt") == 0
    assert rows("a") == before and Path("a/tokenizer.json").read_text() == tokenizer
    shutil.rmtree("a/checkpoints/step-6")
    Path("other.json").write_text(bpe.BytePairTokenizer.train(load_text()[50_000:70_000], V).json)
    said = refused(capsys, "train", "--resume", "a", "--text", "text.txt", "--tokenizer", "other.json")
    assert "a/checkpoints/step-3 has another tokenizer: byte pairs, SHA-256" in said


def test_characters_of_the_weights_are_kept(there: Path, capsys: Capture) -> None:
    """A text with fewer characters does not change what the ids mean; a run is resumed with them, too."""
    sizes = ["--layers", "1", "--width", "8", "--heads", "2"]
    assert train(*sizes, "--out", "a") == 0
    Path("few.txt").write_text("the same words, and the same " * 60)
    assert train("--from", "a", "--text", "few.txt", "--out", "b") == 0
    count = len(set(Path("text.txt").read_text()))
    assert f"{count} characters\n" in capsys.readouterr().out
    assert here("train", "--resume", "b", "--steps", "5", "--text", "few.txt") == 0
    Path("more.txt").write_text("\u00e9t\u00e9 " * 200)
    said = refused(capsys, "train", *SHORT, "--from", "a", "--text", "more.txt", "--out", "c")
    assert "character '\u00e9' at position 0 is not in the vocabulary" in said


def test_a_library_s_user_starts_from_weights(there: Path) -> None:
    """from_weights returns what the command line would; sizes that differ are refused by name."""
    small = TrainConfig(
        data=DataOptions(text=Path("text.txt"), batch=3), optimizer=OptimizerOptions(steps=2),
        report=RunOptions(sample=0),
    )  # fmt: skip
    config = from_weights(Path("gpt2"), small)
    assert [update.loss for update in TextTrainer(config, world_of_one()).updates(1)]
    wrong = TrainConfig(data=config.data, checkpoints=config.checkpoints)
    with pytest.raises(UserError, match="--layers is 4 instead of 2, --width is 128 instead of 8"):
        TextTrainer(wrong, world_of_one())


@needs_mpirun
@pytest.mark.parametrize("ranks", [2, full(3)])
def test_a_divided_model_writes_the_same_text(ranks: int, there: Path, capsys: Capture) -> None:
    """Character by character that of one process, from the files of a GPT-2, each rank reading its part."""
    sample = ["sample", "--checkpoint", "gpt2", "--prompt", "Enter a ", "--length", "40", "--top-k", "20"]
    alone = printed(capsys, *sample)
    options = [["--zero", "3"], ["--tp", str(ranks)], ["--pp", str(ranks)], ["--no-cache", "--pp", str(ranks)]]
    Path("commands").write_text(json.dumps([sample + more for more in options]))
    status, output = process([sys.executable, "-c", SEVERAL, str(there / "commands")], ranks, cwd=there)
    assert status == 0, output
    for number, more in enumerate(options):
        pages = [Path(f"commands-{number}-{rank}").read_text() for rank in range(ranks)]
        assert pages == [alone] + [""] * (ranks - 1), more


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train --from gpt2 --heads 2", "the model in gpt2 has other sizes: --heads is 2 instead of 4; leave"),
        ("train --from gpt2 --no-tied", "--tied is False instead of True"),
        ("train --from gpt2 --positions 30", "--positions is 30 instead of 24"),
        ("train --from gpt2 --tokenizer small.json", "the tokenizer has 280 tokens, but the model in gpt2 has 300"),
        ("train --from gpt2 --steps 4 --from", "Missing value"),
        (
            "train --from gpt2 --out gpt2 --overwrite",
            "--overwrite would replace the model that --from gpt2",
        ),
        ("train --from gpt2 --context 12 --memory-mb 1", "and 24 windows of 12 needs"),
        ("export bare --tokenizer small.json", "has 280 tokens, but the model in bare has 300"),
        ("train --from nowhere", "there is no file or folder nowhere"),
        ("train --from llama", "describes a model of the type 'llama'"),
        ("train --from bare", "bare has no tokenizer beside it (tokenizer.json, or vocab.json and merges.txt)"),
        ("train --tokenizer nowhere.json", "tokenizer 'nowhere.json' cannot be read"),
        ("sample --checkpoint bare", "bare has no tokenizer beside it"),
        ("sample --checkpoint gpt2 --tokenizer small.json", "has 280 tokens, but the model in gpt2 has 300"),
        ("sample --checkpoint gpt2 --tp 2", "--tp 2 x --pp 1 is for 2 ranks; there are 1: mpirun -n 2"),
        ("sample --checkpoint gpt2 --zero 1", "--zero"),
        ("sample --checkpoint gpt2 --top-k 0", "top_k is 0"),
        ("sample --checkpoint gpt2 --top-p 1.5", "top_p is 1.5"),
        ("sample --checkpoint gpt2 --tp 0", "--tp is 0"),
        ("export gpt2 --to gpt2", "gpt2 has files already; give a new folder with --to"),
        ("export gpt2 --shard-mb 0", "--shard-mb is 0"),
        ("export nowhere", "there is no file or folder nowhere"),
        ("import llama", "describes a model of the type 'llama'"),
        ("import", "Required options"),
    ],
)
def test_mistakes(arguments: str, said: str, there: Path, capsys: Capture) -> None:
    shutil.copytree("gpt2", "bare")
    Path("bare/tokenizer.json").unlink()
    gpt2_files.write(there / "llama", gpt2_files.theirs(), model_type="llama")
    Path("small.json").write_text(bpe.BytePairTokenizer.train(Path("text.txt").read_text(), 280).json)
    name, *rest = arguments.split()
    assert said in refused(capsys, name, *rest, *(["--text", "text.txt"] if name == "train" else []))
    assert not Path("build/run/log.jsonl").exists()


def test_a_source_and_a_run_to_continue(there: Path, capsys: Capture) -> None:
    assert train("--from", "gpt2", "--out", "a") == 0
    said = refused(capsys, "train", "--resume", "a", "--from", "gpt2", "--text", "text.txt", "--steps", "9")
    assert "--resume continues a run, and --from starts one: give one of the two" in said


def test_the_memory_of_short_windows(there: Path, capsys: Capture) -> None:
    """It is that of the windows, not of all positions that the model has."""
    gpt2_files.write(there / "long", gpt2_files.theirs("float64", V=V, T=40_000), vocab_size=V, n_positions=40_000)
    shutil.copy("gpt2/tokenizer.json", "long")
    assert train("--from", "long", "--steps", "2", "--out", "a") == 0
    assert "windows of 1000 needs" in refused(
        capsys, "train", "--from", "long", "--text", "text.txt", "--context", "1000", "--batch", "4000", "--out", "b"
    )


def test_a_lost_tokenizer(there: Path, capsys: Capture) -> None:
    """It is missed by name, and written again when it is given."""
    assert train("--from", "gpt2", "--out", "a") == 0
    Path("a/tokenizer.json").rename("t.json")
    resume = ["train", "--resume", "a", "--text", "text.txt", "--steps", "6"]
    assert "a has lost its tokenizer, tokenizer.json: give it with --tokenizer" in refused(capsys, *resume)
    assert here(*resume, "--tokenizer", "t.json") == 0
    assert Path("a/tokenizer.json").read_text() == Path("t.json").read_text()


def test_a_run_of_half_weights_saves_its_masters(there: Path) -> None:
    """What the model's file and the last checkpoint export is the same."""
    half = ["--precision", "fp16", "--half-weights", "--dtype", "float32"]
    assert train("--from", "gpt2", *half, "--out", "a") == 0
    assert here("export", "a/checkpoints", "--to", "out") == 0
    one, other = (load_file(f"{name}/model.safetensors") for name in ("a", "out"))
    masters = gpt2_files.ours(other)
    assert one.keys() == masters.keys()
    for path, x in one.items():
        np.testing.assert_array_equal(x, masters[path], err_msg=path, strict=True)
    assert any((x != x.astype(np.float16)).any() for x in one.values())


def test_an_interrupted_export_leaves_nothing(there: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("minitrain.commands.convert.write_json", interrupt)
        assert here("export", "gpt2", "--to", "out") == 130
    assert capsys.readouterr().err == "\nminitrain: interrupted\n" and not list(there.glob("out*"))
    assert here("export", "gpt2", "--to", "out") == 0


def test_text_appears_as_it_is_decoded(there: Path) -> None:
    """Whatever the tokens: a merge may end in the middle of a character, and some bytes are none."""
    emoji = "\U0001f600\U0001f601\U0001f602\U0001f603\U0001f604\U0001f923\U0001f970"
    tokenizer = bpe.BytePairTokenizer.train(emoji * 300 + "abc \u00e9\u65e5\u672c\u8a9e " * 50, 290)
    draw = np.random.default_rng(1)
    texts = ["".join(draw.choice(list(emoji), 8)) for _ in range(200)]
    drawn = [tokenizer.encode(text) for text in texts] + [*draw.integers(0, 290, (200, 12))]
    for ids in drawn:
        page = io.StringIO()
        writer = Typewriter(tokenizer, page)
        for token in ids.tolist():
            writer.token(token)
        writer.end()
        assert page.getvalue() == tokenizer.decode(ids) + "\n"


def test_another_tokenizer_of_the_same_size(there: Path, capsys: Capture) -> None:
    """A model of ours knows the sum of its tokenizer, beside it or given."""
    assert train("--from", "gpt2", "--out", "a") == 0
    Path("other.json").write_text(bpe.BytePairTokenizer.train(load_text()[50_000:70_000], V).json)
    said = "a/model.safetensors has another tokenizer: byte pairs, SHA-256"
    sample = ["sample", "--checkpoint", "a/model.safetensors"]
    told = refused(capsys, *sample, "--tokenizer", "other.json")
    assert said in told and "or leave --tokenizer other.json out" in told
    shutil.copy("other.json", "a/tokenizer.json")
    assert said in refused(capsys, *sample)
    assert said in refused(capsys, "train", *SHORT, "--text", "text.txt", "--from", "a/model.safetensors", "--out", "b")
    assert train("--layers", "1", "--width", "8", "--heads", "2", "--out", "c") == 0
    assert "c has another tokenizer: characters, " in refused(
        capsys, "sample", "--checkpoint", "c", "--tokenizer", "other.json"
    )


# The README -----------------------------------------------------------------------------------------------------------


def commands_of_the_readme() -> list[list[str]]:
    """Return the lines that import, train, sample and export."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("\n## Weights in and out\n")[2].partition("\n## ")[0]
    block = next(part for part in re.findall(r"(?:\n    .*)+", section) if "minitrain import" in part)
    lines = [line.partition("#")[0] for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


@needs_mpirun
@pytest.mark.full
def test_the_commands_of_the_readme(there: Path) -> None:
    """On a GPT-2 of random values in place of a downloaded one, with fewer updates."""
    done, texts = [], []
    for words in commands_of_the_readme():
        words += ["--steps", "3", "--context", "12"] if "train" in words else []
        ranks = int(words[words.index("-n") + 1]) if words[0] == "mpirun" else 0
        start = words.index("minitrain")
        status, output = process([sys.executable, "-m", *words[start:]], ranks, cwd=there)
        assert status == 0, (words, output)
        done.append(words[start + 1])
        texts += [output] if done[-1] == "sample" else []
    assert done == ["import", "train", "sample", "sample", "sample", "export"]
    assert len(set(texts)) == 1 and texts[0].startswith("ROMEO.")


def test_the_program_of_the_readme(there: Path, capsys: Capture) -> None:
    """On one process; it writes the text that `sample` does from the same seed."""
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    program = next(textwrap.dedent(block) for block in blocks if "of_weights(weights)" in block)
    assert here("import", "gpt2", "--to", "build/gpt2") == 0
    capsys.readouterr()
    exec(compile(program, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert said == printed(capsys, "sample", "--checkpoint", "gpt2", "--prompt", "ROMEO.", "--length", "40")
