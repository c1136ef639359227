#!/usr/bin/env bash
# shellcheck enable=all
# Sets up what is needed and runs every check and test.
set -euo pipefail
shopt -s inherit_errexit

readonly EXIT_USAGE=2
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly ROOT
readonly BIN="${ROOT}/.venv/bin"

usage() {
  cat <<'EOF'
Usage: ./run-tests.sh [--quick] [PYTEST ARGUMENTS]

Installs what is missing into .venv, exports the default model if there is
none, then runs ruff, import-linter, mypy, shellcheck and pytest.

  --quick      only what needs neither the model nor a server
  -h, --help   this text
EOF
}

step() {
  printf '\n== %s\n' "$1"
}

run_checks() {
  step 'ruff'
  "${BIN}/ruff" check .
  "${BIN}/ruff" format --check .
  step 'import-linter'
  "${BIN}/lint-imports" --no-cache --no-logo
  step 'mypy'
  "${BIN}/mypy"
  step 'shellcheck'
  "${BIN}/shellcheck" ./*.sh requirements/*.sh tests/*.sh tests/*/*.sh .ci/run
}

ensure_model() {
  step 'model'
  if "${BIN}/python" -m sentence_api local has-model; then
    printf 'using the exported model under var/\n'
  else
    "${BIN}/python" -m sentence_api export
  fi
}

# Without a browser its tests are skipped, which is a failure under CI only.
ensure_browser() {
  step 'browser'
  tests/browser/install.sh || printf 'the tests in a browser will be skipped\n' >&2
}

# Without wrk the tests of a benchmark's load are skipped, likewise.
ensure_load_generator() {
  step 'wrk'
  tests/benchmarks/install.sh || printf 'the tests of a load by wrk will be skipped\n' >&2
}

# Without Prometheus its tests are skipped, likewise.
ensure_prometheus() {
  step 'Prometheus'
  tests/observability/install.sh || printf 'the tests of the alert rules will be skipped\n' >&2
}

# Without nginx or Caddy their tests are skipped, likewise.
ensure_proxies() {
  step 'proxies'
  tests/system/install.sh || printf 'the tests behind nginx and Caddy will be skipped\n' >&2
}

# Only CI installs an engine: elsewhere the machine's owner decides.
ensure_engine() {
  step 'Docker engine'
  if [[ "${CI:-}" == true ]] || docker info >/dev/null 2>&1; then
    tests/container/engine.sh || printf 'the tests in containers will be skipped\n' >&2
  else
    printf 'no engine answers: the tests in containers will be skipped (tests/container/engine.sh)\n'
  fi
}

_main() {
  local pytest_options=()
  local quick=no
  while (($#)); do
    case "$1" in
      --quick) quick=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      --*=* | -* | tests/*) pytest_options+=("$1") ;;
      *)
        if ((${#pytest_options[@]} == 0)); then
          printf 'run-tests.sh: unknown argument: %s\n' "$1" >&2
          usage >&2
          exit "${EXIT_USAGE}"
        fi
        pytest_options+=("$1")
        ;;
    esac
    shift
  done

  cd "${ROOT}"
  requirements/install.sh dev
  run_checks
  if [[ "${quick}" == yes ]]; then
    pytest_options+=(-m 'not model and not system and not browser and not container and not promtool')
  else
    ensure_model
    ensure_browser
    ensure_load_generator
    ensure_prometheus
    ensure_proxies
    ensure_engine
  fi
  step 'pytest'
  "${BIN}/python" -m pytest "${pytest_options[@]}"
}

_main "$@"
