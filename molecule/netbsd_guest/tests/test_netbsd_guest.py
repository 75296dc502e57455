"""Role netbsd_guest with a miniature release: its result, the cost of a second kernel, and its errors."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.driving import HTTP, ROOT, docker

PREFIX = "/opt/rumplab"
LABS = "/opt/labs"
CONTAINER = f"rumplab-{os.environ.get('RUMPLAB_DEBIAN') or '12'}-netbsd_guest"
ARCHIVE = f"{HTTP}/keyed/NetBSD-@release@/@file@?key=NetBSD"
COMPILER = f"{LABS}/cc15"
GCC_15 = """#!/bin/sh
test "$1" != -E || exec echo 15 __clang__
exec cc "$@"
"""
TREES = ("sources", "tools_amd64", "kernel_amd64", "disk_amd64", "pcictl_amd64")


def sh(script: str, *arguments: str) -> str:
    """Run a shell script in the container, which must succeed, and return its output."""
    return docker("exec", CONTAINER, "sh", "-euc", script, "sh", *arguments)


def described(name: str, prefix: str = PREFIX) -> dict[str, Any]:
    """Return a component's descriptor."""
    found: dict[str, Any] = json.loads(sh('cat "$1/etc/components.d/netbsd_$2.json"', prefix, name))
    return found


@pytest.fixture(scope="session")
def hashes() -> dict[str, dict[str, str]]:
    """The hashes of the releases' files."""
    found: dict[str, dict[str, str]] = json.loads(sh("cat /srv/upstream/netbsd.json"))
    return found


class Lab:
    """Runs the role in separate prefixes, with the variables that the fixture needs."""

    def __init__(self, directory: Path, hashes: dict[str, dict[str, str]]) -> None:
        self.directory, self.hashes = directory, hashes

    def __call__(self, name: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the role with these variables, in the prefix `name` unless they say another one."""
        prefix = more.get("rumplab_prefix", f"{LABS}/{name}")
        sh('mkdir -p "$1" && chown rumplab "$1"', prefix)
        variables = {
            "rumplab_prefix": prefix,
            "rumplab_user": "rumplab",
            "rumplab_built_cache": "",
            "netbsd_guest_enabled": True,
            "netbsd_guest_release": "10.9",
            "netbsd_release_hosts": [f"{HTTP}/files/NetBSD-@release@/@file@"],
            "netbsd_guest_hashes": self.hashes["10.9"],
            "netbsd_release_disk": False,
            "artifact_fetch_timeout": 3,
            **more,
        }
        file = self.directory / f"{name}.json"
        file.write_text(json.dumps(variables))
        environment = {
            **os.environ,
            "ANSIBLE_GATHERING": "smart",
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.directory / "facts"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_NOCOLOR": "1",
        }
        playbook = str(ROOT / "molecule/netbsd_guest/rows.yml")
        argv = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "-e", f"@{file}", playbook]
        return subprocess.run(argv, env=environment, text=True, capture_output=True, timeout=300, check=False)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return a run's output, with line breaks replaced by one blank."""
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, hashes: dict[str, dict[str, str]]) -> Lab:
    """Runs the role."""
    return Lab(tmp_path_factory.mktemp("rows"), hashes)


@pytest.mark.parametrize("name", TREES)
def test_what_the_descriptors_say(name: str) -> None:
    found = described(name)
    assert (found["state"], found["version"], found["reason"]) == ("installed", "10.9", None)
    assert "BSD-2-Clause" in found["licence"]
    assert found["paths"] and all(sh('test -e "$1" && echo there', path) for path in found["paths"].values())
    assert sh('stat -c %U "$1"', found["tree"]) == "rumplab"


def test_a_release_that_was_moved_comes_from_the_archive_with_its_key() -> None:
    archive = ARCHIVE.replace("@release@", "10.9").replace("key=NetBSD", "key=…")
    expected = [archive.replace("@file@", f"source/sets/{name}.tgz") for name in ("src", "syssrc")]
    first, *_ = described("tools_amd64")["origin"].split(", ")
    assert first == expected[0]
    assert described("sources")["origin"].split(", ") == expected


def test_files_of_one_name_have_names_of_their_own_in_the_cache() -> None:
    names = sh('ls "$1/cache"', PREFIX).split()
    assert "NetBSD-10.9-i386-binary-sets-base.tgz" in names
    assert "NetBSD-10.9-amd64-binary-sets-base.tar.xz" in names


@pytest.mark.parametrize(("machine", "elf_class"), [("amd64", "02"), ("i386", "01")])
def test_the_kernel_has_kgdb_and_its_symbols_name_sources_that_the_lab_has(machine: str, elf_class: str) -> None:
    paths = described(f"kernel_{machine}")["paths"]
    assert sh('od -An -tx1 -j4 -N1 "$1"', paths["kernel"]) == elf_class
    assert " T kgdb_connect" in sh('nm "$1"', paths["symbols"])
    assert ".debug_info" not in sh('readelf -S "$1"', paths["kernel"])
    wanted = 'readelf --debug-dump=info "$1" | grep -o "/usr/src/sys/[a-z/]*" | sort -u'
    assert sh(wanted, paths["symbols"]).split() == ["/usr/src/sys/kgdb"]
    names = [f"/usr/src/sys/kgdb/{name}.c" for name in ("kgdb", "main", "com")]
    sources = described("sources")["paths"]["sources"]
    assert all(sh('test -f "$1" && echo there', sources + name.removeprefix("/usr/src")) for name in names)
    assert PREFIX not in sh('readelf --debug-dump=info "$1" | grep DW_AT_comp_dir', paths["symbols"])


def test_the_kernels_configuration() -> None:
    paths = described("kernel_amd64")["paths"]
    lines = sh('cat "$1"', paths["config"]).splitlines()
    assert lines[0] == 'include "arch/amd64/conf/GENERIC"'
    left = sh('objcopy --dump-section .options=/dev/stdout "$1" /dev/null', paths["symbols"]).splitlines()
    expected = ["FFS", "KGDB", 'KGDB_DEVNAME="\\"com\\""', "KGDB_DEVADDR=0x2f8", "KGDB_DEVRATE=115200"]
    assert [line for line in left if line.startswith("options ")] == [f"options {one}" for one in expected]


def test_the_build_was_told_what_netbsds_needs() -> None:
    said = sh('cat "$1/var/log/build/netbsd_tools_amd64.log"', PREFIX)
    assert "===> update yes, left out: MKDOC MKHTML MKINFO" in said
    kernel = sh('cat "$1/var/log/build/netbsd_kernel_amd64.log"', PREFIX)
    assert "Bootstrapping nbmake" in said and "Bootstrapping nbmake" not in kernel
    # The tools' tree isn't changed: the wrapper of make is written into the build directory.
    newer = sh('find "$1/" -newer "$1/.complete" -type f', f"{PREFIX}/netbsd_tools_amd64")
    assert newer == ""


def test_the_disk_belongs_to_root_though_the_lab_user_made_it() -> None:
    disk = described("disk_amd64")["paths"]["disk"]
    assert sh('stat -c "%U %s" "$1"', disk) == f"rumplab {(16 << 20) + (1 << 20)}"
    # The disk is sparse: unused blocks take no space.
    assert int(sh('stat -c %b "$1"', disk)) * 512 < 8 << 20
    assert sh('grep -a -c "ROOT.a  /         ffs     rw " "$1"', disk) == "1"
    assert sh('grep -a -c "ssh-ed25519 AAAA somebody" "$1"', disk) == "1"


def test_pcictl_is_linked_with_the_guests_sets_and_is_on_the_disk_and_in_an_image() -> None:
    for machine in ("amd64", "i386"):
        paths = described(f"pcictl_{machine}")["paths"]
        assert sh('"$1"', paths["pcictl"]) == f"list -N: yes, of the set 10.9 {machine}"
        assert sh('dd if="$1" bs=1 skip=32769 count=5 2>/dev/null', paths["iso"]) == "CD001"
        assert int(sh('grep -a -c "10.9 $2" "$1"', described(f"disk_{machine}")["paths"]["disk"], machine)) >= 1
        assert int(sh('grep -a -c "10.9 $2" "$1"', paths["iso"], machine)) >= 1


def test_another_kernel_costs_only_itself(lab: Lab) -> None:
    name = "kernels"
    first = lab(name)
    assert first.returncode == 0, first.stdout
    prefix = f"{LABS}/{name}"
    tools, kernel = described("tools_amd64", prefix), described("kernel_amd64", prefix)
    built = sh('stat -c %y "$1"', f"{prefix}/var/log/build/netbsd_tools_amd64.log")
    more = {"netbsd_guest_kernel_options": ["options DIAGNOSTIC"], "netbsd_guest_more_kernels": {"plain": []}}
    second = lab(name, **more)
    assert second.returncode == 0, second.stdout
    assert described("tools_amd64", prefix) == tools
    assert sh('stat -c %y "$1"', f"{prefix}/var/log/build/netbsd_tools_amd64.log") == built
    changed = described("kernel_amd64", prefix)
    assert changed["stamp"] != kernel["stamp"]
    assert "options DIAGNOSTIC" in sh('cat "$1"', changed["paths"]["config"])
    plain = described("kernel_amd64_plain", prefix)
    assert sorted(sh('ls "$1"', plain["tree"]).split()) == ["PLAIN", "netbsd", "netbsd.gdb"]
    third = lab(name, **more)
    assert "changed=0" in third.stdout and third.returncode == 0, third.stdout
    # Switch back to the first kernel, which is still in the store.
    assert lab(name).returncode == 0
    assert described("kernel_amd64", prefix)["tree"] == kernel["tree"]


def test_what_cannot_be_reached_is_deferred_and_nothing_is_installed_for_it(lab: Lab) -> None:
    down = "http://127.0.0.1:1/@file@"
    done = lab("down", netbsd_release_hosts=[f"{HTTP}/moved/@file@", down])
    assert done.returncode == 0, done.stdout
    found = described("tools_amd64", f"{LABS}/down")
    assert found["state"] == "deferred"
    assert f"{HTTP}/moved/source/sets/src.tgz: the server sends a web page, {HTTP}/page/moved" in found["reason"]
    assert "refused" in found["reason"]
    kernel = described("kernel_amd64", f"{LABS}/down")
    assert kernel["state"] == "deferred"
    assert kernel["reason"].startswith("it is built with netbsd_tools_amd64, which isn't installed: ")
    # Not even the installed packages were listed. (The sources, which are fetched first, need no packages.)
    assert done.stdout.count("TASK [Install the build dependencies]") == 1


