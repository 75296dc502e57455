"""The entry point of ``python -m rumplab`` and of the installed command ``rumplab``."""

from __future__ import annotations

# `signal` takes long to load; this is the C module that it wraps.
import _signal  # type: ignore[import-not-found]
import sys

# Ctrl-C ends the process without a traceback. rumplab.cli.main.program restores Python's handler, which the clean-up
# code of the verbs needs.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from rumplab.cli.main import program


def entry() -> int:
    """Runs this process's command line and returns the exit code."""
    return program(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
