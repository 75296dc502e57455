"""Running a verb in a container of the lab's own images."""
