# shellcheck shell=bash enable=all disable=SC2154
# Functions of the scripts that get tools for the tests from Debian's packages.
#
# Each script sets NAME, the prefix of its messages, sources this file, and defines `usage`.

readonly EXIT_USAGE=2
readonly INSTALL_SECONDS=600

say() {
  printf '%s: %s\n' "${NAME}" "$1"
}

die() {
  printf '%s: %s\n  next: %s\n' "${NAME}" "$1" "$2" >&2
  exit 1
}

# Accepts no argument but --help.
take_arguments() {
  case "${1:-}" in
    '') ;;
    -h | --help)
      usage
      exit
      ;;
    *)
      printf '%s: unknown argument: %s\n' "${0##*/}" "$1" >&2
      usage >&2
      exit "${EXIT_USAGE}"
      ;;
  esac
}

require_debian() {
  command -v apt-get >/dev/null || die "$1 is missing, and this is not Debian" "install $2, then run this again"
}

require_root() {
  [[ "${EUID}" == 0 ]] || die "$1 is missing, and only root can install it" 'run this with sudo'
}

apt() {
  DEBIAN_FRONTEND=noninteractive timeout "${INSTALL_SECONDS}" \
    apt-get -qq -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o Dpkg::Use-Pty=0 "$@"
}

apt_update() {
  apt update >/dev/null || die 'apt-get update failed' 'see the error above'
}

apt_install() {
  say "installing $*"
  apt_update
  apt install -y --no-install-recommends "$@" >/dev/null || die "could not install $*" 'see the error above'
}

# Unpacks packages into a folder, without their dependencies: nothing is installed or started.
apt_unpack() {
  local folder=$1
  shift
  mkdir -p "${folder}"
  cd "${folder}" || return
  if ! apt_download "$@" 2>/dev/null; then
    [[ "${EUID}" == 0 ]] || die "apt does not know $*" 'run apt-get update as root, then this again'
    apt_update
    apt_download "$@" || die "could not fetch $*" 'see the error above'
  fi
  local package
  for package in *.deb; do
    dpkg -x "${package}" . || die "could not unpack ${package}" 'see the error above'
    rm "${package}"
  done
}

apt_download() {
  apt -o APT::Sandbox::User=root download "$@"
}
