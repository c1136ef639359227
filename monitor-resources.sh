#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Shows the state of the deployed API. sentence_api/deploy/watching.py finds it and does the work.
set -euo pipefail
shopt -s inherit_errexit

# The convention of monitoring plugins: 0 normal, 1 warning, 2 critical, 3 cannot tell.
readonly EXIT_CANNOT_TELL=3

usage() {
  cat <<'EOF'
Usage: ./monitor-resources.sh [COMMAND] [OPTIONS]

Commands:
  check    say how it is in one screen, and what to change (default)
  monitor  show it live
  report   write what happened as a page

Options:
  --local          look at the deployment in this folder, not at a container
  --json           check: print the figures for a program
  --interval N     monitor: seconds between two looks (2)
  --count N        monitor: end after so many
  --since TIME     report: look back, as 90m, 24h or 7d (24h)
  --duration TIME  report: or watch for so long first, as 60s
  --output FOLDER  report: where report.html, .md and .json go (this folder)
  -h, --help       this text; after a command, the options of that command

Finds what ./deploy-production.sh started in this folder: a container, a swarm
service, or a server without a container.

check exits with 0 normal, 1 warning, 2 critical, 3 cannot tell.
EOF
}

die() {
  printf 'monitor-resources.sh: %s\n' "$1" >&2
  exit "${EXIT_CANNOT_TELL}"
}

# The first Python that is new enough for sentence_api/deploy/. A name on PATH may not run (pyenv's shims).
find_python() {
  local name
  for name in python3 "${ROOT}/.venv/bin/python" python3.14 python3.13 python3.12 python3.11; do
    if "${name}" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
      printf '%s\n' "${name}"
      return
    fi
  done
  return 1
}

_main() {
  local here="${PWD}" python
  case "${1:-}" in
    -h | --help)
      usage
      exit 0
      ;;
    *) ;;
  esac
  cd "${ROOT}"
  python="$(find_python)" || die 'no Python 3.9 or newer on PATH; install python3'
  exec "${python}" -m sentence_api.deploy.watching "${here}" "$@"
}

_is_sourced() {
  [[ "${BASH_SOURCE[0]}" != "$0" ]]
}

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly ROOT
if ! _is_sourced; then
  _main "$@"
fi
