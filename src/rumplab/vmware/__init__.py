"""A staged image as a virtual machine of VMware's."""
