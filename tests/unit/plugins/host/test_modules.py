"""The modules of role lab: packages, the manifest, links on the host, and lab_state, which inspects everything."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.module_utils.host import files, packages, record
from plugins.modules import component, host_links, host_paths, lab_state

USER = "nobody"


def test_a_package_list_has_installed_packages_and_no_removed_ones() -> None:
    text = "ii bash\nrc gone\nii libc6:amd64\nhi held\n"
    assert packages.parse_list("apt", text) == ["bash", "held", "libc6:amd64"]
    assert packages.parse_list("apt", "ii a\nrc b\n") == ["a"]
    assert packages.parse_list("pacman", "b\na\n\n") == ["a", "b"]


def test_homebrew_is_found_where_only_a_login_shell_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "brew").write_text("#!/bin/sh\necho wget qemu | tr ' ' '\\n'\n", "utf-8")
    (tmp_path / "brew").chmod(0o755)
    monkeypatch.setattr(packages, "BREW_PATH", (str(tmp_path),))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert packages.installed("homebrew") == ["qemu", "wget"]


def test_an_unknown_package_manager_is_named() -> None:
    with pytest.raises(ValueError, match="'zypper' isn't one of apt, dnf"):
        packages.installed("zypper")


def test_the_simulation_lists_the_packages_that_would_be_removed() -> None:
    text = "Inst x\nRemv bc [1.07.1-3]\nPurg libgmp-dev [6.2] [nettle-dev:amd64 ]\nConf y\n"
    assert packages.parse_apt_simulation(text) == {"bc", "libgmp-dev"}


def test_a_package_of_the_users_own_keeps_its_dependencies_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"nettle-dev": "libgmp-dev"}
    monkeypatch.setattr(packages, "present", lambda _: ["bc", "libgmp-dev", "nettle-dev"])
    monkeypatch.setattr(packages, "of_interpreter", lambda _: set())
    monkeypatch.setattr(
        packages,
        "_also_removed",
        lambda names: {who for who, what in needs.items() if what in names and who not in names},
    )
    assert packages.removable("apt", ["bc", "libgmp-dev", "gone"]) == (["bc"], ["libgmp-dev"])
    assert packages.removable("apt", ["bc", "libgmp-dev", "nettle-dev"]) == (["bc", "libgmp-dev", "nettle-dev"], [])


def test_homebrew_keeps_what_a_formula_of_somebody_else_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "present", lambda _: ["gettext", "glib", "gtk", "qemu", "wget"])
    asked: list[list[str]] = []

    def output(argv: list[str]) -> str:
        asked.append(argv)
        return "gettext:\nglib: gettext\ngtk: gettext glib\nqemu: gettext glib\nwget:\n"

    monkeypatch.setattr(packages, "_output", output)
    ours = ["qemu", "glib", "gettext", "gone"]
    assert packages.removable("homebrew", ours) == (["qemu"], ["gettext", "glib"])
    assert packages.removable("homebrew", [*ours, "gtk"]) == (["qemu", "glib", "gettext", "gtk"], [])
    assert asked == [["brew", "deps", "--installed", "--formula"]] * 2


def manifest(prefix: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((prefix / "var/manifest.json").read_text())["entries"]
    return found


def test_the_first_entry_makes_the_prefix_and_enters_it(tmp_path: Path) -> None:
    prefix = tmp_path / "a" / "b"
    path = str(prefix / "var" / "manifest.json")
    added = record.record(path, [{"kind": "user", "name": "x"}], USER)
    assert added == manifest(prefix)
    assert added == [
        {"kind": "path", "name": str(tmp_path / "a")},
        {"kind": "prefix", "name": str(prefix)},
        {"kind": "user", "name": "x"},
    ]
    assert record.record(path, [{"kind": "user", "name": "x"}], USER) == []


def test_no_umask_keeps_other_users_out_of_what_is_made_for_the_lab(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        record.record(str(tmp_path / "a" / "b" / "var" / "manifest.json"), [], USER)
    finally:
        os.umask(old)
    made = (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "var")
    assert {path.stat().st_mode & 0o777 for path in made} == {0o755}


def test_check_mode_tells_and_makes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "p" / "var" / "manifest.json")
    assert record.record(path, [], USER, check=True) == [{"kind": "prefix", "name": str(tmp_path / "p")}]
    assert not (tmp_path / "p").exists()


@pytest.fixture
def host_now(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The packages, users and groups of the host; tests add to them as package managers and users do."""
    state = {"package": ["bash"], "user": ["root"], "group": ["root"]}
    monkeypatch.setattr(record, "host_state", lambda _: {kind: list(names) for kind, names in state.items()})
    monkeypatch.setattr(record, "installed", lambda _: list(state["package"]))
    monkeypatch.setattr(packages, "automatic", lambda _: {"libqemu"})
    monkeypatch.setattr(packages, "dependencies", lambda _, names: set(names))
    return state


