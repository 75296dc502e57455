"""``rumplab completion``: prints a shell's completion script. `tools/completions.py` generates the scripts from the
verbs' parsers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
examples:
  rumplab completion bash > ~/.local/share/bash-completion/completions/rumplab
  source <(rumplab completion bash)
  rumplab completion zsh > ~/.zfunc/_rumplab
"""
DIRECTORY = Path(__file__).resolve().parents[1] / "completions"
SCRIPTS = {"bash": "rumplab.bash", "zsh": "_rumplab"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="which shell")


def script(shell: str) -> str:
    """Returns the completion script for `shell`."""
    return (DIRECTORY / SCRIPTS[shell]).read_text(encoding="utf-8")


def run(args: argparse.Namespace) -> int:
    sys.stdout.write(script(args.shell))
    return 0
