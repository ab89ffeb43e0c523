"""Checkpoints that are interrupted, damaged, forged or short of space: the last complete one is found, and no other."""

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.threads import world_of_one
from minitrain.errors import UserError
from minitrain.observe.ledger import Ledger
from minitrain.parallel.strategy import Strategy
from minitrain.train.checkpoint_folder import newest
from minitrain.train.checkpoint_index import signed
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.tensor_file import Files
from minitrain.train.trainer import Trainer
from tests.kill import calls, damages
from tests.kill.calls import NEW, NEXT, OLD, arrays, loaded, marked, prepared, save
from tests.tiers import full
from tests.train import test_resharding as resharding
from tests.train.test_resharding import Layout, half, points, same, small, whole

ROOT = Path(__file__).parents[2]
quiet = lambda text: None


def steps(folder: Path) -> list[str]:
    return sorted(it.name for it in folder.glob("step-*"))


# Interrupted ----------------------------------------------------------------------------------------------------------


def test_the_calls_of_a_save(tmp_path: Path) -> None:
    """What is tried below: each rank writes a file; rank 0 also makes the folder, writes the index, and removes the
    oldest checkpoint. A folder's sync is two calls. The names are forced to the disk before the index is written."""
    file = ["create", *["write"] * 7, "sync", "rename", "sync_folder", "sync", "unlink"]
    index = ["create", "write", "sync", "rename", "sync_folder", "sync", "unlink"]
    oldest = ["unlink", "sync_folder", "sync", "unlink", "unlink", "remove_folder", "sync_folder", "sync"]
    made = calls.calls(prepared(tmp_path / "run"))
    assert made == [["make_folder", "sync_folder", "sync", *file, *index, *oldest], file]


@pytest.mark.parametrize(
    ("every", "options"),
    [(9, {}), full(3, {}), full(3, {"background": True})],
    ids=["every ninth", "every third", "in the background"],
)
def test_a_call_that_fails(every: int, options: dict[str, Any], tmp_path: Path) -> None:
    """The old step or the new one is found, as `save` says, never a mixture; the next save leaves no trace of it."""
    tried, wrong = calls.every_call(tmp_path / "run", "fail", every, **options)
    assert not wrong and tried > 50 // every