def package(name: str) -> dict[str, str]:
    return {"kind": "package", "manager": "apt", "name": name}


def test_the_packages_of_a_killed_run_are_found_by_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """apt was killed before it marked the packages that it had installed automatically."""
    listed = "gcc\n  Depends: cpp\ncpp\nlibc6\n<libc-dev>\n  libc6-dev\nlibc6-dev\n"
    asked: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, listed, "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    monkeypatch.setattr(packages, "automatic", lambda _: {"distro-info-data"})
    came = ["cpp", "gcc", "libc6-dev:amd64", "distro-info-data", "nginx"]
    assert packages.installed_for("apt", came, ["gcc"]) == {"cpp", "gcc", "libc6-dev:amd64", "distro-info-data"}
    assert asked[0][0] == "apt-cache" and asked[0][-2:] == ["depends", "gcc"] and "--no-recommends" in asked[0]
    monkeypatch.setattr(packages, "automatic", lambda _: set())
    assert packages.installed_for("pacman", came, ["gcc"]) == {"gcc"}


def test_a_half_installed_package_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "ii make\nii libc6-dev:amd64\nii zlib1g-dev:i386\niU gdb\niHRqemu-utils\nrc flex\nhi held\n"
    answers = {"dpkg-query": listed, "dpkg": "amd64\n", "pacman": "make\n"}
    monkeypatch.setattr(packages, "_output", lambda argv: answers[argv[0]])
    wanted = ["make", "libc6-dev", "held", "zlib1g-dev", "gdb", "qemu-utils", "flex", "bison"]
    assert packages.missing("apt", wanted) == ["zlib1g-dev", "gdb", "qemu-utils", "flex", "bison"]
    assert packages.missing("pacman", ["make", "gcc"]) == ["gcc"]


def test_packages_and_groups_that_an_installation_added_are_recorded(
    tmp_path: Path, host_now: dict[str, list[str]]
) -> None:
    path = str(tmp_path / "var" / "manifest.json")
    (tmp_path / "var").mkdir()
    name = record.remember_packages(path, "apt", ["qemu"], USER)
    host_now["package"].append("qemu")
    host_now["group"].append("rdma")
    assert record.settle_packages(path, name, USER) == [package("qemu"), {"kind": "group", "name": "rdma"}]
    assert record.settle_packages(path, name, USER) == []
    assert sorted(os.listdir(tmp_path / "var")) == ["manifest.json", "manifest.lock"]


def test_two_runs_at_once_record_their_own_packages(tmp_path: Path, host_now: dict[str, list[str]]) -> None:
    path = str(tmp_path / "var" / "manifest.json")
    (tmp_path / "var").mkdir()
    first = record.remember_packages(path, "apt", ["gcc"], USER)
    second = record.remember_packages(path, "apt", ["qemu"], USER)
    host_now["package"].append("gcc")
    assert record.settle_packages(path, first, USER) == [package("gcc")]
    host_now["package"].append("qemu")
    assert record.settle_packages(path, second, USER) == [package("qemu")]


def test_only_requested_packages_of_a_killed_run_are_recorded(tmp_path: Path, host_now: dict[str, list[str]]) -> None:
    path = str(tmp_path / "var" / "manifest.json")
    (tmp_path / "var").mkdir()
    record.remember_packages(path, "apt", ["qemu"], USER)
    host_now["package"] += ["python3-apt", "qemu", "libqemu"]
    # The run is killed here. Later somebody installs a package and makes an account.
    host_now["package"].append("nginx")
    host_now["user"].append("alice")
    # The record is too new, so it may belong to a run that still goes on.
    assert record.settle_abandoned(path, USER) == []
    assert record.settle_abandoned(path, USER, older_than=0) == [
        package("libqemu"),
        # Ansible installs this package for its own use.
        package("python3-apt"),
        package("qemu"),
    ]
    assert record.settle_abandoned(path, USER, older_than=0) == []


