"""What all ranks say comes from rank 0, in order, in one piece, at once."""

import io

import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.say import say


class Page(io.StringIO):
    """Remembers every write, and what had been written at the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.flushed = ""

    def write(self, text: str) -> int:
        self.writes += [text] if text else []
        return super().write(text)

    def flush(self) -> None:
        super().flush()
        self.flushed = self.getvalue()


def speak(world: Communicator) -> None:
    """Neither sorted, nor different, nor one line each."""
    texts = ["zebra", "two\n lines", "", "two\n lines"][: world.size]
    for _ in range(20):
        page = Page()
        say(world, texts[world.rank], page)
        expected = ["".join(f"{text}\n" for text in texts)] if world.rank == 0 else []
        assert page.writes == expected and page.flushed == "".join(expected)


@pytest.mark.ranks(1, 2, 3, 4)
def test_under_mpi(world: Communicator) -> None:
    speak(world)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_with_threads(size: int) -> None:
    threads.run(size, speak, timeout=20)


def test_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    threads.run(3, lambda world: say(world, f"rank {world.rank}"), timeout=20)
    assert capsys.readouterr().out == "rank 0\nrank 1\nrank 2\n"