def test_a_process_that_is_killed() -> None:
    """At every third call, in a process of its own, which has a single thread when it forks."""
    command = [sys.executable, "-m", "tests.kill", "--only", "kills_at_calls"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials, 0 went wrong" in done.stdout


def test_two_saves_never_have_the_same_number(two: Path) -> None:
    """Also if the index is there, but forcing its name to the disk has failed: the order of saving stays."""
    names = calls.calls(two)[0]
    first = len(names) - names[::-1].index("rename")  # the last rename gives the index its name
    for k in (first + 1, first + 2, first + 3):
        calls.failed_at(two, 0, k)


@pytest.mark.parametrize("count", [50, full(200)])
def test_damages(count: int, tmp_path: Path) -> None:
    """All are found; the message names the file, and the tensor whose data was changed; the older step is used."""
    assert damages.all_of(tmp_path / "run", count) == (count, [])


def test_what_is_said_if_no_checkpoint_is_whole(tmp_path: Path) -> None:
    prepared(tmp_path)
    for step in tmp_path.glob("step-*"):
        damages.flip(step / damages.rank_file(1), -1, np.random.default_rng(1))
    with pytest.raises(
        UserError, match=r"there is no complete checkpoint in .*\n.*step-9/rank-1.* is damaged in '\w+/"
    ):
        newest(tmp_path, world_of_one(), quiet)
    with pytest.raises(UserError, match="there is no complete checkpoint in "):
        newest(tmp_path / "other", world_of_one(), quiet)


# Forged ---------------------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]


def forged(step: Path, change: Change = lambda index: None) -> None:
    """Change an index, and make all sums right again."""
    index = json.loads((step / "index.json").read_bytes())["checkpoint"]
    for file in index["files"]:
        data = (step / file[0]).read_bytes()
        file[1:] = len(data), hashlib.sha256(data).hexdigest()
    change(index)
    (step / "index.json").write_bytes(signed(index))


def with_header(step: Path, change: Change) -> None:
    """Change the header of a rank's file, and make all sums right again."""
    path = step / damages.rank_file(1)
    data, end = path.read_bytes(), damages.header_length(path)
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    forged(step)


def huge_header(step: Path, outside: Path) -> None:
    path = step / damages.rank_file(0)
    path.write_bytes((2**63).to_bytes(8, "little") + path.read_bytes()[8:])
    forged(step)


def deep_header(step: Path, outside: Path) -> None:
    text = b'{"a":' * 200_000
    (step / damages.rank_file(0)).write_bytes(len(text).to_bytes(8, "little") + text)
    forged(step)


def deep_index(step: Path, outside: Path) -> None:
    (step / "index.json").write_bytes(b'{"checkpoint":' * 200_000)


def other_offsets(step: Path, outside: Path, by: int) -> None:
    def change(header: dict[str, Any]) -> None:
        header[WEIGHT]["data_offsets"] = [n + by for n in header[WEIGHT]["data_offsets"]]

    with_header(step, change)


def other_dtype(step: Path, outside: Path) -> None:
    with_header(step, lambda header: header[WEIGHT].update(dtype="I32"))


def linked(name: str, step: Path, outside: Path) -> None:
    """Put a file elsewhere, whose sums are right, and a link in its place."""
    (step / name).rename(outside / name)
    (step / name).symlink_to(outside / name)


def linked_folder(step: Path, outside: Path) -> None:
    step.rename(outside / "elsewhere")
    step.symlink_to(outside / "elsewhere")


def pipe(name: str, step: Path, outside: Path) -> None:
    """A named pipe, at which a reader waits for ever."""
    (step / name).unlink()
    os.mkfifo(step / name)


def named(name: str, step: Path, outside: Path) -> None:
    """Let the index name a file outside, which is there, with its size and its sum."""
    (step / damages.rank_file(0)).rename(outside / damages.rank_file(0))
    index = json.loads((step / "index.json").read_bytes())["checkpoint"]
    index["files"][0][0] = name.replace("OUTSIDE", str(outside))
    (step / "index.json").write_bytes(signed(index))


WEIGHT = "model/head.linear.weight"


def of_tensor(change: Callable[[list], object], name: str = WEIGHT) -> Callable[[Path, Path], None]:
    """Change what the index says of a tensor: [dtype, shape, [[file, held, run, sum], ...]]."""
    return lambda step, outside: forged(step, lambda index: change(index["tensors"][name]))


def of_index(**fields: Any) -> Callable[[Path, Path], None]:
    return lambda step, outside: forged(step, lambda index: index.update(fields))


def of_state(**fields: Any) -> Callable[[Path, Path], None]:
    return lambda step, outside: forged(step, lambda index: index["state"].update(fields))


def setting(at: int, value: Any) -> Callable[[list], object]:
    return lambda tensor: tensor.__setitem__(at, value)


def setting_piece(at: int, value: Any) -> Callable[[list], object]:
    return lambda tensor: tensor[2][0].__setitem__(at, value)


FORGED: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a header longer than the file": (huge_header, "cannot be read as a checkpoint"),
    "a deep header": (deep_header, "its header is not JSON"),
    "offsets outside the file": (partial(other_offsets, by=10**6), "cannot be read as a checkpoint"),
    "negative offsets": (partial(other_offsets, by=-(10**6)), "cannot be read as a checkpoint"),
    "another dtype in the file": (other_dtype, "unlike the index"),
    "a file in a folder above": (partial(named, "../../outside/rank-0-of-2.safetensors"), "names the file '../"),
    "an absolute path": (partial(named, "OUTSIDE/rank-0-of-2.safetensors"), "names the file '/"),
    "a name with a line break": (partial(named, "rank-0-of-2.safetensors\n"), "names the file 'rank-0"),
    "a linked file": (partial(linked, "rank-1-of-2.safetensors"), "is a link, or no file"),
    "a linked index": (partial(linked, "index.json"), "is a link, or no file"),
    "a linked folder": (linked_folder, "there is no complete checkpoint"),
    "a pipe as a file": (partial(pipe, "rank-1-of-2.safetensors"), "is a link, or no file"),
    "a pipe as the index": (partial(pipe, "index.json"), "is a link, or no file"),
    "a deep index": (deep_index, "is damaged, or not the index of a checkpoint"),
    "a huge shape": (of_tensor(setting(1, [2**40, 2**40])), "more than the .* bytes of the files"),
    "a shape of fractions": (of_tensor(setting(1, [5.0, 2])), "length of an axis is 5.0"),
    "a negative shape": (of_tensor(setting(1, [-5, -2])), "length of an axis is -5"),
    "a shape that is a text": (of_tensor(setting(1, "52")), "length of an axis is '5'"),
    "another dtype": (of_tensor(setting(0, "int32")), "is 'int32'"),
    "no pieces": (of_tensor(setting(2, [])), "its pieces do not hold each of its elements once"),
    "a piece twice": (of_tensor(lambda it: it[2].append(it[2][0])), "do not hold each of its elements once"),
    "a hole": (of_tensor(lambda it: it[2].pop()), "do not hold each of its elements once"),
    "a piece outside": (of_tensor(setting_piece(1, [[0, 6], [0, 2]])), "has a piece outside its shape"),
    "a piece backwards": (of_tensor(setting_piece(2, [4, 2])), "has a piece outside its shape"),
    "a run beyond its slice": (of_tensor(setting_piece(2, [0, 11])), "has a piece outside its shape"),
    "too few axes": (of_tensor(setting_piece(1, [[0, 10]])), "has a piece outside its shape"),
    "a run of fractions": (of_tensor(setting_piece(2, [0.0, 5.0])), "step-9"),
    "a slice of fractions": (of_tensor(setting_piece(1, [[0.0, 5.0], [0, 2]])), "step-9"),
    "a piece in a file that is not there": (of_tensor(setting_piece(0, 2)), "number of a file is 2"),
    "a piece in a file before the first": (of_tensor(setting_piece(0, -1)), "number of a file is -1"),
    "pieces of other sizes": (of_tensor(lambda it: (it[2][0][2].__setitem__(1, 4), it[2][1][2].__setitem__(0, 4))),
                              "unlike the index"),
    "no files": (of_index(files=[]), "more than the 0 bytes of the files"),
    "no number": (of_index(number=None), "number is None"),
    "a text as the updates": (of_index(updates="9"), "updates is '9'"),
    "a list as the tensors": (of_index(tensors=[1]), "is damaged, or not the index of a checkpoint"),
    "a list as the state": (of_index(state=[1]), "is damaged, or not the index of a checkpoint"),
    "a state without the batches": (lambda step, _: forged(step, lambda i: i["state"].pop("batches")), "'batches'"),
    "a text as the batches": (of_state(batches="9"), "batches in the state of the trainer is '9'"),
    "a history of texts": (of_state(history={"loss": ["a"], "lr": ["b"], "validation_loss": [], "accuracy": []}),
                           "loss in the state of the history"),
    "a history of numbers": (of_state(history={"loss": 1, "lr": 2, "validation_loss": 3, "accuracy": 4}), "history"),
}  # fmt: skip


