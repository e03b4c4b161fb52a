#!/bin/sh
# Makes the secrets of compose.yaml, once: a password, and the files that hold it. They stay out of git and of the image.
set -eu
cd "$(dirname "$0")"
if [ -e secrets ]; then
  echo "secrets/ is there already: nothing was changed" >&2
  exit 0
fi
umask 077
mkdir secrets
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
printf '%s' "$password" >secrets/postgres_password
printf 'postgres://sendbatch:%s@postgres:5432/sendbatch' "$password" >secrets/database_url
printf 'postgres://sendbatch:%s@pgbouncer:6432/sendbatch' "$password" >secrets/pooled_database_url
printf '"sendbatch" "%s"\n' "$password" >secrets/pgbouncer_users
# Containers read them under numbers of their own; the folder keeps everybody else out.
chmod 644 secrets/*
