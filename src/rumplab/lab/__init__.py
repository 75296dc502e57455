"""The lab as it was provisioned: what is installed, where, and whether it is as recorded."""
