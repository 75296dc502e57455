"""What the modules of role lab share."""
