"""The host's processes, files, ports and accounts. These modules import no other package of the tool."""
