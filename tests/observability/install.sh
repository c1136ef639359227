#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Gives this checkout Prometheus and promtool, with which the alert rules are tested; Debian's own.
#
# The package is unpacked under var/, not installed: nothing is started, and root is not needed.
set -euo pipefail
shopt -s inherit_errexit

readonly EXIT_USAGE=2
readonly INSTALL_SECONDS=600
# The names that tests/observability/conftest.py looks for.
readonly NAMES=(promtool prometheus)
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
readonly ROOT
readonly FOLDER="${ROOT}/var/prometheus"

usage() {
  cat <<'EOT'
Usage: tests/observability/install.sh [--help]

Unpacks Debian's package prometheus into var/prometheus if prometheus or promtool
is not on PATH. Run it again at any time: then it does nothing.
EOT
}

die() {
  printf 'prometheus: %s\n  next: %s\n' "$1" "$2" >&2
  exit 1
}

programs() {
  local name
  for name in "${NAMES[@]}"; do
    PATH="${PATH}:${FOLDER}/usr/bin" command -v "${name}" || return 1
  done
}

apt() {
  timeout "${INSTALL_SECONDS}" \
    apt-get -qq -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o APT::Sandbox::User=root "$@"
}

unpack() {
  command -v apt-get >/dev/null ||
    die 'there is no promtool, and this is not Debian' 'install Prometheus, then run this again'
  printf 'prometheus: fetching the package (20 MB)\n'
  mkdir -p "${FOLDER}"
  cd "${FOLDER}"
  if ! apt download prometheus 2>/dev/null; then
    [[ "${EUID}" == 0 ]] || die 'apt does not know the package' 'run apt-get update as root, then this again'
    apt update >/dev/null || die 'apt-get update failed' 'see the error above'
    apt download prometheus || die 'could not fetch the package' 'see the error above'
  fi
  dpkg -x prometheus_*.deb . || die 'could not unpack the package' 'see the error above'
  rm prometheus_*.deb
}

_main() {
  case "${1:-}" in
    '') ;;
    -h | --help)
      usage
      return
      ;;
    *)
      printf 'install.sh: unknown argument: %s\n' "$1" >&2
      usage >&2
      exit "${EXIT_USAGE}"
      ;;
  esac
  programs >/dev/null || unpack
  printf 'prometheus: '
  programs | paste -sd ' ' || die 'the package lacks a program' "look into ${FOLDER}"
}

_main "$@"
