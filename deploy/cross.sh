#!/bin/sh
# Installs what deploy/static.sh needs for an architecture (amd64 or arm64) on Debian or Ubuntu, as root: the target of Rust,
# and for the other architecture the cross compiler and its static C library.
set -eu
case "$1" in
    amd64) arch=x86_64 packages="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;;
    arm64) arch=aarch64 packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;;
    *) echo "cross.sh: $1 is no architecture that is built; there are amd64 and arm64" >&2; exit 2 ;;
esac
rustup target add "$arch-unknown-linux-gnu"
if [ "$(uname -m)" != "$arch" ] && ! command -v "$arch-linux-gnu-gcc" >/dev/null; then
    apt-get update -qq
    # shellcheck disable=SC2086 # two packages
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi
