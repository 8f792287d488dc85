#!/bin/sh
# Patroni runs this once, on the first leader, with a connection string as its argument.
# Creates the application's user and database. psql quotes the values itself, so that any character may be in them.
set -eu

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname "$1" \
    --set user="$APP_USER" --set password="$APP_PASSWORD" --set database="$APP_DATABASE" <<'SQL'
CREATE ROLE :"user" LOGIN PASSWORD :'password';
CREATE DATABASE :"database" OWNER :"user";
SQL
