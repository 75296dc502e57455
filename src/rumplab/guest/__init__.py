"""Guests: kernels with a stored definition, which are started repeatedly and debugged with GDB."""
