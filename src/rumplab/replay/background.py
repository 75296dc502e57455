"""Takes the snapshots of a long recording in another process, while a debugger uses the recording."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from rumplab.host import child_environment, children
from rumplab.recording import snapshots
from rumplab.recording.record import Recording
from rumplab.replay.player import kill_with_parent
from rumplab.replay.running import end_of

# A shorter recording is quick without snapshots.
LEAST = 20_000_000
END_SECONDS = 5.0
MESSAGES = "snapshots.log"


def pays(recording: Recording, qemu_img: str) -> bool:
    """Returns whether snapshots are missing that would save time. `qemu_img` is empty if the lab has no such
    program."""
    return bool(qemu_img) and end_of(recording).instructions >= LEAST and not snapshots.read(recording).complete


class Background:
    """The process. Its messages are in the directory `work`."""

    def __init__(self, recording: Recording, qemu_img: str, work: Path) -> None:
        # Imported only here, since most recordings are short.
        from rumplab.replay import laying

        self._messages = work / MESSAGES
        with self._messages.open("wb") as output:
            try:
                with children.signals_delayed():
                    self._process = subprocess.Popen(
                        laying.argv(recording, qemu_img),
                        env=child_environment.of(child_environment.ITSELF),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=output,
                        start_new_session=True,
                        preexec_fn=kill_with_parent(),
                    )
            except BaseException:
                self.close()
                raise
        self._told = False

    def message(self) -> str:
        """Returns why the process has failed, once; otherwise an empty string."""
        if self._told or self._process.poll() in (None, 0):
            return ""
        self._told = True
        lines = self._messages.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the process ended with status {self._process.returncode}"

    def close(self) -> None:
        """Ends the process. The snapshots that it has taken remain."""
        if not hasattr(self, "_process"):
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._process.kill()
        self._process.wait()
