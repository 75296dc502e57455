"""IPKDB, NetBSD's kernel debugger over IP: its protocol, the bridge to GDB's, and the kit for a port of it."""
