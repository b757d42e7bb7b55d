#!/usr/bin/env bash
# Makes an image for several architectures from programs that are built: assemble.sh TAG ARCHITECTURE=PROGRAM...
# TAG becomes a manifest list in buildah's storage. The stages that compile are left out, so that no base image is needed.
# Nothing runs in the image, so that no architecture is emulated. An archive keeps the owners of the files, unlike a copy.
# Needs root and buildah.
set -euo pipefail
cd "$(dirname "$0")/../.."
tag="$1"
shift
export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}" BUILDAH_ISOLATION=chroot
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
sed '/^ARG RUST_IMAGE/,/^FROM scratch/{/^FROM scratch/!d}; s|COPY --from=build /out/|ADD out.tar|' deploy/Dockerfile >"$work/Dockerfile"
buildah manifest rm "$tag" >/dev/null 2>&1 || true
buildah manifest create "$tag" >/dev/null
for built in "$@"; do
    rm -rf "$work/out"
    sh deploy/layout.sh "${built#*=}" "$work/out"
    tar --sort=name --numeric-owner -C "$work/out" -cf "$work/out.tar" .
    buildah bud --quiet --no-cache --platform "linux/${built%%=*}" --manifest "$tag" --timestamp "${SOURCE_DATE_EPOCH:-0}" \
        --build-arg BUILD_REVISION="${BUILD_REVISION:-unknown}" ${REPOSITORY:+--build-arg SOURCE="$REPOSITORY"} \
        -f "$work/Dockerfile" "$work" >/dev/null
done
