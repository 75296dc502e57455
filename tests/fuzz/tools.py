"""Readers of the output of the host's programs, whose next version may print another text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unit.plugins.host.test_modules import lab_state, packages

from fuzz.engine import Reader
from fuzz.formats import DISK
from fuzz.mutations import document, text
from fuzz.records import TOOL
from plugins.module_utils.artifact import apt, git, host
from plugins.module_utils.artifact.errors import Broken, Unreachable
from rumplab import output
from rumplab.building import explain
from rumplab.container import docker
from rumplab.image import disk
from rumplab.machine import launch
from rumplab.network import seen


def lines(value: Any) -> bytes:
    return json.dumps(value).encode()


LINKS = lines(
    [
        {
            "ifname": "rumplab0",
            "flags": ["UP"],
            "address": "02:11:22:33:44:55",
            "master": "br0",
            "linkinfo": {"info_kind": "bridge"},
            "addr_info": [{"family": "inet", "local": "10.0.1.1", "prefixlen": 24}, {"family": "inet6"}],
        },
        {},
    ]
)
ROUTES = lines(
    [
        {"dst": "default", "gateway": "10.0.2.2", "dev": "eth0"},
        {"dst": "10.0.2.0/24", "dev": "eth0"},
        {"type": "blackhole", "dst": "10.9.0.0/16"},
        {"dst": "10.8.0.0/16", "nexthops": [{"dev": "a"}, {"dev": "b"}]},
    ]
)
CHAINS = lines(
    {
        "nftables": [
            {"metainfo": {"version": "1"}},
            {"chain": {"family": "inet", "table": "x", "name": "f", "handle": 1, "hook": "forward", "policy": "drop"}},
        ]
    }
)


def links(data: bytes, place: Path) -> object:
    found = seen.Seen(links=seen.parse_links(data.decode("utf-8", "surrogateescape")))
    return [found.link("rumplab0"), found.ports("br0"), [f"{link.name}{link.kind}{link.mac}" for link in found.links]]


def routes(data: bytes, place: Path) -> object:
    return [str(route) for route in seen.parse_routes(data.decode("utf-8", "surrogateescape"))]


def chains(data: bytes, place: Path) -> object:
    found = seen.parse_chains(data.decode("utf-8", "surrogateescape"))
    return frozenset(f"{chain['family']} {chain['table']}" for chain in found)


INFO = lines({"virtual-size": 1 << 20, "filename": "x", "format": "qcow2", "actual-size": 4096})


def image_info(data: bytes, place: Path) -> object:
    return disk.virtual_size_in(data.decode(errors="replace"), "x")


COMPONENTS = json.dumps([{"name": "gdb", "paths": {"gdb": "/opt/x"}}])
INSPECTED = lines({"id": "sha256:00", "labels": {"rumplab.components": COMPONENTS, "rumplab.prefix": "/opt/x"}})
UNLABELLED = lines({"id": "sha256:00", "labels": None})


def inspected(data: bytes, place: Path) -> object:
    found = docker.image_in(data.decode(errors="replace"), "x")
    return [f"{found.prefix}{found.identity}", found.path("gdb", "gdb") if found.labels else None, found.version("gdb")]


def labels(data: bytes, place: Path) -> object:
    return docker.Image("x", "y", {"rumplab.components": data.decode(errors="replace")}).path("gdb", "gdb")


DPKG = b"ii bash\nrc gone\nii libc6:amd64\niU half\nhi held\n"
APT = b"Remv gdb [1]\nPurg gcc [1]\nInst x\n"
BREW = b"gdb: gmp xz\ngmp:\n"
URIS = b"'http://deb.example.org/debian/dists/bookworm/InRelease' x_InRelease 0 \n'cdrom:[x]/dists/y' z 0\n"
ROUTE_TABLE = b"Iface\tDestination\tGateway\neth0\t00000000\t0202000A\neth0\t0002000A\t00000000\n"


def host_tools(data: bytes, place: Path) -> object:
    """Read package lists, apt's indexes, the routing table and version numbers."""
    said = data.decode(errors="replace")
    return [
        packages.parse_list("apt", said),
        packages.parse_list("dnf", said),
        packages.parse_apt_simulation(said),
        packages.parse_brew_deps(said),
        apt.archives(said),
        lab_state.network_hash(said, said, {}),
        host.as_numbers(said[:200]),
    ]


