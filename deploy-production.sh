#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Deploys the embedding API. This file only prepares Python; sentence_api/ops/ does the work.
set -euo pipefail
shopt -s inherit_errexit

readonly EXIT_USAGE=2

usage() {
  cat <<'EOF'
Usage: ./deploy-production.sh [COMMAND] [OPTIONS]

Commands:
  up       start the API, or replace the running one, and verify it (default)
  down     stop it
  status   say whether it runs and is ready; exit 1 if not
  logs     show the end of its log (--follow to keep showing)
  plan     show how this machine would be used (takes the options of
           python -m sentence_api plan: --cpus --memory --format --explain)

Options:
  --local          no containers: a virtual environment and gunicorn in this folder
  --port N         port to listen on (default 5001)
  --bind ADDRESS   address to listen on (default 127.0.0.1)
  -h, --help       this text

Settings are environment variables: docs/configuration.md lists them.
EOF
}

die_usage() {
  printf 'deploy-production.sh: %s\nTry ./deploy-production.sh --help\n' "$1" >&2
  exit "${EXIT_USAGE}"
}

python() {
  "${ROOT}/.venv/bin/python" "$@"
}

# Serving needs neither torch nor sentence-transformers; only the export of a model does.
install_for_serving() {
  if has_model; then
    "${ROOT}/requirements/install.sh" serve
  else
    "${ROOT}/requirements/install.sh" export
  fi
}

has_model() {
  [[ -x "${ROOT}/.venv/bin/python" ]] && python -m sentence_api local has-model 2>/dev/null
}

require_python() {
  if [[ ! -x "${ROOT}/.venv/bin/python" ]]; then
    printf 'Nothing is deployed here yet; start with ./deploy-production.sh\n' >&2
    exit 1
  fi
}

show_logs() {
  local log="${ROOT}/var/server.log"
  if [[ ! -f "${log}" ]]; then
    printf 'There is no log yet; start with ./deploy-production.sh\n' >&2
    exit 1
  fi
  tail -n 100 ${1:+"$1"} "${log}"
}

say_where() {
  if [[ "${local_only}" == yes ]]; then
    return
  elif docker info >/dev/null 2>&1; then
    printf 'Container deployments are not part of this version yet: deploying locally.\n'
  else
    printf 'No Docker engine answers: deploying locally, as with --local.\n'
  fi
}

_main() {
  local command='' local_only=no follow='' plan_options=()
  while (($#)); do
    case "$1" in
      up | down | status | logs | plan)
        [[ -z "${command}" ]] || die_usage "two commands: ${command} and $1"
        command="$1"
        ;;
      --local) local_only=yes ;;
      --port | --bind)
        (($# > 1)) || die_usage "$1 needs a value"
        if [[ "$1" == --port ]]; then
          export SENTENCE_API_PORT="$2"
        else
          export SENTENCE_API_HOST="$2"
        fi
        shift
        ;;
      --follow) follow=--follow ;;
      -h | --help)
        usage
        exit 0
        ;;
      *)
        [[ "${command}" == plan ]] || die_usage "unknown argument: $1"
        plan_options+=("$1")
        ;;
    esac
    shift
  done

  cd "${ROOT}"
  case "${command:-up}" in
    up)
      say_where
      install_for_serving
      exec "${ROOT}/.venv/bin/python" -m sentence_api local up
      ;;
    plan)
      "${ROOT}/requirements/install.sh" serve
      exec "${ROOT}/.venv/bin/python" -m sentence_api plan "${plan_options[@]}"
      ;;
    logs) show_logs "${follow}" ;;
    *)
      require_python
      exec "${ROOT}/.venv/bin/python" -m sentence_api local "${command}"
      ;;
  esac
}

_is_sourced() {
  [[ "${BASH_SOURCE[0]}" != "$0" ]]
}

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly ROOT
if ! _is_sourced; then
  _main "$@"
fi
