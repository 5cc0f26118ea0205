#!/bin/sh
# Makes the virtual environment and installs nearfar in it; checks first for what it needs. Usage: install.sh [".[test]"]
set -eu
target=${1:-.}
python=${PYTHON:-python3}
venv=${VENV:-.venv}

fail() { printf 'nearfar: %s\n' "$1" >&2; exit 2; }

command -v "$python" >/dev/null 2>&1 || fail "'$python' was not found. Install Python 3.11 or newer (apt-get install python3), or run: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed; '$python' is $("$python" -c 'import platform; print(platform.python_version())'). Run: make PYTHON=python3.11"

if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"
    site=""
    # A torch that the user already has (a CPU build, say) is used as it is.
    if "$python" -c 'import torch, torchvision' >/dev/null 2>&1; then site="--system-site-packages"; fi
    if [ -z "$site" ]; then
        free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
        [ "$free" -ge 8 ] || fail "about 8 GB of free disk are needed for the standard torch wheel; this disk has $free GB. Free some space, or install a CPU-only torch and torchvision first: they are then used as they are."
    fi
    printf 'Making %s with %s ...\n' "$venv" "$("$python" --version)"
    "$python" -m venv $site "$venv" || { rm -rf "$venv"; fail "could not make the virtual environment in '$venv'."; }
fi
printf 'Installing nearfar and what it needs (a few minutes the first time) ...\n'
"$venv/bin/python" -m pip install -q --disable-pip-version-check -e "$target" ||
    fail "the installation failed; the lines above say why. After mending it, run the same command again."
