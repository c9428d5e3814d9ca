#!/bin/sh
# Create the secrets of compose.yaml in ./secrets, once: sudo ./secrets.sh. Files that exist are kept.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
random() { openssl rand -hex 32; }
keep() { # NAME TEXT: write a file unless it exists
    [ -e "secrets/$1" ] || printf '%s\n' "$2" >"secrets/$1"
}
keep secret_key "$(random)"
keep field_encryption_keys "$(openssl rand -base64 32 | tr '+/' '-_')"
keep audit_seal_keys "$(random)"
keep metrics_token "$(random)"
keep postgres_password "$(random)"
keep portal_password "$(random)"
keep database_url "postgres://portal:$(cat secrets/portal_password)@postgres/portal"
keep redis_password "$(random)"
keep redis_url "redis://:$(cat secrets/redis_password)@valkey:6379/0"
keep valkey_conf "$(printf 'requirepass %s\nsave ""\nappendonly no\nmaxmemory-policy noeviction' "$(cat secrets/redis_password)")"
keep email_url "smtp+tls://user:password@mail.example.org:587"
chmod 0400 secrets/*
# The users of the portal's, Valkey's and PostgreSQL's containers.
chown 10001:10001 secrets/secret_key secrets/field_encryption_keys secrets/audit_seal_keys secrets/metrics_token \
    secrets/database_url secrets/redis_url secrets/email_url
chown 999 secrets/valkey_conf secrets/postgres_password secrets/portal_password
