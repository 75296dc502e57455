"""The lab's bridge: what it should be, what is there, and the steps from one to the other."""
