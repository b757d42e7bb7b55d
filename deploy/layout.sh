#!/bin/sh
# Lays out the image's root directory: layout.sh BINARY DIRECTORY
set -eu
binary=$1 root=$2
install -D -m 0755 "$binary" "$root/usr/bin/cognito-auth-exporter"
install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
install -d -m 0755 "$root/etc/cognito-auth-exporter"
# Its own: whoever mounts no volume here loses the counters with the container, but it starts.
install -d -m 0700 -o 65532 -g 65532 "$root/var/lib/cognito-auth-exporter"
# For the demo's state.
install -d -m 1777 "$root/tmp"
