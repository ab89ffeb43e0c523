"""The process of a student's function: what it may do, how it ends, and what it and the judge say to each other."""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from minitrain.backend import FLOATS
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.errors import UserError
from minitrain.lessons import apart, student, worker
from minitrain.lessons.apart import Apart, Ended, Nursery, Process
from minitrain.lessons.messages import HEAD, LARGEST, Line
from minitrain.lessons.table import Table
from minitrain.observe.ledger import Ledger
from minitrain.parallel.pipeline_schedules import Do
from tests.lessons.together import BY_ID

TAG = ("dp", "test")


# What a function may do, and how it ends ------------------------------------------------------------------------------


@pytest.fixture
def of(nursery: Nursery, tmp_path: Path) -> Callable[..., Apart]:
    """Return a function that is defined in a file of its own and runs apart. Its body begins in line 5."""

    def make(body: str, before: str = "", id: str = "02.3") -> Apart:
        file = tmp_path / "exercise.py"
        text = f"import os, sys\nimport numpy as np\n{before}\ndef {BY_ID[id].function}(*a):\n    {body}\n"
        file.write_text(text, "utf-8")
        return nursery.function(BY_ID[id], file)

    return make


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("open(a[0])", "may not open {library}"),
        ("os.open(a[0], os.O_RDONLY)", "may not open {library}"),
        ("np.fromfile(a[0])", "may not open {library}"),
        ("os.open('.', os.O_RDONLY)", "may not open"),
        ("open('/proc/self/mem', 'rb')", "may not open /proc/"),
        ("open('../x', 'w')", "may not write"),
        ("os.link(a[0], 'x')", "may not change {library}"),
        ("os.rename('exercise.py', '../x')", "may not change"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("os.system('true')", "os.system"),
        ("os.fork()", "os.fork"),
        ("import socket; socket.socket()", "socket.__new__"),
        ("import ctypes", "may not import ctypes"),
        ("from mpi4py import MPI", "may not import mpi4py"),
        ("import multiprocessing; multiprocessing.get_context('spawn').Process(target=print).start()",
         "may not import _posixsubprocess"),
        ("import _xxsubinterpreters, _interpreters", "may not import _"),
        ("import importlib.util as u; open('x.so', 'w'); file = os.path.abspath('x.so')\n"
         "    u.module_from_spec(u.spec_from_file_location('x', file))", "may not import "),
        ("import importlib; importlib.import_module(a[1])", "may not open"),
        ("os.kill(os.getppid(), 9)", "may not send a signal"),
        ("import gc; gc.get_referrers(a)", "gc.get_referrers"),
        ("sys.modules['minitrain.sharding'].shard_of.__code__ = (lambda *a: 1).__code__", "replace a function's code"),
    ],
)  # fmt: skip
def test_what_is_refused(body: str, says: str, of: Callable[..., Apart]) -> None:
    library = str(Path(worker.__file__).parents[1] / "sharding.py")
    with pytest.raises(PermissionError, match="while it is graded, a function may not") as caught:
        of(body)(library, "minitrain.lessons.course.07_data_parallel.check")
    assert says.format(library=library) in str(caught.value)


def test_what_is_allowed(of: Callable[..., Apart]) -> None:
    """Imports of Python's and NumPy's modules, files next to exercise.py, other functions of the library."""
    body = (
        "import decimal, statistics, tempfile, numpy.polynomial, numpy.testing\n"
        "    from minitrain.sharding import even_shards, lengths\n"
        "    open('x', 'w').write('1')\n"
        "    with tempfile.TemporaryFile() as file: file.write(b'2')\n"
        "    os.remove('x')\n"
        "    try: even_shards(3, 2)\n"
        "    except RuntimeError as error: return str(error), lengths([slice(0, 2)])"
    )
    assert of(body, id="07.1")() == ("the model solution is not available here", [2])


