"""Guests: machines with a definition of their own, whose kernels have debuggers."""
