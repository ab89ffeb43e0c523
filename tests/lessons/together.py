"""Run slow commands concurrently: most of them wait, or use one core."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest


def started(
    request: pytest.FixtureRequest, names: tuple[str, ...], call: Callable[..., Any], workers: int
) -> Iterator[dict[tuple, Future]]:
    """Start call(the named parameters) once for each test of the module that uses this fixture."""
    takes = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
        and request.fixturename in item.fixturenames
    ]  # fmt: skip
    wanted = dict.fromkeys(tuple(item.callspec.params[name] for name in names) for item in takes)
    pool = ThreadPoolExecutor(workers)
    try:
        yield {key: pool.submit(call, *key) for key in wanted}
    finally:
        pool.shutdown(cancel_futures=True)
