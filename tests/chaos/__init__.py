"""Kills, power cuts, clocks, full disks, two at once and damage, at random: what the lab is left in, and whether the
next run mends it by itself."""
