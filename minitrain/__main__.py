"""Run the command line: python -m minitrain COMMAND."""

import sys

from .runtime.mpirun import not_installed, report_error

try:
    from .cli import main
except ModuleNotFoundError as error:
    sys.exit(report_error(not_installed(error)))

sys.exit(main())
