#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Gives this machine a Chromium, in which the page at / is tested; from Debian's own packages.
set -euo pipefail
shopt -s inherit_errexit

readonly EXIT_USAGE=2
readonly INSTALL_SECONDS=600
# The names that tests/browser/conftest.py looks for.
readonly NAMES=(chromium chromium-browser google-chrome)

usage() {
  cat <<'EOT'
Usage: tests/browser/install.sh [--help]

Installs Debian's package chromium if there is no Chromium or Chrome on PATH.
Needs root on Debian for that. Run it again at any time: then it does nothing.
EOT
}

die() {
  printf 'browser: %s\n  next: %s\n' "$1" "$2" >&2
  exit 1
}

browser() {
  local name
  for name in "${NAMES[@]}"; do
    if command -v "${name}"; then return; fi
  done
  return 1
}

apt() {
  DEBIAN_FRONTEND=noninteractive timeout "${INSTALL_SECONDS}" \
    apt-get -qq -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o Dpkg::Use-Pty=0 "$@"
}

install_chromium() {
  command -v apt-get >/dev/null ||
    die 'there is no Chromium, and this is not Debian' 'install Chromium or Chrome, then run this again'
  [[ "${EUID}" == 0 ]] || die 'there is no Chromium, and only root can install it' 'run this with sudo'
  printf 'browser: installing chromium (100 MB)\n'
  apt update >/dev/null || die 'apt-get update failed' 'see the error above'
  apt install -y --no-install-recommends chromium >/dev/null ||
    die 'could not install chromium' 'see the error above'
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
  browser >/dev/null || install_chromium
  printf 'browser: '
  browser || die 'the package chromium has no program of a known name' 'look with dpkg -L chromium'
}

_main "$@"
