#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Installs Chromium from Debian's packages for the tests of the page at /.
set -euo pipefail
shopt -s inherit_errexit

readonly NAME=browser
# shellcheck source=tests/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

# The names that tests/browser/conftest.py looks for.
readonly NAMES=(chromium chromium-browser google-chrome)

usage() {
  cat <<'EOT'
Usage: tests/browser/install.sh [--help]

Installs Debian's package chromium if there is no Chromium or Chrome on PATH.
Needs root on Debian for that. Run it again at any time: then it does nothing.
EOT
}

browser() {
  local name
  for name in "${NAMES[@]}"; do
    if command -v "${name}"; then return; fi
  done
  return 1
}

install_chromium() {
  require_debian Chromium 'Chromium or Chrome'
  require_root Chromium
  apt_install chromium
}

_main() {
  take_arguments "$@"
  browser >/dev/null || install_chromium
  printf 'browser: '
  browser || die 'the package chromium has no program of a known name' 'look with dpkg -L chromium'
}

_main "$@"
