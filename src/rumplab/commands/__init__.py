"""The verbs, one module or package for each. rumplab.cli.main says what such a module contains."""
