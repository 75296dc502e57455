"""Reading the seam (rumplab.json and descriptors): good files, and each kind of bad file with its message."""

from __future__ import annotations

import pytest
from support.labfixture import LabPrefix

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.lab import config


def test_lab_and_component(empty_lab: LabPrefix) -> None:
    empty_lab.component("qemu", {"qemu-img": "/bin/true"}, version="7.2")
    lab = config.load()
    assert (lab.prefix, lab.user, lab.version) == (empty_lab.prefix, "lab", "0.1.0")
    component = lab.component("qemu")
    assert (component.state, component.version) == ("installed", "7.2")
    assert component.path("qemu-img") == "/bin/true"
    assert [item.name for item in lab.components()] == ["qemu"]


def test_component_that_is_not_there_names_its_command(empty_lab: LabPrefix) -> None:
    empty_lab.write_config(provision="cd ~/rumplab && ./provision")
    with pytest.raises(NotProvisioned, match=r"gdb is not provisioned; run: .*\./provision --tags gdb"):
        config.load().component("gdb")


@pytest.mark.parametrize(
    ("component", "tag"),
    [
        ("netbsd_sources", "netbsd_guest"),
        ("netbsd_kernel_amd64_nokasan", "netbsd_guest"),
        ("netbsd_kernel_i386_ipkdb", "ipkdb"),
        ("netbsd_tools_i386_ipkdb", "ipkdb"),
        ("ipkdbdemo", "ipkdbdemo"),
    ],
)
def test_the_tag_is_that_of_the_role(empty_lab: LabPrefix, component: str, tag: str) -> None:
    with pytest.raises(NotProvisioned, match=rf"{component} is not provisioned; run: .*\./provision --tags {tag}$"):
        config.load().component(component)


def test_deferred_component_says_why(empty_lab: LabPrefix) -> None:
    empty_lab.component("gdb", {}, state="deferred", reason="connection refused", stamp=None)
    with pytest.raises(
        NotProvisioned, match=r"deferred \(connection refused\); remove that cause, then run: .*--tags gdb"
    ):
        config.load().component("gdb")
    assert [component.state for component in config.load().components()] == ["deferred"]


def test_a_path_of_a_descriptor_that_no_longer_exists(empty_lab: LabPrefix) -> None:
    empty_lab.component("gdb", {"gdb": "/nonexistent/gdb"})
    component = config.load().component("gdb")
    with pytest.raises(NotProvisioned, match=r"/nonexistent/gdb of component gdb is missing"):
        component.path("gdb")
    with pytest.raises(NotProvisioned, match="no path for gdbinit"):
        component.path("gdbinit")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1, column 1"),
        (b'{"schema": 1,\n "prefix": }', "line 2, column 12"),
        (b"[]", "does not hold a JSON object"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"{}", "has schema None, this tool reads 1"),
        (b'{"schema": 2}', "has schema 2"),
        (b'{"schema": 1}', "'prefix' must be"),
        (b'{"schema": 1, "prefix": 3}', "'prefix' must be"),
    ],
)
def test_malformed_configuration_names_file_and_remedy(empty_lab: LabPrefix, content: bytes, message: str) -> None:
    empty_lab.config.write_bytes(content)
    with pytest.raises(RumplabError) as caught:
        config.load()
    assert message in str(caught.value)
    assert str(empty_lab.config) in str(caught.value)
    assert "./provision" in str(caught.value)


@pytest.mark.parametrize("change", [{"paths": []}, {"paths": {"gdb": 1}}, {"name": ""}, {"state": None}])
def test_malformed_descriptor_names_file_and_remedy(empty_lab: LabPrefix, change: dict[str, object]) -> None:
    empty_lab.component("gdb", {}, **change)
    with pytest.raises(RumplabError) as caught:
        config.load().component("gdb")
    assert str(empty_lab.descriptor("gdb")) in str(caught.value)
    assert "--tags gdb" in str(caught.value)


def test_configuration_that_is_a_directory(empty_lab: LabPrefix) -> None:
    empty_lab.config.unlink()
    empty_lab.config.mkdir()
    with pytest.raises(RumplabError, match=r"cannot read .*it is a directory, not a file; write it again"):
        config.load()
