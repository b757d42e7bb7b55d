#!/usr/bin/env bash
# Makes a release. The workflow release.yml calls it, and so does a maintainer who wants to see what a tag would publish.
#
#   deploy/release/release.sh build                 every artifact, for both architectures, into target/dist
#   deploy/release/release.sh publish [--dry-run]   signs and publishes what is there, or prints the commands
#   deploy/release/release.sh --dry-run             builds, and prints the commands that would publish
#
# REPOSITORY   where the project is (default: `repository` of Cargo.toml)
# REGISTRY     where images and charts go (default: ghcr.io and the owner of the repository). The dry run pushes to one on
#              this machine, such as 127.0.0.1:5000, and to no other
# DIST         where the artifacts go (default: target/dist)
# PROGRAMS     programs that are built already, in place of both architectures: "amd64=target/debug/cognito-auth-exporter"
#
# `.ci/release-tools` installs what it needs. It runs as root, because an image's files have owners. A `build` that dies has
# published nothing. A `publish` that dies can be repeated: the release is a draft until all of its files are signed and there,
# and one that is published stays as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit "$1"; }
say() { printf '\n=== %s\n' "$*" >&2; }
fail() { printf 'release.sh: %s\n' "$*" >&2; exit 1; }

case "$*" in
    build|publish) steps="$1" dry="" ;;
    "publish --dry-run") steps=publish dry=yes ;;
    --dry-run) steps="build publish" dry=yes ;;
    -h|--help) usage 0 ;;
    *) usage 2 ;;
esac

name=cognito-auth-exporter
field() { sed -n "s/^$1 = \"\(.*\)\"/\1/p" Cargo.toml | head -n 1; }
version="$(field version)"
REPOSITORY="${REPOSITORY:-$(field repository)}"
owner="$(basename "$(dirname "$REPOSITORY")")"
# Registries take lower case only.
REGISTRY="${REGISTRY:-ghcr.io/$owner}"
REGISTRY="${REGISTRY,,}"
image="$REGISTRY/$name"
dist="${DIST:-target/dist}"
files=target/release-files # as Cargo.toml names them
export REPOSITORY
BUILD_REVISION="${BUILD_REVISION:-$(git rev-parse --short=12 HEAD)}"
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
export BUILD_REVISION SOURCE_DATE_EPOCH
export PATH="$PWD/target/release-tools/bin:$PWD/target/kube:$PATH" STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}"

# How others call an architecture: of=Linux, Rust and RPM.
arch_of() { case "$1" in amd64) echo x86_64 ;; arm64) echo aarch64 ;; *) fail "$1 is no architecture that is built" ;; esac; }
native="$(case "$(uname -m)" in x86_64) echo amd64 ;; *) echo arm64 ;; esac)"

# An archive whose bytes depend on its files only, and not on the umask. Everybody may read them.
archive() { # DIRECTORY-ABOVE NAME FILE
    tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" -C "$1" -cf - "$2" \
        | gzip -n9 >"$3"
}

