#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Fetches Prometheus and promtool, which test the alert rules, from Debian's own packages.
#
# The package is unpacked under var/, not installed: nothing is started, and root is not needed.
set -euo pipefail
shopt -s inherit_errexit

readonly NAME=prometheus
# shellcheck source=tests/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

# The names that tests/conftest.py looks for.
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

programs() {
  local name
  for name in "${NAMES[@]}"; do
    PATH="${PATH}:${FOLDER}/usr/bin" command -v "${name}" || return 1
  done
}

_main() {
  take_arguments "$@"
  if ! programs >/dev/null; then
    require_debian promtool Prometheus
    say 'fetching the package (20 MB)'
    apt_unpack "${FOLDER}" prometheus
  fi
  printf 'prometheus: '
  programs | paste -sd ' ' || die 'the package lacks a program' "look into ${FOLDER}"
}

_main "$@"
