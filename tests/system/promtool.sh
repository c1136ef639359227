#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Prints the path of promtool, Prometheus' linter; fetches Debian's if there is none.
#
# The package is unpacked and not installed: installing it would start a server.
set -euo pipefail
shopt -s inherit_errexit

readonly SECONDS_AT_MOST=300
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
readonly ROOT
readonly FOLDER="${ROOT}/var/promtool"
readonly BINARY="${FOLDER}/usr/bin/promtool"

die() {
  printf 'promtool: %s\n  next: %s\n' "$1" "$2" >&2
  exit 1
}

fetch() {
  local options=(-qq -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o APT::Sandbox::User=root)
  command -v apt-get >/dev/null || die 'it is missing, and this is not Debian' 'install Prometheus'
  mkdir -p "${FOLDER}"
  cd "${FOLDER}"
  if ! timeout "${SECONDS_AT_MOST}" apt-get "${options[@]}" download prometheus >/dev/null 2>&1; then
    timeout "${SECONDS_AT_MOST}" apt-get "${options[@]}" update >/dev/null ||
      die 'apt-get update failed' 'run it as root, or install the package prometheus'
    timeout "${SECONDS_AT_MOST}" apt-get "${options[@]}" download prometheus >/dev/null ||
      die 'the package prometheus cannot be downloaded' 'see the error above'
  fi
  dpkg -x prometheus_*.deb .
  rm -f prometheus_*.deb usr/bin/prometheus
}

_main() {
  if command -v promtool; then return; fi
  [[ -x "${BINARY}" ]] || fetch
  [[ -x "${BINARY}" ]] || die 'the package holds no promtool' 'look into the package'
  printf '%s\n' "${BINARY}"
}

_is_sourced() {
  [[ "${BASH_SOURCE[0]}" != "$0" ]]
}

_is_sourced || _main "$@"
