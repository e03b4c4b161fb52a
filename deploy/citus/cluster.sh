#!/bin/sh
# Joins workers to a coordinator: cluster.sh COORDINATOR WORKER… . The nodes have the same user,
# password and database. It may run again: what is done stays as it is.
set -eu
coordinator=$1
shift
port=${PGPORT:-5432}
user=${POSTGRES_USER:-sendbatch}
database=${POSTGRES_DB:-sendbatch}
PGPASSWORD=${PGPASSWORD:-$(cat /run/secrets/postgres_password)}
export PGPASSWORD
on() {
  host=$1
  shift
  psql --no-psqlrc --quiet --tuples-only --set ON_ERROR_STOP=1 --host "$host" --port "$port" --username "$user" \
    --dbname "$database" "$@"
}

for node in "$coordinator" "$@"; do
  on "$node" --command 'create extension if not exists citus'
  # How this node logs in to the others. Node 0: all of them.
  on "$node" --set user="$user" --set login="password=$PGPASSWORD" <<'SQL'
insert into pg_dist_authinfo (nodeid, rolename, authinfo) values (0, :'user', :'login')
on conflict (nodeid, rolename) do update set authinfo = excluded.authinfo;
SQL
done
on "$coordinator" --command "select citus_set_coordinator_host('$coordinator', $port)"
for worker in "$@"; do
  on "$coordinator" --command "select citus_add_node('$worker', $port)"
done
on "$coordinator" --command "select nodename, nodeport, isactive from pg_dist_node order by groupid"
