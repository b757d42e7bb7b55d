#!/bin/sh
# Builds the static program for architectures (amd64, arm64), on one of them: static.sh ARCHITECTURE...
# It prints the path of each program. Several are built at once: while the last step of one keeps one processor busy,
# another's libraries are compiled. Needs Rust with the targets, and for the other architecture Debian's cross compiler:
# deploy/cross.sh installs them. CARGO_TARGET_DIR is as usual, and BUILD_REVISION is the commit.
set -eu
cd "$(dirname "$0")/.."
home="${CARGO_HOME:-$HOME/.cargo}"
directory="${CARGO_TARGET_DIR:-target}"
targets="" programs=""
for architecture in "$@"; do
    case "$architecture" in
        amd64) arch=x86_64 ;;
        arm64) arch=aarch64 ;;
        *) echo "static.sh: $architecture is no architecture that is built; there are amd64 and arm64" >&2; exit 2 ;;
    esac
    target="$arch-unknown-linux-gnu"
    if [ "$(uname -m)" != "$arch" ]; then
        export "CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER=$arch-linux-gnu-gcc"
        export "CC_$(echo "$target" | tr - _)=$arch-linux-gnu-gcc"
    fi
    targets="$targets --target $target"
    programs="$programs $directory/$target/release/cognito-auth-exporter"
done
# An explicit --target keeps +crt-static away from build scripts and proc macros. The C library is the distribution's: its
# static resolver reads /etc/hosts and asks DNS without loading anything. No path of the building machine is in the program,
# so that two machines with the same compiler make the same bytes.
separator="$(printf '\037')"
flags="-Ctarget-feature=+crt-static$separator--remap-path-prefix=$home=/cargo$separator--remap-path-prefix=$PWD=/src"
# Where rustup's component rust-src is there, rustc names its files instead.
commit="$(rustc --version --verbose | sed -n 's/^commit-hash: //p')"
flags="$flags$separator--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$commit"
export CARGO_ENCODED_RUSTFLAGS="$flags" CFLAGS="-ffile-prefix-map=$home=/cargo -ffile-prefix-map=$PWD=/src"
export BUILD_REVISION="${BUILD_REVISION:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}"
# CARGO_BUILD is `auditable build` for a release: the list of dependencies becomes a section of the program.
# shellcheck disable=SC2086 # several words
cargo ${CARGO_BUILD:-build} --release --locked $targets --bin cognito-auth-exporter >&2
# shellcheck disable=SC2086 # one a line
printf '%s\n' $programs
