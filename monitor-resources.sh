#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Shows the state of the deployed API. This file only finds it; python -m sentence_api does the rest.
set -euo pipefail
shopt -s inherit_errexit

# The convention of monitoring plugins: 0 normal, 1 warning, 2 critical, 3 cannot tell.
readonly EXIT_CRITICAL=2
readonly EXIT_CANNOT_TELL=3
readonly PROJECT=sentence-api
readonly DOCKER_SECONDS=20
# Port and history folder inside the image; a test compares them with the Dockerfile.
readonly INNER_PORT=5001
readonly INNER_HISTORY=/var/lib/sentence-api
# A report of two weeks and 8 workers takes 150 MiB.
readonly BESIDE_MEMORY=256m
readonly FILES=(report.html report.md report.json)

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

Finds what ./deploy-production.sh started: a container, a swarm service of the
stack sentence-api, or a server in this folder.

check exits with 0 normal, 1 warning, 2 critical, 3 cannot tell.
EOF
}

die() {
  printf 'monitor-resources.sh: %s\n' "$1" >&2
  exit "${EXIT_CANNOT_TELL}"
}

run_docker() {
  timeout "${DOCKER_SECONDS}" docker "$@" 2>/dev/null
}

# Containers of Compose and of a swarm's stack, running or not, the newest first.
list_containers() {
  local label
  command -v docker >/dev/null || return 0
  for label in com.docker.compose.project com.docker.stack.namespace; do
    run_docker ps --all --no-trunc --filter "label=${label}=${PROJECT}" --format '{{.ID}} {{.State}}' || return 0
  done
}

in_state_running() {
  awk '$2 == "running" { print $1 }'
}

is_local() {
  [[ -f "${ROOT}/var/server.pid" ]]
}

run_local() {
  local python="${ROOT}/.venv/bin/python"
  [[ -x "${python}" ]] || die "a server was started here, but ${python} is missing; run ./deploy-production.sh"
  exec "${python}" -m sentence_api "$@"
}

run_inside() {
  local container="$1" terminal=()
  shift
  if [[ -t 0 && -t 1 ]]; then terminal=(--interactive --tty); fi
  docker exec "${terminal[@]}" "${container}" python -m sentence_api "$@"
}

