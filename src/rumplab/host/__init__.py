"""What the tool needs of the host. Nothing here imports another package of the tool."""
