"""From a program's sources to a unikernel, for ``rumplab build``; see docs/commands/build.md."""
