"""The path from a pin to an installed tree; docs/artifact.md describes it, `pipeline.py` has its steps in order."""
