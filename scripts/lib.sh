# shellcheck shell=bash
# Shared functions of the scripts: find and install what Warrengate is built with. This file is sourced, never run.
# Nothing is installed that already exists, and no running service is stopped.

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

fail() {
  printf '\033[1;31merror:\033[0m %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif has sudo; then
    sudo "$@"
  else
    fail "this needs root, and there is no sudo: $*" "Run it as root, then start again."
  fi
}

has_rabbitmq() {
  has rabbitmq-server || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || [ -x /usr/sbin/rabbitmq-server ] ||
    [ -x /opt/homebrew/sbin/rabbitmq-server ] || [ -x /usr/local/sbin/rabbitmq-server ]
}

# The server's programs: Debian has them outside PATH.
has_postgres() {
  local found
  has initdb && return 0
  for found in /usr/lib/postgresql/*/bin/initdb /opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb; do
    [ -x "$found" ] && return 0
  done
  return 1
}

# With venv, which Debian packages separately from python3.
has_python() { has python3 && python3 -c 'import venv, ensurepip' >/dev/null 2>&1; }

# A compiler, not only a runtime, and Maven.
has_java() { has javac && has mvn; }

# Any version that fetches the toolchain that a go.mod names.
has_go() { has go && [ -n "$(go env GOTOOLCHAIN)" ]; }

has_node() { has node && has npm; }

# Where a cask of Homebrew installs it.
mac_chromium=/Applications/Chromium.app/Contents/MacOS/Chromium

has_chromium() {
  local found
  for found in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable "$mac_chromium"; do
    [ -n "$found" ] && has "$found" && return 0
  done
  return 1
}

has_shellcheck() { has shellcheck; }

has_compose() { docker compose version >/dev/null 2>&1 || has docker-compose; }

# Cargo is not installed automatically, because there are several ways to do it.
need_cargo() {
  [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  has cargo || fail "Rust is not installed (no cargo found)." \
    "Get it from https://rustup.rs, open a new shell, and start again."
}

# The features of debug builds of the program: without jemalloc, which takes a tenth of the time.
development=(--no-default-features --features dev)

# Where cargo writes what it builds.
cargo_target() { cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'; }

# cargo package unpacks a dependency of the same workspace below cargo's home and uses that copy again as long as path and
# version are the same, also when the package has changed since.
remove_unpacked_packages() {
  rm -rf "${CARGO_HOME:-$HOME/.cargo}"/registry/{cache,src}/-*/warrengate-{proto,client}-*
}

# take_broker PATH: the RabbitMQ that the tests use instead of the one installed.
take_broker() {
  [ -e "$1" ] || fail "$1 does not exist."
  WARRENGATE_TEST_BROKER=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
  export WARRENGATE_TEST_BROKER
}

# need rabbitmq postgres …: installs what is missing of these and of what every build needs.
need() {
  local missing=() what
  # make builds the allocator (jemalloc).
  { has cc || has gcc || has clang; } && has make || missing+=(compiler)
  # Downloads need them; small images do not have them.
  [ "$(uname -s)" = Darwin ] || [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs ] ||
    missing+=(authorities)
  for what in "$@"; do
    "has_$what" || missing+=("$what")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "missing: ${missing[*]}"
  if has apt-get; then
    need_by_apt "${missing[@]}"
  elif [ "$(uname -s)" = Darwin ] && has brew; then
    need_by_brew "${missing[@]}"
  else
    fail "cannot install these here: ${missing[*]}" \
      "compiler:    any C compiler, and make" \
      "rabbitmq:    3.10 or later, with Erlang: https://www.rabbitmq.com/docs/download" \
      "postgres:    PostgreSQL 13 or later (only for the fault suite: the gateways' shared store)" \
      "python:      Python 3.9 or later with venv (only for the tests of a client in another language)" \
      "java:        JDK 17 or later, and Maven (only for the Java client library)" \
      "go:          Go 1.21 or later: https://go.dev/dl (only for the Go client library)" \
      "node:        Node.js 20 or later: https://nodejs.org (only for the TypeScript client library)" \
      "chromium:    Chromium or Google Chrome (only for ./scripts/console)" \
      "shellcheck:  https://www.shellcheck.net (only for ./scripts/lint)" \
      "compose:     Docker Compose (only for ./scripts/check-compose)" \
      "authorities: your system's ca-certificates"
  fi
}

