"""GDB: its command line, the pipe to a stub on a socket, and its protocol."""
