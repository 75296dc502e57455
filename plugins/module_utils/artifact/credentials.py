"""User names and passwords for servers: read them from a netrc(5) file, and remove them from URLs in any output."""

from __future__ import annotations

import base64
import netrc
import os
import re
import stat
import urllib.parse
from collections.abc import Mapping
from typing import Any

from .errors import Broken

# A URL may have credentials before its host and in the values of its query.
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s'\"<>]+)")
PAIR = re.compile(r"(?P<key>[^&;=]+=)?[^&;]+")
# (Name, password) by host, for this process's requests.
_known: dict[str, tuple[str, str]] = {}


def _shown(match: re.Match[str]) -> str:
    rest = match["rest"]
    # Punctuation after a URL belongs to the sentence.
    address = rest.rstrip(".,:;)")
    place, mark, query = address.partition("?")
    host, slash, path = place.partition("/")
    query = PAIR.sub(lambda pair: f"{pair['key'] or ''}…", query)
    return match["scheme"] + host.rpartition("@")[2] + slash + path + mark + query + rest[len(address) :]


def hide(text: str) -> str:
    """Return `text` without the user names, passwords and query values of the URLs in it."""
    return URL.sub(_shown, text)


def hidden(content: Any) -> Any:
    """Return a JSON value without the credentials of the URLs in its strings."""
    if isinstance(content, str):
        return hide(content)
    if isinstance(content, Mapping):
        return {key: hidden(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [hidden(value) for value in content]
    return content


def load(path: str) -> None:
    """Read the netrc(5) file; Broken if other users could read or change it, or if its format is wrong."""
    _known.clear()
    if not path:
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, encoding="utf-8"):
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
                raise Broken(f"{path} holds passwords, and others may read or change it; run: chmod 600 {path}")
            # By descriptor, so that nobody can replace the file after the check.
            hosts = netrc.netrc(f"/dev/fd/{handle}").hosts
    except OSError as error:
        raise Broken(f"{path}, which rumplab_credentials names, can't be read: {error.strerror}") from error
    except (netrc.NetrcParseError, UnicodeDecodeError) as error:
        raise Broken(f"{path} must have lines 'machine HOST login NAME password WORD': {error}") from error
    _known.update({host: (login, password or "") for host, (login, _, password) in hosts.items()})


def split(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return (the URL without credentials, (name, password) from the URL, else from the netrc file, else None)."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return url, None
    own, _, place = parts.netloc.rpartition("@")
    clean = urllib.parse.urlunsplit(parts._replace(netloc=place))
    if own:
        name, _, password = own.partition(":")
        return clean, (urllib.parse.unquote(name), urllib.parse.unquote(password))
    return clean, _known.get(parts.hostname or "")


def header(pair: tuple[str, str]) -> str:
    """Return the value of the Authorization header for a name and a password."""
    return "Basic " + base64.b64encode(":".join(pair).encode()).decode()