need_by_apt() {
  local packages=() what
  for what in "$@"; do
    case $what in
      compiler) packages+=(gcc libc6-dev make) ;;
      authorities) packages+=(ca-certificates) ;;
      rabbitmq) packages+=(rabbitmq-server) ;;
      postgres) packages+=(postgresql) ;;
      python) packages+=(python3 python3-venv) ;;
      java) packages+=(default-jdk-headless maven) ;;
      go) packages+=(golang-go) ;;
      node) packages+=(nodejs npm) ;;
      # Small images have no font.
      chromium) packages+=(chromium fonts-dejavu-core) ;;
      shellcheck) packages+=(shellcheck) ;;
      compose) packages+=(docker-compose) ;;
    esac
  done
  say "installing ${packages[*]} with apt-get"
  # Debian starts a service when it is installed and at every boot. The scripts use private servers and need no service.
  local policy=/usr/sbin/policy-rc.d ours='' services=()
  [[ " $* " != *" rabbitmq "* ]] || services+=(rabbitmq-server)
  [[ " $* " != *" postgres "* ]] || services+=(postgresql)
  if [ ${#services[@]} -gt 0 ] && [ ! -e "$policy" ]; then
    ours=yes
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
  fi
  local done=0
  as_root env DEBIAN_FRONTEND=noninteractive sh -c \
    'apt-get update -q && apt-get install -q -y --no-install-recommends "$@"' sh "${packages[@]}" >&2 || done=$?
  [ -z "$ours" ] || as_root rm -f "$policy"
  [ "$done" -eq 0 ] || fail "apt-get could not install ${packages[*]} (see above)."
  if [ ${#services[@]} -gt 0 ] && [ -d /run/systemd/system ]; then
    as_root systemctl disable --now --quiet "${services[@]}" || true
  fi
}

need_by_brew() {
  local packages=() casks=() what
  for what in "$@"; do
    case $what in
      compiler) fail "no C compiler." "Install Apple's: xcode-select --install" ;;
      rabbitmq) packages+=(rabbitmq) ;;
      postgres) packages+=(postgresql) ;;
      python) packages+=(python) ;;
      java) packages+=(openjdk maven) ;;
      go) packages+=(go) ;;
      node) packages+=(node) ;;
      chromium) casks+=(chromium) ;;
      shellcheck) packages+=(shellcheck) ;;
      compose) packages+=(docker-compose) ;;
    esac
  done
  [ ${#packages[@]} -eq 0 ] || say "installing ${packages[*]} with brew"
  [ ${#packages[@]} -eq 0 ] || brew install "${packages[@]}" >&2
  [ ${#casks[@]} -eq 0 ] || brew install --cask "${casks[@]}" >&2
}

# rustfmt and clippy, which a minimal toolchain does not have.
need_checkers() {
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
  has rustup || fail "cargo fmt and cargo clippy are missing." "Install your system's packages for them."
  say "installing rustfmt and clippy with rustup"
  rustup component add rustfmt clippy >&2
}

# typos, the spelling checker: in a virtual environment below target/tools, or from PATH.
need_typos() {
  PATH=$PATH:$PWD/target/tools/typos/bin
  has typos && return 0
  say "installing typos into target/tools"
  { python3 -m venv target/tools/typos && target/tools/typos/bin/pip install --quiet typos >&2; } ||
    say "typos cannot be installed here, so spelling is not checked"
}

# promtool, which checks metrics and alerts. Debian's package also contains a service, so it is unpacked into
# target/tools instead of being installed. Without promtool the tests that use it are skipped and reported.
need_promtool() {
  { has promtool || [ -x target/tools/promtool ]; } && return 0
  if has apt-get && has dpkg; then
    say "unpacking promtool into target/tools"
    local place
    place=$(mktemp -d)
    if (cd "$place" && apt-get download -q prometheus >&2) && dpkg -x "$place"/prometheus_*.deb "$place/all"; then
      mkdir -p target/tools && cp "$place/all/usr/bin/promtool" target/tools/promtool
    else
      say "promtool cannot be installed here, so some checks of metrics are skipped"
    fi
    rm -rf "$place"
  elif [ "$(uname -s)" = Darwin ] && has brew; then
    brew install prometheus >&2 || say "promtool cannot be installed here, so some checks of metrics are skipped"
  else
    say "promtool cannot be installed here, so some checks of metrics are skipped"
  fi
}

# private_gateway FOLDER: builds `warrengate` (unless WARRENGATE_BINARY names one) and starts `warrengate dev` in a
# folder, on free ports. It sets $gateway (the process id), $binary, $ops (the address of its metrics) and the variables
# of dev.env. Settings are taken from the environment. The caller ends the process.
private_gateway() {
  local folder=$1 port=free_port
  binary=${WARRENGATE_BINARY:-}
  if [ -z "$binary" ]; then
    say "building"
    cargo build --locked --quiet "${development[@]}" --bin warrengate
    binary=$(cargo_target)/debug/warrengate
  fi
  ops=127.0.0.1:$($port)
  (cd "$folder" && exec env -u WARRENGATE_BINARY "$binary" dev --grpc "127.0.0.1:$($port)" --ops "$ops" --amqps-port "$($port)" \
    --management-port "$($port)") >"$folder/gateway.log" 2>&1 &
  gateway=$!
  say "starting a gateway"
  until grep -q 'Ctrl-C' "$folder/gateway.log" 2>/dev/null; do
    kill -0 "$gateway" 2>/dev/null || { cat "$folder/gateway.log" >&2; fail "the gateway did not start (see above)."; }
    sleep 0.2
  done
  set -a
  # shellcheck disable=SC1091
  . "$folder/.warrengate/dev.env"
  set +a
  export WARRENGATE_CLIENT_ID=$WARRENGATE_ACME_CLIENT_ID WARRENGATE_CLIENT_SECRET=$WARRENGATE_ACME_CLIENT_SECRET
  case $WARRENGATE_CA in /*) ;; *) export WARRENGATE_CA=$folder/$WARRENGATE_CA ;; esac
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