def test_the_interpreter_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "present", lambda _: ["bc", "python3-minimal"])
    monkeypatch.setattr(packages, "of_interpreter", lambda _: {"python3-minimal"})
    monkeypatch.setattr(packages, "_also_removed", lambda _: set())
    assert packages.removable("apt", ["bc", "python3-minimal"]) == (["bc"], ["python3-minimal"])


def test_homebrews_interpreter_stays_with_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "Cellar/python@3.12/3.12.7/bin/python3.12"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "python3").symlink_to(python)
    monkeypatch.setattr(packages.sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setattr(packages, "present", lambda _: ["openssl@3", "python@3.12", "qemu"])
    monkeypatch.setattr(packages, "_output", lambda _: "openssl@3:\npython@3.12: openssl@3\nqemu:\n")
    ours = ["python@3.12", "openssl@3", "qemu"]
    assert packages.removable("homebrew", ours) == (["qemu"], ["openssl@3", "python@3.12"])


def test_a_manifest_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json is not JSON .*run ./provision again"):
        record.record(str(tmp_path / "var/manifest.json"), [], USER)


def test_account_files_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "group").write_text("# comment\nroot:x:0:\nrdma:x:101:\n")
    assert record.account_names(str(tmp_path / "group")) == ["root", "rdma"]
    assert record.account_names(str(tmp_path / "none")) == []


def test_links_are_planned_with_the_directories_they_need(tmp_path: Path) -> None:
    links = {"bin/rumplab": "bin/rumplab", "share/x/rumplab": "share/x"}
    wrong, parents = host_links.plan(str(tmp_path), "/opt/rumplab/rumplab", links)
    assert [link for link, _ in wrong] == [str(tmp_path / name) for name in links]
    assert parents == [str(tmp_path / name) for name in ("bin", "share", "share/x")]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rumplab").symlink_to("/opt/rumplab/rumplab/bin/rumplab")
    assert host_links.plan(str(tmp_path), "/opt/rumplab/rumplab", {"bin/rumplab": "bin/rumplab"}) == ([], [])


def test_somebody_elses_file_stops_the_plan(tmp_path: Path) -> None:
    (tmp_path / "rumplab").write_text("theirs")
    with pytest.raises(ValueError, match="exists and isn't rumplab's"):
        host_links.plan(str(tmp_path), "/opt/rumplab/rumplab", {"rumplab": "bin/rumplab"})


def test_only_links_and_directories_that_get_empty_go(tmp_path: Path) -> None:
    (tmp_path / "ours/deep").mkdir(parents=True)
    (tmp_path / "ours/deep/link").symlink_to("/nowhere")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/theirs").write_text("x")
    (tmp_path / "file").write_text("x")
    paths = [str(tmp_path / name) for name in ("ours/deep/link", "ours/deep", "ours", "shared", "file", "none")]
    assert host_paths.removable(paths) == (paths[:3], paths[3:5])


