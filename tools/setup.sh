#!/usr/bin/env bash
# Installs what the system lacks. The argument says for what: build, test, bench or deny.
set -euo pipefail

apt_install() {
  command -v apt-get >/dev/null || { echo "setup: please install: $*" >&2; exit 1; }
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  echo "setup: installing $*"
  $sudo apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "$@" >/dev/null
}

need() { # command, package
  command -v "$1" >/dev/null || missing+=("$2")
}

missing=()
need protoc protobuf-compiler
need cc build-essential
case ${1:-build} in
  test)
    need docker-registry docker-registry
    need curl curl
    need pip3 python3-pip
    need node nodejs
    need npm npm
    ;;
  bench)
    need wrk wrk
    need etcd etcd-server
    ;;
esac
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
case ${1:-build} in
  test) cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest ;;
  deny)
    # Pinned, and kept with the other tools: building it takes minutes, running it seconds.
    version=0.20.2
    tools=${NARU_TOOLS:-$HOME/.cache/naru/tools}
    case $("$tools/cargo-deny/bin/cargo-deny" --version 2>/dev/null) in
      "cargo-deny $version") ;;
      *) CARGO_TARGET_DIR=$(mktemp -d) cargo install --locked --version $version --root "$tools/cargo-deny" cargo-deny ;;
    esac
    ;;
esac