WRITES = """for file in range(3, 99):
        try: os.write(file, {})
        except OSError: pass
"""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("os._exit(0)", r"the program was ended \(os._exit\) \(exercise.py:5\)"),
        ("os.kill(os.getpid(), 9)", r"the program was ended \(a crash of Python, or a signal\?\)"),
        (
            "return bytes(10**8)",
            "what the function returns cannot be passed on: ValueError: it takes 100,000,0.. bytes",
        ),
        (
            WRITES.format("b'x' * 100"),
            "what the function's process sends cannot be read: Malformed: a message of 4,042,3",
        ),
        (WRITES.format(r"b'\0\0\0\2\0\0\0\0[]'"), "cannot be read: Malformed: a message that is none"),
    ],
)
def test_a_process_that_ends(body: str, says: str, of: Callable[..., Apart]) -> None:
    """Later calls fail, too."""
    function = of(body)
    with pytest.raises(Ended, match=says):
        function()
    with pytest.raises(Ended, match="the program was ended"):
        function()


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("raise ValueError('no')", ValueError, "no"),
        ("raise KeyError('no')", KeyError, "'no'"),
        ("from minitrain.errors import UserError; raise UserError('no')", UserError, "no"),
        ("np.zeros(2).reshape(3)", ValueError, "cannot reshape array of size 2 into shape (3,)"),
        ("b'\\xff'.decode()", UnicodeDecodeError, "'utf-8' codec can't decode byte 0xff in position 0: "
         "invalid start byte"),
        ("sys.exit(3)", SystemExit, "3"),
        ("raise type('Mine', (LookupError,), {})('no')", LookupError, "no"),
        ("raise KeyboardInterrupt('no')", RuntimeError, "no"),
    ],
)  # fmt: skip
def test_an_exception_arrives(body: str, kind: type, text: str, of: Callable[..., Apart]) -> None:
    """With the student's line, and the name of its class."""
    function = of(body)
    with pytest.raises(kind) as caught:
        function()
    assert str(caught.value) == text
    names = {"Mine", "KeyboardInterrupt"}
    assert type(caught.value).__name__ in names or type(caught.value).__name__ == kind.__name__
    assert worker.lines_of(caught.value, function.process.file)[-1].lineno == 5


def test_a_file_that_is_no_python(of: Callable[..., Apart]) -> None:
    """The next one is imported all the same."""
    with pytest.raises(SyntaxError, match="was never closed"):
        of("return (")
    assert of("return 1")() == 1


def test_what_is_printed_is_shown(of: Callable[..., Apart], monkeypatch: pytest.MonkeyPatch) -> None:
    page = student.Printed()
    monkeypatch.setattr(sys, "stdout", page)
    of("print('a' * 999_999)", before="print('import')")()
    assert page.kept[:10] == "import\naaa" and page.size == 7 + 10**6


def test_where_it_is(of: Callable[..., Apart]) -> None:
    """The time is up while the function works."""
    function = of("a[0]()\n    while True: pass")
    lines: list[Any] = []

    def ask() -> None:
        while not lines or lines[-1] != 6:
            time.sleep(0.01)  # the process must have left the handler of the signal
            lines.append((function.process.where() or [0])[0])
        os.kill(function.process.number, 9)

    with pytest.raises(Ended, match="was ended"):
        function(Thread(target=ask).start)
    assert set(lines) <= {5, 6}


# Values ---------------------------------------------------------------------------------------------------------------

VALUES = [
    None, True, 3, 2**70, -(2**9000), 0.1, float("inf"), -0.0, 1 + 2j, "é\ud800", b"\0\xff", slice(1, None, 2),
    range(3), Fraction(1, 3), {1, 2}, frozenset("a"), (1, [2, (3.0,)], {"a": (None,), 2: []}), Do("F", 3),
    np.float32(0.1), np.int8(-3), np.bool_(True), np.str_("é"), FLOATS[1].type(0.5),
]  # fmt: skip
ARRAYS = [
    np.arange(6).reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3), np.float32), np.array(1.5),
    np.arange(8)[::-2], np.arange(12).reshape(3, 4)[1:, ::2], np.ones((2, 2), FLOATS[1]), np.array(["a", "bc"]),
    np.broadcast_to(np.arange(3), (2, 3)), np.array([True, False]), np.arange(3, dtype="c16"),
]  # fmt: skip


def test_values_come_back_as_they_were(of: Callable[..., Apart]) -> None:
    function = of("return a")
    for value in VALUES:
        (back,) = function(value)
        assert type(back) is type(value) and (back == value or back is value), value
    assert np.isnan(function(float("nan"))[0])


@pytest.mark.parametrize("x", ARRAYS, ids=lambda x: f"{x.dtype}-{x.shape}")
def test_arrays_look_the_same_there(x: np.ndarray, of: Callable[..., Apart]) -> None:
    told = of("x = a[0]; return x.tolist(), str(x.dtype), x.shape, x.strides, x.flags.writeable, x.base is None")(x)
    assert told[:5] == (x.tolist(), str(x.dtype), x.shape, x.strides, x.flags.writeable)


def test_what_is_changed_in_place_is_changed_here(of: Callable[..., Apart]) -> None:
    function = of(
        "x, y, items, table = a\n    x[0] = y[0] + 1; items.append(x); table['x'] = y; return x[1:], y, items"
    )
    whole = np.arange(5.0)
    table: dict[str, Any] = {}
    x, y, items = whole[1:4], np.array([7.0]), [*"ab", None]
    for _ in range(2):
        part, same, listed = function(x, y, items, table)
        assert whole.tolist() == [0, 8, 2, 3, 4] and same is y and listed is items and table == {"x": y}
        assert np.shares_memory(part, whole) and part.tolist() == [2, 3]
    assert items[:3] == ["a", "b", None] and items[3] is x and items[4] is x
    whole[1] = 5
    assert of("return float(a[0][0])")(x) == 5


