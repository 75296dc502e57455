"""Reads rumprun's configuration from a YAML file. docs/protocols/rumprun-config.md defines the format.

The file is read as YAML nodes and not as values, so that every error message has a line number, and so that a number
keeps its text: `1.10` and `0755` are arguments of a program, not numbers.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NoReturn

import yaml

from rumplab.errors import RumplabError
from rumplab.image import rumprun_schema as schema

# Much larger than a configuration that rumprun accepts, and small enough for a YAML parser in Python.
LARGEST_FILE = 64 * 1024
# The parser's time grows with the square of the nesting depth. A valid configuration has a depth of at most six.
DEEPEST = 100
BRACKET = re.compile(r"[\[\]{}]")
# rumprun copies its configuration to a buffer of 4096 bytes, including a NUL.
LARGEST_CONFIGURATION = 4094
TAG = "tag:yaml.org,2002:"
READ_AS_OTHERS = {f"{TAG}bool": "true or false", f"{TAG}null": "nothing"}
RUNMODES = {"foreground": "", "background": "&", "pipe": "|"}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
INTERFACE = re.compile(r"[a-z][a-z0-9_]*[0-9]+")
HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
DEVICE = re.compile(r"[A-Za-z0-9_]+")
VND = re.compile(r"vnd[0-9]+")
SIZE = re.compile(r"[1-9][0-9]*[kMG]")
MOST_NAMESERVERS, MOST_SEARCHED = 3, 6


def configuration(path: Path, kind: str) -> bytes:
    """The configuration in the YAML file `path` as JSON for rumprun, in the schema `kind`: `new` or `old`.

    RumplabError names the file and line of an error.
    """
    config = read(path)
    try:
        text = schema.new(config) if kind == "new" else schema.old(config)
    except schema.NotExpressible as error:
        raise RumplabError(f"{path}: line {error.line}: {error}") from error
    content = text.encode()
    if len(content) > LARGEST_CONFIGURATION:
        raise RumplabError(
            f"{path}: rumprun accepts a configuration of at most {LARGEST_CONFIGURATION} bytes, and this one"
            f" has {len(content)}; move data into files of a --volume"
        )
    return content


def read(path: Path) -> schema.Config:
    """The configuration in the YAML file `path`. RumplabError names the file and line of an error."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise RumplabError(f"{path} is larger than 64 KiB; move data into files of a --volume")
    root = compose(path, content)
    # A file of the allowed size exceeds this number of values only with aliases.
    if root is not None and values(root, {}) > LARGEST_FILE:
        raise RumplabError(f"{path} has more values than a configuration can have; use fewer aliases")
    return Reader(path).config(root)


