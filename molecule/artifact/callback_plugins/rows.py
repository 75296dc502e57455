"""Callback: record which modules ran on the host, and the rows' results."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rows
type: aggregate
short_description: Record what the scenario's tests check
description:
  - Writes C(calls), the actions that ran a module on the host, and C(rows), the results, to the file that the
    environment variable ROWS_ANSWER names.
"""

import json  # noqa: E402
import os  # noqa: E402
from typing import Any  # noqa: E402

from ansible.plugins.callback import CallbackBase  # noqa: E402

# Actions that run only on the controller.
CONTROLLER = {"debug", "fail", "include_role", "include_tasks", "set_fact", "validate_argument_spec"}


class CallbackModule(CallbackBase):
    """The callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "rows"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.answer: dict[str, Any] = {"calls": [], "rows": {}}

    def note(self, result: Any) -> None:
        """Record a task's result."""
        action = result.task.action.rpartition(".")[2]
        if action not in CONTROLLER:
            self.answer["calls"].append(action)
        facts = result.result.get("ansible_facts") or {}
        self.answer["rows"] = facts.get("row_results", self.answer["rows"])

    def v2_runner_on_ok(self, result: Any) -> None:
        """Enter it."""
        self.note(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Enter it."""
        self.note(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the file."""
        path = os.environ.get("ROWS_ANSWER")
        if path:
            with open(path, "w", encoding="utf-8") as stream:
                json.dump(self.answer, stream, default=str)
