"""Disturb the lab at random (kills, power cuts, clock jumps, full disks, parallel runs, damaged files), and check that
the next run repairs it without help."""
