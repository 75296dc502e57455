"""Disk images: how `rumplab stage` builds one, and recognising the format of an existing one."""
