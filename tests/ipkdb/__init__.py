"""A simulated kernel with IPKDB, a simulated network that damages datagrams, and an event loop in virtual time.

Except `lab`, no module here uses the tool's own code: they implement the protocol a second time, as the kernel does.
"""
