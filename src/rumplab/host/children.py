"""Starts a program so that a signal can't leave it running without an owner.

Popen's constructor waits until the child executes its program, which takes milliseconds on a busy host. A handler that
raises meanwhile ends the constructor: the child runs on, and the caller has no Popen with which to end it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from rumplab.errors import RumplabError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def signals_delayed() -> Iterator[None]:
    """Delays the Python handlers of ENDING to the end of the block.

    It doesn't block the signals: the child would inherit that, and could not be ended.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python runs handlers in the main thread only.
        yield
        return
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before: dict[signal.Signals, Any] = {}
    try:
        for one in ENDING:
            handler = signal.getsignal(one)
            if callable(handler):
                before[one] = handler
                signal.signal(one, note)
        yield
    finally:
        # A handler that raised here would leave the other signals delayed for ever.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, before)
        for one, handler in before.items():
            signal.signal(one, handler)
        for late in received:
            signal.raise_signal(late)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    end: Callable[[subprocess.Popen[bytes]], object],
    environment: dict[str, str],
    remedy: str = "",
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a program with `environment`. At the end of the block calls `end`, which ends the program if it
    still runs. Popen gets `options`. If the program can't be started: RumplabError with `remedy`; without one,
    OSError."""
    with contextlib.ExitStack() as stack:
        try:
            with signals_delayed():
                process = stack.enter_context(subprocess.Popen(argv, env=environment, **options))
                stack.callback(end, process)
        except OSError as error:
            if not remedy:
                raise
            raise RumplabError(f"cannot run {argv[0]}: {error.strerror}; {remedy}") from error
        yield process
