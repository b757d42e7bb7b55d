#!/usr/bin/env bash
# Builds the image for this machine with buildah from a program that was built on it, and starts it once with podman as
# Kubernetes would: read-only root, no capabilities, no new privileges, as 65532. Needs root, buildah, podman and runc; no
# registry.
#
#   deploy/image.sh [TAG]
set -euo pipefail
cd "$(dirname "$0")/.."
tag="${1:-localhost/cognito-auth-exporter:0.1.0}"
case "$(uname -m)" in x86_64) architecture=amd64 ;; *) architecture=arm64 ;; esac
work="$(mktemp -d)"
cleanup() { rm -rf "$work"; }
trap cleanup EXIT
export STORAGE_DRIVER=vfs

program="$(deploy/static.sh "$architecture")"
deploy/release/assemble.sh "$tag" "$architecture=$program"
podman image inspect --format 'image {{.RepoTags}} {{.Size}} bytes, user {{.User}}' "$tag"

run=(podman --runtime runc run --rm --network host --read-only --cap-drop=ALL --security-opt no-new-privileges
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --memory-swappiness=-1)
"${run[@]}" "$tag" --version
# The demo's state is the only thing that it writes.
"${run[@]}" --tmpfs /tmp:rw,mode=1777 "$tag" demo --duration 5s --listen 127.0.0.1:0 >"$work/records"
echo "demo: $(wc -l <"$work/records") records"
test "$(wc -l <"$work/records")" -gt 100
# There is no shell to be had.
if "${run[@]}" --entrypoint /bin/sh "$tag" -c true 2>"$work/refusal" || ! grep -q "no such file" "$work/refusal"; then
    cat "$work/refusal" >&2
    exit 1
fi
echo "no shell"
