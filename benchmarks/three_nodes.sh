#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Runs a swarm of three simulated machines on this host and updates it under load; docs/operations.md has the result.
#
# Each machine is a network namespace with a Docker engine of its own, joined by a bridge. Everything
# lives below one temporary folder and is removed at the end.
set -euo pipefail
shopt -s inherit_errexit

readonly EXIT_USAGE=2
readonly NODES=(1 2 3)
readonly BRIDGE=sapi-br
readonly NETWORK=10.213.0
readonly PASS=(--in-interface "${BRIDGE}" --out-interface "${BRIDGE}" --jump ACCEPT)
readonly REPLICAS=3
readonly CLIENTS=sentence-api-test-clients
readonly CLIENT_SECONDS=90
readonly START_SECONDS=30
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT

usage() {
  cat <<'EOT'
Usage: benchmarks/three_nodes.sh [--help]

Starts three Docker engines in network namespaces, makes them a swarm, deploys
three replicas of the image sentence-api:latest of this machine's own engine
(./deploy-production.sh --build-only makes it), sends 100 requests/s from inside
the swarm's network while every replica is replaced, and prints how each request
ended. Needs root, about 4 GB of disk and 4 minutes.
EOT
}

die() {
  printf 'three_nodes: %s\n' "$1" >&2
  exit 1
}

say() {
  printf 'three_nodes: %s\n' "$1"
}

on() {
  local node="$1"
  shift
  docker --host "unix://${WORK}/${node}/docker.sock" "$@"
}

