"""The path from a pin to an installed tree: see docs/roles/artifact.md; `pipeline.py` has its steps in order."""
