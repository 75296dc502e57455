"""The runtime tool reads YAML with its own PyYAML. Runs first, since test_lab.py ends by uninstalling."""

from __future__ import annotations

from testinfra.host import Host

PREFIX = "/opt/lab ü x"


def test_the_yaml_reader_is_the_tools_own(host: Host) -> None:
    code = "import yaml; print(yaml.__file__, yaml.safe_load('[1, a]'))"
    run = host.run("runuser -u nobody -- %s -I -c %s", f"{PREFIX}/rumplab/bin/python3", code)
    assert run.rc == 0, run.stderr
    assert run.stdout.startswith(f"{PREFIX}/rumplab/lib/python3")
    assert run.stdout.endswith("[1, 'a']\n")
    assert host.run("find %s -path '*/yaml/LICENSE'", f"{PREFIX}/rumplab/").stdout
    assert not host.package("python3-yaml").is_installed
