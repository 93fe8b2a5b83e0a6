#!/bin/sh
# backup.sh DIR: runs, users and artifacts of MLflow into a new folder DIR/<UTC time>, whole or not at all. The server may
# run meanwhile: the database is dumped first, and artifacts are only ever added. Settings are those of serve.sh.
. "$(dirname "$0")/common.sh"
[ $# -eq 1 ] || die "usage: backup.sh DIR"
made="$1/$(date -u +%Y%m%dT%H%M%SZ)"
part="$made.part"
mkdir -p "$part"
trap 'rm -rf "$part"' EXIT
pg_dump --format=custom --no-owner --file="$part/mlflow.dump"
case $artifacts in
  *://*) echo "$artifacts" >"$part/artifacts-are-elsewhere" ;; # a bucket: its versioning or replication keeps them
  *) tar -C "$artifacts" -cf "$part/artifacts.tar" . ;;
esac
(cd "$part" && sha256sum -- * >SHA256SUMS)
sync
mv "$part" "$made"
trap - EXIT
echo "$made"
