# Sourced by the scripts beside it.
set -eu
umask 077
die() { echo "$(basename "$0"): $*" >&2; exit 2; }

# secret NAME: take $NAME from the file $NAME_FILE, where that is set.
secret() {
  eval "file=\${$1_FILE:-}"
  [ -z "$file" ] || { [ -r "$file" ] || die "$1_FILE: cannot read $file"; eval "$1=\$(cat \"\$file\")"; }
  eval "[ -z \"\${$1:-}\" ]" || export "$1"
}

secret PGPASSWORD
: "${PGHOST:?set it to the host of PostgreSQL, or to the folder of its socket}"
export PGHOST PGPORT="${PGPORT:-5432}" PGUSER="${PGUSER:-mlflow}" PGDATABASE="${PGDATABASE:-mlflow}"
artifacts=${MLFLOW_ARTIFACTS_DESTINATION:?set it to the folder or s3:// URL of the artifacts}
case $artifacts in *://*) ;; *) mkdir -p "$artifacts" ;; esac
