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

ROOT = Path(__file__).resolve().parents[3]
# The Python that made this environment.
PYTHON = str(Path(sys.executable).resolve())
PLAYBOOK = """\
import json, os, sys
def main():
    print(json.dumps({"argv": sys.argv[1:], "config": os.environ.get("ANSIBLE_CONFIG"),
                      "directory": os.getcwd(), "locale": os.environ.get("LC_ALL")}))
"""


def wheel(directory: Path, version: str) -> str:
    """Make a package `ansible` whose ansible-playbook prints its arguments; return its line of the lock file."""
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
    """The files of a checkout that ./provision needs, at a path with spaces and non-ASCII letters."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "lab ü x"
        self.wheels = directory / "wheels"
        self.wheels.mkdir()
        (self.root / "tools").mkdir(parents=True)
        (self.root / "roles" / "host" / "files").mkdir(parents=True)
        for name in ("provision", "tools/venv.sh", "tools/make_venv.py", "roles/host/files/pythons.sh"):
            shutil.copy(ROOT / name, self.root / name)
        self.system_pythons(PYTHON)
        self.lock = self.root / "requirements.txt"
        self.lock.write_text(wheel(self.wheels, "1.0"), "utf-8")
        self.environment = {
            **os.environ,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_EXTRA_INDEX_URL": "",
        }

    def system_pythons(self, *paths: str) -> None:
        """Make these the system's own Pythons, for every family of systems."""
        families = ("Debian", "RedHat", "Archlinux", "Darwin", "Linux")
        table = "".join(f"{family} - {' '.join(paths)}\n" for family in families)
        (self.root / "roles" / "host" / "files" / "pythons.txt").write_text(table, "utf-8")

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
    assert call["argv"] == [str(checkout.root / "site.yml"), "--tags", "gdb", "-e", "a=b c"]
    assert call["config"] == str(checkout.root / "ansible.cfg")
    assert call["directory"] == str(checkout.wheels)
    assert str(call["locale"]).endswith("UTF-8"), "Ansible needs a UTF-8 locale"
    assert json.loads(record.read_text("utf-8")) == {"lab_bootstrap_packages": []}
    assert "making .venv" in first.stderr

    marker = checkout.root / ".venv" / "bin" / "marker"
    marker.touch()
    second = checkout.provision(PIP_FIND_LINKS="/nonexistent")
    assert "making" not in second.stderr
    assert given(second)["argv"] == [str(checkout.root / "site.yml")]
    assert marker.exists()


def test_a_changed_lock_makes_the_environment_again_and_keeps_the_record(checkout: Checkout) -> None:
    given(checkout.provision())
    record = checkout.root / ".venv" / "bootstrap-packages.json"
    record.write_text('{"lab_bootstrap_packages": ["python3-venv"]}\n', "utf-8")
    checkout.lock.write_text(wheel(checkout.wheels, "2.0"), "utf-8")
    assert "making .venv" in checkout.provision().stderr
    assert list((checkout.root / ".venv").glob("lib/*/site-packages/ansible-2.0.dist-info"))
    assert json.loads(record.read_text("utf-8")) == {"lab_bootstrap_packages": ["python3-venv"]}


