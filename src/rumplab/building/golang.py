"""The recipe of a Go program: compile it to a C archive with a function that C can call, link a C program with the
archive, bake.

`go build` needs all files of a package in one directory, and the build must not write to the user's directory. So the
build copies the program and its imports to a temporary GOPATH. Each copy starts with a line that names the original
file, which error messages and the debugger then show. The GOPATH contains nothing else, so Go compiles exactly the
files whose hashes are in the build's record.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rumplab.building import explain, gofile, gopath
from rumplab.building.gopath import Finder, Package, Source
from rumplab.building.recipe import RESULT, WORK, Recipe, Step, flags, generated
from rumplab.building.target import Tools, go_release
from rumplab.errors import RumplabError

# Go's default when CGO_CFLAGS isn't set.
GO_C_FLAGS = "-g -O2"
PLAIN = re.compile(r"[^\s\"'\\=]+")
CALLER = "rumplab_caller.go"
# Sets os.Args and the environment from C: in an archive, Go's runtime can't read them from the start of the process.
CALLER_TEXT = """\
package main

import "C"

import (
	rumplabos "os"
	rumplabunsafe "unsafe"
)

func rumplabstrings(list **C.char) []string {
	var strings []string
	for list != nil && *list != nil {
		strings = append(strings, C.GoString(*list))
		list = (**C.char)(rumplabunsafe.Pointer(uintptr(rumplabunsafe.Pointer(list)) + rumplabunsafe.Sizeof(list)))
	}
	return strings
}

//export gomaincaller
func gomaincaller(arguments, environment **C.char) {
	if list := rumplabstrings(arguments); list != nil {
		rumplabos.Args = list
	}
	for _, setting := range rumplabstrings(environment) {
		for at := 1; at < len(setting); at++ {
			if setting[at] == '=' {
				rumplabos.Setenv(setting[:at], setting[at+1:])
				break
			}
		}
	}
	main()
}
"""
MAIN = "main.c"
# Before main() runs, gorump's start-up code reads its argument vector from the two variables. After the arguments it
# reads the environment and the auxiliary vector, which both end with zeros. `environ` is weak because the linker may
# omit it from the C library if nothing else uses it.
MAIN_TEXT = """\
int kludge_argc = 1;
char *kludge_argv[] = { "program", 0, 0, 0, 0 };

extern char **environ __attribute__((weak));
extern void gomaincaller(char **arguments, char **environment);

int
main(int argc, char *argv[])
{
	(void)argc;
	gomaincaller(argv, &environ ? environ : 0);
	return 0;
}
"""


@dataclass(frozen=True)
class GoProgram:
    """The packages of a program, package main first, and the linker's arguments of ``#cgo LDFLAGS`` and CGO_LDFLAGS.

    `gopath` is the first directory of the user's GOPATH, for messages.
    """

    packages: tuple[Package, ...]
    libraries: tuple[str, ...]
    gopath: str

    @property
    def main(self) -> Package:
        return self.packages[0]


def read(directory: str, only: str | None, tools: Tools, environment: dict[str, str]) -> GoProgram:
    """The program in `directory`, or in its file `only`. RumplabError when it isn't a program."""
    roots = gopath.gopath(environment)
    root = gopath.root_of(directory, roots)
    path = root.path_of(directory) if root else "_" + directory
    main = gopath.read_package(path, directory, root, only)
    tags = gofile.tags(tools.target.goos, tools.target.goarch, go_release(tools.goroot))
    # Go ignores the constraints of a file that is named on its command line.
    check_main(main, [source for source in main.sources if only or chosen(source, tags)], only)
    own = (root,) if root and root.prefix else ()
    packages = Finder(tools.goroot, (*own, *roots)).closure(main)
    first = os.path.dirname(roots[0].directory) if roots else "GOPATH"
    given = flags(("CGO_LDFLAGS",), environment) if any(package.uses_cgo for package in packages) else ()
    linked = (*link_arguments(given, directory), *libraries(packages, tags))
    return GoProgram(packages, linked, first)


def chosen(source: Source, tags: Collection[str]) -> bool:
    return source.head is not None and gofile.selected(source.name, source.head, tags)


