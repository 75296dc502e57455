"""./provision on machines as users have them. Each run except the first must find nothing to do."""

from __future__ import annotations

import re

import pytest
from support.box import Box, outcome

# The fast part: the foundation, and one component that consists of packages.
ARGUMENTS = "$RUMPLAB_CACHE --tags lab,rump_stager,verify"
BAD = "/opt/pythons/broken:/opt/pythons/hangs:/opt/pythons/noisy:/opt/pythons/shim"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_a_check_run_goes_by_the_systems_own_python_and_promises_no_more(box: Box) -> None:
    """This is the first run on the machine; Debian testing has Python 3.14, which needs its own version of Ansible."""
    done = box.run("./provision --check $RUMPLAB_CACHE")
    assert outcome(done).endswith("failed=0")
    own = box.run("/usr/bin/python3 -c 'import sys; print(*sys.version_info[:2])'").stdout.split()
    controller = box.run(".venv/bin/python -c 'import sys; print(*sys.version_info[:2])'").stdout.split()
    assert controller == own
    core = box.run(".venv/bin/ansible-playbook --version").stdout
    assert ("core 2.19" if int(own[1]) < 12 else "core 2.21") in core
    assert box.run("test ! -e /opt/rumplab").returncode == 0


@pytest.mark.stable
def test_the_first_run_on_a_box_where_everything_is_in_the_way(box: Box) -> None:
    box.run("rm -rf .venv")
    done = box.run(
        f"umask 077; ./provision {ARGUMENTS}",
        PATH=f"{BAD}:{PATH}",
        PYTHONHOME="/nonexistent",
        PYTHONPATH="/nonexistent",
        PYTHONWARNINGS="error",
        LANG="C",
        HOME="/nonexistent",
    )
    assert outcome(done).endswith("failed=0")
    assert not outcome(done).startswith("changed=0 ")
    assert "Python: /usr/bin/python3 3." in done.stdout
    assert box.run("test ! -e /nonexistent").returncode == 0


BY_PATH = "cd /; '/srv/a lab/.venv/bin/ansible-playbook' '/srv/a lab/site.yml'"
CIRCUMSTANCES: dict[str, tuple[str, dict[str, str]]] = {
    "the script again": ("./provision", {}),
    "from another directory, by its path": ("cd /tmp; '/srv/a lab/provision'", {}),
    "in the activated environment": (". .venv/bin/activate; ansible-playbook site.yml", {}),
    "the same by full path, from a directory without a configuration": (BY_PATH, {}),
    "the same by full path, with the inventory named": (f"{BY_PATH} -i '/srv/a lab/inventory/hosts.yml'", {}),
    "shims of pyenv's without the version": ("./provision", {"PATH": f"/opt/pythons/shim:{PATH}"}),
    "shims of pyenv's with the version": (
        ". .venv/bin/activate; PATH=/opt/pythons/pyenv/shims:$PATH; ansible-playbook site.yml",
        {},
    ),
    "somebody's environment, activated": (". /opt/pythons/foreign/bin/activate; ./provision", {}),
    "conda's Python first": (BY_PATH, {"PATH": f"/opt/pythons/conda/bin:{PATH}"}),
    "a Python that hangs first": (BY_PATH, {"PATH": f"/opt/pythons/hangs:{PATH}"}),
    "PYTHONHOME and PYTHONPATH": ("./provision", {"PYTHONHOME": "/opt/pythons", "PYTHONPATH": "/opt/pythons"}),
    "umask 077": ("umask 077; . .venv/bin/activate; ansible-playbook site.yml", {}),
    "a plain locale": (". .venv/bin/activate; ansible-playbook site.yml", {"LANG": "C"}),
    "a home that isn't there": ("./provision", {"HOME": "/nonexistent"}),
}


@pytest.mark.stable
@pytest.mark.parametrize("circumstances", CIRCUMSTANCES)
def test_nothing_is_left_to_do(box: Box, circumstances: str) -> None:
    command, environment = CIRCUMSTANCES[circumstances]
    done = box.run(f"{command} {ARGUMENTS}", **environment)
    assert outcome(done) == "changed=0 failed=0", done.stdout
    assert "Python: /usr/bin/python3 3." in done.stdout


@pytest.mark.stable
def test_nothing_is_left_to_do_for_another_ansible(box: Box) -> None:
    """An environment as pipx makes it, with ansible-core and the collections that requirements.yml names."""
    # Galaxy often can't be reached here, so the same collections are copied from the ansible package.
    made = box.run("""
        version=$(.venv/bin/python -c 'import ansible.release as r; print(r.__version__)')
        python3 -m venv /opt/pipx
        /opt/pipx/bin/pip install --quiet --disable-pip-version-check "ansible-core==$version"
        from=$(echo .venv/lib/python3*/site-packages/ansible_collections)
        into=$HOME/.ansible/collections/ansible_collections
        mkdir -p "$into/ansible" "$into/community"
        .venv/bin/python -c '
import yaml
for each in yaml.safe_load(open("requirements.yml"))["collections"]:
    print(each["name"].replace(".", "/"))' | while read -r name; do cp -R "$from/$name" "$into/$name"; done
        """)
    assert made.returncode == 0, made.stdout
    for playbook in ("site.yml", "'/srv/a lab/site.yml'"):
        command = f"{'cd /; ' if 'srv' in playbook else ''}/opt/pipx/bin/ansible-playbook {playbook}"
        assert outcome(box.run(f"{command} {ARGUMENTS}")) == "changed=0 failed=0"


