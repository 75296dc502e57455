"""GDB: its command line, the pipe between GDB and a stub's socket, and its remote protocol."""