def test_a_link_is_replaced_and_its_target_stays(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").write_text("somebody's")
    (checkout.root / ".venv").symlink_to(other)
    assert "making .venv" in checkout.provision().stderr
    assert not (checkout.root / ".venv").is_symlink()
    assert sorted(path.name for path in other.rglob("*")) == ["bin", "python"]


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


def test_a_link_to_another_checkout_s_environment_is_left_alone(checkout: Checkout, tmp_path: Path) -> None:
    given(checkout.provision())
    (tmp_path / "other").mkdir()
    other = Checkout(tmp_path / "other")
    (other.root / ".venv").symlink_to(checkout.root / ".venv")
    refused = other.provision()
    assert refused.returncode == 1
    assert f"is a link to the environment of {checkout.root}: remove the link" in refused.stderr
    given(checkout.provision())
    assert (checkout.root / ".venv" / "bin" / "python").exists()


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


# The programs that ./provision runs before there is an environment.
BARE = ("sh", "dirname", "cmp", "uname", "id", "cat", "sed", "env", "head", "timeout", "mkdir")


def programs_of(directory: Path, scripts: dict[str, str], names: tuple[str, ...] = BARE) -> Path:
    """Make a directory for PATH, with links to these programs of the host, and scripts."""
    directory.mkdir()
    for name in names:
        (directory / name).symlink_to(shutil.which(name) or name)
    for name, script in scripts.items():
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        (directory / name).chmod(0o755)
    return directory


# A python3 in PATH that can't be used: its script, and the message about it.
USELESS = {
    "fails": ("exit 1", "fails when it is run (exit 1)"),
    "is a shim without a version": ("echo 'pyenv: python3: command not found' >&2; exit 127", "(exit 127)"),
    "hangs": ("exec sleep 600", "gave no answer in 1 s"),
    "hangs with a child that ignores its end": ("trap '' TERM; sleep 600; sleep 600", "gave no answer in 1 s"),
    "writes to standard output": (f"echo Welcome; exec '{PYTHON}' \"$@\"", "what nobody asked for"),
    "does nothing well": ("exit 0", "ends well, and is no Python"),
    "is 3.8": (
        f"""exec '{PYTHON}' -I -c '
import sys
from collections import namedtuple
sys.version_info = namedtuple("V", "major minor micro")(3, 8, 18)
code, sys.argv = sys.argv[1], ["-c", *sys.argv[2:]]
exec(code)' "$3" "$4" "$5" "$6" "$7"
""",
        "is Python 3.8.18, and 3.11 or later is needed",
    ),
}


def shorten_wait(checkout: Checkout) -> None:
    """Give each candidate 1 s instead of 10 s."""
    script = checkout.root / "roles" / "host" / "files" / "pythons.sh"
    script.write_text(script.read_text("utf-8").replace("python_patience=10", "python_patience=1"), "utf-8")


@pytest.mark.parametrize("how", USELESS)
def test_a_useless_python_on_path_is_skipped(checkout: Checkout, tmp_path: Path, how: str) -> None:
    """The system has no Python; in PATH, the useless one comes before one that works."""
    shorten_wait(checkout)
    checkout.system_pythons("/nonexistent/python3")
    first = programs_of(tmp_path / "first", {"python3": USELESS[how][0]}, ())
    done = checkout.provision(PATH=f"{first}:{Path(PYTHON).parent}:{os.environ['PATH']}")
    assert given(done)["directory"] == str(checkout.wheels)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", USELESS)
def test_without_a_usable_python_the_error_lists_what_was_tried(checkout: Checkout, tmp_path: Path, how: str) -> None:
    shorten_wait(checkout)
    script, said = USELESS[how]
    checkout.system_pythons("/nonexistent/python3")
    programs = programs_of(tmp_path / "programs", {"python3": script}, (*BARE, "sleep"))
    done = checkout.provision(PATH=str(programs))
    assert done.returncode == 1
    assert "needs Python 3.11 to 3.14 with its venv and ensurepip modules" in done.stderr
    assert "- /nonexistent/python3 isn't there" in done.stderr
    assert f"- {programs}/python3 " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_later_python_is_tried_with_a_warning(checkout: Checkout, tmp_path: Path) -> None:
    script = checkout.root / "tools" / "venv.sh"
    script.write_text(script.read_text("utf-8").replace("newest=14", "newest=10"), "utf-8")
    done = checkout.provision(PATH=str(programs_of(tmp_path / "programs", {})))
    given(done)
    assert "and 3.10 is the latest tested version; continuing with it" in done.stderr


DISTURBING = {
    "PYTHONHOME": "/nonexistent",
    "PYTHONPATH": "/nonexistent",
    "PYTHONINSPECT": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONSTARTUP": "/nonexistent",
    "HOME": "/nonexistent",
    "LANG": "C",
}


def test_no_variable_and_no_umask_of_the_caller_has_an_effect(checkout: Checkout) -> None:
    old = os.umask(0o077)
    try:
        given(checkout.provision(**DISTURBING))
    finally:
        os.umask(old)
    program = checkout.root / ".venv" / "bin" / "ansible-playbook"
    assert program.stat().st_mode & 0o055 == 0o055, "other users must be able to run it"
    assert not Path("/nonexistent").exists()


def mac(directory: Path) -> tuple[Path, Path]:
    """Make a PATH as on a Mac with too old a Python and with Homebrew; return (programs, log of Homebrew's calls).

    The bin directory of Homebrew's python@3.14 has python3.14 and no python3. A Mac has Perl and no timeout(1).
    """
    log, keg = directory / "calls", directory / "keg ü"
    scripts = {
        "uname": "echo Darwin",
        "python3": "exit 1",
        "sudo": "exit 1",
        "brew": f"""echo "brew $*" >>'{log}'
case $1 in
    list) echo xz; if [ -d '{keg}' ]; then echo openssl@3; echo python@3.14; fi ;;
    install) mkdir -p '{keg}/bin' && ln -s '{PYTHON}' '{keg}/bin/python3.14' ;;
    --prefix) echo '{keg}' ;;
esac""",
    }
    names = tuple(name for name in BARE if name != "timeout")
    return programs_of(directory / "mac ü", scripts, (*names, "perl", "ln", "awk")), log


def test_a_macs_python_that_hangs_is_skipped_without_timeout_1(checkout: Checkout, tmp_path: Path) -> None:
    shorten_wait(checkout)
    programs, _ = mac(tmp_path)
    checkout.system_pythons("/nonexistent/python3")
    (programs / "sleep").symlink_to(shutil.which("sleep") or "sleep")
    (programs / "python3").write_text("#!/bin/sh\nsleep 600\nsleep 600\n", "utf-8")
    done = checkout.provision("--check", PATH=str(programs))
    given(done)
    assert "installing python@3.14 with Homebrew" in done.stderr


def test_macos_gets_its_python_from_homebrew(checkout: Checkout, tmp_path: Path) -> None:
    programs, log = mac(tmp_path)
    checkout.system_pythons("/nonexistent/python3")
    done = checkout.provision("--check", PATH=str(programs), LC_ALL="C")
    call = given(done)
    assert "installing python@3.14 with Homebrew" in done.stderr
    assert log.read_text("utf-8").splitlines() == [
        "brew list --formula -1",
        "brew install --quiet python@3.14",
        "brew list --formula -1",
        "brew --prefix python@3.14",
    ]
    record = checkout.root / ".venv" / "bootstrap-packages.json"
    assert json.loads(record.read_text("utf-8")) == {"lab_bootstrap_packages": ["openssl@3", "python@3.14"]}
    assert call["locale"] == "en_US.UTF-8", "macOS has no C.UTF-8"

    log.unlink()
    given(checkout.provision("--check", PATH=str(programs)))
    assert not log.exists(), "the second start must not run Homebrew"


def test_macos_without_homebrew_says_where_to_get_python(checkout: Checkout, tmp_path: Path) -> None:
    programs, _ = mac(tmp_path)
    checkout.system_pythons("/nonexistent/python3")
    (programs / "brew").unlink()
    done = checkout.provision(PATH=str(programs))
    assert done.returncode == 1
    assert "install Homebrew, or a Python from python.org" in done.stderr


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$1/provision"'


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("unshare"), reason="as root, needs unshare")
def test_checkout_that_cannot_be_written_is_named(checkout: Checkout) -> None:
    # Root may write whatever the mode is, so for root the checkout is on a read-only mount.
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
