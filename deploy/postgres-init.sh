#!/bin/sh
# Run once by PostgreSQL's image: a role for the portal that isn't a superuser, and its database.
set -eu
psql --quiet --set ON_ERROR_STOP=1 --set password="$(cat /run/secrets/portal_password)" <<'SQL'
CREATE ROLE portal LOGIN PASSWORD :'password';
CREATE DATABASE portal OWNER portal ENCODING 'UTF8' TEMPLATE template0;
SQL