class Opened:
    """Lists the paths that Python opens while it is on; an audit hook cannot be removed."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.on = False
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        if self.on and event == "open":
            self.paths.append(str(arguments[0]))


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of steps 8 and 9, which no test changes."""
    return prepared(tmp_path_factory.mktemp("two") / "run")


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_checkpoint(name: str, two: Path, opened: Opened) -> None:
    """With right sums. Refused by name, soon, and without opening a file outside the folder."""
    forge, said = FORGED[name]
    with calls.copied(two) as folder:
        step, outside = folder / f"step-{OLD}", folder.parent / "outside"
        outside.mkdir()
        forge(step, outside)

        def attempt(world: Communicator) -> str:
            with pytest.raises(UserError, match=said) as caught:
                loaded(step if not step.is_symlink() else folder_of(step))
            return str(caught.value)

        opened.paths, opened.on = [], True
        try:
            threads.run(1, attempt, timeout=10)
        finally:
            opened.on = False
        assert not [path for path in opened.paths if Path(path).resolve().is_relative_to(outside.resolve())]


def folder_of(link: Path) -> Path:
    """Return a folder that holds nothing but a link to a checkpoint."""
    folder = link.parent / "only"
    folder.mkdir()
    link.rename(folder / "step-9")
    return folder


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read cannot run code: JSON and arrays."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    prepared(tmp_path)
    assert loaded(tmp_path) == OLD
    for file in tmp_path.glob("step-*/*"):
        data = file.read_bytes()
        assert not zipfile.is_zipfile(file)
        assert data[0 if file.name == "index.json" else 8 :].startswith(b"{")


