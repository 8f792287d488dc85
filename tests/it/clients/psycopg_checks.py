"""What an application does with psycopg 3: every feature of the protocol that it has, through one port."""

import threading

import psycopg
from psycopg import errors

import tap

ROWS = 20_000
LARGE = 20_000_000


def connect():
    with psycopg.connect() as session:
        assert session.info.server_version // 10000 in (15, 16, 17, 18), session.info.server_version
        in_recovery = session.execute("select pg_is_in_recovery()").fetchone()[0]
        assert in_recovery == (tap.PORT == "read"), f"in recovery: {in_recovery}"
        encrypted = session.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()[0]
        assert encrypted == tap.ENCRYPTED_AT_SERVER


def query():
    with psycopg.connect() as session:
        rows = session.execute("select n, n::text from generate_series(1, %s) n", [ROWS]).fetchall()
        assert rows == [(number, str(number)) for number in range(1, ROWS + 1)]


def transaction():
    with psycopg.connect() as session:
        with session.transaction():
            session.execute("set local application_name = 'inside'")
            assert session.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        with session.cursor(name="portal") as cursor:
            cursor.itersize = 1000
            cursor.execute("select generate_series(1, 10000)")
            assert sum(row[0] for row in cursor) == 50_005_000


def prepared():
    with psycopg.connect(autocommit=True) as session:
        for number in range(5):
            assert session.execute("select %s::int + 1", [number], prepare=True).fetchone() == (number + 1,)
        assert session.execute("select count(*) from pg_prepared_statements").fetchone()[0] >= 1


def pipeline():
    with psycopg.connect(autocommit=True) as session:
        with session.pipeline():
            cursors = [session.execute("select %s::int", [number]) for number in range(1000)]
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(1000))
        try:
            with session.pipeline():
                session.execute("select 1 / %s", [0])
                session.execute("select 1")
            raise AssertionError("an error in a pipeline went unnoticed")
        except errors.DivisionByZero:
            pass
        assert session.execute("select 'goes on'").fetchone() == ("goes on",)


def copy_out():
    with psycopg.connect() as session, session.cursor() as cursor:
        with cursor.copy(f"copy (select n, md5(n::text) from generate_series(1, {ROWS}) n) to stdout") as copy:
            lines = b"".join(copy).splitlines()
        assert len(lines) == ROWS and lines[-1].startswith(b"%d\t" % ROWS), lines[-1]
        with cursor.copy("copy (select repeat('x', 100)) to stdout (format binary)") as copy:
            assert b"x" * 100 in b"".join(copy)


def copy_in():
    with psycopg.connect() as session, session.cursor() as cursor:
        cursor.execute("create temporary table bulk (number int, word text)")
        with cursor.copy("copy bulk from stdin") as copy:
            for number in range(ROWS):
                copy.write_row((number, f"word {number}"))
        cursor.execute("select count(*), sum(number), max(length(word)) from bulk")
        assert cursor.fetchone() == (ROWS, sum(range(ROWS)), len(f"word {ROWS - 1}"))
        session.commit()
        try:
            with cursor.copy("copy bulk from stdin") as copy:
                copy.write("not a number\tword\n")
            raise AssertionError("a bad row went unnoticed")
        except errors.InvalidTextRepresentation:
            session.rollback()
        assert cursor.execute("select count(*) from bulk").fetchone() == (ROWS,)


def listen_notify():
    with psycopg.connect(autocommit=True) as listener, psycopg.connect(autocommit=True) as speaker:
        listener.execute("listen psycopg_news")
        speaker.execute("select pg_notify('psycopg_news', 'all is ' || repeat('well ', 1000))")
        heard = [notify.payload for notify in listener.notifies(timeout=tap.WAIT_SECONDS_MAX, stop_after=1)]
        assert heard == ["all is " + "well " * 1000]


def large():
    text = tap.large_text(LARGE)
    with psycopg.connect() as session:
        assert session.execute("select %s::text", [text]).fetchone()[0] == text
        assert session.execute("select %b::bytea", [text.encode()], binary=True).fetchone()[0] == text.encode()


def error():
    with psycopg.connect(autocommit=True) as session:
        try:
            session.execute("select 1 / 0")
            raise AssertionError("nothing went wrong")
        except errors.DivisionByZero as failure:
            assert failure.sqlstate == "22012"
        if tap.PORT == "read":
            try:
                session.execute("create table on_a_replica ()")
                raise AssertionError("a replica took a write")
            except errors.ReadOnlySqlTransaction:
                pass
        assert session.execute("select 'goes on'").fetchone() == ("goes on",)


def cancel():
    cancelled_by(lambda session: session.cancel())


def cancel_safe():
    cancelled_by(lambda session: session.cancel_safe())


def cancelled_by(way):
    with psycopg.connect(autocommit=True) as session:
        asleep = threading.Event()
        session.add_notice_handler(lambda notice: asleep.set())

        def wake():
            assert asleep.wait(tap.WAIT_SECONDS_MAX)
            way(session)

        waker = threading.Thread(target=wake)
        waker.start()
        try:
            session.execute(tap.SLEEP)
            raise AssertionError("slept to the end")
        except errors.QueryCanceled:
            pass
        waker.join()
        assert session.execute("select 'goes on'").fetchone() == ("goes on",)


CHECKS = [connect, query, transaction, prepared, pipeline, copy_out, large, error, cancel]
if tap.PORT == "write":
    CHECKS += [copy_in, listen_notify]
# libpq 17 sends this one encrypted if the session is; where both pass through pgvane nobody can tell to which node it
# belongs
if tap.PORT == "write" or not tap.CANCELS_HIDDEN:
    CHECKS += [cancel_safe]
tap.run(CHECKS)
