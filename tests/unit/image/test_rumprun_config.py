"""rumprun's configuration: YAML is translated to JSON with the same meaning, in both schemas."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.labfixture import LabPrefix
from support.staging import tool_paths

import rumplab
from rumplab.errors import NotProvisioned, RumplabError
from rumplab.image import rumprun_config, rumprun_file
from rumplab.image.layout import PARTITION_START
from rumplab.lab import config

FULL = """\
rc:
  - bin: mathopd
    args: [-n, -p, 8080, 1.10, "", "two words"]
env:
  LEVEL: 3
  NAME: lab
hostname: lab
net:
  interfaces:
    vioif0:
      create: true
      addrs: [10.0.120.10/24, "fd00::2/64"]
    vioif1:
      addrs: [dhcp]
  gateways: [10.0.120.1]
blk:
  xbd0: {type: etfs, path: "blkfront:xvda"}
  vnd0: {type: vnd, path: /images/data.img}
mount:
  /etc: {source: blk, path: /dev/ld0f}
  /data: {source: blk, path: /dev/xbd0}
  /more: {source: blk, path: /dev/vnd0d}
  /kern: {source: kernfs}
"""


def load(text: str | bytes) -> Any:
    """Parse JSON with each object as a list of pairs, so that no repeated key is lost."""
    return json.loads(text, object_pairs_hook=lambda found: found)


def make(tmp_path: Path, text: str, kind: str) -> bytes:
    path = tmp_path / "c.yml"
    path.write_text(text, "utf-8")
    return rumprun_config.configuration(path, kind)


def test_the_newer_schema(tmp_path: Path) -> None:
    made = json.loads(make(tmp_path, FULL + "  /tmp: {source: tmpfs, size: 16M}\n", "new"))
    assert made == {
        "rc": [{"bin": "mathopd", "argv": ["-n", "-p", "8080", "1.10", "", "two words"]}],
        "env": {"LEVEL": "3", "NAME": "lab"},
        "hostname": "lab",
        "blk": {
            "xbd0": {"type": "etfs", "path": "blkfront:xvda"},
            "vnd0": {"type": "vnd", "path": "/images/data.img"},
        },
        "mount": {
            "/etc": {"source": "blk", "path": "/dev/ld0f"},
            "/data": {"source": "blk", "path": "/dev/xbd0"},
            "/more": {"source": "blk", "path": "/dev/vnd0d"},
            "/kern": {"source": "kernfs"},
            "/tmp": {"source": "tmpfs", "options": {"size": "16M"}},
        },
        "net": {
            "interfaces": {
                "vioif0": {
                    "create": True,
                    "addrs": [
                        {"type": "inet", "method": "static", "addr": "10.0.120.10/24"},
                        {"type": "inet6", "method": "static", "addr": "fd00::2/64"},
                    ],
                },
                "vioif1": {"addrs": [{"type": "inet", "method": "dhcp"}]},
            },
            "gateways": [{"type": "inet", "addr": "10.0.120.1"}],
        },
    }


def test_the_older_schema_repeats_keys(tmp_path: Path) -> None:
    assert load(make(tmp_path, FULL, "old")) == [
        ("cmdline", "mathopd -n -p 8080 1.10 '' 'two words'"),
        ("env", "LEVEL=3"),
        ("env", "NAME=lab"),
        ("hostname", "lab"),
        ("blk", [("source", "dev"), ("path", "/dev/ld0f"), ("fstype", "blk"), ("mountpoint", "/etc")]),
        ("blk", [("source", "etfs"), ("path", "xvda"), ("fstype", "blk"), ("mountpoint", "/data")]),
        (
            "blk",
            [("source", "vnd"), ("path", "/images/data.img"), ("fstype", "blk"), ("mountpoint", "/more")],
        ),
        ("blk", [("source", "dev"), ("path", "virtual"), ("fstype", "kernfs"), ("mountpoint", "/kern")]),
        (
            "net",
            [
                ("if", "vioif0"),
                ("cloner", "true"),
                ("type", "inet"),
                ("method", "static"),
                ("addr", "10.0.120.10"),
                ("mask", "24"),
                ("gw", "10.0.120.1"),
            ],
        ),
        (
            "net",
            [("if", "vioif0"), ("type", "inet6"), ("method", "static"), ("addr", "fd00::2"), ("mask", "64")],
        ),
        ("net", [("if", "vioif1"), ("type", "inet"), ("method", "dhcp")]),
    ]


WORD = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029\ufeff"))
PLAIN = WORD.map(lambda text: "".join(character for character in text if character not in "\"'\\"))
NAME = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
PLACE = st.from_regex(r"/[a-z]{1,8}", fullmatch=True)
V4 = st.ip_addresses(v=4).filter(lambda address: address != ipaddress.ip_address("0.0.0.0"))
ADDRESSES = st.one_of(
    st.just("dhcp"), st.just("auto"), st.tuples(V4, st.integers(1, 32)).map(lambda p: f"{p[0]}/{p[1]}")
)


def configurations(word: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Generate configurations, as YAML's values, that both schemas can express."""
    return st.fixed_dictionaries(
        {"rc": st.lists(st.fixed_dictionaries({"bin": word, "args": st.lists(word, max_size=4)}), max_size=1)},
        optional={
            "env": st.dictionaries(NAME, word, max_size=3),
            "net": st.fixed_dictionaries(
                {
                    "interfaces": st.dictionaries(
                        st.from_regex(r"(vioif|wm)[0-9]", fullmatch=True),
                        st.fixed_dictionaries({"addrs": st.lists(ADDRESSES, min_size=1, max_size=2)}),
                        max_size=2,
                    )
                }
            ),
            "mount": st.dictionaries(
                PLACE, st.fixed_dictionaries({"source": st.just("blk"), "path": PLACE}), max_size=3
            ),
        },
    )


