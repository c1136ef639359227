#!/usr/bin/env bash
# Writes requirements/*.txt from requirements/*.in: every version pinned, every file's hash beside it.
set -euo pipefail
shopt -s inherit_errexit

REQUIREMENTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly REQUIREMENTS
readonly OLDEST_PYTHON=3.11
readonly TORCH_PYTHONS=(3.11 3.12 3.13 3.14)

_usage() {
    cat <<'USAGE'
usage: requirements/lock.sh [--upgrade]

Locks serve.in, export.in, dev.in, sbom.in, torch.in and bootstrap.in. Needs uv on PATH, and python3 with pip.
Versions that are locked already stay as they are.

  --upgrade   take the newest versions that the .in files allow
  --help      show this

Linux wheels of torch carry "+cpu" and come from PyTorch's own index. To look up their hashes, let pip see that index
(PIP_EXTRA_INDEX_URL) or a folder of such wheels (PIP_FIND_LINKS). A hash that cannot be looked up is kept as it was.
USAGE
}

_fail() {
    printf 'lock.sh: %s\n  next: %s\n' "$1" "$2" >&2
    exit 1
}

# One version for all Pythons ("fewest"), so that all of them run the tested version.
_compile() {
    local name=$1
    shift
    echo "${name}.txt"
    uv pip compile --quiet --config-file uv.toml --universal --python-version "${OLDEST_PYTHON}" \
        --fork-strategy fewest --only-binary :all: --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command requirements/lock.sh --output-file "${name}.txt" "$@" "${name}.in"
}

lock_bootstrap() { _compile bootstrap "$@"; }
lock_sbom() { _compile sbom "$@"; }
lock_serve() { _compile serve "$@"; }
lock_export() { _compile export --no-emit-package torch "$@"; }
lock_dev() { _compile dev --no-emit-package torch "$@"; }

# Prints the hash of the wheel that pip would take, or nothing when pip finds none. Nothing is installed.
_wheel_hash() {
    local spec=$1 platform=$2 python=$3
    { python3 -m pip install --quiet --dry-run --ignore-installed --no-deps --only-binary :all: \
        --target unused --platform "${platform}" --python-version "${python}" --report - "${spec}" 2>/dev/null ||
        echo '{"install": []}'; } |
        python3 -c 'import json, sys
for wheel in json.load(sys.stdin)["install"]:
    print(wheel["download_info"]["archive_info"]["hashes"]["sha256"])'
}

# Prints the hash that torch.txt has for this requirement line, if any.
_locked_hash() {
    local requirement=$1
    [[ -f torch.txt ]] || return 0
    awk -v wanted="${requirement} \\\\" '$0 == wanted { getline; sub(/.*sha256:/, ""); print }' torch.txt
}

# Prints one requirement for each Python version: the marker lets exactly one wheel through, so that pip can never
# weigh it against the CUDA build, which shares its version.
_torch_lines() {
    local spec=$1 system=$2 machine=$3 platform=$4
    local python requirement hash
    for python in "${TORCH_PYTHONS[@]}"; do
        requirement="${spec} ; sys_platform == \"${system}\" and platform_machine == \"${machine}\""
        requirement+=" and python_version == \"${python}\""
        hash=$(_wheel_hash "${spec}" "${platform}" "${python}")
        [[ -n "${hash}" ]] || hash=$(_locked_hash "${requirement}")
        if [[ -n "${hash}" ]]; then
            printf '%s \\\n    --hash=sha256:%s\n' "${requirement}" "${hash}"
        else
            echo "  no hash: ${spec}, ${platform}, Python ${python}" >&2
        fi
    done
}

lock_torch() {
    local spec
    spec=$(grep '^torch==' torch.in)
    echo "torch.txt"
    {
        echo "# This file was made by requirements/lock.sh: CPU wheels of torch only, one line for each."
        echo "# On Linux these are PyTorch's own builds; what package registries have under this version needs CUDA."
        _torch_lines "${spec}+cpu" linux x86_64 manylinux_2_28_x86_64
        _torch_lines "${spec}+cpu" linux aarch64 manylinux_2_28_aarch64
        _torch_lines "${spec}" darwin arm64 macosx_14_0_arm64
    } >torch.txt.new
    mv torch.txt.new torch.txt
}

_check() {
    if grep -nE '://|(^| )/[a-z]' ./*.txt; then
        _fail "a host name or a machine's path got into a lock file" "unset the index options of uv (UV_*) and run again"
    fi
    if grep -nE '^(torch|nvidia-.*|cuda-.*|triton)==' serve.txt export.txt dev.txt; then
        _fail "torch or CUDA packages got into a lock file" "bring the list in uv.toml up to date"
    fi
    if grep -nE '^(transformers|sentence-transformers)==' serve.txt; then
        _fail "serve.txt holds what only an export needs" "find out what pulls it in: uv pip tree"
    fi
}

_main() {
    case "$*" in
        "" | --upgrade) ;;
        --help)
            _usage
            return
            ;;
        *)
            _usage >&2
            exit 2
            ;;
    esac
    command -v uv >/dev/null || _fail "uv is not on PATH" "pip install -r requirements/bootstrap.txt"
    python3 -m pip --version >/dev/null || _fail "python3 has no pip" "install python3-pip, or activate a virtual environment"
    cd "${REQUIREMENTS}"
    lock_bootstrap "$@"
    lock_sbom "$@"
    lock_serve "$@"
    lock_export "$@"
    lock_dev "$@"
    lock_torch
    _check
}

_main "$@"
