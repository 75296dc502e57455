"""The configuration of a rumprun unikernel, and the two JSON schemas for it.

The newer schema is that of rumprun's doc/config.md; where rumprun's code differs, the code counts. The older schema is
that of earlier releases: flat objects, in which a key is repeated for each device, interface and variable. `Pairs`
represents an object with repeated keys.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Union

SOURCES = ("blk", "kernfs", "tmpfs")
FAMILIES = {4: "inet", 6: "inet6"}
METHODS = {"dhcp": "inet", "auto": "inet6"}
ETFS_PREFIX = "blkfront:"
# Some parsers of the older schema decode JSON's escapes, and some don't.
ESCAPED = re.compile(r"[\"\\\x00-\x1f]")


class NotExpressible(Exception):
    """The older schema can't express a part of the configuration. `line` is the part's line in the file."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"{message}; use --rumprun-schema new, or omit the option")
        self.line = line


@dataclass(frozen=True)
class Pairs:
    """A JSON object as a sequence of keys and values. A key may occur more than once."""

    items: tuple[tuple[str, Json], ...]


Json = Union[str, bool, "list[Json]", Pairs]


@dataclass(frozen=True)
class Program:
    """A program of the unikernel. `runmode` is '', '&' or '|'. Here and below, `line` is the line in the YAML file."""

    line: int
    name: str
    arguments: tuple[str, ...] = ()
    runmode: str = ""


@dataclass(frozen=True)
class Variable:
    line: int
    name: str
    value: str


@dataclass(frozen=True)
class Hostname:
    line: int
    name: str


@dataclass(frozen=True)
class Address:
    """An address of an interface: `family` inet or inet6, `method` dhcp, auto or static, `cidr` if static."""

    line: int
    family: str
    method: str
    cidr: str = ""


@dataclass(frozen=True)
class Interface:
    line: int
    name: str
    create: bool = False
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True)
class Gateway:
    line: int
    family: str
    address: str


