"""Run one of timm's scripts with this package's models registered.

``python -m gatedvision.timm validate.py --model vig_s ...``
"""

import runpy
import sys
from pathlib import Path

import gatedvision  # noqa: F401  registers the models


def main() -> None:
    """Run the script named first on the command line with the arguments after it."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        given = f"no script at {sys.argv[1]!r}" if len(sys.argv) > 1 else "no script given"
        print(f"gatedvision.timm: {given}; usage: python -m gatedvision.timm SCRIPT ARGS...", file=sys.stderr)
        sys.exit(2)
    script = sys.argv[1]
    # What the interpreter itself does for a script.
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
