#!/bin/sh
# Make Pythons as developers' machines have them, each in a directory that a test can put first in PATH.
set -eu
mkdir -p /opt/pythons
cd /opt/pythons

# A pyenv shim whose Python version isn't installed.
mkdir -p shim
cat >shim/python3 <<'SHIM'
#!/bin/sh
echo "pyenv: ${0##*/}: command not found" >&2
exit 127
SHIM
for name in python python3.11 python3.13 python3.14 python3.15; do cp shim/python3 "shim/$name"; done
chmod +x shim/*

# A separate installation, like those of pyenv and conda: a moved copy of the system's.
own=$(readlink -f /usr/bin/python3)
for prefix in pyenv/versions/3 conda; do
    mkdir -p "$prefix/bin" "$prefix/lib"
    cp "$own" "$prefix/bin/python3"
    ln -s "/usr/lib/${own##*/}" "$prefix/lib/${own##*/}"
done
mkdir conda/conda-meta
mkdir -p pyenv/shims
printf '#!/bin/sh\nexec /opt/pythons/pyenv/versions/3/bin/python3 "$@"\n' >pyenv/shims/python3
cp pyenv/shims/python3 "pyenv/shims/${own##*/}"
chmod +x pyenv/shims/*

/usr/bin/python3 -m venv foreign

mkdir hangs noisy broken
printf '#!/bin/sh\nexec sleep 1000\n' >hangs/python3
printf '#!/bin/sh\necho Welcome\nexec /usr/bin/python3 "$@"\n' >noisy/python3
printf '#!/bin/sh\nexit 1\n' >broken/python3
chmod +x hangs/* noisy/* broken/*
touch made
