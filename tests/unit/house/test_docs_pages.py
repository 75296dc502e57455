"""The pages of docs: no link is dead, the index reaches each page by two links, and no table occurs twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.docs_examples import documents, headings

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")
# The path of a page, as it occurs in code and messages.
NAMED = re.compile(r"\bdocs/[\w./-]+?\.(?:md|svg)\b")
ROWS = 2


def anchor(title: str) -> str:
    """Return the fragment of a heading: lower case, without punctuation, with hyphens for blanks."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(title.rpartition(" / ")[2]) for _, title in headings(page.read_text("utf-8"))}


def prose(text: str) -> str:
    """Return a page without its code blocks, where brackets aren't links."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the fragment of each of the page's links to a file of the checkout."""
    for target in LINK.findall(prose(page.read_text("utf-8"))):
        if "://" not in target:
            path, _, fragment = target.partition("#")
            yield ((page.parent / path).resolve() if path else page), fragment


def dead_links(page: Path) -> list[str]:
    """Return the faults of a page's links."""
    faults = []
    for path, fragment in links(page):
        if not path.exists():
            faults.append(f"{page.name}: there is no {path}")
        elif fragment and fragment not in anchors(path):
            faults.append(f"{page.name}: {path.name} has no heading for #{fragment}")
    return faults


def tables(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the rows of each table, without its head."""
    rows: list[str] = []
    for line in [*prose(text).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(re.sub(r"\s+", " ", line))
        elif rows:
            yield tuple(rows[2:])
            rows = []


@pytest.mark.parametrize("page", documents(ROOT), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_of_a_page_is_dead(page: Path) -> None:
    assert not dead_links(page)


def test_every_page_is_reached_from_the_index_in_two_steps() -> None:
    first = {path for path, _ in links(INDEX)}
    second = {path for page in first if page.suffix == ".md" for path, _ in links(page)}
    pages = {path for path in DOCS.rglob("*") if path.is_file() and path != INDEX}
    assert pages
    assert not [str(path.relative_to(ROOT)) for path in sorted(pages - first - second)]


def test_the_readme_links_to_the_index_and_the_glossary() -> None:
    assert {INDEX, DOCS / "glossary.md"} <= {path for path, _ in links(ROOT / "README.md")}


def test_no_page_repeats_another_ones_rows() -> None:
    owners: dict[str, Path] = {}
    repeated: dict[tuple[Path, Path], list[str]] = {}
    for page in documents(ROOT):
        for row in {row for rows in tables(page.read_text("utf-8")) for row in rows}:
            owner = owners.setdefault(row, page)
            if owner != page:
                repeated.setdefault((owner, page), []).append(row)
    assert not {pages: rows for pages, rows in repeated.items() if len(rows) >= ROWS}


def test_every_page_that_code_names_is_there() -> None:
    places = [
        ROOT / name for name in ("src", "roles", "plugins", "playbooks", "tests", "molecule", "examples", "tools")
    ]
    files = [
        path
        for place in places
        for path in place.rglob("*")
        if path.is_file() and path.suffix in {".py", ".yml", ".c", ".h", ".sh"}
    ]
    files += [ROOT / "provision", ROOT / "test"]
    assert len(files) > 100
    # This file and the test of the parser name pages that don't exist.
    files = [path for path in files if path.name not in {Path(__file__).name, "test_docs_examples.py"}]
    named = {(path, name) for path in files for name in NAMED.findall(path.read_text("utf-8", "replace"))}
    assert named
    # "rumprun's docs/…" is a document of rumprun, not a page of this repository.
    assert not [
        (str(p), n) for p, n in named if not (ROOT / n).is_file() and f"rumprun's {n}" not in p.read_text("utf-8")
    ]


def test_a_dead_link_and_a_dead_fragment_are_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# A page: `b`\n[x](gone.md) [y](#nothing) [z](#a-page-b)\n```\n[x](no-link)\n```\n", "utf-8")
    assert dead_links(page) == [f"a.md: there is no {tmp_path / 'gone.md'}", "a.md: a.md has no heading for #nothing"]
    assert list(tables("| a |\n|---|\n| b |\n\n| c |\n|---|\n")) == [("| b |",), ()]


def unknown_tests(text: str, defined: set[str], paths: set[str]) -> list[str]:
    """Return the tests and files of tests that a page names in backticks and that don't exist."""
    names = re.findall(r"`([\w./-]*\btest_\w+(?:\.py)?)`", text)
    files = {name for name in names if name.endswith(".py")}
    absent = [name for name in files if not any(f"/{path}".endswith(f"/{name}") for path in paths)]
    return sorted([*absent, *(name for name in names if name not in files and name not in defined)])


def test_each_test_that_a_page_names_exists() -> None:
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("molecule/**/*.py")]
    paths = {str(path.relative_to(ROOT)) for path in files}
    defined = {
        name for path in files for name in re.findall(r"^ *def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    absent = {page.name: unknown_tests(page.read_text("utf-8"), defined, paths) for page in documents(ROOT)}
    assert {name: found for name, found in absent.items() if found} == {}
    assert unknown_tests("`x/test_a.py` and `test_b`", {"test_a"}, {"tests/y/test_a.py"}) == ["test_b", "x/test_a.py"]