@dataclass(frozen=True)
class Dns:
    line: int
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    interfaces: tuple[Interface, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    dns: Dns | None = None


@dataclass(frozen=True)
class Device:
    """A device that rumprun makes at boot. `kind` is 'etfs', with the path of a Xen disk, or 'vnd', with that of a
    file."""

    line: int
    name: str
    kind: str
    path: str


@dataclass(frozen=True)
class Mount:
    """A file system. `source` is 'blk', with the `path` of a device; 'kernfs'; or 'tmpfs', optionally with a `size`."""

    line: int
    place: str
    source: str
    path: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Config:
    programs: tuple[Program, ...] = ()
    environment: tuple[Variable, ...] = ()
    hostname: Hostname | None = None
    network: Network = field(default_factory=Network)
    devices: tuple[Device, ...] = ()
    mounts: tuple[Mount, ...] = ()


def write(value: Json) -> str:
    """`value` as JSON, with the keys in their order. It has no blanks, because rumprun's buffer is small."""
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{write(key)}:{write(item)}" for key, item in value.items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def pairs(items: Iterable[tuple[str, Json | None]]) -> Pairs:
    """A JSON object of the items whose value isn't None."""
    return Pairs(tuple((key, value) for key, value in items if value is not None))


def new(config: Config) -> str:
    """`config` in the newer schema."""
    network = config.network
    interfaces = [(item.name, new_interface(item)) for item in network.interfaces]
    gateways: list[Json] = [pairs([("type", item.family), ("addr", item.address)]) for item in network.gateways]
    dns = None
    if network.dns:
        dns = pairs([("nameservers", texts(network.dns.nameservers)), ("search", texts(network.dns.search))])
    net = pairs([("interfaces", pairs(interfaces) if interfaces else None), ("gateways", gateways or None),
                 ("dns", dns)])  # fmt: skip
    programs: list[Json] = [new_program(item) for item in config.programs]
    variables = [(item.name, item.value) for item in config.environment]
    devices = [(item.name, pairs([("type", item.kind), ("path", item.path)])) for item in config.devices]
    mounts = [(item.place, new_mount(item)) for item in config.mounts]
    return write(
        pairs(
            [
                ("rc", programs or None),
                ("env", pairs(variables) if variables else None),
                ("hostname", config.hostname.name if config.hostname else None),
                ("blk", pairs(devices) if devices else None),
                ("mount", pairs(mounts) if mounts else None),
                ("net", net if net.items else None),
            ]
        )
    )


def texts(values: Iterable[str]) -> list[Json]:
    return list(values)


def new_program(item: Program) -> Pairs:
    # rumprun's document says `args`, but its code reads `argv`, rejects `args`, and doesn't check that `argv` exists.
    return pairs([("bin", item.name), ("argv", texts(item.arguments)), ("runmode", item.runmode or None)])


def new_interface(item: Interface) -> Pairs:
    addresses: list[Json] = [
        pairs([("type", address.family), ("method", address.method), ("addr", address.cidr or None)])
        for address in item.addresses
    ]
    return pairs([("create", True if item.create else None), ("addrs", addresses)])


def new_mount(item: Mount) -> Pairs:
    options = pairs([("size", item.size)]) if item.size else None
    return pairs([("source", item.source), ("path", item.path), ("options", options)])


def old(config: Config) -> str:
    """`config` in the older schema. NotExpressible when the schema can't express it."""
    if config.network.dns:
        raise NotExpressible(config.network.dns.line, "the older schema has no name servers")
    if len(config.programs) > 1:
        raise NotExpressible(config.programs[1].line, "the older schema starts one program")
    items: list[tuple[str, Json]] = []
    items += [("cmdline", command_line(item)) for item in config.programs]
    items += [("env", plain(item.line, f"{item.name}={item.value}")) for item in config.environment]
    items += [("hostname", item.name) for item in (config.hostname,) if item]
    items += [("blk", item) for item in old_devices(config)]
    items += [("net", item) for item in old_network(config.network)]
    return write(Pairs(tuple(items)))


def plain(line: int, text: str) -> str:
    """`text`, if all parsers of the older schema read it unchanged. Else NotExpressible."""
    if ESCAPED.search(text):
        raise NotExpressible(line, f"{text!r}: a quote, backslash or control character may arrive changed")
    return text


def command_line(program: Program) -> str:
    """The command line of `program`, which rumprun splits at blanks outside quotes."""
    if program.runmode:
        raise NotExpressible(program.line, "the older schema has no runmode")
    words = [plain(program.line, word) for word in (program.name, *program.arguments)]
    for word in words:
        if "'" in word:
            raise NotExpressible(program.line, f"{word}: an apostrophe may arrive changed")
    return " ".join(f"'{word}'" if not word or " " in word else word for word in words)


def old_devices(config: Config) -> list[Json]:
    """The older schema's blk objects. Each describes a device and its mount."""
    found: list[Json] = []
    mounted = set()
    for item in config.mounts:
        if item.source == "tmpfs":
            raise NotExpressible(item.line, "the older schema has no tmpfs")
        device = next((device for device in config.devices if item.path in paths_of(device)), None)
        if device:
            mounted.add(device.name)
        # The older schema requires source and path also for a kernfs, and ignores their values.
        source, path = ("dev", item.path or "virtual") if device is None else old_source(device)
        found.append(
            pairs(
                [
                    ("source", source),
                    ("path", plain(item.line, path)),
                    ("fstype", item.source),
                    ("mountpoint", plain(item.line, item.place)),
                ]
            )
        )
    for device in config.devices:
        if device.name in mounted:
            continue
        raise NotExpressible(
            device.line, f"device {device.name} isn't mounted, and in the older schema only a mount makes a device"
        )
    return found


def paths_of(device: Device) -> tuple[str, ...]:
    """The paths of `device` in mounts of the newer schema. A vnd may be mounted by its raw partition."""
    path = f"/dev/{device.name}"
    return (path, f"{path}d") if device.kind == "vnd" else (path,)


def old_source(device: Device) -> tuple[str, str]:
    """Source and path of `device`. In the older schema, the path of a Xen disk has no prefix."""
    return device.kind, device.path.removeprefix(ETFS_PREFIX)


def old_network(network: Network) -> list[Json]:
    """The older schema's net objects. Each has one address; a gateway is in the object of an address in its network."""
    waiting = list(network.gateways)
    found: list[Json] = []
    for interface in network.interfaces:
        if not interface.addresses:
            raise NotExpressible(interface.line, f"interface {interface.name} has no address")
        for number, address in enumerate(interface.addresses):
            gateway = next((item for item in waiting if reaches(address, item)), None)
            if gateway:
                waiting.remove(gateway)
            where, _, mask = address.cidr.partition("/")
            found.append(
                pairs(
                    [
                        ("if", interface.name),
                        ("cloner", "true" if interface.create and number == 0 else None),
                        ("type", address.family),
                        ("method", address.method),
                        ("addr", where or None),
                        ("mask", mask or None),
                        ("gw", gateway.address if gateway else None),
                    ]
                )
            )
    for item in waiting:
        raise NotExpressible(
            item.line, f"the older schema needs a static address in the network of gateway {item.address}"
        )
    return found


def reaches(address: Address, gateway: Gateway) -> bool:
    """Whether `gateway` is in the network of a static `address`."""
    if not address.cidr or address.family != gateway.family:
        return False
    return ipaddress.ip_address(gateway.address) in ipaddress.ip_interface(address.cidr).network