build() {
    [ -n "$dry" ] || [ -z "$(git status --porcelain)" ] || fail "the tree differs from the commit: commit first, or use --dry-run"
    [ -n "$dry" ] || grep -qE "^## ${version//./\\.} - [0-9]{4}-" CHANGELOG.md || fail "CHANGELOG.md has no date for $version"
    # The packages and cargo binstall have its address from there.
    [ -n "$dry" ] || [ "$(field repository)" = "$REPOSITORY" ] || fail "Cargo.toml says that the repository is $(field repository)"
    rm -rf "$dist" "$files"
    mkdir -p "$dist" "$files"/{man,completions}
    local architectures architecture
    declare -A program

    say "programs"
    if [ -n "${PROGRAMS:-}" ]; then
        for built in $PROGRAMS; do program[${built%%=*}]="${built#*=}"; done
    else
        local paths
        mapfile -t paths < <(CARGO_BUILD="auditable build" deploy/static.sh amd64 arm64)
        [ "${#paths[@]}" -eq 2 ] || fail "the programs were not built"
        program=([amd64]="${paths[0]}" [arm64]="${paths[1]}")
    fi
    mapfile -t architectures < <(printf '%s\n' "${!program[@]}" | sort)
    [ -n "${program[$native]:-}" ] || fail "no program of this machine's architecture, which prints its manual"

    say "manual, completions, licences"
    "${program[$native]}" man --output-dir "$files/man"
    gzip -n9 "$files"/man/*.1
    "${program[$native]}" completions bash >"$files/completions/$name.bash"
    "${program[$native]}" completions zsh >"$files/completions/_$name"
    "${program[$native]}" completions fish >"$files/completions/$name.fish"
    cargo about generate --locked --offline --fail --config deploy/release/about.toml deploy/release/licenses.hbs \
        >"$files/THIRD-PARTY-LICENSES.txt"
    cat deploy/release/lgpl-2.1.txt >>"$files/THIRD-PARTY-LICENSES.txt"
    find "$files" -type f -exec touch --date="@$SOURCE_DATE_EPOCH" {} +

    local work
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' RETURN
    local images=()
    for architecture in "${architectures[@]}"; do
        local arch folder target
        arch="$(arch_of "$architecture")"
        folder="$name-$version-$arch-linux"
        target="$arch-unknown-linux-gnu"

        say "$arch: archive, packages, bill of materials"
        install -D -m 0755 "${program[$architecture]}" "$work/$folder/$name"
        cp -r "$files"/* LICENSE README.md CHANGELOG.md config.example.toml dashboards "$work/$folder/"
        cp "deploy/systemd/$name.service" deploy/prometheus/rules.yml "$work/$folder/"
        archive "$work" "$folder" "$dist/$folder.tar.gz"
        # The packagers look for the program where cargo puts it.
        install -D -m 0755 "${program[$architecture]}" "$work/target/$target/release/$name"
        # A pre-release is older than its release: both packages write 0.2.0~rc.1. GitHub takes no tilde in the name of a file.
        CARGO_TARGET_DIR="$work/target" cargo deb --quiet --no-build --no-strip --target "$target" --deb-revision "" \
            --output "$dist/${name}_${version}_$architecture.deb"
        CARGO_TARGET_DIR="$work/target" cargo generate-rpm --target "$target" --arch "$arch" \
            --set-metadata "version = \"${version/-/\~}\"" --output "$dist/$name-$version-1.$arch.rpm"
        cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --target "$target" --target-in-filename
        # Where the crates lie on this machine is nobody's business.
        sed "s|file://$PWD|file:///src|g" "${name}_bin_$target.cdx.json" >"$dist/$folder.cdx.json"
        rm "${name}_bin_$target.cdx.json"
        find crates -name "*$target.cdx.json" -delete
        images+=("$architecture=${program[$architecture]}")
    done

    say "image"
    deploy/release/assemble.sh "$name:$version" "${images[@]}"
    buildah manifest push --quiet --all --format oci "$name:$version" "oci-archive:$dist/$name-$version-image.tar:$version"

    say "chart"
    cp -r "deploy/helm/$name" "$work/chart"
    sed -i "/^image:/,/^[a-z]/s|^  registry: \"\"\$|  registry: $REGISTRY|" "$work/chart/values.yaml"
    grep -q "^  registry: $REGISTRY\$" "$work/chart/values.yaml" || fail "the chart has no image.registry to fill in"
    sed -i "s|https://github.com/OWNER/$name|$REPOSITORY|" "$work/chart/Chart.yaml"
    helm package "$work/chart" --destination "$dist" >/dev/null

    say "formula, notes, sums"
    formula >"$dist/$name.rb"
    notes >"$dist/RELEASE_NOTES.md"
    local sums
    sums="$(cd "$dist" && find . -maxdepth 1 -type f ! -name RELEASE_NOTES.md -printf '%P\n' | LC_ALL=C sort | xargs sha256sum)"
    printf '%s\n' "$sums" >"$dist/SHA256SUMS"
    (cd "$dist" && ls -l && cat SHA256SUMS) >&2
}

# The formula of Homebrew: a program for Linux, the source for macOS.
formula() {
    local sum arch
    local text
    text="$(cat deploy/release/formula.rb)"
    for arch in x86_64 aarch64; do
        sum=0000000000000000000000000000000000000000000000000000000000000000
        [ ! -f "$dist/$name-$version-$arch-linux.tar.gz" ] \
            || sum="$(sha256sum "$dist/$name-$version-$arch-linux.tar.gz" | cut -d ' ' -f 1)"
        text="${text//@${arch^^}_SHA256@/$sum}"
    done
    text="${text//@VERSION@/$version}"
    text="${text//@REVISION@/$(git rev-parse HEAD)}"
    printf '%s\n' "${text//@REPOSITORY@/$REPOSITORY}"
}

# What CHANGELOG.md says of this version.
notes() {
    awk -v version="$version" '$1 == "##" { found = $2 == version; next } found' CHANGELOG.md
    printf '\nHow to install and verify: %s/blob/v%s/docs/install.md\n' "$REPOSITORY" "$version"
}

# Runs a command that others see; the dry run prints it.
outside() {
    if [ -n "$dry" ]; then printf 'would run: %s\n' "$*" >&2; else "$@"; fi
}

# Runs a command that pushes to the registry; the dry run does so on this machine only.
push() {
    case "${dry:-no} $REGISTRY" in
        yes\ 127.0.0.1:*|yes\ localhost:*) "$@" ;;
        *) outside "$@" ;;
    esac
}

publish() {
    [ -n "$dry" ] || [[ "$owner" != O[W]NER ]] || fail "the project has no home yet: set REPOSITORY, or \`repository\` in Cargo.toml"
    [ -f "$dist/SHA256SUMS" ] || fail "there is nothing in $dist: run \`release.sh build\`"
    (cd "$dist" && sha256sum --quiet --check SHA256SUMS)
    local plain="" digest mark=() newest="v$version"
    case "$REGISTRY" in 127.0.0.1:*|localhost:*) plain=yes ;; esac
    local index="oci-archive:$dist/$name-$version-image.tar:$version"
    copy_image() {
        push skopeo copy --quiet --all --preserve-digests ${plain:+--dest-tls-verify=false} "$index" "docker://$image:$1"
    }

    digest="sha256:$(skopeo inspect --raw "$index" | sha256sum | cut -d ' ' -f 1)"
    echo "$digest" >"$dist/image.digest"
    local state
    state="$(state_of_release)"
    # A patch of an older version, and a pre-release, are not the latest.
    if [ -z "$dry" ]; then
        newest="$(gh release list --repo "$REPOSITORY" --exclude-drafts --exclude-pre-releases --limit 100 \
            --json tagName --jq '.[].tagName')"
        newest="$(printf '%s\n' "$newest" "v$version" | sort --version-sort | tail -n 1)"
    fi
    case "$version $newest" in
        *-*\ *) mark=(--prerelease) ;;
        "$version v$version") ;;
        *) mark=(--latest=false) ;;
    esac
    if [ "$state" = published ]; then
        say "v$version is published, with these files"
    else
        publish_version "$state"
    fi
    # Names that move follow last, when there is something to verify behind them.
    [ "${mark[*]}" = --prerelease ] || copy_image "${version%.*}"
    [ "${#mark[@]}" -gt 0 ] || copy_image latest
}

# Prints whether GitHub has the release: none, draft or published. Other files than those published are refused.
state_of_release() {
    local is_draft
    if [ -n "$dry" ]; then
        echo none
    elif is_draft="$(gh release view "v$version" --repo "$REPOSITORY" --json isDraft --jq .isDraft 2>&1)"; then
        [ "$is_draft" = false ] || { echo draft; return; }
        gh release download "v$version" --repo "$REPOSITORY" --pattern SHA256SUMS --output - | cmp --silent - "$dist/SHA256SUMS" \
            || fail "v$version is published with other files: publish the next patch"
        echo published
    else
        [[ "$is_draft" == *"release not found"* ]] || fail "$is_draft"
        echo none
    fi
}

# Signs and publishes what has the version in its name. A draft that an earlier run has left is replaced.
publish_version() { # STATE
    local chart_digest
    say "image and chart"
    copy_image "$version"
    local said
    said="$(push helm push ${plain:+--plain-http} "$dist/$name-$version.tgz" "oci://$REGISTRY/charts" 2>&1)" || fail "$said"
    printf '%s\n' "$said" >&2
    chart_digest="$(sed -n 's/^Digest: //p' <<<"$said")"

    say "signatures (keyless: the identity is the workflow's)"
    outside cosign sign-blob --yes --bundle "$dist/SHA256SUMS.sigstore.json" "$dist/SHA256SUMS"
    outside cosign sign --yes --recursive "$image@$digest"
    outside cosign sign --yes "$REGISTRY/charts/$name@${chart_digest:-<the digest of the chart>}"
    local architecture arch platform
    for architecture in amd64 arm64; do
        arch="$(arch_of "$architecture")"
        [ -f "$dist/$name-$version-$arch-linux.cdx.json" ] || continue
        platform="$(skopeo inspect --raw "$index" \
            | jq -r --arg a "$architecture" '.manifests[] | select(.platform.architecture == $a) | .digest')"
        outside cosign attest --yes --type cyclonedx --predicate "$dist/$name-$version-$arch-linux.cdx.json" "$image@$platform"
    done

    say "release"
    # It is a draft until all of its files are there.
    local assets=("$dist"/SHA256SUMS*) file
    while read -r _ file; do assets+=("$dist/$file"); done <"$dist/SHA256SUMS"
    [ "$1" != draft ] || gh release delete "v$version" --repo "$REPOSITORY" --yes
    outside gh release create "v$version" --repo "$REPOSITORY" --verify-tag --draft --title "$version" \
        --notes-file "$dist/RELEASE_NOTES.md" "${assets[@]}"
    outside gh release edit "v$version" --repo "$REPOSITORY" --draft=false "${mark[@]}"
}

for step in $steps; do "$step"; done
