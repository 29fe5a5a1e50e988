#!/usr/bin/env bash
# Run tests with one version of Python and one of torch, in an environment of its own:
#
#   tools/check_version.sh PYTHON TORCH [argument of pytest ...]
#
# PYTHON is a command or a version ("3.13"; a version that the machine lacks is skipped with a line), TORCH what pip
# takes behind "torch==" ("2.11.*"). The environments stay in .venvs (override: VENVS) and are made once. Nothing is
# pinned but torch. TORCH_INDEX=https://download.pytorch.org/whl/cpu takes torch's small CPU build from there.
set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=$1 torch=$2
shift 2

interpreter() {
    local candidate
    for candidate in "$version" "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if "$candidate" -c '' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

python=$(interpreter)
if [ -z "$python" ]; then
    echo "SKIPPED: Python $version with torch $torch: this machine has no python$version."
    exit 0
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
folder=${VENVS:-.venvs}/python$version-torch${torch%.\*}
if [ ! -e "$folder/.setup-done" ] || [ pyproject.toml -nt "$folder/.setup-done" ]; then
    echo "Setting up $folder (some minutes; PyPI's torch for Linux takes 6 GB) ..."
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$torch" --editable '.[all,dev]'
    touch "$folder/.setup-done"
fi
"$folder/bin/python" -c 'import sys, tailcut, torch; print("Python", sys.version.split()[0], "with torch", torch.__version__)'
OMP_NUM_THREADS=1 "$folder/bin/python" -m pytest -q -n "${WORKERS:-auto}" --maxprocesses 4 --dist loadfile "$@"
