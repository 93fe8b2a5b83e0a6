#!/bin/sh
# restore.sh DIR/<UTC time>: put a backup back into an empty database and an empty artifact folder. Stop the server first.
. "$(dirname "$0")/common.sh"
[ $# -eq 1 ] || die "usage: restore.sh BACKUP"
[ -f "$1/SHA256SUMS" ] || die "$1: no backup (there is no SHA256SUMS in it)"
(cd "$1" && sha256sum --quiet -c SHA256SUMS) || die "$1: damaged, nothing was restored"
tables=$(psql -XAtc "select count(*) from pg_tables where schemaname = 'public'") || die "PostgreSQL does not answer"
[ "$tables" = 0 ] || die "database $PGDATABASE at $PGHOST is not empty ($tables tables); dropdb and createdb it first"
if [ -f "$1/artifacts.tar" ]; then
  [ -z "$(ls -A "$artifacts")" ] || die "$artifacts is not empty; move it away first"
  tar -C "$artifacts" -xf "$1/artifacts.tar"
fi
pg_restore --no-owner --single-transaction --exit-on-error --dbname="$PGDATABASE" "$1/mlflow.dump"
echo "restored $1"
