"""``python -m rumplab``, and the command that installing the package makes."""

from __future__ import annotations

# The module behind `signal`, which takes long to load.
import _signal  # type: ignore[import-not-found]
import sys

# Until there is anything to clean up, Ctrl-C just ends the process, instead of in Python's own words.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from rumplab.cli.main import program


def entry() -> int:
    """Run the command line as it was given; the exit code."""
    return program(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
