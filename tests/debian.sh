# shellcheck shell=bash enable=all disable=SC2154
# Common parts of the scripts that install programs for the tests from Debian's packages.
#
# Each script sets NAME, the prefix of its messages, sources this file, and has a function `usage`.

readonly EXIT_USAGE=2
readonly INSTALL_SECONDS=600

say() {
  printf '%s: %s\n' "${NAME}" "$1"
}

die() {
  printf '%s: %s\n  next: %s\n' "${NAME}" "$1" "$2" >&2
  exit 1
}

# The only argument is --help.
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
