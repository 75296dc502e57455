"""The command line: finds the verb, and defines the arguments that several verbs have."""
