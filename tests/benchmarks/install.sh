#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Installs wrk, which loads the servers of a benchmark, from Debian's own packages.
set -euo pipefail
shopt -s inherit_errexit

readonly NAME=benchmarks
# shellcheck source=tests/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

usage() {
  cat <<'EOT'
Usage: tests/benchmarks/install.sh [--help]

Installs Debian's package wrk if there is no wrk on PATH. Needs root on Debian
for that. Run it again at any time: then it does nothing.
EOT
}

install_wrk() {
  require_debian wrk wrk
  require_root wrk
  apt_install wrk
}

_main() {
  take_arguments "$@"
  command -v wrk >/dev/null || install_wrk
  printf 'wrk: '
  command -v wrk || die 'the package has no program wrk' 'look with dpkg -L wrk'
}

_main "$@"