# Runs a command in a separate container, so that it uses nothing of the service's limits.
run_beside() {
  local container="$1" network="$2" image options=()
  shift 2
  while [[ "$1" != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  image="$(run_docker inspect --format '{{.Image}}' "${container}")" || die "container ${container:0:12} is gone; try again"
  if [[ -t 0 && -t 1 ]]; then options+=(--interactive --tty); fi
  docker run --rm --init --network "${network}" "${options[@]}" \
    --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
    --memory "${BESIDE_MEMORY}" --oom-score-adj 1000 \
    "${image}" python -m sentence_api "$@"
}

# Prints the volume or folder of a container's history. Not --volumes-from: Docker 20.10 fails on
# a container that has a tmpfs.
history_of() {
  run_docker inspect --format "{{range .Mounts}}{{if eq .Destination \"${INNER_HISTORY}\"}}{{if .Name}}{{.Name}}{{else}}{{.Source}}{{end}}{{end}}{{end}}" "$1"
}

# Uses the published address if there is one, which survives a replacement of the container.
monitor_beside() {
  local container="$1" address
  shift
  address="$(run_docker port "${container}" "${INNER_PORT}/tcp" | head -n 1 || true)"
  if [[ -z "${address}" ]]; then
    run_beside "${container}" "container:${container}" -- monitor "$@"
    return
  fi
  address="${address/#0.0.0.0:/127.0.0.1:}"
  address="${address/#\[::\]:/[::1]:}"
  run_beside "${container}" host -- monitor --url "http://${address}" "$@"
}

report_beside() {
  local container="$1" folder="$2" archive name history
  shift 2
  history="$(history_of "${container}" || true)"
  [[ -n "${history}" ]] || die "container ${container:0:12} has no folder for its history; deploy it with ./deploy-production.sh"
  mkdir -p "${folder}" || die "cannot make ${folder}; choose another folder with --output"
  [[ -w "${folder}" ]] || die "cannot write into ${folder}; choose another folder with --output"
  archive="$(mktemp)"
  # shellcheck disable=SC2064 # expands the name now
  trap "rm -f '${archive}'" EXIT
  run_beside "${container}" none --volume "${history}:${INNER_HISTORY}" -- report "$@" --output - >"${archive}" || return
  tar --extract --no-same-owner --file "${archive}" --directory "${folder}" "${FILES[@]}"
  for name in "${FILES[@]}"; do printf '%s\n' "${folder}/${name}"; done
}

# Checks each replica on this machine; the worst counts: critical, warning, cannot tell, normal.
check_containers() {
  local containers="$1" container status worst=0
  shift
  for container in ${containers}; do
    status=0
    run_inside "${container}" check "$@" || status=$?
    if ((status > EXIT_CANNOT_TELL)); then
      printf 'monitor-resources.sh: the check in container %s ended with %d\n' "${container:0:12}" "${status}" >&2
      status="${EXIT_CANNOT_TELL}"
    fi
    worst="$(worse "${worst}" "${status}")"
  done
  return "${worst}"
}

worse() {
  local order='0 3 1 2' one
  for one in ${order}; do
    if [[ "${one}" == "$1" || "${one}" == "$2" ]]; then printf '%s\n' "${one}"; fi
  done | tail -n 1
}

# Describes a container that does not run.
describe_ended() {
  local container="$1" as_json="$2" state code killed name finished restarts
  IFS='|' read -r name state code killed finished restarts < <(run_docker inspect --format \
    '{{.Name}}|{{.State.Status}}|{{.State.ExitCode}}|{{.State.OOMKilled}}|{{.State.FinishedAt}}|{{.RestartCount}}' \
    "${container}" || true) || die "container ${container:0:12} is gone; try again"
  name="${name#/}"
  if [[ "${as_json}" == yes ]]; then
    printf '{"state": "unhealthy", "verdict": "critical", "rows": [], "container": {"name": "%s", "status": "%s", "exit_code": %d, "oom_killed": %s, "finished": "%s", "restarts": %d}}\n' \
      "${name}" "${state}" "${code}" "${killed}" "${finished}" "${restarts}"
    return
  fi
  printf 'Readiness  critical: container %s is %s since %s, exit code %d, OOMKilled %s, %d restarts\n' \
    "${name}" "${state}" "${finished%%.*}Z" "${code}" "${killed}" "${restarts}"
  if [[ "${killed}" == true ]]; then
    printf 'The kernel killed it for memory: raise the limit with ./deploy-production.sh --memory SIZE.\n'
  else
    printf 'Read the reason in: docker logs --tail 50 %s\n' "${name}"
  fi
  printf 'verdict: critical\n'
}

absolute() {
  if [[ "$1" == /* ]]; then printf '%s\n' "$1"; else printf '%s/%s\n' "${PWD}" "$1"; fi
}

_main() {
  local command=check as_json=no local_only=no wants_help=no folder="${PWD}" options=()
  case "${1:-}" in
    check | monitor | report)
      command="$1"
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    '' | -*) ;;
    *) die "unknown command: $1; try ./monitor-resources.sh --help" ;;
  esac
  while (($#)); do
    case "$1" in
      --local) local_only=yes ;;
      --json)
        as_json=yes
        options+=("$1")
        ;;
      --output)
        [[ -n "${2:-}" ]] || die '--output needs a folder'
        folder="$(absolute "$2")"
        shift
        ;;
      --output=*) folder="$(absolute "${1#*=}")" ;;
      -h | --help)
        wants_help=yes
        options+=("$1")
        ;;
      *) options+=("$1") ;;
    esac
    shift
  done

  cd "${ROOT}"
  local containers='' running=''
  if [[ "${local_only}" == no ]]; then
    containers="$(list_containers)"
    running="$(in_state_running <<<"${containers}")"
  fi
  if [[ -n "${containers}" && "${wants_help}" == yes ]]; then
    run_beside "${containers%% *}" none -- "${command}" --help
  elif [[ -n "${running}" && "${command}" == check ]]; then
    check_containers "${running}" "${options[@]}"
  elif [[ -n "${running}" && "${command}" == monitor ]]; then
    monitor_beside "${running%%$'\n'*}" "${options[@]}"
  elif [[ -n "${running}" ]]; then
    report_beside "${running%%$'\n'*}" "${folder}" "${options[@]}"
  elif is_local; then
    if [[ "${command}" == report ]]; then options+=(--output "${folder}"); fi
    run_local "${command}" "${options[@]}"
  elif [[ -n "${containers}" && "${command}" == report ]]; then
    report_beside "${containers%% *}" "${folder}" "${options[@]}"
  elif [[ -n "${containers}" ]]; then
    describe_ended "${containers%% *}" "${as_json}"
    return "${EXIT_CRITICAL}"
  else
    die 'nothing is deployed here: no container, no swarm service, no local server; start with ./deploy-production.sh'
  fi
}

_is_sourced() {
  [[ "${BASH_SOURCE[0]}" != "$0" ]]
}

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly ROOT
if ! _is_sourced; then
  _main "$@"
fi
