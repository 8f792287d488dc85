"""Clients that find the leader by libpq itself: all nodes in one connection string, with target_session_attrs.

    libpq_client.py write DSN WRITER RUN     writes row after row, and connects again after every failure
    libpq_client.py visit DSN CLIENTS PAUSE  so many clients, one every PAUSE seconds; each connects once

Prints one line for each thing that happens: "ack ID", "served SECONDS", or a kind of failure, SQLSTATE (or -) and text.
"""

import sys
import threading
import time

import psycopg2

PACE = 0.005  # as the writers of the lab
RECONNECT_PAUSE = 0.002
ENDED = ("57P01", "57P02", "57P03", "08006")


def tell(*words):
    sys.stdout.write(" ".join(str(word).replace("\n", " ").strip() for word in words) + "\n")
    sys.stdout.flush()


def failed_to_connect(error):
    tell("connect-failed", error.pgcode or "-", error)


def write(dsn, writer, run):
    session, row = None, 0
    while True:
        try:
            session = psycopg2.connect(dsn)
        except psycopg2.Error as error:
            failed_to_connect(error)
            time.sleep(RECONNECT_PAUSE)
            continue
        session.autocommit = True
        row = write_in(session, writer, run, row)
        time.sleep(RECONNECT_PAUSE)


def write_in(session, writer, run, row):
    """Until the session fails; a number is never used twice. Returns the last one."""
    cursor = session.cursor()
    while True:
        row += 1
        try:
            cursor.execute("insert into writes (writer, run, id) values (%s, %s, %s)", (writer, run, row))
        except psycopg2.Error as error:
            code = error.pgcode
            kind = "read-only" if code == "25006" else "broken" if code is None or code in ENDED else "other"
            tell(kind, code or "-", error)
            session.close()
            return row
        tell("ack", row)
        time.sleep(PACE)


def visit(dsn):
    began = time.monotonic()
    try:
        session = psycopg2.connect(dsn)
        session.cursor().execute("select 1")
        tell("served", time.monotonic() - began)
    except psycopg2.Error as error:
        failed_to_connect(error)


def main():
    order, dsn, *rest = sys.argv[1:]
    if order == "write":
        write(dsn, rest[0], int(rest[1]))
    clients = []
    for _ in range(int(rest[0])):
        clients.append(threading.Thread(target=visit, args=(dsn,)))
        clients[-1].start()
        time.sleep(float(rest[1]))
    for client in clients:
        client.join()


main()
