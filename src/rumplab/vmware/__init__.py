"""Exports a staged image as a VMware virtual machine."""