# What is in the files -------------------------------------------------------------------------------------------------


def strictly(text: bytes) -> Any:
    """Parse JSON without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    "layout", [Layout(3, Strategy(zero=2)), Layout(2, mesh={"tp": 2}), full(Layout(2, mesh={"pp": 2}))], ids=str
)
def test_other_programs_read_the_files(layout: Layout, tmp_path: Path) -> None:
    """The safetensors package, by the logical names; and the index is enough to put the tensors together."""

    def program(world: Communicator) -> dict[str, np.ndarray]:
        trainer = resharding.made(world, layout)
        list(trainer.each_update(resharding.text(), 2))
        trainer.fit(resharding.text(), updates=1, validation=None)
        trainer.history.add([1.0, 0.5, 2.0])
        resharding.saved(trainer, tmp_path)
        return whole(trainer)

    true = threads.run(layout.ranks, program)[0]
    step = tmp_path / "step-3"
    index = strictly((step / "index.json").read_bytes())["checkpoint"]
    files = [load_file(step / name) for name, _, _ in index["files"]]
    joined = {}
    for name, (dtype, shape, pieces) in index["tensors"].items():
        x = joined[name.partition("/")[2]] = np.full(shape, np.nan, dtype)
        for number, held, (start, stop), _ in pieces:
            place = tuple(slice(*ends) for ends in held)
            part = x[place].copy()
            part.reshape(-1)[start:stop] = files[number].pop(name).reshape(-1)
            x[place] = part
    same(joined, true)
    assert not any(files), "each tensor of each file is in the index"
    assert all(name.startswith(("model/", "optimizer/")) for name in index["tensors"])
    assert index["state"]["history"]["validation_loss"] == [None, 2.0]


def test_what_is_about_a_run_is_kept(tmp_path: Path) -> None:
    """What JSON can hold; the rest is refused on all ranks before anything is written."""

    def program(world: Communicator) -> None:
        checkpoints = Checkpoints(tmp_path, world, log=quiet)
        trainer = marked(world, 1)
        for wrong in (np.ones(2), float("nan"), {1, 2}):
            with pytest.raises(UserError, match="a checkpoint keeps numbers, strings, lists and dictionaries"):
                checkpoints.save(trainer, {"wrong": wrong})
        assert checkpoints.save(trainer, {"width": 8, "name": "ü", "none": None})
        checkpoints.close()

    threads.run(2, program)
    _, index = newest(tmp_path, world_of_one())
    assert index.about == {"width": 8, "name": "ü", "none": None} and index.updates == 1
    assert steps(tmp_path) == ["step-1"]


# A full disk ----------------------------------------------------------------------------------------------------------


class Disk(Files):
    """A disk with so many bytes of room."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room, self.used = room, 0

    def write(self, file: int, data: bytes | memoryview) -> None:
        fits = int(min(len(data), self.room - self.used))
        super().write(file, memoryview(data)[:fits])
        self.used += fits
        if fits < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("background", [False, full(True)])
