"""Debug mode: MINITRAIN_DEBUG=1 looks for mistakes that otherwise end in a hang or in wrong numbers, and takes time.

Who has a check to make asks `debug.on` first. The environment is read once, when minitrain is imported.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import check_choice


def _asked() -> bool:
    """Whether the environment asks for it. Raises UserError for a value with no meaning."""
    value = os.environ.get("MINITRAIN_DEBUG", "0")
    check_choice("MINITRAIN_DEBUG", value, ("0", "1"))
    return value == "1"


on = _asked()


@contextmanager
def enabled() -> Iterator[None]:
    """Debug mode, for all threads of this process, while inside."""
    global on
    before, on = on, True
    try:
        yield
    finally:
        on = before
