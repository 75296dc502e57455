"""The path from a pin to an installed tree; docs/artifact.md describes it, `pathway.py` is its table of contents."""
