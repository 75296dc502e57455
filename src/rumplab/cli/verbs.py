"""The verbs, each with its one line: `rumplab --help` prints them without loading the modules."""

from __future__ import annotations

VERBS = {
    "status": "show what is provisioned, from which source, what is deferred and why",
    "doctor": "check what this host can do: accelerator, tools, network devices, disk",
    "build": "make a unikernel of a Go or C program",
    "stage": "make a bootable disk image of a unikernel, without root",
    "run": "boot an image or a program in QEMU, with a debug stub",
    "ps": "list the machines that are running",
    "logs": "print a machine's serial console",
    "screen": "print a machine's screen as text, or save a picture of it",
    "type": "type on a machine's keyboard",
    "stop": "end a machine",
    "debug": "attach the debugger to a machine, its symbols loaded",
    "recording": "recordings of runs: list, show, verify, remove, pack, unpack",
    "replay": "repeat a recorded run",
    "guest": "NetBSD guests: create, start, console, break, debug, stop",
    "ipkdb": "debug a NetBSD kernel over Ethernet with today's GDB (IPKDB)",
    "net": "the lab's own bridge for guests: bring it up, take it down, look at it",
    "export": "make a virtual machine for VMware of an image, with a debug stub",
    "smoke": "prove that the lab works: stage, boot, attach, break, read PCI",
}
HIDDEN_VERBS = {
    "completion": "print a completion script for a shell",
    "relay": "standard input and output to a debug stub on a UNIX socket, for a GDB before 8.3",
}
