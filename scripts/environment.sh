# Sourced by the other scripts: create .venv in the checkout and install the package there, unless this is done already.
#   prepare_environment [EXTRA]     sets "$python" to the interpreter of .venv

prepare_environment() {
    local extra=${1:-} venv stamp wanted candidate
    venv=$PWD/.venv
    python=$venv/bin/python
    stamp=$venv/.deepreduce${extra:+-$extra}
    wanted=$(cksum pyproject.toml)
    if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! "$python" -c 'import pip' 2>/dev/null; then
        for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && break
            candidate=
        done
        if [ -z "$candidate" ]; then
            echo "deepreduce needs Python 3.10 or newer; install it, or name it: PYTHON=/path/to/python $0" >&2
            exit 1
        fi
        echo "Making .venv with $("$candidate" --version) ..." >&2
        if ! "$candidate" -m venv --clear "$venv"; then
            echo "$candidate can't make virtual environments; on Debian and Ubuntu install python3-venv" >&2
            exit 1
        fi
    fi
    echo "Installing deepreduce and what it needs (once; PyTorch is large) ..." >&2
    "$python" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" >&2
    echo "$wanted" >"$stamp"
}
