#!/bin/bash
# A database for each service that is named, owned by a user of the same name. Done twice, it changes nothing.
set -euo pipefail

for name in "$@"; do
    psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --set name="$name" --set password="$PGPASSWORD" --dbname postgres <<'SQL'
SELECT format('CREATE ROLE %I', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', :'name', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', :'name') \gexec
SQL
    echo "$name has a database"
done
