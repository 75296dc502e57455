# shellcheck shell=sh
# provision and test source this file in the root of the checkout, with `me` set to the caller's name.
# `venv_ready LOCK` makes the virtual environment .venv, with the packages of LOCK. This file also sets the umask and
# HOME, and unsets Python's environment variables.

# shellcheck disable=SC2154  # me: the caller sets it
say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() { say "$*"; exit 1; }

# It only compares files, so that a run with nothing to do takes milliseconds. make_venv.py writes the copy of the lock
# last. The location is compared too, because the scripts of a virtual environment have its path: a moved checkout needs
# a new environment.
venv_current() {
    [ -x .venv/bin/python ] && cmp -s "$1" ".venv/locks/$1" &&
        IFS= read -r venv_location <.venv/locks/location && [ "$venv_location" = "$(pwd -P)" ]
} 2>/dev/null

# shellcheck source=roles/host/files/pythons.sh
. roles/host/files/pythons.sh

# PYTHONHOME, PYTHONPATH, PYTHONINSPECT, PYTHONWARNINGS and others are for another Python, and break this one.
for variable in $(env | sed -n 's/^\(PYTHON[A-Z]*\)=.*/\1/p'); do unset "$variable"; done

# A user's umask may be stricter than a lab needs: every user of the host must be able to read its files.
umask 022

# For an account without a writable home directory, pip and Ansible use one beside .venv.
if [ ! -d "${HOME-}" ] || [ ! -w "${HOME-}" ]; then
    mkdir -p .ansible/home 2>/dev/null || true
    HOME=$(pwd -P)/.ansible/home
    export HOME
fi

# The locks are for these versions of Python 3; a later one may work too.
oldest=11 newest=14

# Tries the system's Pythons first, then those on PATH, which may be shims or environments. Sets python_verdict.
find_python() {
    python_tried=''
    # shellcheck disable=SC2046  # one word a path
    set -- $(system_pythons "$(cat roles/host/files/pythons.txt)" "$(system_family)" | sed 's/^[^ ]* //')
    usual_ifs=$IFS
    IFS=:
    set -f
    for directory in $PATH; do
        for name in python3 python3.14 python3.13 python3.12 python3.11; do
            case ":$*:" in
                *":$directory/$name:"*) ;;
                *) [ ! -x "$directory/$name" ] || set -- "$@" "$directory/$name" ;;
            esac
        done
    done
    set +f
    IFS=$usual_ifs
    choose_python "$oldest" "$newest" ensurepip+venv any "$@"
}

# Sets `python` to the controller's Python: a supported one, else a newer one.
python_makes_venvs() {
    find_python && return 0
    [ "$python_verdict" = newer ] || return 1
    say "$python is Python $python_version, and 3.$newest is the latest tested version; continuing with it"
}

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

# Prints the newly installed packages, with dependencies: the uninstallation removes exactly these.
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
    wanted="needs Python 3.$oldest to 3.$newest with its venv and ensurepip modules"
    if command -v apt-get >/dev/null; then
        bootstrapped=$(debian_install python3 python3-venv) || exit 1
    elif [ "$(uname -s)" = Darwin ] && command -v brew >/dev/null; then
        bootstrapped=$(homebrew_install "python@3.$newest") || exit 1
        PATH="$(brew --prefix "python@3.$newest")/bin:$PATH"
    elif [ "$(uname -s)" = Darwin ]; then
        die "$wanted: install Homebrew, or a Python from python.org, and start again"
    else
        die "$wanted: install one with this host's package manager. Tried:$newline$python_tried"
    fi
    python_makes_venvs || die "$wanted. Install one, or put its python3.N on PATH. Tried:$newline$python_tried"
}

venv_ready() {
    if venv_current "$1"; then return 0; fi
    bootstrapped=
    python_makes_venvs || install_python
    # shellcheck disable=SC2086  # a list of package names, one word each
    "$python" -I tools/make_venv.py "$me" "$1" $bootstrapped
}
