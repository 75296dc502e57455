"""The pieces that `rumplab stage` builds a disk image from."""
