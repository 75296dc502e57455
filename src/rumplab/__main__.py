"""The entry point of ``python -m rumplab`` and of the installed command ``rumplab``."""

from __future__ import annotations

# `_signal` is the C module that `signal` wraps; `signal` itself takes long to load.
import _signal  # type: ignore[import-not-found]
import sys

# While there is nothing to clean up, Ctrl-C ends the process at once. Python's default would print a traceback.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from rumplab.cli.main import program


def entry() -> int:
    """Runs the process's command line. Returns the exit code."""
    return program(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
