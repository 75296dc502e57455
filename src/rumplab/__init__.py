"""rumplab: the runtime tool of a provisioned lab for rump unikernels and NetBSD kernels."""

__version__ = "0.1.0"
