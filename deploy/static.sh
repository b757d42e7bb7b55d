#!/bin/sh
# Builds the static program for an architecture (amd64 or arm64), on this or the other one: static.sh ARCHITECTURE
# The last line of its output is the program's path. Needs Rust with the target, and for the other architecture Debian's
# cross compiler: `.ci/release-tools` installs both. CARGO_TARGET_DIR and BUILD_REVISION are as usual.
set -eu
cd "$(dirname "$0")/.."
case "$1" in
    amd64) arch=x86_64 ;;
    arm64) arch=aarch64 ;;
    *) echo "static.sh: $1 is no architecture that is built; there are amd64 and arm64" >&2; exit 2 ;;
esac
target="$arch-unknown-linux-gnu"
if [ "$(uname -m)" != "$arch" ]; then
    variable="$(echo "$target" | tr 'a-z-' 'A-Z_')"
    export "CARGO_TARGET_${variable}_LINKER=$arch-linux-gnu-gcc"
    export "CC_$(echo "$target" | tr - _)=$arch-linux-gnu-gcc"
fi
# An explicit --target keeps +crt-static away from build scripts and proc macros. The C library is the distribution's: its
# static resolver reads /etc/hosts and asks DNS without loading anything. No path of the building machine is in the program,
# so that two machines with the same compiler make the same bytes.
home="${CARGO_HOME:-$HOME/.cargo}"
separator="$(printf '\037')"
flags="-Ctarget-feature=+crt-static$separator--remap-path-prefix=$home=/cargo$separator--remap-path-prefix=$PWD=/src"
export CARGO_ENCODED_RUSTFLAGS="$flags" CFLAGS="-ffile-prefix-map=$home=/cargo -ffile-prefix-map=$PWD=/src"
export BUILD_REVISION="${BUILD_REVISION:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}"
# CARGO_BUILD is `auditable build` for a release: the list of dependencies becomes a section of the program.
# shellcheck disable=SC2086 # two words
cargo ${CARGO_BUILD:-build} --release --locked --target "$target" --bin cognito-auth-exporter >&2
echo "${CARGO_TARGET_DIR:-target}/$target/release/cognito-auth-exporter"