# A failure doesn't change what is installed, so these rows can share a prefix and its trees.
SHARED = {"rumplab_prefix": f"{LABS}/kernels"}
FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "no_key": (
        {"netbsd_release_hosts": [f"{HTTP}/keyed/NetBSD-@release@/@file@"]},
        "HTTP 402 (Payment Required): it requires a key in the URL",
    ),
    "wrong_hash": (
        {"netbsd_release_hosts": [f"{HTTP}/altered/NetBSD-@release@/@file@"]},
        "is not the pinned file: sha512",
    ),
    "unknown_release": (
        {"netbsd_guest_release": "9.4", "netbsd_guest_hashes": {}},
        "pub/NetBSD/security/hashes/NetBSD-9.4_hashes.asc",
    ),
    # This release exists, but only one project states its hashes.
    "unconfirmed_release": (
        {"netbsd_guest_release": "11.0", "netbsd_guest_hashes": {}},
        "pub/NetBSD/security/hashes/NetBSD-11.0_hashes.asc",
    ),
    "unknown_sets": (
        {"netbsd_release_disk": True, "netbsd_release_sets": ["base", "etc", "modules"]},
        "No hash is pinned of these files of NetBSD 10.9: amd64/binary/sets/modules.tar.xz.",
    ),
    "not_common": (
        {**SHARED, "netbsd_release_host_cflags": "-O -fno-common"},
        "multiple definition of `count'",
    ),
    "old_amd64": (
        {"netbsd_guest_release": "7.2", "netbsd_guest_hashes": dict.fromkeys(
            [f"source/sets/{name}.tgz" for name in ("src", "syssrc", "gnusrc", "sharesrc")]
            + [f"amd64/binary/sets/{name}.tgz" for name in ("base", "comp")], "0" * 64)},
        "before release 8, its kgdb sends the registers as a trap frame",
    ),
    "bad_name": ({"netbsd_guest_more_kernels": {"../x": []}}, "a name is lower-case letters and digits"),
    "name_of_another_role": (
        {"netbsd_guest_more_kernels": {"ipkdb": []}},
        "It can't be kgdb (use netbsd_guest_kernel_options for that kernel) or ipkdb (use role ipkdb)",
    ),
    "bad_line": ({**SHARED, "netbsd_guest_kernel_options": ["optoins DIAGNOSTIC"]}, "syntax error: optoins DIAGNOSTIC"),
    "small_disk": (
        {**SHARED, "netbsd_release_disk": True, "netbsd_release_disk_size": 0},
        "netbsd_release_disk_size is 0 MiB, and the sets need",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_says_what_it_is(lab: Lab, name: str) -> None:
    variables, message = FAILURES[name]
    done = lab(name, **variables)
    assert done.returncode == 2 and message in said(done), said(done)


def test_a_compiler_that_the_tools_break_with_is_refused_before_they_are_built(lab: Lab) -> None:
    sh('printf "#!/bin/sh\\necho 15 __clang__\\n" >/usr/local/bin/cc15; chmod 755 /usr/local/bin/cc15')
    done = lab("new_compiler", **SHARED, netbsd_release_host_cc="cc15")
    assert done.returncode == 2
    assert "NetBSD's tools are reported to break with GCC 15: install GCC 14 or older" in said(done), said(done)


def test_a_release_that_is_not_pinned_comes_by_its_signed_list(
    lab: Lab, hashes: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    listed = tmp_path / "NetBSD-8.9_hashes.asc"
    listed.write_text(sh("cat /srv/upstream/files/NetBSD-8.9_hashes.asc") + "\n")
    variables = {
        "netbsd_guest_release": "8.9",
        "netbsd_guest_architectures": ["i386"],
        "netbsd_guest_hashes": {},
        "netbsd_guest_hash_list": str(listed),
    }
    done = lab("listed", **variables)
    assert done.returncode == 0, done.stdout
    assert described("kernel_i386", f"{LABS}/listed")["version"] == "8.9"
    name = "source/sets/src.tgz"
    wrong = lab("contradiction", **{**variables, "netbsd_guest_hashes": {name: hashes["10.9"][name]}})
    assert wrong.returncode == 2
    assert f"{name}: one source states the hash {hashes['8.9'][name]}, another {hashes['10.9'][name]}" in said(wrong)


def options(kernel: dict[str, Any]) -> set[str]:
    """Return the options that a kernel was built with."""
    left = sh('objcopy --dump-section .options=/dev/stdout "$1" /dev/null', kernel["paths"]["symbols"]).splitlines()
    return {line.removeprefix("options ") for line in left if line.startswith("options ")}


def test_from_11_on_a_kernel_with_kgdb_has_no_heartbeat_that_a_debugger_would_stop(
    lab: Lab, hashes: dict[str, dict[str, str]]
) -> None:
    release = {"netbsd_guest_release": "11.9", "netbsd_guest_hashes": hashes["11.9"]}
    # A compiler that reports the version with which 10.1's tools fail; there is no such report for 11's tools.
    sh('printf "%s\\n" "$2" >"$1"; chmod 755 "$1"', COMPILER, GCC_15)
    done = lab("eleven", **release, netbsd_guest_more_kernels={"plain": []}, netbsd_release_host_cc=COMPILER)
    assert done.returncode == 0, done.stdout
    kernel, plain = (described(f"kernel_amd64{name}", f"{LABS}/eleven") for name in ("", "_plain"))
    assert "HEARTBEAT" in options(plain) and "KGDB" not in options(plain)
    assert "HEARTBEAT" not in options(kernel) and "KGDB" in options(kernel)
    # Before 11, GENERIC has no HEARTBEAT, so the configuration has no line to remove it.
    assert "HEARTBEAT" not in sh('cat "$1"', described("kernel_amd64")["paths"]["config"])


def test_nothing_is_done_unless_it_is_wanted(lab: Lab) -> None:
    done = lab("unwanted", netbsd_guest_enabled=False)
    assert done.returncode == 0
    assert sh('ls -A "$1"', f"{LABS}/unwanted") == ""
