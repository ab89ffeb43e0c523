"""The command `lessons`, also `python -m minitrain.lessons`."""

import sys

try:
    from .cli import main
except ModuleNotFoundError as error:  # reported here: minitrain itself may lack a module
    module = str(error.name).partition(".")[0]
    print(
        f"lessons: this Python ({sys.executable}) has no module {module!r}: activate the environment that `make venv` "
        "makes: source .venv/bin/activate",
        file=sys.stderr,
    )
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
