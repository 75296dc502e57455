"""./provision in a small checkout of its own, with stand-ins for the package index and ansible-playbook."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = """\
import json, os, sys
def main():
    print(json.dumps({"argv": sys.argv[1:], "config": os.environ.get("ANSIBLE_CONFIG"),
                      "directory": os.getcwd(), "locale": os.environ.get("LC_ALL")}))
"""


def wheel(directory: Path, version: str) -> str:
    """A package `ansible` whose ansible-playbook prints what it was given; answers the line that locks it."""
    info = f"ansible-{version}.dist-info"
    files = {
        "fakeplaybook.py": PLAYBOOK,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: ansible\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nansible-playbook = fakeplaybook:main\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    path = directory / f"ansible-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, content)
    return f"ansible=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Checkout:
    """What ./provision needs of a checkout, at a path with spaces and letters beyond ASCII."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "lab ü x"
        self.wheels = directory / "wheels"
        self.wheels.mkdir()
        (self.root / "tools").mkdir(parents=True)
        for name in ("provision", "tools/venv.sh", "tools/make_venv.py"):
            shutil.copy(ROOT / name, self.root / name)
        self.lock = self.root / "requirements.txt"
        self.lock.write_text(wheel(self.wheels, "1.0"), "utf-8")
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).resolve().parent}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_EXTRA_INDEX_URL": "",
        }

    def provision(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / "provision"), *arguments],
            cwd=self.wheels,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def given(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_first_start_makes_the_environment_and_later_ones_leave_it(checkout: Checkout) -> None:
    first = checkout.provision("--tags", "gdb", "-e", "a=b c", LC_ALL="C")
    record = checkout.root / ".venv" / "bootstrap-packages.json"
    call = given(first)
    assert call["argv"] == [
        *("--extra-vars", f"@{record}", str(checkout.root / "site.yml")),
        *("--tags", "gdb", "-e", "a=b c"),
    ]
    assert call["config"] == str(checkout.root / "ansible.cfg")
    assert call["directory"] == str(checkout.wheels)
    assert str(call["locale"]).endswith("UTF-8"), "Ansible refuses any other"
    assert json.loads(record.read_text("utf-8")) == {"lab_bootstrap_packages": []}
    assert "making .venv" in first.stderr

    marker = checkout.root / ".venv" / "bin" / "marker"
    marker.touch()
    second = checkout.provision(PIP_FIND_LINKS="/nonexistent")
    assert "making" not in second.stderr
    assert given(second)["argv"] == ["--extra-vars", f"@{record}", str(checkout.root / "site.yml")]
    assert marker.exists()


def test_changed_lock_remakes_and_keeps_the_record(checkout: Checkout) -> None:
    given(checkout.provision())
    record = checkout.root / ".venv" / "bootstrap-packages.json"
    record.write_text('{"lab_bootstrap_packages": ["python3-venv"]}\n', "utf-8")
    checkout.lock.write_text(wheel(checkout.wheels, "2.0"), "utf-8")
    assert "making .venv" in checkout.provision().stderr
    assert list((checkout.root / ".venv").glob("lib/*/site-packages/ansible-2.0.dist-info"))
    assert json.loads(record.read_text("utf-8")) == {"lab_bootstrap_packages": ["python3-venv"]}


def test_half_made_environment_is_remade(checkout: Checkout) -> None:
    given(checkout.provision())
    (checkout.root / ".venv" / "locks" / "requirements.txt").unlink()
    left_over = checkout.root / ".venv" / "left-over"
    left_over.touch()
    given(checkout.provision())
    assert not left_over.exists()


def test_moved_checkout_is_remade(checkout: Checkout) -> None:
    given(checkout.provision())
    checkout.root = checkout.root.rename(checkout.root.with_name("elsewhere"))
    done = checkout.provision()
    assert "making .venv" in done.stderr
    assert given(done)["config"] == str(checkout.root / "ansible.cfg")


def test_wrong_hash_is_refused_and_nothing_trusted(checkout: Checkout) -> None:
    checkout.lock.write_text(f"ansible==1.0 --hash=sha256:{'0' * 64}\n", "utf-8")
    for _ in range(2):
        done = checkout.provision()
        assert done.returncode == 1
        assert "a package is not the one that requirements.txt names" in done.stderr
        assert done.stdout == ""


def test_no_index_says_what_to_do(checkout: Checkout) -> None:
    done = checkout.provision(PIP_FIND_LINKS="/nonexistent")
    assert done.returncode == 1
    assert "could not reach a package index" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr


def test_two_at_once_make_one_environment(checkout: Checkout) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: checkout.provision(), range(2)))
    for done in both:
        given(done)
    assert sum("making .venv from" in done.stderr for done in both) == 1


