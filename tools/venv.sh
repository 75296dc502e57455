# shellcheck shell=sh
# Sourced by provision and test, from the root of the checkout, with `me` set to the caller's name.
# `venv_ready LOCK` leaves in .venv a virtual environment that holds what LOCK names.

# shellcheck disable=SC2154  # me: the caller sets it
say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() { say "$*"; exit 1; }

# Comparisons only, so that a run with nothing to do pays milliseconds. The copy of the lock is written last,
# and the location because the scripts of a virtual environment name it: a moved checkout needs a new one.
venv_current() {
    [ -x .venv/bin/python ] && cmp -s "$1" ".venv/locks/$1" &&
        IFS= read -r venv_location <.venv/locks/location && [ "$venv_location" = "$(pwd -P)" ]
} 2>/dev/null

# The controller of ansible-core 2.19 runs on Python 3.11, 3.12 and 3.13. The host's default goes first: its
# archive has what completes it.
find_python() {
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            python=$candidate
            return 0
        fi
    done
    return 1
}

python_makes_venvs() { find_python && "$python" -c 'import ensurepip, venv' 2>/dev/null; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo -- "$@"
    else
        sudo -n -- "$@"
    fi
}

debian_packages() { dpkg-query --show --showformat '${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii //p' | sort -u; }

# Prints the packages that were not there before, dependencies included: uninstalling takes exactly those away.
debian_install() {
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "$* must be installed and this is neither root nor an account with sudo; as root: apt-get install $*"
    fi
    say "installing $*"
    packages_before=$(debian_packages)
    apt_install "$@" || {
        as_root timeout 600 apt-get -qq -o Acquire::http::Timeout=30 -o Acquire::Retries=2 update >&2 || true
        apt_install "$@" || die "cannot install $*: see apt's message above." \
            "Check the network and the package sources, or install them by hand: apt-get install $*"
    }
    newcomers "$packages_before" "$(debian_packages)"
}

newcomers() {
    printf '%s\n---\n%s\n' "$1" "$2" | awk '/^---$/ { after = 1; next } !after { had[$0] } after && !($0 in had)'
}

homebrew_install() {
    say "installing $* with Homebrew"
    packages_before=$(brew list --formula -1)
    brew install --quiet "$@" >&2 || die "Homebrew could not install $*: see its message above"
    newcomers "$packages_before" "$(brew list --formula -1)"
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive timeout 1800 apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Acquire::http::Timeout=30 -o Acquire::Retries=2 install "$@" >&2
}

install_python() {
    if command -v apt-get >/dev/null; then
        bootstrapped=$(debian_install python3 python3-venv) || exit 1
    elif [ "$(uname -s)" = Darwin ] && command -v brew >/dev/null; then
        bootstrapped=$(homebrew_install python@3.12) || exit 1
        PATH="$(brew --prefix python@3.12)/bin:$PATH"
    elif [ "$(uname -s)" = Darwin ]; then
        die "needs Python 3.11 to 3.13: install Homebrew, or a Python from python.org, and start again"
    else
        die "needs Python 3.11 to 3.13 with its venv module: install one with this host's package manager"
    fi
    python_makes_venvs || die "needs Python 3.11 to 3.13 with its venv and ensurepip modules; found" \
        "$(python3 --version 2>&1 || true). Put a newer python3.N on PATH"
}

venv_ready() {
    if venv_current "$1"; then return 0; fi
    bootstrapped=
    python_makes_venvs || install_python
    # shellcheck disable=SC2086  # a list of package names, one word each
    "$python" -I tools/make_venv.py "$me" "$1" $bootstrapped
}