wait_for() {
  local what="$1" deadline=$((SECONDS + START_SECONDS))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
      tail -n 5 "${WORK}"/*/log >&2
      die "${what} takes longer than ${START_SECONDS} s"
    fi
    sleep 0.5
  done
}

start_node() {
  local node="$1" name="sapi-n$1" folder="${WORK}/$1"
  mkdir -p "${folder}"
  ip netns add "${name}"
  ip link add "${name}" type veth peer name eth0 netns "${name}"
  ip link set "${name}" master "${BRIDGE}" up
  ip -n "${name}" link set lo up
  ip -n "${name}" address add "${NETWORK}.1${node}/24" dev eth0
  ip -n "${name}" link set eth0 up
  ip -n "${name}" route add default via "${NETWORK}.1"
  # Not `ip netns exec`, which mounts a /sys without the cgroups.
  # shellcheck disable=SC2016 # the inner shell fills in its own arguments
  nsenter --net="/run/netns/${name}" unshare --uts sh -c 'hostname "$1"; shift; exec "$@"' - "${name}" \
    dockerd --host "unix://${folder}/docker.sock" --data-root "${folder}/data" \
    --exec-root "${folder}/exec" --pidfile "${folder}/pid" --mtu 1450 >"${folder}/log" 2>&1 &
  wait_for "the engine of node ${node}" on "${node}" info
}

load_image() {
  say "loading the image into three engines"
  docker save sentence-api:latest -o "${WORK}/image.tar"
  local node
  for node in "${NODES[@]}"; do
    on "${node}" load --quiet --input "${WORK}/image.tar" >/dev/null
  done
  rm "${WORK}/image.tar"
}

join() {
  local token node
  on 1 swarm init --advertise-addr "${NETWORK}.11" >/dev/null
  token="$(on 1 swarm join-token --quiet worker)"
  for node in 2 3; do
    on "${node}" swarm join --token "${token}" "${NETWORK}.11:2377" >/dev/null
  done
}

# The variables of deploy-production.sh --swarm for one machine of three; the clients ask from inside, because
# this kernel may lack what a swarm's published ports need.
deploy() {
  local level="$1"
  printf 'SENTENCE_API_LOG_LEVEL=%s\n' "${level}" >"${WORK}/settings.env"
  env SENTENCE_API_IMAGE="${IMAGE}" SENTENCE_API_SETTINGS_FILE="${WORK}/settings.env" \
    SENTENCE_API_REPLICAS="${REPLICAS}" SENTENCE_API_STOP_GRACE=35s SENTENCE_API_OPEN_FILES=2048 \
    SENTENCE_API_CPU_RESERVATION=0.25 SENTENCE_API_PUBLISH=5001 SENTENCE_API_MEMORY_LIMIT=1G \
    SENTENCE_API_MEMORY_RESERVATION=400M SENTENCE_API_CPU_LIMIT=1 \
    docker --host "unix://${WORK}/1/docker.sock" stack deploy --resolve-image never \
    --compose-file "${ROOT}/docker-compose.production.yml" sentence-api >/dev/null
}

running() {
  on 1 service ps --filter desired-state=running --format '{{.CurrentState}} {{.Node}}' sentence-api_api |
    grep -c '^Running' || true
}

all_run() {
  local count
  count="$(running)"
  [[ "${count}" == "${REPLICAS}" ]]
}

updated() {
  local state
  state="$(on 1 service inspect --format '{{.UpdateStatus.State}}' sentence-api_api)"
  [[ "${state}" == completed ]]
}

wait_long() {
  local deadline=$((SECONDS + 150))
  until "$@"; do
    if ((SECONDS >= deadline)); then
      on 1 service ps --no-trunc sentence-api_api >&2
      die "$* takes too long"
    fi
    sleep 0.5
  done
}

start_clients() {
  local program
  program="$(base64 --wrap 0 "${ROOT}/tests/container/clients.py")"
  on 1 service create --quiet --detach --name "${CLIENTS}" --restart-condition none --no-healthcheck \
    --no-resolve-image --constraint node.role==manager --network sentence-api_default --entrypoint python \
    "${IMAGE}" -c "import base64; exec(base64.b64decode('${program}'))" tasks.api 5001 "${CLIENT_SECONDS}" \
    >/dev/null
}

end_engine() {
  local pid
  pid="$(cat "${WORK}/$1/pid" 2>/dev/null || true)"
  [[ -n "${pid}" ]] || return 0
  kill -TERM "${pid}" 2>/dev/null || true
  while kill -0 "${pid}" 2>/dev/null; do sleep 0.2; done
}

clean_up() {
  local node
  on 1 stack rm sentence-api >/dev/null 2>&1 || true
  on 1 service rm "${CLIENTS}" >/dev/null 2>&1 || true
  sleep 3
  for node in "${NODES[@]}"; do
    on "${node}" swarm leave --force >/dev/null 2>&1 || true
    end_engine "${node}"
    ip netns delete "sapi-n${node}" 2>/dev/null || true
  done
  iptables --delete FORWARD "${PASS[@]}" 2>/dev/null || true
  ip link delete "${BRIDGE}" 2>/dev/null || true
  sleep 1
  rm -rf "${WORK}" 2>/dev/null || say "left: ${WORK}"
}

_main() {
  case "${1:-}" in
    '') ;;
    -h | --help)
      usage
      return
      ;;
    *)
      usage >&2
      exit "${EXIT_USAGE}"
      ;;
  esac
  IMAGE="$(docker image inspect --format '{{.Id}}' sentence-api:latest)" || die 'there is no image sentence-api:latest'
  WORK="$(mktemp -d)"
  readonly IMAGE WORK
  trap clean_up EXIT
  ip link add "${BRIDGE}" type bridge
  ip address add "${NETWORK}.1/24" dev "${BRIDGE}"
  ip link set "${BRIDGE}" up
  # This machine's own Docker engine drops unknown packets, even between ports of one bridge.
  iptables --insert FORWARD "${PASS[@]}"
  local node
  for node in "${NODES[@]}"; do start_node "${node}"; done
  load_image
  join
  say 'deploying three replicas'
  local began=${SECONDS}
  deploy info
  wait_long all_run
  say "all replicas healthy after $((SECONDS - began)) s, on:"
  on 1 service ps --filter desired-state=running --format '  {{.Name}} {{.Node}} {{.CurrentState}}' sentence-api_api
  start_clients
  sleep 8
  say 'updating under 100 requests/s'
  began=${SECONDS}
  deploy warning
  wait_long updated
  say "updated after $((SECONDS - began)) s; waiting for the clients"
  local result=''
  until [[ -n "${result}" ]]; do
    result="$(on 1 service logs --raw "${CLIENTS}" 2>/dev/null || true)"
    sleep 1
  done
  say "how the requests ended during the update: ${result}"
}

_main "$@"