def check_main(main: Package, sources: Sequence[Source], only: str | None) -> None:
    """RumplabError unless one of `sources` is of package main."""
    names = sorted({source.head.package for source in sources if source.head and source.head.package})
    if "main" in names:
        return
    place = os.path.join(main.directory, only or "")
    if names:
        raise RumplabError(
            f"{place} is package {' and '.join(names)}, not main: it is a library; name the directory of a"
            " program, whose files begin with 'package main'"
        )
    go = any(source.head for source in main.sources)
    why = "has no Go file for this system: see their +build lines and names" if go else "has no Go file"
    raise RumplabError(f"{place} {why}; name the directory of a Go program")


def libraries(packages: Sequence[Package], tags: Collection[str]) -> Iterator[str]:
    """The linker's arguments in the packages' ``#cgo`` lines. An archive can't contain them, so the link step needs
    them.

    RumplabError for pkg-config, which finds only libraries of the host.
    """
    for package in packages:
        for source in package.sources:
            if source.head is None or not chosen(source, tags):
                continue
            for setting in source.head.cgo:
                if not gofile.satisfied(setting.alternatives, tags):
                    continue
                if setting.verb == "pkg-config":
                    raise RumplabError(
                        f"{package.directory}/{source.name} asks pkg-config for '{setting.value}', and pkg-config"
                        " finds only the host's libraries; name one built for the unikernel with"
                        " '#cgo CFLAGS: -I…' and '#cgo LDFLAGS: -L… -l…'"
                    )
                if setting.verb == "LDFLAGS":
                    yield from link_arguments(
                        link_words(setting.value, package.directory, source.name), package.directory
                    )


def link_words(value: str, directory: str, name: str) -> list[str]:
    """The words of an LDFLAGS line in the file `name`. RumplabError when its quotes aren't closed."""
    try:
        return [word.replace("${SRCDIR}", directory) for word in shlex.split(value)]
    except ValueError as error:
        raise RumplabError(f"{directory}/{name}: '#cgo LDFLAGS: {value}': {error}") from error


def link_arguments(words: Iterable[str], directory: str) -> Iterator[str]:
    """The linker's arguments `words`. Paths relative to `directory` become absolute; -L and -l are joined with their
    values."""
    rest = iter(words)
    for word in rest:
        if word in ("-L", "-l"):
            word += next(rest, "")
        if word.startswith("-L"):
            yield "-L" + os.path.join(directory, word[2:])
        elif not word.startswith("-") and os.path.isfile(os.path.join(directory, word)):
            yield os.path.join(directory, word)
        else:
            yield word


def linked_files(arguments: Sequence[str]) -> list[str]:
    """The files outside the toolchain's own directories that `arguments`, the result of link_arguments, name."""
    directories = [word[2:] for word in arguments if word.startswith("-L")]
    named = [word for word in arguments if not word.startswith("-")]
    found = [
        os.path.join(directory, word[3:] if word.startswith("-l:") else f"lib{word[2:]}.a")
        for word in arguments
        if word.startswith("-l")
        for directory in directories
    ]
    return [path for path in (*named, *found) if os.path.isfile(path)]


def place_of(package: Package) -> str:
    """The path of a package's copy in the work directory."""
    return f"gopath/src/{package.path}" if package.root else f"local{package.directory}"


def recipe(program: GoProgram, tools: Tools, bake: str, c_flags: str = "") -> Recipe:
    """The recipe that builds a unikernel from `program` with rumprun's configuration `bake`. `c_flags` is
    CGO_CFLAGS."""
    caller = CALLER
    while any(source.name == caller for source in program.main.sources):
        caller = "x" + caller
    place = place_of(program.main)
    copies: dict[str, str] = {}
    links: dict[str, str] = {}
    places = {place_of(package) for package in program.packages} | import_places(program.packages)
    for package in program.packages:
        for source in package.sources:
            target = f"{place_of(package)}/{source.name}"
            # A byte order mark is valid only at the beginning of a file, so no line can be put before it.
            plain = source.head is None or source.marked
            (links if plain else copies)[target] = os.path.join(package.directory, source.name)
        if package.uses_cgo:
            links.update({**surroundings(package, places), **links})
    return Recipe(
        steps=(
            archive_step(program, tools, place, c_flags),
            link_step(tools, program.libraries),
            bake_step(tools, bake),
        ),
        files={f"{place}/{caller}": CALLER_TEXT, MAIN: MAIN_TEXT},
        copies=copies,
        links=links,
        path=tools.path,
        own={
            f"{WORK}/local": "",
            f"{WORK}/gopath": program.gopath,
            f"{WORK}/{MAIN}": generated(MAIN),
            f"{WORK}/{place}/{caller}": generated(caller),
            **{f"{WORK}/{place_of(package)}": package.directory for package in program.packages},
        },
        relative={
            explain.heading(package.path): {
                **({caller: generated(caller)} if package is program.main else {}),
                **{source.name: os.path.join(package.directory, source.name) for source in package.sources},
            }
            for package in program.packages
        },
    )


