"""What is left of a machine: its dump, and what is done when its guest fails."""
