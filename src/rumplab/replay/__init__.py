"""Replays a recording: QEMU executes forwards; to go backwards, a new QEMU executes forwards to the target."""