TREE = b"160000 commit " + b"1" * 40 + b"\tsub/module\x00100644 blob " + b"2" * 40 + b"\tREADME\0"


def git_tree(data: bytes, place: Path) -> object:
    return git.links_in(data.decode(errors="replace"))


MODULES = b"submodule.a.path\na\0submodule.a.url\n../other.git\0submodule.b.path\nb\0submodule.b.url\nhttps://x/b\0"


def git_modules(data: bytes, place: Path) -> object:
    found = git.urls_in(data.decode(errors="replace"))
    origins = ("https://example.org/a/b.git", "host:path", "x", "/", "")
    for url in found.values():
        for origin in origins:
            try:
                git.resolve(origin, url)
            except Broken:
                continue
    return found


NODES = b"mtree\n./console type=char device=netbsd,0,0 mode=600\n./null type=char device=netbsd,2,2\n"
TTYS = b'console "/usr/libexec/getty Pc" vt100 on secure\nconstty "/usr/libexec/getty Pc" vt100 on secure\n'


def nodes(data: bytes, place: Path) -> object:
    said = data.decode(errors="replace")
    return [DISK.serial_ttys(said), DISK.device_lines(said)]


COMPLAINTS = b"""\
# example.org/x
../../../../../build/gopath/src/x/main.go:3:8: cannot find package "y" in any of:
main.c:1:10: fatal error: pci.h: No such file or directory
ld: cannot find -lfoo
x.c:(.text+0x5): undefined reference to `bar'
ERROR: ld.so: object 'x' from LD_PRELOAD cannot be preloaded: ignored.
qemu-system-x86_64: -drive file=/x: Failed to get "write" lock
Is another process using the image [/x]?
"""


def complaints(data: bytes, place: Path) -> object:
    """Read messages of compilers, linkers and QEMU."""
    said = data.decode(errors="replace")
    own = {"/build/gopath": "/home/go", "/build/local": ""}
    return [
        explain.own_words(said, "/build/gopath/src/x", own, {"main.go": "/home/main.go"}),
        explain.remedy(said, "/x/gcc"),
        explain.heading(said),
        launch.explain(1, said),
        output.shortened("\n".join(output.own_lines(said)), 5),
    ]


READERS = (
    Reader("ip-addr", links, (LINKS,), TOOL, document("inet", "10.0.0.1")),
    Reader("ip-route", routes, (ROUTES,), TOOL, document("default", "10.0.0.0/8", "10.0.0.1/8")),
    Reader("nft-chains", chains, (CHAINS,), TOOL, document("inet")),
    Reader("qemu-img-info", image_info, (INFO,), TOOL, document(1 << 40)),
    Reader("docker-inspect", inspected, (INSPECTED, UNLABELLED), TOOL, document(COMPONENTS)),
    Reader("image-labels", labels, (COMPONENTS.encode(),), TOOL, document("gdb", "paths")),
    Reader("host-tools", host_tools, (DPKG, APT, BREW, URIS, ROUTE_TABLE), (), text(b"ii ", b"Remv ", b": ", b"'x:")),
    Reader("git-tree", git_tree, (TREE,), (Broken, Unreachable), text(b"160000 ", b"\0", b"\t")),
    Reader("gitmodules", git_modules, (MODULES,), (), text(b"\0", b"submodule.a.url", b"../", b"./", b":", b"../x")),
    Reader("makedev", nodes, (NODES + TTYS,), (DISK.Refused,), text(b"./console ", b"console", b"on", b"off", b'"')),
    Reader("complaints", complaints, (COMPLAINTS,), (), text(b"../", b"/build/gopath", b"main.go:1", b": ", b"-l")),
)