def listing(box: Box, prefix: str) -> list[str]:
    done = box.run(f"cd {prefix}; find . -printf '%P %y %m %u\\n' | sort")
    assert done.returncode == 0, done.stdout
    # The names of trees contain stamps, which also depend on the prefix.
    return sorted({re.sub(r"-[0-9a-f]{12}(?=[/ ])", "-STAMP", line) for line in done.stdout.splitlines()})


@pytest.mark.stable
def test_no_umask_makes_another_lab(box: Box) -> None:
    found = {}
    for mask in ("022", "077", "027"):
        own = f"-e rumplab_prefix=/opt/u{mask} -e lab_host_directory=/opt/h{mask}"
        script = f"umask {mask}; . .venv/bin/activate; ansible-playbook site.yml {ARGUMENTS} {own}"
        assert outcome(box.run(script)).endswith("failed=0")
        used = box.run(f"runuser -u nobody -- /opt/h{mask}/bin/rumplab status")
        assert used.returncode == 0, used.stdout
        found[mask] = listing(box, f"/opt/u{mask}")
    assert found["077"] == found["022"]
    assert found["027"] == found["022"]


@pytest.mark.stable
def test_with_sudo_and_as_a_user_who_may_call_it(box: Box) -> None:
    own = f"{ARGUMENTS} -e rumplab_prefix=/opt/alice -e lab_host_directory=/opt/alice-host"
    first = box.run(f"sudo -n --preserve-env=PIP_CERT ./provision {own}", "alice", HOME="/home/alice")
    assert outcome(first).endswith("failed=0")
    assert box.run("stat -c %U /opt/alice/store").stdout == "alice\n"
    for command in ("./provision", ". .venv/bin/activate; ansible-playbook site.yml"):
        done = box.run(f"{command} {own}", "alice", HOME="/home/alice")
        assert outcome(done) == "changed=0 failed=0", done.stdout


@pytest.mark.stable
def test_a_python_that_somebody_names_is_taken(box: Box) -> None:
    own = f"{ARGUMENTS} -e rumplab_prefix=/opt/named -e lab_host_directory=/opt/named-host"
    done = box.run(f"./provision {own} -e ansible_python_interpreter=/opt/pythons/pyenv/versions/3/bin/python3")
    assert outcome(done).endswith("failed=0")
    assert "Python: /opt/pythons/pyenv/versions/3/bin/python3 3." in done.stdout


@pytest.mark.stable
def test_a_host_without_a_python_that_does_is_told_what_was_tried(box: Box) -> None:
    table = "roles/host/files/pythons.txt"
    pythons = "/opt/pythons/broken/python3 /opt/pythons/pyenv/shims/python3 /opt/pythons/foreign/bin/python3"
    pythons += " /opt/pythons/conda/bin/python3 /nonexistent"
    done = box.run(
        f"cp {table} /tmp/table; echo 'Debian - {pythons}' >{table}; ./provision {ARGUMENTS} || s=$?;"
        f"cp /tmp/table {table}; exit $s"
    )
    assert done.returncode != 0
    said = re.sub(r"\s+", " ", done.stdout)
    for each in (
        "/opt/pythons/broken/python3 is a script that stands for another Python",
        "/opt/pythons/foreign/bin/python3 is a virtual environment's",
        "/opt/pythons/conda/bin/python3 is conda's",
        "/nonexistent isn't there",
        "or name one as ansible_python_interpreter",
    ):
        assert each in said
    assert "Traceback" not in said


@pytest.mark.stable
def test_an_inventory_of_ones_own_has_every_default_and_an_inventory_without_labs_is_refused(box: Box) -> None:
    written = (
        "printf 'all:\\n  vars: {rumplab_prefix: /opt/rumplab}\\n  children: {%s: {hosts: {localhost: "
        "{ansible_connection: local}}}}\\n' >/tmp/hosts.yml"
    )
    done = box.run(f"{written % 'lab'}; cd /tmp; '/srv/a lab/provision' -i hosts.yml {ARGUMENTS}")
    assert outcome(done) == "changed=0 failed=0", done.stdout
    refused = box.run(f"{written % 'others'}; cd /tmp; '/srv/a lab/provision' -i hosts.yml {ARGUMENTS}")
    assert refused.returncode != 0
    assert "none in the group lab" in re.sub(r"\s+", " ", refused.stdout)


@pytest.mark.stable
def test_uninstalling_from_another_directory_leaves_nothing(box: Box) -> None:
    done = box.run("cd /; '/srv/a lab/.venv/bin/ansible-playbook' '/srv/a lab/playbooks/uninstall.yml'")
    assert outcome(done).endswith("failed=0")
    assert box.run("test ! -e /opt/rumplab").returncode == 0


@pytest.mark.whole
def test_the_whole_of_it_and_again(box: Box) -> None:
    done = box.run("./provision $RUMPLAB_CACHE", "root", 1500, PATH=f"{BAD}:{PATH}")
    assert outcome(done).endswith("failed=0")
    again = box.run(". .venv/bin/activate; ansible-playbook site.yml $RUMPLAB_CACHE")
    assert outcome(again) == "changed=0 failed=0", again.stdout
