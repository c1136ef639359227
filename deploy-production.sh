#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Deploys the embedding API. This file only chooses and prepares; sentence_api/deploy/ does the work.
set -euo pipefail
shopt -s inherit_errexit

readonly EXIT_USAGE=2

usage() {
  cat <<'EOF'
Usage: ./deploy-production.sh [COMMAND] [OPTIONS]

Commands:
  up          start the API, or replace the running one, and verify it (default)
  down        stop it
  status      say whether it runs and is ready; exit 1 if not
  logs        show the end of its log (--follow to keep showing)
  plan        show how this machine would be used (takes the options of
              python -m sentence_api plan: --cpus --memory --format --explain)
  rollback    go back to the container version before this one
  wheelhouse  collect what a build installs into wheelhouse/; builds of the
              image need no network from then on

Options:
  --local           no containers: a virtual environment and gunicorn in this
                    folder; also what happens where no Docker engine answers
  --port N          port to listen on (default 5001)
  --bind ADDRESS    address to listen on (default 127.0.0.1)
  --cpus N          plan the container for so many CPUs
  --memory SIZE     plan the container for so much memory, as 8G
  --base-image REF  image to build on instead of the Dockerfile's
  --keys FILE       file with one API key a line; the query calls then need one,
                    as Authorization: Bearer KEY
  --swarm           deploy to the swarm that this engine manages; updates lose
                    no request
  --replicas N      containers of the swarm (default 1)
  --dry-run         print every command and file of an up, change nothing
  --build-only      build the image and stop there
  -h, --help        this text

Settings are environment variables: docs/configuration.md lists them.
EOF
}

die_usage() {
  printf 'deploy-production.sh: %s\nTry ./deploy-production.sh --help\n' "$1" >&2
  exit "${EXIT_USAGE}"
}

die() {
  printf 'deploy-production.sh: %s\n' "$1" >&2
  exit 1
}

python() {
  "${ROOT}/.venv/bin/python" "$@"
}

# Only the export of a model needs torch and sentence-transformers; serving needs neither.
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

has_engine() {
  docker info >/dev/null 2>&1
}

# `up` uses a container if an engine answers; later commands follow the running deployment.
is_container() {
  case "$1" in
    up) has_engine ;;
    rollback | wheelhouse) ;;
    *) [[ -f "${ROOT}/var/container/current.json" ]] ;;
  esac
}

run_container() {
  local interpreter
  interpreter="$(command -v python3)" || die 'Docker is here, python3 is not; install python3'
  exec "${interpreter}" -m sentence_api.deploy "$@"
}

run_local() {
  local command="$1" follow="$2"
  case "${command}" in
    up)
      install_for_serving
      exec "${ROOT}/.venv/bin/python" -m sentence_api local up
      ;;
    logs) show_logs "${follow}" ;;
    rollback | wheelhouse) die_usage "${command} is for containers" ;;
    *)
      [[ -x "${ROOT}/.venv/bin/python" ]] ||
        die 'nothing is deployed here yet; start with ./deploy-production.sh'
      exec "${ROOT}/.venv/bin/python" -m sentence_api local "${command}"
      ;;
  esac
}

show_logs() {
  local log="${ROOT}/var/server.log"
  [[ -f "${log}" ]] || die 'there is no log yet; start with ./deploy-production.sh'
  tail -n 100 ${1:+"$1"} "${log}"
}

_main() {
  local command='' local_only=no follow='' options=() plan_options=()
  while (($#)); do
    case "$1" in
      up | down | status | logs | plan | rollback | wheelhouse)
        [[ -z "${command}" ]] || die_usage "two commands: ${command} and $1"
        command="$1"
        ;;
      --local) local_only=yes ;;
      --port | --bind | --cpus | --memory | --base-image | --replicas | --keys)
        (($# > 1)) || die_usage "$1 needs a value"
        options+=("$1" "$2")
        shift
        ;;
      --port=* | --bind=* | --cpus=* | --memory=* | --base-image=* | --replicas=* | --keys=*) options+=("$1") ;;
      --swarm | --dry-run | --build-only) options+=("$1") ;;
      --follow)
        [[ "${command}" == logs ]] || die_usage '--follow is for logs: ./deploy-production.sh logs --follow'
        follow=--follow
        ;;
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
  command="${command:-up}"
  if [[ "${command}" == plan ]]; then
    "${ROOT}/requirements/install.sh" serve
    exec "${ROOT}/.venv/bin/python" -m sentence_api plan "${options[@]}" "${plan_options[@]}"
  elif [[ "${local_only}" == no ]] && is_container "${command}"; then
    run_container "${command}" "${options[@]}" ${follow:+"${follow}"}
  elif [[ "${local_only}" == no && "${command}" == up ]]; then
    printf 'No Docker engine answers: deploying locally, as with --local.\n'
  fi
  export_options "${options[@]}"
  run_local "${command}" "${follow}"
}

# A local deployment takes its options as settings.
export_options() {
  while (($#)); do
    local name="${1%%=*}" value="${1#*=}"
    case "${name}" in
      --port | --bind | --cpus | --memory | --keys) ;;
      *) die_usage "${name} is for containers" ;;
    esac
    if [[ "$1" != *=* ]]; then
      value="$2"
      shift
    fi
    case "${name}" in
      --port) export SENTENCE_API_PORT="${value}" ;;
      --bind) export SENTENCE_API_HOST="${value}" ;;
      --cpus) export SENTENCE_API_CPUS="${value}" ;;
      --keys) export SENTENCE_API_KEYS_FILE="${value}" ;;
      *) export SENTENCE_API_MEMORY="${value}" ;;
    esac
    shift
  done
}

_is_sourced() {
  [[ "${BASH_SOURCE[0]}" != "$0" ]]
}

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly ROOT
if ! _is_sourced; then
  _main "$@"
fi