def test_help_needs_nothing(checkout: Checkout) -> None:
    done = checkout.provision("--help", PATH="/usr/bin:/bin")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ./provision")
    assert not (checkout.root / ".venv").exists()


def test_too_old_a_python_is_named(checkout: Checkout, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "dirname", "cmp", "uname", "id"):
        (programs / name).symlink_to(shutil.which(name) or name)
    (programs / "python3").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.2"\nexit 1\n', "utf-8"
    )
    (programs / "python3").chmod(0o755)
    done = checkout.provision(PATH=str(programs))
    assert done.returncode == 1
    assert "needs Python 3.11 to 3.13" in done.stderr


def mac(directory: Path) -> tuple[Path, Path]:
    """(programs, log): a PATH as on a Mac whose own Python is too old, and a Homebrew that can install one.

    Homebrew's python@3.12 has a python3.12 in its own bin, and no python3.
    """
    programs, log = directory / "mac ü", directory / "calls"
    programs.mkdir()
    for name in ("sh", "dirname", "cmp", "id", "mkdir", "ln", "awk"):
        (programs / name).symlink_to(shutil.which(name) or name)
    keg = programs / "python@3.12"
    scripts = {
        "uname": "echo Darwin",
        "python3": "exit 1",
        "sudo": "exit 1",
        "brew": f"""echo "brew $*" >>'{log}'
case $1 in
    list) echo xz; if [ -d '{keg}' ]; then echo openssl@3; echo python@3.12; fi ;;
    install) mkdir -p '{keg}/bin' && ln -s '{Path(sys.executable).resolve()}' '{keg}/bin/python3.12' ;;
    --prefix) echo '{keg}' ;;
esac""",
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        (programs / name).chmod(0o755)
    return programs, log


def test_macos_gets_its_python_from_homebrew(checkout: Checkout, tmp_path: Path) -> None:
    programs, log = mac(tmp_path)
    done = checkout.provision("--check", PATH=str(programs), LC_ALL="C")
    call = given(done)
    assert "installing python@3.12 with Homebrew" in done.stderr
    assert log.read_text("utf-8").splitlines() == [
        "brew list --formula -1",
        "brew install --quiet python@3.12",
        "brew list --formula -1",
        "brew --prefix python@3.12",
    ]
    record = checkout.root / ".venv" / "bootstrap-packages.json"
    assert json.loads(record.read_text("utf-8")) == {"lab_bootstrap_packages": ["openssl@3", "python@3.12"]}
    assert call["locale"] == "en_US.UTF-8", "macOS has no C.UTF-8"

    log.unlink()
    given(checkout.provision("--check", PATH=str(programs)))
    assert not log.exists(), "the second start asks Homebrew nothing"


def test_macos_without_homebrew_says_where_to_get_python(checkout: Checkout, tmp_path: Path) -> None:
    programs, _ = mac(tmp_path)
    (programs / "brew").unlink()
    done = checkout.provision(PATH=str(programs))
    assert done.returncode == 1
    assert "install Homebrew, or a Python from python.org" in done.stderr


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$1/provision"'


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("unshare"), reason="as root, needs unshare")
def test_checkout_that_cannot_be_written_is_named(checkout: Checkout) -> None:
    # Root may write whatever its mode says, so for root the checkout goes on a read-only mount of its own.
    argv = [str(checkout.root / "provision")]
    if os.geteuid() == 0:
        argv = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(checkout.root)]
    checkout.root.chmod(0o555)
    done = subprocess.run(
        argv,
        env=checkout.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    checkout.root.chmod(0o755)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Make the checkout writable" in done.stderr
