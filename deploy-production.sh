#!/usr/bin/env bash
# shellcheck enable=all disable=SC2310
# Deploys the embedding API. This file only finds a Python; sentence_api/deploy/ does the work.
set -euo pipefail
shopt -s inherit_errexit

usage() {
  cat <<'EOF'
Usage: ./deploy-production.sh [COMMAND] [OPTIONS]

Commands:
  up            start the API, or replace the running one, and verify it (default)
  down          stop it
  restart       start the running version again
  status        say whether it runs and is ready; exit 1 if not
  logs          show the end of its log (--follow to keep showing)
  plan          show how this machine would be used (takes the options of
                python -m sentence_api plan: --cpus --memory --format --explain)
  releases      list the versions that were deployed, and what differs
  rollback [N]  go back to the version before this one, or to release N
  env           print the variables of docker-compose.production.yml, for .env
  wheelhouse    collect what a build installs into wheelhouse/; builds of the
                image need no network from then on

Options of up; deployment.env keeps them for the next time:
  --name NAME       name of the container (default sentence-transformer-api)
  --port N          port to listen on (default 5001)
  --bind ADDRESS    address to listen on (default 127.0.0.1)
  --cpus N          plan the container for N CPUs
  --memory SIZE     plan the container for this much memory, as 8G
  --base-image REF  image to build on instead of the Dockerfile's
  --keys FILE       file with one API key a line; the query calls then need one,
                    as Authorization: Bearer KEY
  --no-keys         need no API key from now on
  --swarm           deploy to the swarm that this engine manages; updates lose
                    no request
  --replicas N      containers of the swarm (default 1)

Other options:
  --local           no containers: a virtual environment and gunicorn in this
                    folder; also what happens where no Docker engine answers
  --systemd         with --local: a unit that starts it again, within limits
  --config FILE     file that keeps the choices (default deployment.env)
  --dry-run         print every command and file of an up, change nothing
  --build-only      build the image and stop there
  -h, --help        this text
  --version         the version

Settings are environment variables, kept in deployment.env too:
docs/configuration.md lists them. An empty value returns to a default.
EOF
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
  local argument python
  for argument in "$@"; do
    if [[ "${argument}" == -h || "${argument}" == --help ]]; then
      usage
      exit 0
    elif [[ "${argument}" == --version ]]; then
      sed -n 's/^__version__ = "\(.*\)"/\1/p' "${ROOT}/sentence_api/__init__.py"
      exit 0
    fi
  done
  cd "${ROOT}"
  if ! python="$(find_python)"; then
    printf 'deploy-production.sh: no Python 3.9 or newer on PATH; install python3\n' >&2
    exit 1
  fi
  exec "${python}" -m sentence_api.deploy "$@"
}

_is_sourced() {
  [[ "${BASH_SOURCE[0]}" != "$0" ]]
}

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly ROOT
if ! _is_sourced; then
  _main "$@"
fi
