"""IPKDB, NetBSD's kernel debugger over IP: its protocol, the translator to GDB's protocol, and templates for a port."""