def test_arguments_that_share_memory_share_it_there(of: Callable[..., Apart]) -> None:
    x = np.zeros(3)
    assert of("x, y, z = a; x[1] = 4; return y.tolist(), z is x")(x, x[1:], x) == ([4, 0], True)


def test_a_result_that_calls_share_is_the_same(of: Callable[..., Apart]) -> None:
    """Later calls change what earlier ones have returned, if the function keeps it."""
    function = of(
        "KEPT[0] += 1; LISTED.append(1); return KEPT, KEPT[:1], LISTED", before="KEPT, LISTED = np.zeros(2), []"
    )
    (x, part, listed), (again, other, relisted) = function(), function()
    assert again is x and x[0] == 2 and np.shares_memory(part, other) and listed is relisted and len(listed) == 2
    fresh, *_ = function.fresh()()
    assert fresh is not x and fresh[0] == 1 and function.fresh(alone=True)()[0][0] == 1


def test_what_is_no_plain_data_looks_the_same(of: Callable[..., Apart]) -> None:
    function = of("class Mine:\n        def __repr__(self): return 'mine'\n    return Mine(), len, np.zeros(1, object)")
    mine, length, objects = function()
    assert (type(mine).__name__, repr(mine)) == ("Mine", "mine") and repr(length) == "<built-in function len>"
    assert type(objects).__name__ == "ndarray" and not isinstance(objects, np.ndarray)


def test_a_function_that_is_given_is_called_here(of: Callable[..., Apart]) -> None:
    """It changes arrays there, and its exception passes through the student's function."""
    seen: list[Any] = []

    def update(piece: np.ndarray, by: float = 0.0) -> float:
        seen.append(piece)
        piece += by
        if by > 2:
            raise UserError(f"{by} is too much")
        return by

    function = of("x, update, add = a\n    y = x + 1\n    update(y, by=1.5); update(x[1:], by=y[0]); return add(x, y)")
    x = np.zeros(2)
    with pytest.raises(UserError, match=r"2\.5 is too much") as caught:
        function(x, update, np.add)
    assert x.tolist() == [0, 2.5] and np.shares_memory(seen[1], x) and seen[0].tolist() == [2.5, 2.5]
    assert [line.lineno for line in worker.lines_of(caught.value, function.process.file)] == [7]
    assert function(np.zeros(2) - 2, update, np.add).tolist() == [-1.5, -1]


def test_ranks(of: Callable[..., Apart]) -> None:
    """Messages are sent here, where the ledger counts them, also those of a ring that is built there."""
    body = """x, comm = a
    before, after, ring = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size, RingCommunicator(comm)
    y = np.empty_like(x)
    sent = comm.send(x, after, TAG, number=3)
    comm.receive(y, before, TAG, 3)
    sent.wait(); assert sent.done()
    comm.all_reduce(x, TAG); ring.all_reduce(y, TAG)
    group = comm.subgroup([comm.rank]); group.barrier()
    handle = ring.send(y, after, TAG); z = np.empty_like(y); ring.receive(z, before, TAG); handle.wait()
    return comm.gather_objects((comm.rank, [1])), y, group.size, comm.reduce_scatter(x, TAG)"""
    function = of(body, before=f"from minitrain.comm.ring import RingCommunicator\nTAG = {TAG}")
    copies = [function.fresh(alone=True) for _ in range(3)]

    def program(world: Communicator) -> Any:
        x = np.full(3, 10.0**world.rank)
        with Ledger().open() as ledger:
            told, y, size, mine = copies[world.rank](x, world)
        assert np.shares_memory(mine, x) and mine.tolist() == [333]
        return told, y.tolist(), size, ledger.bytes.total()

    everybody = [(rank, [1]) for rank in range(3)]
    assert threads.run(3, program, timeout=20) == [(everybody, [111] * 3, 1, 24 + 32 + 24)] * 3


def test_a_sent_array_that_is_changed_too_early_is_changed_here(of: Callable[..., Apart]) -> None:
    world, sent = threads.world_of_one(), []

    class Watched:
        rank, size, numbers = 0, 1, 9

        def send(self, x: np.ndarray, to: int, tag: Any, number: int = 0) -> Any:
            sent.append(x)
            return world.send(x, to, tag, number)

    x = np.zeros(2)
    of("x, comm = a; y = x + 1\n    h, k = comm.send(x[1:], 0, 'ab'), comm.send(y, 0, 'ab')\n    x[1] = y[0] = 9\n"
       "    h.wait(); k.wait()")(x, Watched())  # fmt: skip
    assert sent[0].tolist() == [9] and np.shares_memory(sent[0], x) and sent[1].tolist() == [9, 1]


# Messages -------------------------------------------------------------------------------------------------------------


