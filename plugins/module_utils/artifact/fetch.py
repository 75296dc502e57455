"""Fetch one pinned file over HTTP(S), by apt or from a directory, and check its hash."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
from collections.abc import Mapping
from typing import IO, Any, Callable

from ..host.plain import plain
from . import apt
from .errors import Broken, Unreachable

PAGES = ("text/html", "application/xhtml+xml")
HASHES = ("sha512", "sha256", "sha1")
CHUNK = 1 << 20
# The lowest speed in bytes per second; a slower server counts as timed out.
SLOWEST = 100
# Opens a URL: (url, timeout in seconds) -> a response with read1(), close() and headers. The module passes a function
# that calls Ansible's open_url.
Opener = Callable[[str, float], Any]


def wanted_hash(pin: Mapping[str, Any]) -> tuple[str, str]:
    """Return (algorithm, hex digest) of the strongest hash in the pin; Broken if it has none, or a malformed one."""
    for algorithm in HASHES:
        digest = str(pin.get(algorithm) or "").lower()
        if digest:
            if len(digest) != hashlib.new(algorithm).digest_size * 2 or set(digest) - set("0123456789abcdef"):
                raise Broken(f"the pin's {algorithm} is malformed: '{digest}'")
            return algorithm, digest
    raise Broken("the pin has no hash, so nothing is fetched; add one of " + ", ".join(HASHES))


def file_hash(path: str, algorithm: str) -> str:
    """Return the hex digest of a file, read in pieces."""
    digest = hashlib.new(algorithm)
    with open(path, "rb", opener=plain) as stream:
        for piece in iter(lambda: stream.read(CHUNK), b""):
            digest.update(piece)
    return digest.hexdigest()


def check(path: str, pin: Mapping[str, Any], origin: str) -> None:
    """Raise Broken, naming both hashes, unless the file at `path` is the pinned one."""
    algorithm, wanted = wanted_hash(pin)
    found = file_hash(path, algorithm)
    if found != wanted:
        raise Broken(
            f"{origin} is not the pinned file: {algorithm} {found}, expected {wanted}. "
            "Nothing was installed. Either the pin or the server is wrong; don't change the pin "
            "unless a second source confirms the new hash."
        )


def is_cached(path: str, pin: Mapping[str, Any]) -> bool:
    """Return whether the cache has the pinned file; remove a file with another hash."""
    if not os.path.lexists(path):
        return False
    algorithm, wanted = wanted_hash(pin)
    if os.path.isfile(path) and file_hash(path, algorithm) == wanted:
        return True
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    return False


def _receive(response: Any, stream: IO[bytes], timeout: float) -> int:
    """Copy the body to `stream` and return its size; TimeoutError for a server slower than SLOWEST."""
    received = due = 0
    start = time.monotonic()
    # read1 returns the bytes that have arrived; read would wait for a whole piece, however slow the server is.
    while piece := response.read1(CHUNK):
        stream.write(piece)
        received += len(piece)
        if time.monotonic() - start > timeout:
            if received < due + SLOWEST * timeout:
                raise TimeoutError
            start, due = time.monotonic(), received
    return received


def refuse_page(url: str, response: Any) -> None:
    """Raise Unreachable if the server sends a web page instead of the file, as some do after moving it."""
    page = response.headers.get("Content-Type", "").partition(";")[0].strip().lower() in PAGES
    if page and not urllib.parse.urlsplit(url).path.endswith((".html", ".htm")):
        raise Unreachable(f"{url}: the server sends a web page, {response.geturl()}, instead of the file")


def _download(url: str, partial: str, opener: Opener, timeout: float) -> None:
    try:
        with contextlib.closing(opener(url, timeout)) as response, open(partial, "wb") as stream:
            refuse_page(url, response)
            length = response.headers.get("Content-Length")
            received = _receive(response, stream, timeout)
    except urllib.error.HTTPError as error:
        if error.code == 404 or error.code >= 500 or error.code in (408, 410, 429):
            raise Unreachable(f"{url}: HTTP {error.code}") from error
        keyed = ": it requires a key in the URL (?key=…), and the pin has none or an expired one"
        raise Broken(
            f"{url}: the server answers HTTP {error.code} ({error.reason}){keyed if error.code == 402 else ''}"
        ) from error
    except http.client.IncompleteRead as error:
        raise Unreachable(f"{url}: the connection was cut off") from error
    except (ssl.SSLError, ssl.CertificateError) as error:
        raise Broken(f"{url}: TLS: {error}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise Broken(f"{url}: TLS: {error.reason}") from error
        raise Unreachable(f"{url}: {error.reason}") from error
    except (socket.timeout, TimeoutError) as error:
        raise Unreachable(f"{url}: timed out: the server sent almost nothing within {timeout:.0f} s") from error
    except (ValueError, OverflowError) as error:
        raise Unreachable(f"{url}: the server's answer isn't HTTP: {error}") from error
    except (ConnectionError, socket.gaierror, http.client.HTTPException) as error:
        raise Unreachable(f"{url}: {error or type(error).__name__}") from error
    # A body shorter than its Content-Length is a network error, not a wrong file, so it isn't Broken.
    if length is not None and re.fullmatch("[0-9]{1,18}", length) and received < int(length):
        raise Unreachable(f"{url}: the connection was cut off after {received} of {length} bytes")


def download(url: str, path: str, opener: Opener, timeout: float, tries: int = 2) -> None:
    """Download `url` to `path` without checking its hash; try again if the connection is cut off.

    Raises Unreachable or Broken.
    """
    for left in reversed(range(tries)):
        try:
            _download(url, path, opener, timeout)
            return
        except Unreachable as error:
            if not left or "cut off" not in str(error):
                raise


def fetch_url(url: str, pin: Mapping[str, Any], path: str, opener: Opener, timeout: float = 30.0) -> None:
    """Download the pinned file at `url` to `path`.part, check it, and rename it to `path`; Unreachable or Broken."""
    partial = path + ".part"
    try:
        if url.startswith(apt.SCHEME):
            apt.download(url, pin, partial, timeout)
        else:
            download(url, partial, opener, timeout)
        check(partial, pin, url)
        os.replace(partial, path)
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)


def fetch_copy(origin: str, pin: Mapping[str, Any], path: str) -> None:
    """Copy the pinned file `origin` of a mirror directory to `path`; Unreachable or Broken."""
    if not os.path.isfile(origin):
        raise Unreachable(f"{origin}: no such file in the mirror")
    partial = path + ".part"
    try:
        shutil.copyfile(origin, partial)
        check(partial, pin, origin)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
