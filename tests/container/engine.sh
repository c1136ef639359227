#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Installs what the container tests need: a Docker engine, Compose, buildx, and a base image.
#
# Everything comes from Debian's own packages, through apt's configured mirror, because a test
# machine may reach no image registry. Compose v2 and buildx are single binaries of the next release,
# which run here unchanged.
set -euo pipefail
shopt -s inherit_errexit

readonly NAME=engine
# shellcheck source=tests/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

readonly BASE_IMAGE=sentence-api-base:bookworm
readonly RELEASE=bookworm
readonly PLUGIN_RELEASE=trixie
readonly PLUGINS=/usr/local/lib/docker/cli-plugins
readonly ENGINE_LOG=/var/log/dockerd.log
# Names the engine that this script started, which tests may stop and start again.
readonly ENGINE_PID=/run/sentence-api-engine.pid
readonly START_SECONDS=60
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

usage() {
  cat <<'EOF'
Usage: tests/container/engine.sh [--help]

Installs and starts a Docker engine if none answers, adds the Compose and buildx
plugins, and makes the image sentence-api-base:bookworm if it is missing. Needs
root on Debian 12. Run it again at any time: it does only what is left to do.
EOF
}

engine_answers() {
  timeout 20 docker info >/dev/null 2>&1
}

has_plugin() {
  timeout 20 docker "$1" version >/dev/null 2>&1
}

has_base_image() {
  docker image inspect "${BASE_IMAGE}" >/dev/null 2>&1
}

require_debian_and_root() {
  require_debian "$1" 'Docker with Compose and buildx'
  require_root "$1"
}

install_missing() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "${package}" 2>/dev/null | grep -q 'ok installed' || missing+=("${package}")
  done
  if ((${#missing[@]} == 0)); then return; fi
  require_debian_and_root "${missing[*]}"
  apt_install "${missing[@]}"
}

known_mirror() {
  # shellcheck disable=SC2016 # apt fills it in, not the shell
  apt-get indextargets --format '$(SITE)' \
    'Created-By: Packages' "Codename: ${RELEASE}" 'Component: main' | head -n 1
}

# Prints apt's mirror of this release.
mirror() {
  local found
  found=$(known_mirror)
  if [[ -z "${found}" ]]; then
    apt update >/dev/null
    found=$(known_mirror)
  fi
  [[ -n "${found}" ]] || die "apt has no mirror of Debian ${RELEASE}" "add one to its sources"
  printf '%s\n' "${found}"
}

# A bridge with a larger MTU than the default route loses large packets, and pip in a build hangs.
mtu() {
  local device
  device=$(ip -o route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
  cat "/sys/class/net/${device:-lo}/mtu"
}

start_engine() {
  local width deadline=$((SECONDS + START_SECONDS)) pid
  width=$(mtu)
  ((width <= 1500)) || width=1500
  say "starting dockerd (log: ${ENGINE_LOG})"
  # In a new session, so that it outlives its caller.
  setsid dockerd --mtu "${width}" >"${ENGINE_LOG}" 2>&1 </dev/null &
  pid=$!
  printf '%s\n' "${pid}" >"${ENGINE_PID}"
  until engine_answers; do
    if ((SECONDS >= deadline)) || ! kill -0 "${pid}" 2>/dev/null; then
      tail -n 8 "${ENGINE_LOG}" >&2
      die "dockerd did not come up within ${START_SECONDS} s" "read ${ENGINE_LOG}"
    fi
    sleep 0.5
  done
}

ensure_engine() {
  if engine_answers; then return; fi
  install_missing docker.io iptables iproute2
  if engine_answers; then return; fi # where systemd has started it
  require_debian_and_root 'a running engine'
  start_engine
}

# Extracts one file of each package without installing it: the dependencies are of another release.
install_plugins() {
  local folder="${WORK}/plugins" site package
  require_debian_and_root "${*}"
  site=$(mirror)
  mkdir -p "${folder}/lists/partial" "${folder}/cache/archives/partial"
  printf 'deb [signed-by=%s] %s %s main\n' "${KEYRING}" "${site}" "${PLUGIN_RELEASE}" >"${folder}/sources.list"
  local apart=(
    -o "Dir::Etc::SourceList=${folder}/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=${folder}/lists" -o "Dir::Cache=${folder}/cache" -o APT::Sandbox::User=root
  )
  apt "${apart[@]}" update >/dev/null || die "cannot read ${PLUGIN_RELEASE}'s packages" "see the error above"
  mkdir -p "${PLUGINS}"
  for package in "$@"; do
    say "adding the plugin ${package} of ${PLUGIN_RELEASE}"
    (cd "${folder}" && apt "${apart[@]}" download "${package}" >/dev/null) ||
      die "could not download ${package}" "see the error above"
    dpkg -x "${folder}/${package}"_*.deb "${folder}/${package}"
    find "${folder}/${package}" -type f -path "*/cli-plugins/${package}" -exec cp {} "${PLUGINS}/" \;
    [[ -x "${PLUGINS}/${package}" ]] || die "${package} holds no plugin" "look into the package"
  done
}

ensure_plugins() {
  local missing=()
  has_plugin compose || missing+=(docker-compose)
  has_plugin buildx || missing+=(docker-buildx)
  if ((${#missing[@]} == 0)); then return; fi
  install_plugins "${missing[@]}"
}

# Leaves out what Docker's slim images leave out.
make_base_image() {
  local root="${WORK}/root" site
  require_debian_and_root "${BASE_IMAGE}"
  install_missing debootstrap
  site=$(mirror)
  say "making ${BASE_IMAGE}: installing Debian ${RELEASE} (a minute)"
  timeout "${INSTALL_SECONDS}" debootstrap --variant=minbase \
    --include=ca-certificates,python3,python3-venv "${RELEASE}" "${root}" "${site}" \
    >"${WORK}/log" 2>&1 || {
    tail -n 8 "${WORK}/log" >&2
    die "debootstrap failed" "see its output above"
  }
  rm -rf "${root}"/usr/share/{doc,man,info,locale}/* "${root}"/var/lib/apt/lists/* \
    "${root}"/var/cache/apt/* "${root}"/var/log/*
  tar -C "${root}" -c . | docker import --change 'CMD ["python3"]' - "${BASE_IMAGE}" >/dev/null
}

_main() {
  take_arguments "$@"
  WORK=$(mktemp -d)
  readonly WORK
  trap 'rm -rf "${WORK}"' EXIT
  ensure_engine
  ensure_plugins
  has_base_image || make_base_image
  say "ready after ${SECONDS} s"
}

_is_sourced() {
  [[ "${BASH_SOURCE[0]}" != "$0" ]]
}

_is_sourced || _main "$@"
