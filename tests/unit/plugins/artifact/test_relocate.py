"""Trees of role artifact that contain their own path: built in one directory, cached, and used in another."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fixtures.upstream.support import STAMP, Upstreams, opener, provide, request

from plugins.module_utils.artifact import relocate
from plugins.module_utils.artifact.errors import Broken

pytest_plugins = ["fixtures.upstream.served"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "dest" / "tree"
    (made / "bin").mkdir(parents=True)
    (made / "bin/tool").write_text(f"#!/bin/sh\nexec cat '{made}/share/answer' {made}-not {made}x\n")
    (made / "bin/tool").chmod(0o555)
    os.link(made / "bin/tool", made / "bin/other")
    (made / "plain").write_text("nothing of the kind\n")
    (made / "latin1").write_bytes(b"\xe9 " + os.fsencode(made) + b"\n")
    (made / "object").write_bytes(b"\0\x7f " + os.fsencode(made / "source.c"))
    (made / "absolute").symlink_to(made / "bin/tool")
    (made / "outside").symlink_to("/etc/hostname")
    return made


def test_text_files_get_the_path_of_the_installed_tree(tree: Path, tmp_path: Path) -> None:
    kept, used = relocate.detach(str(tree))
    assert (kept, used) == (["object"], [])
    final = tmp_path / "final"
    assert os.fsencode(tree) + b"/" not in (tree / "bin/tool").read_bytes()
    shutil.move(tree, final)
    relocate.fill_in(str(final), str(final))
    expected = f"#!/bin/sh\nexec cat '{final}/share/answer' {tree}-not {tree}x\n"
    assert (final / "bin/tool").read_text() == (final / "bin/other").read_text() == expected
    assert (final / "bin/tool").stat().st_mode & 0o777 == 0o555
    assert (final / "bin/tool").samefile(final / "bin/other")
    assert (final / "latin1").read_bytes() == b"\xe9 " + os.fsencode(final) + b"\n"
    assert (final / "plain").read_text() == "nothing of the kind\n"
    assert os.fsencode(tree) in (final / "object").read_bytes()
    assert os.readlink(final / "absolute") == "bin/tool"
    assert os.readlink(final / "outside") == "/etc/hostname"


def test_both_hard_links_of_a_file_are_changed_after_a_copy_separates_them(tree: Path, tmp_path: Path) -> None:
    relocate.detach(str(tree))
    final = tmp_path / "final"
    shutil.copytree(tree, final, symlinks=True)
    relocate.fill_in(str(final), "/opt/there")
    for name in ("tool", "other"):
        assert "/opt/there/share/answer" in (final / "bin" / name).read_text()


def test_the_path_by_a_symbolic_link_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/script").write_text(f"{tmp_path}/real/a {tmp_path}/link/b\n")
    relocate.detach(str(tmp_path / "link"))
    relocate.fill_in(str(tmp_path / "real"), "/opt/x")
    assert (tmp_path / "real/script").read_text() == "/opt/x/a /opt/x/b\n"


def test_a_tree_without_a_list_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(relocate.PLACEHOLDER)
    relocate.fill_in(str(tmp_path), "/opt/x y")
    assert (tmp_path / "script").read_bytes() == relocate.PLACEHOLDER


@pytest.mark.parametrize("place", ["/opt/a b", "/opt/ü", "/opt/a'b", "/opt/$HOME"])
def test_a_path_that_scripts_could_not_name_is_refused(tree: Path, place: str) -> None:
    relocate.detach(str(tree))
    with pytest.raises(Broken, match="rumplab_prefix"):
        relocate.fill_in(str(tree), place)


SCRIPT = 'mkdir -p "$1/bin" && echo moved >"$1/answer" && echo "cat $1/answer" >"$1/bin/hello"'
BUILD = {
    "root": "hello",
    "relocate": True,
    "commands": [{"argv": ["sh", "-c", SCRIPT, "make", "@dest@/hello"], "in": "source"}],
}


def said(prefix: Path) -> str:
    argv = ["sh", str(prefix / "hello/bin/hello")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout


def test_a_built_tree_works_in_the_store_and_out_of_the_cache_in_another(upstreams: Upstreams, tmp_path: Path) -> None:
    cache, prefixes = tmp_path / "built", [tmp_path / "one", tmp_path / "other"]
    cache.mkdir()
    for prefix in prefixes:
        answer = provide(request(prefix, upstreams.pin(), build=BUILD, built_cache=str(cache)), opener)
        assert answer["state"] == "installed", answer
        assert said(prefix) == "moved\n"
        assert f"{prefix}/store/hello-1.0-{STAMP[:12]}/answer" in (prefix / "hello/bin/hello").read_text()
    # The second tree came from the cache: nothing was built.
    assert not (prefixes[1] / "var/log/build/hello.log").exists()


def test_a_prefix_with_blanks_is_refused_before_anything_is_built(upstreams: Upstreams, tmp_path: Path) -> None:
    prefix = tmp_path / "a b"
    answer = provide(request(prefix, upstreams.pin(), build=BUILD), opener)
    assert "rumplab_prefix" in answer["msg"]
    assert os.listdir(prefix / "store") == []
    assert not (prefix / "var/log/build/hello.log").exists()
