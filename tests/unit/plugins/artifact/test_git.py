"""Fetching commits for role artifact, from real repositories over the loopback interface."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from fixtures.upstream.support import Upstreams, closed_port

from plugins.module_utils.artifact import git
from plugins.module_utils.artifact.errors import Broken, Unreachable

pytest_plugins = ["fixtures.upstream.served"]
ABSENT = "1" * 40


def checked_out(kept: Path) -> Path:
    """Check the cached commit out into a directory beside it, and return that directory."""
    directory = kept.with_name("out")
    git.check_out(str(kept), str(directory))
    return directory


def test_a_commit_becomes_a_clean_checkout(upstreams: Upstreams, tmp_path: Path) -> None:
    commit, path = upstreams.pins["commit"], tmp_path / "got"
    git.fetch_commit(upstreams.git_url(), {"commit": commit}, str(path))
    assert git.is_whole(str(path), commit)
    assert not git.is_whole(str(path), ABSENT)
    assert os.listdir(tmp_path) == ["got"]
    out = checked_out(path)
    assert "VERSION" in os.listdir(out) and ".git" not in os.listdir(out)
    assert sorted(os.listdir(tmp_path)) == ["got", "out"]


def test_submodules_are_fetched_from_beside_their_parent(upstreams: Upstreams, tmp_path: Path) -> None:
    pin = {"commit": upstreams.pins["submodule"], "submodules": True}
    git.fetch_commit(upstreams.git_url("parent.git"), pin, str(tmp_path / "got"))
    assert git.is_whole(str(tmp_path / "got"), pin["commit"], recursive=True)
    assert (checked_out(tmp_path / "got") / "greetings/greeting.txt").read_text() == "good evening\n"


def test_submodules_are_fetched_only_on_request(upstreams: Upstreams, tmp_path: Path) -> None:
    pin = {"commit": upstreams.pins["submodule"]}
    git.fetch_commit(upstreams.git_url("parent.git"), pin, str(tmp_path / "got"))
    assert os.listdir(checked_out(tmp_path / "got") / "greetings") == []


def packs(kept: Path) -> list[Path]:
    return sorted((kept / "objects/pack").glob("*.pack"))


def test_an_altered_object_counts_as_none(upstreams: Upstreams, tmp_path: Path) -> None:
    commit, path = upstreams.pins["commit"], tmp_path / "got"
    git.fetch_commit(upstreams.git_url(), {"commit": commit}, str(path))
    pack = packs(path)[0]
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(content)
    assert not git.is_whole(str(path), commit)
    pack.unlink()
    assert not git.is_whole(str(path), commit)


@pytest.mark.parametrize("where", ["objects/ab/cdef", "objects/info/alternates"])
def test_a_commit_with_objects_outside_the_packs_counts_as_absent(
    upstreams: Upstreams, tmp_path: Path, where: str
) -> None:
    commit, path = upstreams.pins["commit"], tmp_path / "got"
    git.fetch_commit(upstreams.git_url(), {"commit": commit}, str(path))
    (path / where).parent.mkdir(parents=True, exist_ok=True)
    (path / where).write_text("/elsewhere\n")
    assert not git.is_whole(str(path), commit)


def test_what_somebody_put_into_the_cache_beside_the_objects_gets_into_no_build(
    upstreams: Upstreams, tmp_path: Path
) -> None:
    commit, path = upstreams.pins["commit"], tmp_path / "got"
    git.fetch_commit(upstreams.git_url(), {"commit": commit}, str(path))
    clean = checked_out(path)
    names = sorted(os.listdir(clean))
    touched = tmp_path / "touched"
    (path / "config").write_text(f'[core]\n\tfsmonitor = touch {touched}\n[filter "x"]\n\tsmudge = touch {touched}\n')
    (path / "info").mkdir()
    (path / "info/attributes").write_text("* filter=x\n")
    (path / "hooks").mkdir()
    (path / "hooks/post-checkout").write_text(f"#!/bin/sh\ntouch {touched}\n")
    (path / "hooks/post-checkout").chmod(0o755)
    (path / "Makefile").write_text("all:\n\ttouch altered\n")
    assert git.is_whole(str(path), commit)
    again = tmp_path / "again"
    git.check_out(str(path), str(again))
    assert sorted(os.listdir(again)) == names
    assert (again / "Makefile").read_bytes() == (clean / "Makefile").read_bytes()
    assert not touched.exists()


def test_a_checkout_of_an_older_release_of_the_lab_counts_as_absent(upstreams: Upstreams, tmp_path: Path) -> None:
    path = tmp_path / "got"
    subprocess.run(["git", "clone", "-q", upstreams.git_url(), str(path)], check=True)
    assert not git.is_whole(str(path), upstreams.pins["commit"])


def test_no_submodule_goes_through_a_link_of_its_parents(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(victim)
    with pytest.raises(Broken, match="submodule sub: a symbolic link in its path leads outside the checkout"):
        git._write_out("/none", {}, ABSENT, str(tmp_path / "out"), "sub", True)
    assert os.listdir(victim) == []


def test_a_missing_commit_is_broken(upstreams: Upstreams, tmp_path: Path) -> None:
    with pytest.raises(Broken, match=f"has no commit {ABSENT}"):
        git.fetch_commit(upstreams.git_url(), {"commit": ABSENT}, str(tmp_path / "got"))
    assert os.listdir(tmp_path) == []


def test_a_submodule_whose_commit_is_missing_is_broken(upstreams: Upstreams, tmp_path: Path) -> None:
    work, served = tmp_path / "work", upstreams.directory / "git" / "astray.git"
    run = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost"]
    subprocess.run([*run, "clone", "-q", str(upstreams.directory / "git/parent.git"), str(work)], check=True)
    subprocess.run([*run, "update-index", "--cacheinfo", f"160000,{ABSENT},greetings"], cwd=work, check=True)
    subprocess.run([*run, "commit", "-qm", "astray"], cwd=work, check=True)
    subprocess.run([*run, "clone", "-q", "--bare", str(work), str(served)], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=work, check=True, capture_output=True, text=True)
    pin = {"commit": head.stdout.strip(), "submodules": True}
    with pytest.raises(Broken, match="submodule"):
        git.fetch_commit(upstreams.git_url("astray.git"), pin, str(tmp_path / "got"))


@pytest.mark.parametrize("commit", ["", "trunk", "v1.0", "1" * 39, "G" * 40, "--upload-pack=x"])
def test_nothing_but_a_full_commit_id_is_a_pin(tmp_path: Path, commit: str) -> None:
    with pytest.raises(Broken, match="40 hex digits"):
        git.fetch_commit("git://127.0.0.1/x", {"commit": commit}, str(tmp_path / "got"))


def test_a_refused_connection_is_unreachable(tmp_path: Path) -> None:
    url = f"git://127.0.0.1:{closed_port()}/hello.git"
    with pytest.raises(Unreachable, match=r"hello\.git"):
        git.fetch_commit(url, {"commit": ABSENT}, str(tmp_path / "got"))
    assert os.listdir(tmp_path) == []


def test_a_repository_that_is_not_there_is_unreachable(upstreams: Upstreams, tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        git.fetch_commit(upstreams.http.url("404/hello.git"), {"commit": ABSENT}, str(tmp_path / "got"))


def test_a_bundle_serves_as_a_mirror(upstreams: Upstreams, tmp_path: Path) -> None:
    commit = upstreams.pins["commit"]
    bundle = upstreams.directory / "mirror" / f"hello-{commit}.bundle"
    git.fetch_commit(str(bundle), {"commit": commit}, str(tmp_path / "got"))
    assert git.is_whole(str(tmp_path / "got"), commit)


def test_a_bundle_without_the_commit_is_broken(upstreams: Upstreams, tmp_path: Path) -> None:
    bundle = upstreams.directory / "mirror" / f"hello-{upstreams.pins['commit']}.bundle"
    with pytest.raises(Broken, match=f"has no commit {ABSENT}"):
        git.fetch_commit(str(bundle), {"commit": ABSENT}, str(tmp_path / "got"))


def test_the_users_git_configuration_is_not_used(
    upstreams: Upstreams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gitconfig").write_text(
        '[core]\n\tautocrlf = true\n[url "git://127.0.0.1:1/"]\n\tinsteadOf = git://\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    git.fetch_commit(upstreams.git_url(), {"commit": upstreams.pins["commit"]}, str(tmp_path / "got"))
    assert b"\r" not in (checked_out(tmp_path / "got") / "Makefile").read_bytes()


def test_submodules_may_come_from_elsewhere_than_their_parent_says(upstreams: Upstreams, tmp_path: Path) -> None:
    pin = {"commit": upstreams.pins["submodule"], "submodules": True}
    parent = tmp_path / "alone" / "parent.git"
    parent.parent.mkdir()
    subprocess.run(["git", "clone", "-q", "--bare", upstreams.git_url("parent.git"), str(parent)], check=True)
    # There is no repository of the submodule beside this copy of the parent.
    with pytest.raises(Unreachable, match="submodule greetings: "):
        git.fetch_commit(str(parent), pin, str(tmp_path / "got"))
    elsewhere = {"submodule_urls": {"greetings": upstreams.git_url("greetings.git")}}
    git.fetch_commit(str(parent), {**pin, **elsewhere}, str(tmp_path / "got"))
    assert sorted(os.listdir(tmp_path)) == ["alone", "got"]
    assert (checked_out(tmp_path / "got") / "greetings/greeting.txt").exists()


def test_only_the_pinned_commit_of_a_submodule_is_fetched(upstreams: Upstreams, tmp_path: Path) -> None:
    pin = {"commit": upstreams.pins["submodule"], "submodules": True}
    git.fetch_commit(upstreams.git_url("parent.git"), pin, str(tmp_path / "got"))
    commits = []
    for pack in packs(tmp_path / "got"):
        argv = ["git", "verify-pack", "--verbose", str(pack)]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        commits += [line.split()[0] for line in said.splitlines() if line.split()[1:2] == ["commit"]]
    assert len(commits) == 2 and pin["commit"] in commits


def test_a_cached_commit_without_its_submodule_counts_as_absent(upstreams: Upstreams, tmp_path: Path) -> None:
    pin, got = {"commit": upstreams.pins["submodule"]}, tmp_path / "got"
    git.fetch_commit(upstreams.git_url("parent.git"), pin, str(got))
    assert git.is_whole(str(got), pin["commit"])
    assert not git.is_whole(str(got), pin["commit"], recursive=True)


def test_submodules_come_out_of_bundles_with_their_parent(upstreams: Upstreams, tmp_path: Path) -> None:
    served, asked = upstreams.directory / "git", []

    def bundle(commit: str) -> str:
        name = "parent" if commit == upstreams.pins["submodule"] else "greetings"
        asked.append(name)
        path = tmp_path / f"{commit}.bundle"
        argv = ["git", "bundle", "create", "--quiet", str(path), "--all"]
        subprocess.run(argv, cwd=served / f"{name}.git", check=True)
        return str(path)

    pin = {"commit": upstreams.pins["submodule"], "submodules": True}
    git.fetch_commit(bundle(pin["commit"]), pin, str(tmp_path / "got"), bundle)
    assert asked == ["parent", "greetings"]
    assert git.is_whole(str(tmp_path / "got"), pin["commit"], recursive=True)


def test_a_submodule_that_the_mirror_lacks_is_unreachable(upstreams: Upstreams, tmp_path: Path) -> None:
    def bundle(commit: str) -> str:
        raise Unreachable(f"no {commit}")

    pin = {"commit": upstreams.pins["submodule"], "submodules": True}
    with pytest.raises(Unreachable, match="submodule greetings: no "):
        git.fetch_commit(upstreams.git_url("parent.git"), pin, str(tmp_path / "got"), bundle)


@pytest.mark.parametrize(
    ("origin", "url", "resolved"),
    [
        ("https://a.example/b/parent.git", "../sub.git", "https://a.example/b/sub.git"),
        ("https://a.example/b/parent/", "../../c/sub", "https://a.example/c/sub"),
        ("git@a.example:parent.git", "../sub.git", "git@a.example:sub.git"),
        ("git@a.example:b/parent.git", "../sub.git", "git@a.example:b/sub.git"),
        ("https://a.example/parent", "./sub", "https://a.example/parent/sub"),
        ("https://a.example/parent", "https://b.example/sub", "https://b.example/sub"),
    ],
)
def test_relative_urls(origin: str, url: str, resolved: str) -> None:
    assert git.resolve(origin, url) == resolved


def test_a_transport_that_runs_commands_is_not_used(upstreams: Upstreams, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for origin in (f"ext::sh -c touch% {touched}", "--upload-pack=x"):
        with pytest.raises((Broken, Unreachable)):
            git.fetch_commit(origin, {"commit": ABSENT}, str(tmp_path / "got"))
    assert not touched.exists()
