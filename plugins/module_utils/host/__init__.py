"""Code that the modules which change a host share: files, locks, packages, and the manifest."""
