"""Run the command line: python -m minitrain COMMAND."""

import sys

from .runtime.launchers import not_installed, tell

try:
    from .cli import main
except ModuleNotFoundError as error:
    sys.exit(tell(not_installed(error)))

sys.exit(main())
