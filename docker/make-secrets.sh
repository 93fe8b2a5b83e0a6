#!/bin/sh
# make-secrets.sh DIR: the secrets of compose.yaml as files, random, made where they are missing; nothing is overwritten.
# The folder is closed to others; the files are readable, as the containers read them with a user number of their own.
set -eu
mkdir -p "$1"
chmod 700 "$1"
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
put() { # NAME CONTENT
  [ -e "$1" ] || printf '%s' "$2" >"$1"
  chmod 444 "$1"
}
cd "$1"
put ray_token "$(random)"
put postgres_password "$(random)"
put mlflow_secret_key "$(random)"
put mlflow_admin_password "$(random)"
# How drivers on the head log in to MLflow; one user for all of them until there are more (docker/README.md).
put mlflow_credentials "[mlflow]
mlflow_tracking_username = admin
mlflow_tracking_password = $(cat mlflow_admin_password)
"
echo "secrets are in $PWD"