def compose(path: Path, content: bytes) -> yaml.Node | None:
    """The root node of the one YAML document in `content`; None for an empty document. RumplabError for invalid
    YAML."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RumplabError(f"{path} is not YAML: line {line}: not UTF-8 ({error.reason})") from error
    if depth(text) > DEEPEST:
        raise RumplabError(f"{path} is nested too deeply to be a configuration")
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RumplabError(f"{path} is not YAML: {place}{error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RumplabError(f"{path} is not YAML: line {line}: {error.reason}") from error
    except RecursionError as error:
        raise RumplabError(f"{path} is nested too deeply to be a configuration") from error
    except (ValueError, OverflowError) as error:
        # The parser doesn't check the number in an escape sequence or in the YAML version.
        raise RumplabError(f"{path} is not YAML: {error}") from error


def values(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values in a node, including those that aliases repeat. `known` caches the numbers by node id."""
    if id(node) not in known:
        # The entry ends the recursion for an alias inside its own anchor, which the reader rejects later.
        known[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (one for item in inner for one in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(values(one, known) for one in parts)
    return known[id(node)]


def depth(text: str) -> int:
    """An estimate of the nesting depth of brackets in `text`; it includes brackets in quotes and comments."""
    changes = (1 if found[0] in "[{" else -1 for found in BRACKET.finditer(text))
    return max(accumulate(changes, initial=0))


@dataclass(frozen=True)
class Mapping:
    """A YAML mapping: the value node and the key node of each key, and the line on which the mapping begins."""

    values: dict[str, yaml.Node]
    keys: dict[str, yaml.Node]
    line: int


@dataclass(frozen=True)
class Reader:
    """Converts YAML nodes to a configuration. For an invalid node, every method raises RumplabError with its line."""

    path: Path

    def fail(self, node: yaml.Node, message: str) -> NoReturn:
        raise RumplabError(f"{self.path}: line {node.start_mark.line + 1}: {message}")

    def mapping(self, node: yaml.Node, what: str, known: Iterable[str] | None = None) -> Mapping:
        """The mapping `node`. If `known` is given, it has all allowed keys. `what` names the node in messages."""
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, f"{what} must be a mapping: lines of 'key: value'")
        values: dict[str, yaml.Node] = {}
        keys: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = self.text(key_node, f"a key in {what}")
            if key in values:
                first = keys[key].start_mark.line + 1
                self.fail(key_node, f"'{key}' is in {what} twice, first in line {first}; remove one")
            if known is not None and key not in known:
                self.unknown(key_node, key, what, known)
            values[key], keys[key] = value, key_node
        return Mapping(values, keys, node.start_mark.line + 1)

    def unknown(self, node: yaml.Node, key: str, what: str, known: Iterable[str]) -> NoReturn:
        known = tuple(known)
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        self.fail(node, f"unknown key '{key}' in {what}; {hint}")

    def sequence(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            self.fail(node, f"{what} must be a list: [one, two], or lines of '- one'")
        return list(node.value)

    def text(self, node: yaml.Node, what: str) -> str:
        """The text of the scalar `node`. An unquoted boolean or null is an error."""
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, f"{what} must be one value")
        if node.tag in READ_AS_OTHERS:
            written = node.value or "an empty value"
            self.fail(node, f"{what}: YAML reads {written} as {READ_AS_OTHERS[node.tag]}; quote it")
        value: str = node.value
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            self.fail(node, f"{what} can't contain a NUL or half a surrogate pair")
        return value

    def matching(self, node: yaml.Node, what: str, pattern: re.Pattern[str], example: str) -> str:
        value = self.text(node, what)
        if not pattern.fullmatch(value):
            self.fail(node, f"'{value}' is not {what}; write it like {example}")
        return value

    def choice(self, node: yaml.Node, what: str, choices: Iterable[str]) -> str:
        value = self.text(node, what)
        choices = tuple(choices)
        if value not in choices:
            self.fail(node, f"{what} can't be '{value}'; it is one of {', '.join(choices)}")
        return value

    def boolean(self, node: yaml.Node, what: str) -> bool:
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{TAG}bool":
            self.fail(node, f"{what} must be true or false")
        return str(node.value).lower() in ("true", "yes", "on")

    def config(self, node: yaml.Node | None) -> schema.Config:
        if node is None:
            raise RumplabError(f"{self.path} is empty; docs/protocols/rumprun-config.md has an example")
        root = self.mapping(node, "the configuration", ("rc", "env", "hostname", "net", "blk", "mount")).values
        net = self.network(root["net"]) if "net" in root else schema.Network()
        return schema.Config(
            programs=self.programs(root["rc"]) if "rc" in root else (),
            environment=self.environment(root["env"]) if "env" in root else (),
            hostname=self.hostname(root["hostname"]) if "hostname" in root else None,
            network=net,
            devices=self.devices(root["blk"]) if "blk" in root else (),
            mounts=self.mounts(root["mount"]) if "mount" in root else (),
        )

    def programs(self, node: yaml.Node) -> tuple[schema.Program, ...]:
        return tuple(self.program(item) for item in self.sequence(node, "rc"))

    def program(self, node: yaml.Node) -> schema.Program:
        fields = self.mapping(node, "a program of rc", ("bin", "args", "runmode"))
        if "bin" not in fields.values:
            self.fail(node, "a program of rc needs 'bin', the program's name")
        arguments = self.sequence(fields.values["args"], "args") if "args" in fields.values else []
        mode = fields.values.get("runmode")
        return schema.Program(
            fields.line,
            self.text(fields.values["bin"], "bin"),
            tuple(self.text(item, "an argument") for item in arguments),
            RUNMODES[self.choice(mode, "runmode", RUNMODES)] if mode else "",
        )

    def environment(self, node: yaml.Node) -> tuple[schema.Variable, ...]:
        found = self.mapping(node, "env")
        return tuple(
            schema.Variable(
                self.line(found, key),
                self.matching(found.keys[key], "a variable's name", NAME, "PATH"),
                self.text(value, f"the value of {key}"),
            )
            for key, value in found.values.items()
        )

    def hostname(self, node: yaml.Node) -> schema.Hostname:
        name = self.matching(node, "a host name", HOSTNAME, "lab or lab.example.org")
        return schema.Hostname(node.start_mark.line + 1, name)

    def network(self, node: yaml.Node) -> schema.Network:
        fields = self.mapping(node, "net", ("interfaces", "gateways", "dns")).values
        interfaces = self.mapping(fields["interfaces"], "interfaces") if "interfaces" in fields else None
        return schema.Network(
            interfaces=tuple(self.interface(interfaces.keys[key], value) for key, value in interfaces.values.items())
            if interfaces
            else (),
            gateways=self.gateways(fields["gateways"]) if "gateways" in fields else (),
            dns=self.dns(fields["dns"]) if "dns" in fields else None,
        )

    def interface(self, key: yaml.Node, node: yaml.Node) -> schema.Interface:
        name = self.matching(key, "an interface's name", INTERFACE, "vioif0")
        fields = self.mapping(node, f"interface {name}", ("create", "addrs")).values
        addresses = self.sequence(fields["addrs"], "addrs") if "addrs" in fields else []
        create = "create" in fields and self.boolean(fields["create"], "create")
        line = key.start_mark.line + 1
        return schema.Interface(line, name, create, tuple(self.address(item) for item in addresses))

    def address(self, node: yaml.Node) -> schema.Address:
        """An interface's address: `dhcp`, `auto` (IPv6), or ADDRESS/PREFIX."""
        value = self.text(node, "an address")
        line = node.start_mark.line + 1
        if value in schema.METHODS:
            return schema.Address(line, schema.METHODS[value], value)
        try:
            interface = ipaddress.ip_interface(value)
        except ValueError:
            self.fail(node, f"'{value}' is not an address; write dhcp, auto, 10.0.0.2/24 or fd00::2/64")
        if "/" not in value:
            self.fail(node, f"address {value} has no prefix length; write it like {value}/24")
        cidr = f"{interface.ip}/{interface.network.prefixlen}"
        return schema.Address(line, schema.FAMILIES[interface.version], "static", cidr)

    def ip(self, node: yaml.Node, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        value = self.text(node, what)
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            self.fail(node, f"'{value}' is not {what}; write it like 10.0.0.1 or fd00::1")

    def gateways(self, node: yaml.Node) -> tuple[schema.Gateway, ...]:
        found: list[schema.Gateway] = []
        for item in self.sequence(node, "gateways"):
            address = self.ip(item, "a gateway")
            family = schema.FAMILIES[address.version]
            if any(gateway.family == family for gateway in found):
                self.fail(item, f"a second gateway for {family}; rumprun accepts one for IPv4 and one for IPv6")
            found.append(schema.Gateway(item.start_mark.line + 1, family, str(address)))
        return tuple(found)

    def dns(self, node: yaml.Node) -> schema.Dns:
        fields = self.mapping(node, "dns", ("nameservers", "search"))
        lists = {key: self.sequence(value, key) for key, value in fields.values.items()}
        for key, most in (("nameservers", MOST_NAMESERVERS), ("search", MOST_SEARCHED)):
            if len(lists.get(key, [])) > most:
                self.fail(fields.keys[key], f"{key} can have at most {most}")
        servers = (str(self.ip(item, "a name server")) for item in lists.get("nameservers", []))
        domains = (self.matching(item, "a domain", HOSTNAME, "example.org") for item in lists.get("search", []))
        return schema.Dns(fields.line, tuple(servers), tuple(domains))

    def devices(self, node: yaml.Node) -> tuple[schema.Device, ...]:
        found = self.mapping(node, "blk")
        return tuple(self.device(found.keys[key], value) for key, value in found.values.items())

    def device(self, key: yaml.Node, node: yaml.Node) -> schema.Device:
        name = self.matching(key, "a device's name", DEVICE, "vnd0 or xbd0")
        fields = self.mapping(node, f"device {name}", ("type", "path"))
        for needed in ("type", "path"):
            if needed not in fields.values:
                self.fail(node, f"device {name} needs '{needed}'")
        kind = self.choice(fields.values["type"], "type", ("etfs", "vnd"))
        if kind == "vnd" and not VND.fullmatch(name):
            self.fail(key, f"'{name}' is not a vnd device's name; write it like vnd0")
        path = self.text(fields.values["path"], "path")
        return schema.Device(key.start_mark.line + 1, name, kind, path)

    def mounts(self, node: yaml.Node) -> tuple[schema.Mount, ...]:
        found = self.mapping(node, "mount")
        return tuple(self.mount(found.keys[key], value) for key, value in found.values.items())

    def mount(self, key: yaml.Node, node: yaml.Node) -> schema.Mount:
        place = self.absolute(key, "a mount point")
        fields = self.mapping(node, f"mount {place}", ("source", "path", "size")).values
        if "source" not in fields:
            self.fail(node, f"mount {place} needs 'source': {', '.join(schema.SOURCES)}")
        source = self.choice(fields["source"], "source", schema.SOURCES)
        for field, needed_by in (("path", "blk"), ("size", "tmpfs")):
            if field in fields and source != needed_by:
                self.fail(fields[field], f"'{field}' is for source {needed_by}, and this is {source}")
        if source == "blk" and "path" not in fields:
            self.fail(node, f"mount {place} needs 'path', the device, such as /dev/ld0e")
        path = self.absolute(fields["path"], "a device") if "path" in fields else None
        size = self.matching(fields["size"], "a size", SIZE, "16M") if "size" in fields else None
        return schema.Mount(key.start_mark.line + 1, place, source, path, size)

    def absolute(self, node: yaml.Node, what: str) -> str:
        value = self.text(node, what)
        if not value.startswith("/"):
            self.fail(node, f"'{value}' is not {what}; begin it with /")
        return value

    @staticmethod
    def line(found: Mapping, key: str) -> int:
        return int(found.keys[key].start_mark.line) + 1
