"""Make the images that the Molecule scenarios start from: base_images.py RELEASE...

The builder images (playbooks/images.yml) start from them too. rumplab/debian:RELEASE is a minimal Debian with Python 3.
On a Debian host, debootstrap makes it from the mirror of the host's apt. On other hosts, it is made from the image
debian:RELEASE of the Docker engine's registry. A label has the hash of the recipe, so that an image is made again only
when the recipe changes. RELEASE may be `testing`: the mirror states its current codename, and its image is made again
each month.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from host import Failed, as_root, os_release, run

CODENAMES = {"11": "bullseye", "12": "bookworm", "13": "trixie"}
TESTING = "testing"
RELEASES = (*CODENAMES, TESTING)
# The images' content is for x86-64. A Docker engine on another processor needs emulation.
PLATFORM = "linux/amd64"
INCLUDE = ("python3",)
LABEL = "rumplab.recipe"
# The host's settings for the proxy and for the mirror's clock: containers use the same mirror, and need them too.
HOST_SETTINGS = re.compile(r'^Acquire::(?:https?::Proxy|Check-Valid-Until|Check-Date)(?:::\S+)? "[^"]+";$')
# In a container no service may start, and fsync isn't needed because the container is temporary.
FILES = {
    "usr/sbin/policy-rc.d": (0o755, "#!/bin/sh\nexit 101\n"),
    "etc/dpkg/dpkg.cfg.d/no-fsync": (0o644, "force-unsafe-io\n"),
    "etc/resolv.conf": (0o644, ""),
    "etc/hostname": (0o644, "localhost\n"),
}


@dataclass(frozen=True)
class Source:
    """A package source: the URI of an archive, one of its suites, and components of the suite."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def line(self) -> str:
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the content of an image."""

    release: str
    sources: tuple[Source, ...]
    settings: tuple[str, ...]
    include: tuple[str, ...] = INCLUDE
    # The month of the image, for `testing`.
    edition: str = ""

    def digest(self) -> str:
        made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        text = json.dumps({"recipe": asdict(self), "made_by": made_by}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def parse_one_line(text: str) -> list[Source]:
    """Return the sources of a file in apt's one-line style (sources.list(5)), without deb-src lines."""
    found = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line.strip())
        if match:
            found.append(Source(match[1].rstrip("/"), match[2], tuple(match[3].split())))
    return found


def parse_deb822(text: str) -> list[Source]:
    """Return the sources of a file in apt's deb822 style (sources.list(5)), without disabled and deb-src stanzas."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if not line[0].isspace():
                name, _, line = line.partition(":")
                name = name.strip().lower()
            fields.setdefault(name, []).extend(line.split())
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in (
            "no",
            "false",
        ):
            continue
        found += [
            Source(uri.rstrip("/"), suite, tuple(fields.get("components", [])))
            for uri in fields.get("uris", [])
            for suite in fields.get("suites", [])
        ]
    return found


def host_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    found: list[Source] = []
    for path in [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*.list"))]:
        if path.is_file():
            found += parse_one_line(path.read_text("utf-8", "replace"))
    for path in sorted((etc_apt / "sources.list.d").glob("*.sources")):
        found += parse_deb822(path.read_text("utf-8", "replace"))
    return found


def sources_for(
    codename: str, host_codename: str, sources: Iterable[Source], offers: Callable[[Source], bool]
) -> tuple[Source, ...]:
    """Return the host's Debian sources for another release, those that the mirror offers.

    The first is the release itself. The result is empty if none of the host's mirrors has the release.
    """
    wanted: dict[str, Source] = {}
    for part in ("", "-updates", "-security"):
        for source in sources:
            if source.suite == host_codename + part and "main" in source.components:
                target = Source(source.uri, codename + part, ("main",))
                if part not in wanted and offers(target):
                    wanted[part] = target
    return tuple(wanted.values()) if "" in wanted else ()


def parse_release(text: str) -> tuple[str, str]:
    """Return the codename and the month (2026-11) in a Release file; each is empty if the file doesn't state it."""
    codename = re.search(r"^Codename: ([a-z]+)\s*$", text, re.MULTILINE)
    date = re.search(r"^Date: (.+)$", text, re.MULTILINE)
    month = ""
    if date:
        with contextlib.suppress(ValueError):
            month = email.utils.parsedate_to_datetime(date[1]).strftime("%Y-%m")
    return (codename[1] if codename else "", month)


def testing_of(host_codename: str, sources: Iterable[Source]) -> tuple[str, str]:
    """Return the current codename and month of `testing` on the host's mirror, or ("", "")."""
    for source in sources:
        if source.suite != host_codename or not source.uri.startswith(("http://", "https://")):
            continue
        try:
            with urllib.request.urlopen(f"{source.uri}/dists/{TESTING}/InRelease", timeout=20) as answer:
                codename, month = parse_release(answer.read(4096).decode("utf-8", "replace"))
        except OSError:
            continue
        if codename:
            return codename, month
    return "", ""


