"""Passwords of servers: where they come from, which servers get them, and that no file or message contains them."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fixtures.upstream.support import Upstreams, opener, provide, request

from plugins.module_utils.artifact import credentials, git
from plugins.module_utils.artifact.errors import Broken
from plugins.modules import artifact

pytest_plugins = ["fixtures.upstream.served"]
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _no_credentials() -> Iterator[None]:
    yield
    credentials.load("")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:s3cr3t@a.example/x", "https://a.example/x"),
        ("https://s3cr3t@a.example", "https://a.example"),
        ("https://u:s3cr3t@[::1]:8/x: timed out", "https://[::1]:8/x: timed out"),
        ("https://a.example/x?key=s3cr3t&b=s3cr3t, and", "https://a.example/x?key=…&b=…, and"),
        ("https://a.example/x?s3cr3t: HTTP 404", "https://a.example/x?…: HTTP 404"),
        ("'ssh://git:s3cr3t@a.example/x'.", "'ssh://a.example/x'."),
        ("https://u:p@ss:s3cr3t@a.example/@x", "https://a.example/@x"),
        ("a@b.example and https://a.example/a@b", "a@b.example and https://a.example/a@b"),
        ("", ""),
    ],
)
def test_no_secret_of_a_url_is_shown(text: str, shown: str) -> None:
    assert credentials.hide(text) == shown


def test_secrets_are_hidden_at_any_depth_of_an_object() -> None:
    content = {"a": ["https://u:p@h/", {"b": "https://u:p@h/"}], "c": 1, "d": None}
    assert credentials.hidden(content) == {"a": ["https://h/", {"b": "https://h/"}], "c": 1, "d": None}


def netrc(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_password_of_a_host_comes_out_of_the_file(tmp_path: Path) -> None:
    credentials.load(netrc(tmp_path / "n", f"machine a.example login me password {SECRET}\n"))
    assert credentials.split("https://a.example:8/x") == ("https://a.example:8/x", ("me", SECRET))
    assert credentials.split("https://b.example/x") == ("https://b.example/x", None)
    assert credentials.split("https://you:o%40r@a.example/x") == ("https://a.example/x", ("you", "o@r"))
    assert credentials.split("git://a.example/x") == ("git://a.example/x", None)
    assert credentials.split("/srv/mirror") == ("/srv/mirror", None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Broken, match=r"holds passwords, and others may .*chmod 600 "):
        credentials.load(netrc(tmp_path / "n", "machine a login b password c\n", mode))


@pytest.mark.parametrize("text", ["machine", "password x", "\udcff"])
def test_a_malformed_file_is_named_without_its_content(tmp_path: Path, text: str) -> None:
    (tmp_path / "n").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "n").chmod(0o600)
    with pytest.raises(Broken, match="must have lines 'machine HOST login NAME password WORD'"):
        credentials.load(str(tmp_path / "n"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"none, which rumplab_credentials names, can't be read"):
        credentials.load(str(tmp_path / "none"))


class Guarded(http.server.BaseHTTPRequestHandler):
    """Serves a file to clients with the password; redirects /away to another server."""

    content = b""
    elsewhere = ""
    seen: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        said = self.headers.get("Authorization", "")
        type(self).seen.append((self.path, said))
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", self.elsewhere)
            self.end_headers()
        elif said == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode():
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()
            self.wfile.write(self.content)
        else:
            self.send_response(401)
            self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print no log."""


@pytest.fixture
def guarded(upstreams: Upstreams) -> Iterator[http.server.HTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    Guarded.content = (upstreams.directory / "files" / "hello-1.0.tar").read_bytes()
    Guarded.seen = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def files_with_secret(directory: Path) -> list[Path]:
    """Return the files below a directory that contain the secret."""
    return [path for path in directory.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_mirror_that_wants_a_password_gets_it_and_nothing_remembers_it(
    upstreams: Upstreams, guarded: http.server.HTTPServer, tmp_path: Path
) -> None:
    port = guarded.server_address[1]
    pin = {**upstreams.pin(), "urls": ["http://127.0.0.1:1/hello-1.0.tar"]}
    wanted = request(tmp_path / "lab", pin, mirror=f"http://127.0.0.1:{port}", candidates=["mirror"])
    answer = provide(wanted, opener)
    assert answer["failed"] and "HTTP 401" in answer["msg"]
    credentials.load(netrc(tmp_path / "n", f"machine 127.0.0.1 login me password {SECRET}\n"))
    answer = provide(wanted, opener)
    assert answer.get("state") == "installed", answer
    assert files_with_secret(tmp_path / "lab") == []
    credentials.load("")
    wanted = request(tmp_path / "other", pin, mirror=f"http://me:{SECRET}@127.0.0.1:{port}", candidates=["mirror"])
    answer = provide(wanted, opener)
    assert answer["state"] == "installed" and SECRET not in str(answer), answer
    assert provide(wanted, opener)["changed"] is False
    assert files_with_secret(tmp_path / "other") == []


@pytest.mark.parametrize("kind", ["deferred", "failed"])
def test_no_reason_and_no_message_has_the_key_of_an_address(upstreams: Upstreams, tmp_path: Path, kind: str) -> None:
    how = "404" if kind == "deferred" else "403"
    pin = {**upstreams.pin(), "urls": [upstreams.http.url(f"{how}/hello-1.0.tar") + f"?key={SECRET}"]}
    answer = provide(request(tmp_path / "lab", pin), opener)
    assert answer.get("state") == kind or answer.get(kind), answer
    assert "?key=…" in str(answer) and SECRET not in str(answer)
    assert files_with_secret(tmp_path / "lab") == []


def test_a_place_that_a_server_sends_us_to_gets_no_password(
    upstreams: Upstreams, guarded: http.server.HTTPServer, tmp_path: Path
) -> None:
    port = guarded.server_address[1]
    Guarded.elsewhere = f"http://localhost:{port}/hello-1.0.tar"
    credentials.load(netrc(tmp_path / "n", f"machine 127.0.0.1 login me password {SECRET}\n"))
    with pytest.raises(Exception, match="401"):
        artifact.open_with_ansible(f"http://127.0.0.1:{port}/away", 5)
    assert [bool(said) for _, said in Guarded.seen] == [True, False]


def test_git_gets_a_password_that_no_command_line_shows(tmp_path: Path) -> None:
    credentials.load(netrc(tmp_path / "n", f"machine a.example login me password {SECRET}\n"))
    for url in ("https://a.example/x.git", f"https://me:{SECRET}@a.example/x.git"):
        clean, more = git.authorized(url)
        assert clean == "https://a.example/x.git"
        assert more["GIT_CONFIG_KEY_0"] == "http.https://a.example/x.git.extraHeader"
        assert more["GIT_CONFIG_VALUE_0"].startswith("Authorization: Basic ")
    assert git.authorized("git://b.example/x") == ("git://b.example/x", {})
