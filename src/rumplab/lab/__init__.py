"""The provisioned lab: what is installed, where, and whether it still matches its records."""