@settings(max_examples=150)
@given(given_values=configurations(WORD))
def test_round_trip_through_the_newer_schema(
    given_values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = yaml.safe_dump(given_values, allow_unicode=True, sort_keys=False)
    made = json.loads(make(tmp_path_factory.mktemp("c"), text, "new"))
    assert [(p["bin"], p["argv"]) for p in made.get("rc", [])] == [(p["bin"], p["args"]) for p in given_values["rc"]]
    assert made.get("env", {}) == given_values.get("env", {})
    assert made.get("mount", {}) == given_values.get("mount", {})
    interfaces = given_values.get("net", {}).get("interfaces", {})
    back = {
        name: [address.get("addr", address["method"]) for address in interface["addrs"]]
        for name, interface in made.get("net", {}).get("interfaces", {}).items()
    }
    assert back == {name: interface["addrs"] for name, interface in interfaces.items()}


def split_words(line: str) -> list[str]:
    """Split a command line as rumprun does: at blanks that aren't inside apostrophes."""
    words: list[str] = []
    inside, begun = False, False
    for character in line:
        if character == "'":
            if not begun:
                words.append("")
            inside, begun = not inside, True
        elif character == " " and not inside:
            begun = False
        else:
            if not begun:
                words.append("")
            words[-1] += character
            begun = True
    return words


@settings(max_examples=150)
@given(given_values=configurations(PLAIN))
def test_round_trip_through_the_older_schema(
    given_values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = yaml.safe_dump(given_values, allow_unicode=True, sort_keys=False)
    made = load(make(tmp_path_factory.mktemp("c"), text, "old"))
    lines = [value for key, value in made if key == "cmdline"]
    assert [split_words(line) for line in lines] == [[p["bin"], *p["args"]] for p in given_values["rc"]]
    variables = given_values.get("env", {})
    assert [value for key, value in made if key == "env"] == [f"{k}={v}" for k, v in variables.items()]
    mounts = [dict(value) for key, value in made if key == "blk"]
    assert {item["mountpoint"]: item["path"] for item in mounts} == {
        place: mount["path"] for place, mount in given_values.get("mount", {}).items()
    }
    assert len(mounts) == len(given_values.get("mount", {}))
    networks = [dict(value) for key, value in made if key == "net"]
    asked = [
        (name, address)
        for name, interface in given_values.get("net", {}).get("interfaces", {}).items()
        for address in interface["addrs"]
    ]
    assert [
        (item["if"], f"{item['addr']}/{item['mask']}" if "addr" in item else item["method"]) for item in networks
    ] == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rc: [\n", "line 2, column 1: "),
        ("rc:\n\t- bin: a\n", "line 2, column 1: "),
        ("rc: []\n---\nrc: []\n", "line 2, column 1: "),
        ("a: *b\n", "line 1, column 4: found undefined alias"),
        ("rc: []\n\x07: 1\n", "line 2: special characters are not allowed"),
        ("", "is empty"),
        ("- a\n", "line 1: the configuration must be a mapping"),
        ("hostname: a\nnett: {}\n", "line 2: unknown key 'nett' in the configuration; did you mean 'net'?"),
        ("zz: 1\n", "known: rc, env, hostname, net, blk, mount"),
        (
            "env: {A: 1}\nhostname: a\nenv: {}\n",
            "line 3: 'env' is in the configuration twice, first in line 1",
        ),
        ("rc:\n  bin: a\n", "line 2: rc must be a list"),
        ("rc:\n  - args: [a]\n", "line 2: a program of rc needs 'bin'"),
        (
            "rc:\n  - bin: a\n    arg: [a]\n",
            "line 3: unknown key 'arg' in a program of rc; did you mean 'args'?",
        ),
        ("rc:\n  - bin: a\n    args:\n      - yes\n", "line 4: an argument: YAML reads yes as true or false"),
        ("rc:\n  - bin:\n", "line 2: bin: YAML reads an empty value as nothing; quote it"),
        ("rc:\n  - bin: [a]\n", "line 2: bin must be one value"),
        ("rc:\n  - bin: a\n    runmode: fast\n", "line 3: runmode can't be 'fast'; it is one of foreground"),
        ('rc:\n  - bin: "a\\0"\n', "line 2: bin can't contain a NUL"),
        ('hostname: "\\ud800"\n', "line 1: a host name can't contain a NUL or half"),
        ("env:\n  A: 1\n  A-B: 2\n", "line 3: 'A-B' is not a variable's name"),
        ("hostname: a_b\n", "line 1: 'a_b' is not a host name"),
        (
            "net:\n  interfaces:\n    eth: {}\n",
            "line 3: 'eth' is not an interface's name; write it like vioif0",
        ),
        ("net: {interfaces: {wm0: {addrs: [10.0.0.2]}}}\n", "has no prefix length"),
        ("net: {interfaces: {wm0: {addrs: [10.0.0.256/24]}}}\n", "'10.0.0.256/24' is not an address"),
        ("net: {interfaces: {wm0: {create: 1}}}\n", "create must be true or false"),
        ("net:\n  gateways:\n    - 10.0.0.1\n    - 10.0.0.2\n", "line 4: a second gateway for inet"),
        ("net: {gateways: [gw]}\n", "'gw' is not a gateway"),
        (
            "net:\n  dns:\n    nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]\n",
            "line 3: nameservers can have",
        ),
        ("blk:\n  xbd0: {type: raw, path: a}\n", "line 2: type can't be 'raw'; it is one of etfs, vnd"),
        ("blk:\n  disk0: {type: vnd, path: a}\n", "line 2: 'disk0' is not a vnd device's name"),
        ("blk:\n  xbd0: {type: etfs}\n", "line 2: device xbd0 needs 'path'"),
        ("mount:\n  data: {source: kernfs}\n", "line 2: 'data' is not a mount point; begin it with /"),
        ("mount:\n  /a: {source: blk}\n", "line 2: mount /a needs 'path'"),
        ("mount:\n  /a:\n    source: kernfs\n    path: /dev/x\n", "line 4: 'path' is for source blk"),
        ("mount:\n  /a: {source: tmpfs, size: 16}\n", "line 2: '16' is not a size; write it like 16M"),
        ("mount:\n  /a: {}\n", "line 2: mount /a needs 'source'"),
        ("rc: &a [*a]\n", "a program of rc must be a mapping"),
        (f"env: {{A: {'x' * 5000}}}\n", "at most 4094 bytes, and this one has 5016"),
        ("[" * 20000, "nested too deeply"),
        ("#" * 70000, "is larger than 64 KiB"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RumplabError) as refusal:
        make(tmp_path, text, "new")
    assert message in str(refusal.value)
    assert str(tmp_path / "c.yml") in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rc:\n  - bin: a\n  - bin: b\n", "line 3: the older schema starts one program"),
        ("rc: [{bin: a, runmode: background}]\n", "line 1: the older schema has no runmode"),
        ("rc:\n  - bin: a\n    args: ['\"']\n", "line 2: '\"': a quote, backslash or control character"),
        ('rc: [{bin: "it\'s"}]\n', "it's: an apostrophe may arrive changed"),
        ("env:\n  A: 'a\\b'\n", "line 2: 'A=a\\\\b': a quote, backslash"),
        ("mount:\n  /tmp: {source: tmpfs}\n", "line 2: the older schema has no tmpfs"),
        ("blk:\n  xbd0: {type: etfs, path: a}\n", "line 2: device xbd0 isn't mounted"),
        ("net:\n  interfaces:\n    wm0: {}\n", "line 3: interface wm0 has no address"),
        (
            "net:\n  gateways:\n    - 10.0.0.1\n",
            "line 3: the older schema needs a static address in the network",
        ),
        ("net:\n  interfaces: {wm0: {addrs: [10.1.0.2/24]}}\n  gateways: [10.0.0.1]\n", "line 3: the older"),
        ("net:\n  dns: {search: [a.org]}\n", "line 2: the older schema has no name servers"),
    ],
)
def test_settings_that_the_older_schema_cannot_express(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RumplabError) as refusal:
        make(tmp_path, text, "old")
    assert message in str(refusal.value)
    assert "use --rumprun-schema new" in str(refusal.value)
    make(tmp_path, text, "new")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_bytes(b"rc: []\nhostname: \xff\n")
    with pytest.raises(RumplabError, match="line 2: not UTF-8"):
        rumprun_config.configuration(path, "new")
    with pytest.raises(RumplabError, match="cannot read"):
        rumprun_config.configuration(tmp_path / "none", "new")


def test_stage_with_a_configuration_from_yaml(lab_prefix: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(FULL, "utf-8")
    made = {}
    for options in ([], ["--rumprun-schema", "new"], ["--rumprun-schema", "old"]):
        image = tmp_path / "a.img"
        asked = ["--force", "--rumprun", str(tmp_path / "c.yml"), *options]
        result = lab_prefix.tool("stage", pcihello, "-o", image, *asked)
        assert result.returncode == 0, result.stderr
        kind = options[-1] if options else None
        made[kind] = debugfs_cat(image, "/boot/config.json")
        assert made[kind] == rumprun_config.configuration(tmp_path / "c.yml", kind or "new")
    assert made[None] == made["new"] != made["old"]
    for options, message in (
        (["--config", "c.json", "--rumprun", "c.yml"], "both give the configuration"),
        (["--rumprun-schema", "old"], "is for --rumprun FILE.yml"),
    ):
        result = lab_prefix.tool("stage", pcihello, "-o", tmp_path / "b.img", *options)
        assert result.returncode == 2
        assert message in result.stderr


def debugfs_cat(image: Path, path: str) -> bytes:
    argv = [tool_paths()["debugfs"], "-R", f"cat {path}", f"{image}?offset={PARTITION_START}"]
    return subprocess.run(argv, capture_output=True, timeout=30, check=True).stdout


def test_without_pyyaml(empty_lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "rumplab.image.rumprun_config")
    monkeypatch.delattr(rumplab.image, "rumprun_config")
    with pytest.raises(NotProvisioned, match=re.escape("./provision --tags lab")):
        rumprun_file.make(tmp_path / "c.yml", "new", config.load(), "--rumprun")
