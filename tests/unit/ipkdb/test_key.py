"""The key of role ipkdb: made once, readable by the lab user only, and never printed."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from plugins.modules import ipkdb_key as module
from rumplab.guest import ipkdb
from rumplab.ipkdb import key

ROOT = Path(__file__).resolve().parents[3]
OWN = b"correct-horse-battery"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, content: bytes, bits: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(bits)


def test_it_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "ipkdb.key"
    assert module.ensure(str(path), check=True) == ("", True, "")
    assert not path.exists()
    first, changed, _ = module.ensure(str(path), check=False)
    assert changed
    assert mode(path) == 0o600
    made = path.read_bytes()
    assert re.fullmatch(rb"[\w-]{32}\n", made)
    # The tool accepts the file as it is.
    assert key.load(path) == made[:-1]
    assert module.ensure(str(path), check=False) == (first, False, "")
    assert path.read_bytes() == made
    assert os.listdir(tmp_path) == ["ipkdb.key"]
    path.unlink()
    second, _, _ = module.ensure(str(path), check=False)
    assert path.read_bytes() != made
    assert second != first


def test_a_users_own_key_is_kept_and_its_mark_does_not_reveal_it(tmp_path: Path) -> None:
    path = tmp_path / "ipkdb.key"
    write(path, OWN + b"\n")
    mark, changed, _ = module.ensure(str(path), check=False)
    assert not changed
    assert path.read_bytes() == OWN + b"\n"
    assert OWN.decode() not in mark
    write(path, OWN)
    # Editors add a newline at the end; it isn't part of the key.
    assert module.ensure(str(path), check=False)[0] == mark


def test_a_key_that_others_could_read_is_made_private_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "ipkdb.key"
    write(path, OWN, 0o644)
    assert module.ensure(str(path), check=True)[1]
    assert mode(path) == 0o644
    _, changed, warning = module.ensure(str(path), check=False)
    assert changed
    assert f"others could read {path}" in warning
    assert mode(path) == 0o600


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b'quotes"in-the-midst', b"back\\slash-in-it", b"a blank in the key", b"x" * 65, b"\xe9" * 20],
)
def test_a_key_that_no_kernel_can_have_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ipkdb.key"
    write(path, content)
    with pytest.raises(module.Unfit, match="16 to 64 letters, digits") as refused:
        module.ensure(str(path), check=False)
    assert not content or content.decode("latin-1") not in str(refused.value)


def test_a_fifo_and_a_link_in_the_keys_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ipkdb.key"
    os.mkfifo(path)
    with pytest.raises(module.Unfit, match="is not a file of the lab user"):
        module.ensure(str(path), check=False)
    path.unlink()
    target = tmp_path / "target"
    write(target, OWN)
    path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        module.ensure(str(path), check=False)


def run(**arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the module as Ansible runs it."""
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    return subprocess.run(
        [sys.executable, "-m", "plugins.modules.ipkdb_key"],
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_as_root_the_module_gives_the_key_to_the_lab_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: changes the owner of a file")
    nobody = pwd.getpwnam("nobody").pw_uid
    # Only root can enter pytest's own directories.
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, nobody, -1)
        path = Path(directory) / "ipkdb.key"
        done = run(path=str(path), user="nobody")
        assert done.returncode == 0, done.stdout + done.stderr
        assert path.stat().st_uid == nobody
        assert path.read_text().strip() not in done.stdout + done.stderr
        assert json.loads(done.stdout)["mark"] == module.mark(path.read_bytes()[:-1])


def test_without_the_account_nothing_is_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, who looks for the account")
    path = str(tmp_path / "ipkdb.key")
    done = run(path=path, user="no-such-account")
    assert "there is no account 'no-such-account'; set rumplab_user" in done.stdout
    # In check mode, role lab hasn't made the account either.
    would = json.loads(run(path=path, user="no-such-account", _ansible_check_mode=True).stdout)
    assert (would["changed"], would["mark"]) == (True, "")
    assert not list(tmp_path.iterdir())


def test_the_slot_is_defined_in_one_place() -> None:
    text = (ROOT / "roles/ipkdb/vars/main.yml").read_text("utf-8")
    assert "IPKDB_NE_PCISLOT={{ __ipkdb_slot }}" in yaml.safe_load(text)["__ipkdb_lines"][-1]
    place = re.search(r"\.\./\.\./(src/\S+\.json)", text)
    assert place
    assert json.loads((ROOT / place[1]).read_text())["slot"] == ipkdb.slot()