def framed(tree: Any, data: bytes = b"") -> bytes:
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return HEAD.pack(len(text), len(data)) + text + data


def returned(value: Any, data: bytes = b"", changed: Any = ()) -> bytes:
    return framed([[len(data)] if data else [], ["returned", value, changed, ["", 0]]], data)


HOSTILE = {
    "nothing": b"",
    "cut": framed([[], ["returned"]])[:-3],
    "too large": HEAD.pack(10, LARGEST + 1),
    "no JSON": framed(b"{]"),
    "no text": framed(b"\xff\xfe\xff"),
    "deep": framed(b"[" * 10**5 + b"]" * 10**5),
    "no list": framed({"a": 1}),
    "wrong lengths": framed([[3], ["returned", None, [], ["", 0]]], b"12"),
    "negative lengths": framed([[-1, 3], ["returned", None, [], ["", 0]]], b"12"),
    "unknown message": framed([[], ["pickle", "x"]]),
    "unknown kind": returned(["eval", "1"]),
    "a method of Python": returned(["__class__"]),
    "unhashable kind": returned([[]]),
    "unknown number": returned(["=", 10]),
    "number of something else": returned(["=", "x"]),
    "known number": returned(["l", 0]),
    "objects": returned(["a", 1, "O", [1], "C", True], b"12345678"),
    "records": returned(["a", 1, "f8,O", [1], "C", True], b"12345678"),
    "size": returned(["a", 1, "<f8", [2**40], "C", True], b"12345678"),
    "negative size": returned(["a", 1, "<f8", [-1], "C", True], b"12345678"),
    "outside": returned(["v", 1, ["=", 0], "<f8", [3], [8], 8, True]),
    "before": returned(["v", 1, ["=", 0], "<f8", [2], [-8], 0, True]),
    "gigantic view": returned(["v", 1, ["=", 0], "<f8", [2**40], [0], 0, True]),
    "a view of a list": returned(["v", 1, ["l", 3], "<f8", [1], [8], 0, True]),
    "a change of nothing": returned(None, b"", [[77]]),
    "a short change": returned(None, b"1234", [[0]]),
    "digits": returned(["int", "9" * 10**5]),
    "a fraction": returned(["fraction", "1e999999999", 1]),
    "another class": returned(["r", "Exercise", 1]),
    "too many fields": returned(["r", "Do", 1, 2, 3, 4]),
    "a method": framed([[], ["do", 2, "__init__", [1, "", ""], ["t"], ["d", 1], [], ["", 0]]]),
    "a method of an array": framed([[], ["do", 0, "dump", [1, "", ""], ["t"], ["d", 1], [], ["", 0]]]),
    "an error of nobody": framed([[], ["raised", [], [], "", None, ["", 0]]]),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_message_ends_the_check(message: bytes) -> None:
    """The other side sends it in answer to a call with an array and a function, numbers 0 and 2."""
    (hears, answers), (reads, tells), (shows, _) = os.pipe(), os.pipe(), os.pipe()

    def answer() -> None:
        os.write(answers, message)
        os.close(answers)

    writer = Thread(target=answer)
    writer.start()
    process, x = Process(Path("exercise.py"), 0, Line(hears, tells), shows), np.zeros(3)
    with pytest.raises(Ended, match=r"what the function's process sends cannot be read|the program was ended"):
        process.call(1, (x, len), {})
    assert x.tolist() == [0, 0, 0]
    del process
    os.close(reads)
    writer.join()


def test_a_change_must_be_of_something_that_was_sent() -> None:
    """Lists and arrays of the judge are out of reach unless they are arguments."""
    table = Table(0, apart.away)
    table.pack([1, [2]])
    assert set(table.things) == {0, 2}


FORGETS = """
import os, time
from minitrain.lessons.student import collect
gone, alive = 0, 0
if not (gone := os.fork()):
    os._exit(0)
if not (alive := os.fork()):
    time.sleep(60)
os.waitid(os.P_PID, gone, os.WEXITED | os.WNOWAIT)
students = {gone, alive}
collect(students)
print(students == {alive}, os.path.exists(f"/proc/{gone}"))
os.kill(alive, 9)
"""


def test_the_number_of_a_student_that_has_ended_is_forgotten() -> None:
    """The system gives it to another process later, which the nursery must not end."""
    done = subprocess.run([sys.executable, "-c", FORGETS], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True False\n", done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_the_nursery_forgets_students(of: Callable[..., Apart]) -> None:
    first = of("return 1")
    assert first.process is not None
    number = first.process.number
    del first
    gc.collect()
    deadline = time.monotonic() + 20
    while ") Z " not in Path(f"/proc/{number}/stat").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)  # it has ended, and its number is still its own
    second = of("return 1")
    assert second.process is not None and not Path(f"/proc/{number}").exists()
