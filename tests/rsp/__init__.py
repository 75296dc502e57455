"""A small server of GDB's remote serial protocol. Tests choose the size of its 'g' reply at each stop."""
