# shellcheck shell=sh
# Find a Python that works, by running each candidate. tools/venv.sh sources this file for the controller's Python, and
# role host sends it to each host for the host's. It is POSIX sh and uses only programs that every system has.

python_patience=10
newline='
'

# The script that each candidate runs. Arguments: FLOOR and CEILING (or -), minor versions; MODULES (or -); and OWNER,
# which is `system` if a virtual environment isn't acceptable. One of MODULES' comma-separated alternatives suffices;
# `a+b` needs both. The script prints exactly one line. Python 2 also runs it, and prints "old".
python_question='
import os, sys
floor, ceiling, modules, owner = sys.argv[1:]
def has(name):
    from importlib.util import find_spec
    return find_spec(name) is not None
def verdict():
    if sys.version_info[:2] < (3, int(floor)):
        return "old"
    if owner == "system" and sys.prefix != sys.base_prefix:
        return "venv"
    if owner == "system" and os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        return "conda"
    if modules != "-" and not any(all(has(name) for name in each.split("+")) for each in modules.split(",")):
        return "bare"
    if ceiling != "-" and sys.version_info[:2] > (3, int(ceiling)):
        return "newer"
    return "good"
print("rumplab-python %s %d.%d.%d" % ((verdict(),) + tuple(sys.version_info[:3])))
'

# Run a command with a time limit, since a shim may never end. macOS has no timeout(1), but has Perl.
bounded() {
    if command -v timeout >/dev/null 2>&1; then
        timeout -k 1 "$python_patience" "$@"
    elif command -v perl >/dev/null 2>&1; then
        # shellcheck disable=SC2016  # Perl's variables
        perl -e '
            my $limit = shift;
            my $child = fork;
            if (!$child) { setpgrp(0, 0); exec { $ARGV[0] } @ARGV; exit 127 }
            $SIG{ALRM} = sub { kill "KILL", -$child; exit 124 };
            alarm $limit;
            waitpid $child, 0;
            exit($? & 127 ? 128 + ($? & 127) : $? >> 8);
        ' "$python_patience" "$@"
    else
        "$@"
    fi
}

# `judge PYTHON FLOOR CEILING MODULES OWNER` prints a verdict and the version, or what is wrong with the candidate.
judge() {
    if [ ! -e "$1" ]; then
        echo "isn't there"
        return
    fi
    if [ "$5" = system ] && [ "$(head -c 2 "$1" 2>/dev/null)" = '#!' ]; then
        echo "is a script that stands for another Python"
        return
    fi
    judged=$1
    shift
    python_status=0
    python_answer=$(bounded "$judged" -I -c "$python_question" "$@" 2>/dev/null </dev/null) || python_status=$?
    case $python_status:$python_answer in
        124:* | 137:*) echo "gave no answer in $python_patience s" ;;
        0:*"$newline"*) echo "writes to its standard output what nobody asked for" ;;
        0:"rumplab-python old "*) echo "is Python ${python_answer##* }, and 3.$1 or later is needed" ;;
        0:"rumplab-python venv "*) echo "is a virtual environment's" ;;
        0:"rumplab-python conda "*) echo "is conda's" ;;
        0:"rumplab-python "*) echo "${python_answer#rumplab-python }" ;;
        0:*) echo "ends well, and is no Python" ;;
        *) echo "fails when it is run (exit $python_status)" ;;
    esac
}

# `choose_python FLOOR CEILING MODULES OWNER PYTHON...` sets `python` to the first good candidate, with `python_verdict`
# and `python_version`. If there is none, it returns 1, and `python` is the first candidate that is newer than CEILING
# or, failing that, the first that lacks the modules; or empty. It adds a line to `python_tried` for each candidate.
choose_python() {
    python_terms="$1 $2 $3 $4"
    shift 4
    python='' python_verdict='' python_version=''
    for candidate; do
        # shellcheck disable=SC2086  # four words
        judgement=$(judge "$candidate" $python_terms)
        case $judgement in
            "good "*)
                python=$candidate python_verdict=good python_version=${judgement#* }
                return 0
                ;;
            "bare "* | "newer "*)
                if [ -z "$python" ] || [ "$python_verdict:${judgement%% *}" = bare:newer ]; then
                    python=$candidate python_verdict=${judgement%% *} python_version=${judgement#* }
                fi
                ;;
        esac
        case $judgement in
            "bare "*) judgement="is Python ${judgement#* }, without the modules that are needed" ;;
            "newer "*) judgement="is Python ${judgement#* }, which is newer than any this was tried with" ;;
        esac
        python_tried="$python_tried- $candidate $judgement$newline"
    done
    return 1
}

# Print this system's family, as in the table.
system_family() {
    if [ "$(uname -s)" = Darwin ]; then
        echo Darwin
        return
    fi
    # shellcheck disable=SC1091  # the host's
    for word in $([ ! -r /etc/os-release ] || { . /etc/os-release && echo "${ID-} ${ID_LIKE-}"; }); do
        case $word in
            debian | ubuntu) echo Debian; return ;;
            fedora | rhel | centos) echo RedHat; return ;;
            arch | archlinux) echo Archlinux; return ;;
        esac
    done
    echo Linux
}

# `system_pythons TABLE FAMILY` prints a line with MODULES and PATH for each candidate, in order.
system_pythons() {
    printf '%s\n' "$1" | while read -r family modules paths; do
        [ "$family" != "$2" ] || for path in $paths; do echo "$modules $path"; done
    done
}

# `host_python TABLE` prints `rumplab-python PATH VERSION` for this system's own Python, or a line for each candidate
# that says what is wrong with it.
host_python() {
    python_tried=''
    host_candidates=$(system_pythons "$1" "$(system_family)")
    host_modules=${host_candidates%% *}
    # shellcheck disable=SC2046  # one word a path
    choose_python 9 - "$host_modules" system $(printf '%s\n' "$host_candidates" | sed 's/^[^ ]* //') || true
    if [ -n "$python" ]; then
        echo "rumplab-python $python $python_version"
    else
        printf '%s' "$python_tried"
    fi
}