def test_a_components_programs_are_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qemu").write_text("#!/bin/sh\necho QEMU emulator version 7.2.22 of 2026\n")
    (tmp_path / "qemu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    paths, missing = component.locate(["qemu", "no-such"], {"modules": ["/none", str(tmp_path)]})
    assert (paths, missing) == ({"qemu": str(tmp_path / "qemu"), "modules": str(tmp_path)}, ["no-such"])
    assert component.version_of(["qemu", "--version"], paths) == "7.2.22"
    with pytest.raises(ValueError, match="prints no version"):
        component.version_of(["true"], {})


def test_lab_state_reports_changed_programs_and_deferred_trees(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("1")
    described = {
        "name": "qemu",
        "state": "installed",
        "paths": {"qemu": str(program)},
        "request": "r",
        "fingerprints": files.fingerprints({"qemu": str(program)}),
    }
    components = tmp_path / "etc/components.d"
    components.mkdir(parents=True)
    (components / "qemu.json").write_text(json.dumps(described))
    (components / "bad.json").write_text("{")
    (components / "gdb.json").write_text(json.dumps({"name": "gdb", "reason": "deferred: 404"}))
    found = lab_state.descriptors(str(components))
    assert set(found) == {"qemu", "gdb"}
    assert lab_state.is_intact(found["qemu"]) and not lab_state.is_intact(found["gdb"])
    assert lab_state.is_outdated(found["gdb"]) and not lab_state.is_outdated(found["qemu"])
    program.write_text("12")
    assert not lab_state.is_intact(found["qemu"])
    program.unlink()
    assert not lab_state.is_intact(found["qemu"])


def test_what_a_killed_run_left_of_an_artefact_is_unfinished(tmp_path: Path) -> None:
    for name in ("work/gdb", "store/gcc-9-0123456789ab", "store/.go_builder-1-0123456789ab.former.part"):
        (tmp_path / name).mkdir(parents=True)
    left = lab_state.unfinished(str(tmp_path))
    assert [name for name in ("gdb", "gcc", "go", "go_builder") if not lab_state.is_finished(name, left)] == [
        "gdb",
        "go_builder",
    ]


def test_a_pipe_where_a_record_was_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/rumplab.json")
    os.mkfifo(tmp_path / "etc/gdb.json")
    assert lab_state.checksum(str(tmp_path / "etc/rumplab.json")) == ""
    assert lab_state.recorded_user(str(tmp_path / "etc/rumplab.json")) == ""
    assert lab_state.descriptors(str(tmp_path / "etc")) == {}


def test_a_deferral_is_left_alone_until_its_time_or_until_what_it_awaits_has_come(tmp_path: Path) -> None:
    awaited = tmp_path / "program"
    told = {"request": "r", "tried": "2026-01-01T10:00:00Z", "until": "2026-01-01T11:00:00Z", "awaited": [str(awaited)]}
    described = {"name": "qemu", "state": "deferred", "deferral": told}
    assert lab_state.is_left_alone(described, "2026-01-01T10:00:00Z")
    assert lab_state.is_left_alone(described, "2026-01-01T10:59:59Z")
    assert not lab_state.is_left_alone(described, "2026-01-01T11:00:00Z")
    # The clock was set back, so the time of the deferral has no meaning.
    assert not lab_state.is_left_alone(described, "2026-01-01T09:59:59Z")
    unreadable: list[dict[str, Any]] = [{}, {"deferral": None}, {"deferral": {}}, {"deferral": {**told, "request": ""}}]
    for broken in unreadable:
        assert not lab_state.is_left_alone({"name": "qemu", **broken}, "2026-01-01T10:00:00Z")
    awaited.touch()
    assert not lab_state.is_left_alone(described, "2026-01-01T10:30:00Z")


def test_another_route_resolver_or_proxy_is_another_network() -> None:
    routes = "Iface Destination Gateway Flags\neth0 00000000 0100A8C0 0003\neth0 0000A8C0 00000000 0001\n"
    resolver = "# made by x\nnameserver 192.168.0.1\n"
    here = lab_state.network_hash(routes, resolver, {})
    assert here == lab_state.network_hash(routes, "nameserver 192.168.0.1\n", {"PATH": "/bin"})
    others = [
        lab_state.network_hash(routes.replace("eth0", "wlan0"), resolver, {}),
        lab_state.network_hash("", resolver, {}),
        lab_state.network_hash(routes, "", {}),
        lab_state.network_hash(routes, resolver, {"https_proxy": "http://proxy.example"}),
    ]
    assert len({here, *others}) == 5


def test_a_component_that_packages_are_missing_for_says_what_it_awaits() -> None:
    params = {"files": {"modules": ["/a", "/b"]}, "deferral": "r", "retry_after": 3600}
    assert component.deferral(params, ["qemu", "modules"], 0.0) == {
        "request": "r",
        "awaited": ["qemu", "/a", "/b"],
        "tried": "1970-01-01T00:00:00Z",
        "until": "1970-01-01T01:00:00Z",
    }


def test_a_checksum_is_that_of_the_content_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"stamp")
    assert lab_state.checksum(str(tmp_path / "x")) == hashlib.sha1(b"stamp").hexdigest()
    assert lab_state.checksum(str(tmp_path / "y")) == ""
    assert lab_state.names(str(tmp_path / "none")) == []


def test_files_of_the_lab_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(str(path), {"ü": 1}, "no-such-user")
    assert json.loads(path.read_text()) == {"ü": 1}
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(TypeError):
        files.write_json(str(path), {"x": object()}, USER)
    assert json.loads(path.read_text()) == {"ü": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_every_dpkg_state_except_not_installed_counts_as_present() -> None:
    text = "ii bash\nun never\nrc gone\niU unpacked\niF failed\niHRbroken:amd64\nit awaited\npH purging\n"
    begun = ["awaited", "broken:amd64", "failed", "purging", "unpacked"]
    assert packages.parse_list("apt", text) == sorted(["bash", *begun])
    assert packages.parse_list("apt", text, packages.ABSENT) == sorted(["bash", "gone", *begun])


def test_half_installed_packages_are_distinguished_from_installed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_output", lambda _: "ii bash\nrc gone\niU unpacked\niHRbroken\n")
    asked: list[list[str]] = []

    def dpkg(argv: list[str]) -> str:
        asked.append(argv)
        return ""

    monkeypatch.setattr(packages, "_dpkg", dpkg)
    assert packages.half_done("apt") == ["broken", "unpacked"]
    assert packages.take_back("apt", ["broken", "bash", "gone"]) == ["broken"]
    assert asked == [[*packages.PURGE, "broken"]]
    assert packages.half_done("pacman") == [] and packages.take_back("pacman", ["bash"]) == []


def test_dpkg_is_configured_only_if_it_has_unfinished_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    answers = ["dpkg: error: dpkg frontend lock was locked by another process with pid 7", ""]

    def dpkg(argv: list[str]) -> str:
        asked.append(argv)
        return answers[len(asked) - 1]

    monkeypatch.setattr(packages, "_dpkg", dpkg)
    monkeypatch.setattr(packages, "_has_journal", lambda: False)
    monkeypatch.setattr(packages.time, "sleep", lambda _: None)
    monkeypatch.setattr(packages, "_output", lambda _: "\n")
    assert packages.finish("apt") is False and packages.finish("dnf") is False and asked == []
    monkeypatch.setattr(packages, "_output", lambda _: "The following packages are only half configured…\n gcc\n")
    assert packages.finish("apt") is True
    assert asked == [packages.CONFIGURE] * 2
    # The lock of an account tool may never be released, so don't wait for it: apt will report it.
    asked.clear()
    answers[0] = "groupadd: lock /etc/group.lock already used by PID 3177"
    assert packages.finish("apt") is True
    assert asked == [packages.CONFIGURE]


def test_a_tree_is_sound_while_its_files_match_the_descriptor(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("1")
    paths = {"program": str(tmp_path / "program"), "modules": str(tmp_path)}
    marks = files.fingerprints({"program": paths["program"]})
    described = {"name": "gdb", "state": "installed", "paths": paths, "fingerprints": marks, "reason": None}
    assert lab_state.is_sound(described)
    assert not lab_state.is_sound({**described, "reason": "deferred: 404"})
    assert not lab_state.is_sound({**described, "paths": {**paths, "modules": str(tmp_path / "gone")}})
    assert not lab_state.is_sound({**described, "fingerprints": None}) and not lab_state.is_sound({})
    (tmp_path / "program").write_text("12")
    assert not lab_state.is_sound(described)
    (tmp_path / "program").unlink()
    assert not lab_state.is_sound(described)


@pytest.mark.parametrize("damage", [None, "", "{", "[]", '{"entries": []}'])
@pytest.mark.parametrize("which", ["var", "etc"])
def test_a_manifest_that_is_not_kept_twice_is_noticed(tmp_path: Path, which: str, damage: str | None) -> None:
    record.record(str(tmp_path / "var/manifest.json"), [package("qemu")], USER)
    assert lab_state.is_recorded(str(tmp_path))
    (tmp_path / which / "manifest.json").unlink()
    if damage is not None:
        (tmp_path / which / "manifest.json").write_text(damage)
    assert not lab_state.is_recorded(str(tmp_path))


def test_a_description_that_names_nobody_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rumplab.json"
    for text, user in (('{"user": "root"}', "root"), ('{"user": "rooT"}', ""), ("{", ""), ('{"user": 1}', "")):
        path.write_text(text)
        assert lab_state.recorded_user(str(path)) == user


class LabStateRuns:
    """A lab with a component, a tree and a deferral; runs module lab_state on it as a play does."""

    def __init__(self, prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.prefix, self.monkeypatch, self.capsys = prefix, monkeypatch, capsys
        self.components = prefix / "etc" / "components.d"
        self.components.mkdir(parents=True)
        (prefix / "gdb").mkdir()
        (prefix / "gdb" / "gdb").write_text("program")
        (prefix / "gdb" / ".complete").write_text("stamp")
        paths = {"gdb": str(prefix / "gdb" / "gdb")}
        tree = {"name": "gdb", "state": "installed", "paths": paths, "fingerprints": files.fingerprints(paths)}
        self.write("etc/components.d/gdb.json", tree)
        self.write("etc/components.d/qemu.json", {**tree, "name": "qemu", "request": "r"})
        for directory in ("var", "etc"):
            self.write(f"{directory}/manifest.json", {"entries": []})
        self.defer("2026-01-01T10:00:00Z", "2100-01-01T00:00:00Z")

    def write(self, name: str, content: Any) -> None:
        (self.prefix / name).parent.mkdir(exist_ok=True)
        (self.prefix / name).write_text(json.dumps(content))

    def defer(self, tried: str, until: str) -> None:
        told = {"request": "r", "tried": tried, "until": until}
        self.write("etc/components.d/go_builder.json", {"name": "go_builder", "state": "deferred", "deferral": told})

    def look(self, inputs: str = "i", **params: Any) -> dict[str, Any]:
        """Run the module and return its answer."""
        told = {"prefix": str(self.prefix), "link": "/nonexistent", "inputs": inputs, **params}
        with patch_module_args(told), pytest.raises(SystemExit):
            lab_state.main()
        found: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return found

    def settle(self) -> None:
        """Make a full run that finds nothing to do, so that it is remembered."""
        assert "msg" not in self.look(settle=self.look()["state"])
        assert self.look()["settled"]


@pytest.fixture
def lab_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> LabStateRuns:
    return LabStateRuns(tmp_path, monkeypatch, capsys)


def test_a_run_that_found_nothing_to_do_is_remembered_for_its_inputs(lab_runs: LabStateRuns) -> None:
    assert not lab_runs.look()["settled"]
    lab_runs.settle()
    assert lab_runs.look()["settled"]
    assert not lab_runs.look(inputs="other")["settled"]
    assert not lab_runs.look(inputs="")["settled"]


def test_a_run_that_changed_something_is_not_remembered(lab_runs: LabStateRuns) -> None:
    began = lab_runs.look()["state"]
    lab_runs.write("var/manifest.json", {"entries": [{"kind": "package", "name": "gcc"}]})
    assert not lab_runs.look(settle=began)["settled"]
    assert not lab_runs.look()["settled"]


def test_a_run_that_tried_for_what_is_deferred_is_not_remembered(lab_runs: LabStateRuns) -> None:
    """With rumplab_retry_after=0, each run must try again."""
    lab_runs.defer("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z")
    began = lab_runs.look()["state"]
    lab_runs.defer("2026-01-01T10:00:09Z", "2026-01-01T10:00:09Z")
    assert not lab_runs.look(settle=began)["settled"]


def test_a_run_without_inputs_and_one_in_check_mode_write_no_record(lab_runs: LabStateRuns) -> None:
    state = lab_runs.look()["state"]
    lab_runs.look(inputs="", settle=state)
    lab_runs.look(settle=state, _ansible_check_mode=True)
    assert not (lab_runs.prefix / "var" / "settled.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda lab: (lab.components / "qemu.json").unlink(),
        lambda lab: (lab.components / "gdb.json").write_text("{"),
        lambda lab: (lab.components / "go_builder.json").unlink(),
        lambda lab: (lab.prefix / "gdb" / "gdb").write_text("another"),
        lambda lab: (lab.prefix / "gdb" / ".complete").unlink(),
        lambda lab: (lab.prefix / "var" / "manifest.json").unlink(),
        lambda lab: (lab.prefix / "etc" / "manifest.json").unlink(),
        lambda lab: (lab.prefix / "etc" / "rumplab.json").write_text("{}"),
        lambda lab: lab.defer("2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"),
        lambda lab: lab.monkeypatch.setenv("https_proxy", "http://proxy.example"),
        lambda lab: lab.monkeypatch.setattr(time, "time", lambda: 5e9),
        lambda lab: (lab.prefix / "var" / "settled.json").write_text("{"),
        lambda lab: lab.write("var/settled.json", ["i"]),
    ],
    ids=[
        *("descriptor of packages lost", "descriptor of a tree damaged", "descriptor of a deferral lost"),
        *("program changed", "stamp lost", "manifest lost", "manifest's copy lost", "another description"),
        *(
            "another deferral",
            "another network",
            "time of the deferral over",
            "record damaged",
            "record of another kind",
        ),
    ],
)
def test_a_change_that_a_run_would_notice_invalidates_the_record(
    lab_runs: LabStateRuns, change: Callable[[LabStateRuns], Any]
) -> None:
    lab_runs.settle()
    change(lab_runs)
    assert not lab_runs.look()["settled"]


def test_a_record_that_is_not_a_plain_file_is_ignored(lab_runs: LabStateRuns) -> None:
    os.mkfifo(lab_runs.prefix / "var" / "settled.json")
    assert not lab_runs.look()["settled"]
