"""A kernel with IPKDB as the tests' opponent, a network that does harm, and a clock that needn't wait.

Nothing here uses the tool's own code: the protocol is written down a second time, from the kernel's side.
"""
