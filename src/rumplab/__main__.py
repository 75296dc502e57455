"""``python -m rumplab``."""

from __future__ import annotations

# The module behind `signal`, which takes long to load.
import _signal  # type: ignore[import-not-found]
import sys

# Until there is anything to clean up, Ctrl-C just ends the process, instead of in Python's own words.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from rumplab.cli.main import program

sys.exit(program(sys.argv[1:]))
