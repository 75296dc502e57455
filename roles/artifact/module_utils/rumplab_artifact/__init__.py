"""From a pin to an installed tree: docs/roles/artifact.md describes it, `pathway.py` is the table of contents."""
