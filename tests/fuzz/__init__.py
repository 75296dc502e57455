"""Every reader of what others write, on samples of it that have been damaged: see docs/development/testing.md."""
