"""Connects with psycopg 3, asks, and asks again when a line has come in; prints the error that it meets, as JSON.

An error while connecting has no fields in psycopg, only libpq's text.
"""

import json
import sys

import psycopg

try:
    with psycopg.connect(autocommit=True) as session:
        session.execute("select 1")
        print("connected", flush=True)
        sys.stdin.readline()
        session.execute("select 1")
except psycopg.Error as error:
    told = error.diag
    print(json.dumps({
        "text": str(error),
        "sqlstate": error.sqlstate,
        "severity": told.severity,
        "message": told.message_primary,
        "detail": told.message_detail,
        "hint": told.message_hint,
    }), flush=True)
