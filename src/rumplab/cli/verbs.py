"""The verbs, each with a description of one line, which `rumplab --help` prints without loading the modules."""

from __future__ import annotations

VERBS = {
    "status": "show what is installed, from which source, and what is deferred and why",
    "doctor": "check this host and the installed tools: accelerator, network devices, disk space",
    "drift": "compare every installed file with the record of its installation",
    "build": "build a unikernel from a Go or C program",
    "stage": "make a bootable disk image from a unikernel, without root",
    "run": "boot an image or a program in QEMU, with a debug stub",
    "ps": "list your machines: what 'run' and 'guest start' have started",
    "logs": "print a machine's serial console",
    "screen": "print a machine's screen as text, or save a picture of it",
    "type": "press keys on a machine's keyboard",
    "stop": "end a machine",
    "debug": "attach GDB to a machine, with the symbols of its program",
    "dump": "write a machine's memory and registers to an ELF core file",
    "snap": "save a machine's state as a snapshot",
    "snaps": "list a machine's snapshots, or delete one",
    "back": "take a machine back to a snapshot",
    "recording": "list, show, verify, remove, pack and unpack recordings of runs",
    "replay": "replay a recorded run, and print its console",
    "guest": "define, start, debug and stop a NetBSD or Linux kernel with kgdb or IPKDB",
    "ipkdb": "connect GDB to a NetBSD kernel over Ethernet (IPKDB)",
    "net": "the lab's network bridge for machines: bring it up, take it down, show it",
    "export": "make a VMware virtual machine from an image, with a debug stub",
    "smoke": "test the whole lab: stage, boot, attach GDB, stop at a breakpoint, read PCI",
}
HIDDEN_VERBS = {
    "completion": "print a completion script for a shell",
    "watch": "watch a machine in the background until it fails or ends",
    "relay": "connect standard input and output to a debug stub's UNIX socket, for a GDB before 8.3",
}
