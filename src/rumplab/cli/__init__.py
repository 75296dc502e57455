"""The command line: finding the verb, and what several verbs take as arguments."""