@pytest.mark.parametrize("full_on", [0, 1])
def test_a_full_disk(full_on: int, background: bool, two: Path) -> None:
    """At any point of a save, on either rank: it is told with the last good one, and training goes on. The next save
    succeeds once there is room."""

    def program(world: Communicator, folder: Path, room: float, used: list[int]) -> None:
        said: list[str] = []
        disk = Disk(room if world.rank == full_on else float("inf"))
        checkpoints = Checkpoints(folder, world, background=background, log=said.append, files=disk)
        trainer = marked(world, NEW)
        saved = checkpoints.save(trainer) and checkpoints.finish()
        if room == float("inf"):
            assert saved
            used[world.rank] = disk.used
            return checkpoints.close()
        assert not saved
        if world.rank == 0:
            (message,) = said
            assert message.startswith("checkpoint not saved: ") and os.strerror(errno.ENOSPC) in message
            assert message.endswith(f"; the last complete one is {folder / f'step-{OLD}'}")
        trainer.step(points().batch(0))
        if world.rank == 0:
            assert loaded(folder) == OLD and steps(folder) == [f"step-{OLD - 1}", f"step-{OLD}"]
        world.barrier()
        disk.room = float("inf")
        assert checkpoints.save(marked(world, NEXT)) and checkpoints.finish()
        checkpoints.close()

    used = [0, 0]
    with calls.copied(two) as folder:
        threads.run(2, partial(program, folder=folder, room=float("inf"), used=used))
    rooms = [0, 7, *range(8, used[full_on], used[full_on] // 12), used[full_on] - 1]
    for room in rooms:
        with calls.copied(two) as folder:
            threads.run(2, partial(program, folder=folder, room=room, used=used))
            assert loaded(folder) == NEXT
            assert steps(folder) == [f"step-{NEXT}", f"step-{OLD}"]


# One run a folder -----------------------------------------------------------------------------------------------------


def test_one_run_writes_in_a_folder(tmp_path: Path) -> None:
    """Another is refused, in this process or in another one, until the first has ended."""
    program = "import sys; from pathlib import Path; from minitrain.comm.threads import world_of_one; "
    program += "from minitrain.train.checkpoints import Checkpoints; Checkpoints(Path(sys.argv[1]), world_of_one())"

    def other() -> str:
        command = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return "" if done.returncode == 0 else done.stderr

    def ranks(world: Communicator) -> str:
        with pytest.raises(UserError, match=f"a run is writing in .* now .process {os.getpid()} on") as caught:
            Checkpoints(tmp_path, world)
        return str(caught.value)

    first = Checkpoints(tmp_path, world_of_one(), log=quiet)
    assert first.save(marked(world_of_one(), OLD))
    assert len({*threads.run(2, ranks)}) == 1
    assert "UserError: a run is writing in" in other()
    assert loaded(tmp_path) == OLD, "reading is allowed"
    first.close()
    assert other() == ""
    assert save(tmp_path, NEW) == [True]


# In the background ----------------------------------------------------------------------------------------------------


class Waiting(Files):
    """Writes nothing before it is told to go on."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def create(self, path: Path) -> int:
        assert self.go.wait(20)
        return super().create(path)


@pytest.mark.parametrize("name", ["full precision", "half weights"])
def test_training_goes_on_while_a_file_is_written(name: str, tmp_path: Path) -> None:
    """The file has the values of the step at which the save began, although every array is changed before."""
    changed_at_once(tmp_path, name)


def changed_at_once(folder: Path, name: str, kind: type[Checkpoints] = Checkpoints) -> None:
    def program(world: Communicator) -> None:
        def new() -> Trainer:
            options = half() if name == "half weights" else {}
            return resharding.made(world, Layout(2, Strategy(zero=1)), small(), schedule=0.05, **options)

        trainer, files = new(), Waiting()
        for i in range(6):
            trainer.step(points().batch(i))
        true, plain = whole(trainer), repr(trainer.plain_state())
        checkpoints = kind(folder, world, background=True, log=quiet, files=files)
        assert checkpoints.save(trainer)
        masters = [master for master in trainer.optimizer.masters if master is not None]
        assert bool(masters) == (name == "half weights")
        for array in (*arrays(trainer), *masters):
            array[...] = -3
        trainer.optimizer.updates = trainer.batches = 99
        trainer.history.add([1.0, 1.0])
        files.go.set()
        assert checkpoints.finish()
        checkpoints.close()
        other = new()
        assert resharding.loaded(other, folder) == []
        same(whole(other), true)
        assert repr(other.plain_state()) == plain

    threads.run(2, program)


def test_look_waits_for_all_ranks(tmp_path: Path) -> None:
    """A save is complete at the first look after all ranks have written; any rank's signal reaches all."""

    def program(world: Communicator) -> None:
        files = Waiting()
        checkpoints = Checkpoints(tmp_path, world, background=True, log=quiet, files=files)
        assert checkpoints.save(marked(world, OLD))
        if world.rank == 0:
            files.go.set()
        assert [checkpoints.look(), checkpoints.look(world.rank == 1), checkpoints.look()] == [False, True, False]
        assert checkpoints.pending is not None and not list(tmp_path.glob("step-*/index.json"))
        world.barrier()
        files.go.set()
        while checkpoints.pending is not None:
            checkpoints.look()
        assert checkpoints.last == tmp_path / f"step-{OLD}"
        assert loaded(tmp_path) == OLD
        world.barrier()
        assert checkpoints.save(marked(world, NEW))
        checkpoints.close()

    threads.run(2, program)
    assert loaded(tmp_path) == NEW, "close completes what has begun"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_in_the_background_is_told_at_a_look(rank: int, two: Path) -> None:
    def program(world: Communicator, folder: Path) -> None:
        said: list[str] = []
        disk = Disk(100 if world.rank == rank else float("inf"))
        checkpoints = Checkpoints(folder, world, background=True, log=said.append, files=disk)
        assert checkpoints.save(marked(world, NEW)) and not said
        while checkpoints.pending is not None:
            assert checkpoints.look() is False
        if world.rank == 0:
            (message,) = said
            assert f"rank {rank}: {os.strerror(errno.ENOSPC)}; the last complete one is {folder}/step-{OLD}" in message
        assert checkpoints.last == folder / f"step-{OLD}"
        checkpoints.close()

    with calls.copied(two) as folder:
        threads.run(2, partial(program, folder=folder))
        assert loaded(folder) == OLD and steps(folder) == [f"step-{OLD - 1}", f"step-{OLD}"]


# Which are kept -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_are_kept(keep: int, tmp_path: Path) -> None:
    """The last ones, by the order of saving: also if a run went back, or saves the same update twice."""
    save(tmp_path, 8, 9, 10, 11, keep=keep)
    assert steps(tmp_path) == sorted(f"step-{n}" for n in (9, 10, 11)[-keep:])
    assert save(tmp_path, 2, 2, keep=keep) == [True, True]
    assert steps(tmp_path) == sorted(["step-11", "step-2", "step-2-1"][-keep:])
    assert loaded(tmp_path) == 2 and newest(tmp_path, world_of_one())[0].name == "step-2-1"


@pytest.mark.parametrize("file", ["index.json", "rank-1-of-2.safetensors"])
def test_a_damaged_one_is_not_counted(file: str, tmp_path: Path) -> None:
    """A checkpoint that is cut short does not push a whole one out."""
    prepared(tmp_path)
    os.truncate(tmp_path / f"step-{OLD}" / file, 20)
    assert save(tmp_path, NEW) == [True]
    assert steps(tmp_path) == sorted(f"step-{n}" for n in (OLD - 1, OLD, NEW))
    assert loaded(tmp_path) == NEW
    assert save(tmp_path, NEXT) == [True]
    assert steps(tmp_path) == sorted(f"step-{n}" for n in (OLD, NEW, NEXT))


def test_one_whose_data_are_damaged_is_not_counted(tmp_path: Path) -> None:
    """Of those that another run has saved, the sums are checked, once."""
    prepared(tmp_path)
    path = tmp_path / f"step-{OLD}" / "rank-1-of-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert save(tmp_path, NEW) == [True]
    assert steps(tmp_path) == sorted(f"step-{n}" for n in (OLD - 1, OLD, NEW))
    assert save(tmp_path, NEXT) == [True]
    assert steps(tmp_path) == sorted(f"step-{n}" for n in (NEW, NEXT))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """It is told, training goes on, and each save tries again."""

    def program(world: Communicator) -> None:
        said: list[str] = []
        checkpoints = Checkpoints(tmp_path / "file" / "run", world, log=said.append)
        assert not checkpoints.save(marked(world, OLD))
        if world.rank == 0:
            assert len(said) == 2 and said[0] == said[1]
            assert said[0].startswith("checkpoint not saved: cannot write in ") and "no earlier one" in said[0]
            (tmp_path / "file").unlink()
        world.barrier()
        assert checkpoints.save(marked(world, NEW))
        checkpoints.close()

    (tmp_path / "file").write_text("in the way")
    threads.run(2, program)
    assert loaded(tmp_path / "file" / "run") == NEW


def test_files_of_others_stay(tmp_path: Path) -> None:
    """In an old checkpoint, beside what an interrupted save has left, and in place of a new folder."""
    prepared(tmp_path)
    old = tmp_path / f"step-{OLD - 1}"
    (old / "notes.txt").write_text("mine")
    for name in ("step-3", "step-4", "step-5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank-0-of-2.safetensors").write_bytes(b"half")
        (tmp_path / name / "rank-1-of-2.12.34.partial").write_bytes(b"half")
    (tmp_path / "step-3" / "notes.txt").write_text("mine")
    (tmp_path / f"step-{NEW}").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"step-{NEW}-1").write_text("mine")
    assert save(tmp_path, NEW) == [True]
    assert steps(tmp_path) == sorted(["step-10", "step-10-1", "step-10-2", "step-3", "step-8", "step-9"])
    assert [file.name for file in old.iterdir()] == ["notes.txt"]
    assert len(list((tmp_path / "step-3").iterdir())) == 3
    assert not (tmp_path / "elsewhere").exists() and loaded(tmp_path) == NEW


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", ["full precision", "half weights"])
def test_the_memory_of_a_save(name: str, background: bool, tmp_path: Path) -> None:
    """Nothing beyond what training holds; in the background, a copy of the rank's own part."""

    def program(world: Communicator) -> None:
        options = half(1.0) if name == "half weights" else {}
        with Ledger().open() as ledger:
            trainer = resharding.made(world, Layout(3, Strategy(zero=1)), small(), **options)
            trainer.step(points().batch(0))
            checkpoints = Checkpoints(tmp_path, world, background=background, log=quiet)
            before = ledger.peak = ledger.live.total()
            assert checkpoints.save(trainer) and checkpoints.finish()
            checkpoints.close()
            path = tmp_path / "step-1" / f"rank-{world.rank}-of-3.safetensors"
            own = path.stat().st_size - damages.header_length(path)
            assert own > 0 and ledger.peak - before == (own if background else 0)
            assert ledger.live.total() == before, "the copies are freed"

    threads.run(3, program)