def offered(source: Source) -> bool:
    """Return whether the mirror has the suite now."""
    if not source.uri.startswith(("http://", "https://")):
        return False
    for name in ("InRelease", "Release"):
        request = urllib.request.Request(f"{source.uri}/dists/{source.suite}/{name}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=20):
                return True
        except (urllib.error.URLError, OSError):
            continue
    return False


def host_settings() -> tuple[str, ...]:
    dump = run(["apt-config", "dump"], limit=30).stdout
    return tuple(line for line in dump.splitlines() if HOST_SETTINGS.match(line))


def debootstrap_argv(recipe: Recipe, tree: Path) -> list[str]:
    codename = recipe.sources[0].suite
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(recipe.include)}"]
    argv += [codename, str(tree), recipe.sources[0].uri]
    scripts = Path("/usr/share/debootstrap/scripts")
    # A debootstrap older than the release lacks the script of that name. All scripts since 2012 equal that of sid.
    if not (scripts / codename).exists():
        argv.append(str(scripts / "sid"))
    return argv


def image_files(recipe: Recipe) -> dict[str, tuple[int, str]]:
    return {
        **FILES,
        "etc/apt/sources.list": (0o644, "".join(source.line() + "\n" for source in recipe.sources)),
        "etc/apt/apt.conf.d/90host": (0o644, "".join(line + "\n" for line in recipe.settings)),
    }


def write_files(tree: Path, files: dict[str, tuple[int, str]]) -> None:
    for name, (mode, content) in files.items():
        run(as_root(["tee", str(tree / name)]), limit=30, stdin=content)
        run(as_root(["chmod", f"{mode:o}", str(tree / name)]), limit=30)


def bootstrap(recipe: Recipe, image: str) -> None:
    """Make the image with debootstrap, as root, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="rumplab-image-") as directory:
        tree = Path(directory) / "tree"
        try:
            run(as_root(debootstrap_argv(recipe, tree)), limit=900)
            files = image_files(recipe)
            resolver = files.pop("etc/resolv.conf")
            write_files(tree, files)
            inside = as_root(["chroot", str(tree), "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"])
            for words in (["update"], ["--yes", "dist-upgrade"], ["clean"]):
                run([*inside, "apt-get", "--quiet", *words], limit=600)
            run(
                [*inside, "sh", "-c", "rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log"],
                limit=30,
            )
            write_files(tree, {"etc/resolv.conf": resolver})
            archive = Path(directory) / "image.tar"
            run(as_root(["tar", "--numeric-owner", "-C", str(tree), "-cf", str(archive), "."]), limit=300)
            change = ["--change", f"LABEL {LABEL}={recipe.digest()}", "--change", 'CMD ["bash"]']
            run(["docker", "import", *change, str(archive), image], limit=300)
        finally:
            run(as_root(["rm", "-rf", "--one-file-system", str(tree)]), limit=120)


def from_registry(recipe: Recipe, image: str) -> None:
    """Make the image from the registry's Debian image, for hosts without a Debian mirror."""
    lines = [
        f"FROM debian:{recipe.release}",
        f"RUN apt-get update && apt-get install -y --no-install-recommends {' '.join(recipe.include)}"
        " && apt-get clean && rm -rf /var/lib/apt/lists/*",
        f"LABEL {LABEL}={recipe.digest()}",
    ]
    run(["docker", "build", "--platform", PLATFORM, "--tag", image, "-"], limit=1200, stdin="\n".join(lines) + "\n")


def label_of(image: str) -> str:
    template = f'{{{{index .Config.Labels "{LABEL}"}}}}'
    done = subprocess.run(
        ["docker", "image", "inspect", "--format", template, image],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def ensure(release: str, say: Callable[[str], None]) -> str:
    """Make the image of a release, unless it exists with the same recipe; return its name."""
    image = f"rumplab/debian:{release}"
    host = os_release()
    sources: tuple[Source, ...] = ()
    settings: tuple[str, ...] = ()
    edition = ""
    if host.get("ID") == "debian" and shutil.which("debootstrap"):
        own, codename = host.get("VERSION_CODENAME", ""), CODENAMES.get(release, "")
        if release == TESTING:
            codename, edition = testing_of(own, host_sources())
        if codename:
            sources = sources_for(codename, own, host_sources(), offered)
        settings = host_settings()
    recipe = Recipe(release, sources, settings, edition=edition)
    made_by = label_of(image)
    if made_by == recipe.digest():
        return image
    if made_by and settings and not sources:
        say(f"keeping the image {image}: no mirror answers, so that it can't be made again")
        return image
    say(f"making the image {image} from {'packages' if sources else 'the registry'}")
    try:
        (bootstrap if sources else from_registry)(recipe, image)
    except Failed as failure:
        raise Failed(f"cannot make the image {image}: {failure}") from None
    return image


def main(releases: list[str]) -> int:
    unknown = [release for release in releases if release not in RELEASES]
    if unknown or not releases:
        print(f"usage: base_images.py RELEASE...   releases: {' '.join(RELEASES)}", file=sys.stderr)
        return 2
    try:
        for release in releases:
            print(ensure(release, print))
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
