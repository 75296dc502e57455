"""One module a verb: HELP, EPILOG, add_arguments(parser) and run(args)."""
