#!/bin/sh
# MLflow's server on PostgreSQL, with basic authentication.
#
#   PGHOST=db PGPASSWORD_FILE=F MLFLOW_AUTH_ADMIN_PASSWORD_FILE=F MLFLOW_FLASK_SERVER_SECRET_KEY_FILE=F \
#   MLFLOW_ARTIFACTS_DESTINATION=/artifacts serve.sh [--host 0.0.0.0 --allowed-hosts mlflow:5000 ...]
#
# Each NAME_FILE may be NAME instead. Passwords are in no command line. Further words go to `mlflow server`.
. "$(dirname "$0")/common.sh"
secret MLFLOW_AUTH_ADMIN_PASSWORD
secret MLFLOW_FLASK_SERVER_SECRET_KEY
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?any long random text, the same at each start}"
export MLFLOW_AUTH_CONFIG_PATH="${MLFLOW_AUTH_CONFIG_PATH:-$(cd "$(dirname "$0")" && pwd)/basic_auth.ini}"
export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg:/// MLFLOW_ARTIFACTS_DESTINATION="$artifacts"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
if command -v psql >/dev/null; then # MLflow itself would retry for minutes without a word of why
  encoding=$(psql -XAtc 'show server_encoding') || die "PostgreSQL does not let $PGUSER in at $PGHOST:$PGPORT/$PGDATABASE"
  [ "$encoding" = UTF8 ] || die "database $PGDATABASE is in $encoding; createdb --encoding=UTF8 --template=template0"
fi
exec mlflow server --app-name basic-auth --workers "${MLFLOW_WORKERS:-2}" "$@"
