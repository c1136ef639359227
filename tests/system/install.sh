#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Fetches nginx and Caddy, behind which a server is tested, from Debian's own packages.
#
# The packages are unpacked under var/, not installed: nothing is started, and root is not needed.
set -euo pipefail
shopt -s inherit_errexit

readonly NAME=proxies
# shellcheck source=tests/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

# The names that tests/system/proxies.py looks for.
readonly NAMES=(nginx caddy)
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
readonly ROOT
readonly FOLDER="${ROOT}/var/proxies"

usage() {
  cat <<'EOT'
Usage: tests/system/install.sh [--help]

Unpacks Debian's packages nginx and caddy into var/proxies if nginx or caddy is
not on PATH. Run it again at any time: then it does nothing.
EOT
}

# Debian keeps nginx where only root looks.
programs() {
  local name
  for name in "${NAMES[@]}"; do
    PATH="${PATH}:/usr/sbin:${FOLDER}/usr/sbin:${FOLDER}/usr/bin" command -v "${name}" || return 1
  done
}

_main() {
  take_arguments "$@"
  if ! programs >/dev/null; then
    require_debian 'nginx or Caddy' 'both'
    say 'fetching the packages (10 MB)'
    apt_unpack "${FOLDER}" "${NAMES[@]}"
  fi
  printf 'proxies: '
  programs | paste -sd ' ' || die 'the packages lack a program' "look into ${FOLDER}"
}

_main "$@"