def import_places(packages: Sequence[Package]) -> set[str]:
    """The paths, in and beside the copies of `packages`, where Go would look for their imports."""
    imported = {path for package in packages for path in package.imports}
    beside = {os.path.dirname(place_of(package)) + "/vendor" for package in packages}
    return {f"{directory}/{path}" for directory in {"gopath/src"} | beside for path in imported}


def surroundings(package: Package, places: Collection[str]) -> dict[str, str]:
    """Links to the files and directories in and beside a package, to which C code may refer by a relative path.

    No link uses one of the paths `places`: they hold copies of packages, or must stay empty so that Go finds nothing.
    """
    links: dict[str, str] = {}
    place = place_of(package)
    link_below(package.directory, place, places, links)
    link_below(os.path.dirname(package.directory), os.path.dirname(place), places, links, gopath.OTHER_SOURCES)
    return links


def link_below(
    directory: str, place: str, places: Collection[str], links: dict[str, str], suffixes: tuple[str, ...] = ("",)
) -> None:
    """Adds to `links` links below `place` to the content of `directory`: directories, and files with one of
    `suffixes`."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except PermissionError:
        # The directory beside a package may be unreadable; then the package's C code can't use it either.
        return
    for entry in entries:
        inner = f"{place}/{entry.name}"
        if inner in places or entry.name.endswith(".go"):
            continue
        if any(other.startswith(inner + "/") for other in places):
            link_below(entry.path, inner, places, links)
        elif entry.is_dir() or entry.name.endswith(suffixes):
            links[inner] = entry.path


def cgo_flags(packages: Sequence[Package], given: str) -> str:
    """CGO_CFLAGS that make the debug information name the original C files. `given` are the caller's flags."""
    maps = [
        f"-fdebug-prefix-map={WORK}/{place_of(package)}={package.directory}"
        for package in packages
        # Go splits the flags at blanks.
        if package.uses_cgo and PLAIN.fullmatch(package.directory)
    ]
    return " ".join([given or GO_C_FLAGS, *maps])


def archive_step(program: GoProgram, tools: Tools, place: str, given: str) -> Step:
    """The step `go build`, which makes program.a from the package in `place` of the work directory."""
    return Step(
        name="Go archive",
        # -a rebuilds the standard packages, which were installed without cgo. It also makes the C compiler read, and
        # record, every header in each build.
        argv=(tools.go, "build", "-buildmode=c-archive", "-a", "-o", f"{WORK}/program.a", "."),
        directory=f"{WORK}/{place}",
        environment={
            # Only the name, which is found on PATH: go splits CC at blanks, which a path may contain.
            "CC": os.path.basename(tools.target.gcc),
            "CXX": os.path.basename(tools.target.gxx),
            "CGO_ENABLED": "1",
            "CGO_CFLAGS": cgo_flags(program.packages, given),
            "GOOS": tools.target.goos,
            "GOARCH": tools.target.goarch,
            "GOROOT": tools.goroot,
            "GOPATH": f"{WORK}/gopath",
            "GO15VENDOREXPERIMENT": "1",
            # The user's settings for a newer Go must not affect this one.
            "GO111MODULE": "off",
            "GOFLAGS": "",
            "TMPDIR": f"{WORK}/tmp",
        },
        telling=True,
    )


def link_step(tools: Tools, arguments: Sequence[str]) -> Step:
    """The step that links the C program with the archive, before the kernel is linked."""
    argv = (tools.target.gcc, "-g", "-o", "program", MAIN, "program.a", *arguments)
    # rumprun's trial link with a minimal set of libraries fails for Go; the bake links the missing ones.
    return Step("stub link", argv, environment={"RUMPRUN_STUBLINK": "succeed", "TMPDIR": f"{WORK}/tmp"})


def bake_step(tools: Tools, bake: str) -> Step:
    """The step that makes the unikernel: it links the program with the kernel's components of configuration `bake`."""
    argv = (tools.bake, bake, RESULT, "program")
    return Step("bake", argv, environment={"RUMPRUN_WARNING_STFU": "please", "TMPDIR": f"{WORK}/tmp"})
