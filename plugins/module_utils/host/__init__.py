"""What modules that change a host share: files and locks, packages, the undo record."""
