"""A small server of GDB's remote serial protocol, whose 'g' reply changes size as the tests want it."""
