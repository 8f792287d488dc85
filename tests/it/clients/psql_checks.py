"""What people do with psql, of any version from 15 on: through one port."""

import os
import re
import signal
import subprocess
import tempfile
import threading

import tap

PSQL = os.environ["PSQL"]
VERSION = int(re.search(r"\d+", subprocess.check_output([PSQL, "--version"], text=True))[0])
ENCRYPTED_AT_SERVER = "t\n" if tap.ENCRYPTED_AT_SERVER else "f\n"
ROWS = 20_000
LARGE = 20_000_000


def psql(script, *arguments, environment=None):
    """What a script prints, and what it prints as errors."""
    command = [PSQL, "-X", "-A", "-t", "-q", *arguments]
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=tap.WAIT_SECONDS_MAX,
        env={**os.environ, **(environment or {})},
    )
    return done.stdout, done.stderr


def prints(script, expected, **more):
    out, err = psql(script, **more)
    assert (out, err) == (expected, ""), f"{script[:200]!r}: {out[:500]!r} {err[:500]!r}"


def connect():
    prints("select pg_is_in_recovery()", "t\n" if tap.PORT == "read" else "f\n")
    prints("select ssl from pg_stat_ssl where pid = pg_backend_pid()", ENCRYPTED_AT_SERVER)


def connect_by_direct_tls():
    with_alpn = {"PGSSLNEGOTIATION": "direct"}
    prints("select ssl from pg_stat_ssl where pid = pg_backend_pid()", ENCRYPTED_AT_SERVER, environment=with_alpn)


def protocol_3_2():
    """An older server and psql agree on 3.0; a newer one gives a long cancel key."""
    newest = {"PGMAXPROTOCOLVERSION": "3.2"}
    out, err = psql("\\conninfo", environment=newest)
    server = int(psql("show server_version_num")[0]) // 10000
    expected = "3.2" if server >= 18 else "3.0"
    assert f"Protocol Version|{expected}\n" in out, (out, err)
    cancelled(newest)


def query():
    out, err = psql(f"select n, n::text from generate_series(1, {ROWS}) n")
    assert out.splitlines() == [f"{number}|{number}" for number in range(1, ROWS + 1)], err
    out, err = psql("\\set FETCH_COUNT 100\nselect generate_series(1, 1000)")
    assert len(out.splitlines()) == 1000, err


def prepared():
    prints("prepare plus_one as select $1::int + 1;\nexecute plus_one(41);\nexecute plus_one(1);", "42\n2\n")
    if VERSION >= 18:
        prints("select $1::int + 1 \\parse plus_one\n\\bind_named plus_one 41 \\g\n\\close_prepared plus_one\n", "42\n")


def pipeline():
    questions = "".join(f"select {number} \\bind \\sendpipeline\n" for number in range(100))
    answers = "".join(f"{number}\n" for number in range(100))
    prints(f"\\startpipeline\n{questions}\\endpipeline\nselect 'goes on';", f"{answers}goes on\n")


def copy_out():
    out, err = psql(f"\\copy (select n, md5(n::text) from generate_series(1, {ROWS}) n) to stdout")
    assert len(out.splitlines()) == ROWS, err


def copy_in():
    lines = "".join(f"{number}\tword {number}\n" for number in range(ROWS))
    script = f"create temporary table bulk (number int, word text);\n\\copy bulk from stdin\n{lines}\\.\n"
    prints(script + "select count(*), sum(number) from bulk", f"{ROWS}|{sum(range(ROWS))}\n")


def listen_notify():
    command = [PSQL, "-X", "-A", "-t", "-q"]
    listener = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    listener.stdin.write("listen psql_news;\nselect 'listens';\n")
    listener.stdin.flush()
    assert listener.stdout.readline() == "listens\n"
    prints("notify psql_news, 'all is well'", "")
    heard, _ = listener.communicate("select 'what news?';\n", timeout=tap.WAIT_SECONDS_MAX)
    assert 'Asynchronous notification "psql_news" with payload "all is well"' in heard, heard


def large():
    text = tap.large_text(LARGE)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"select '{text}';\n")
        script.flush()
        out, err = psql("", "-f", script.name)
    assert out == text + "\n", f"{len(out)} bytes came back or not the same {err[:500]}"


def error():
    out, err = psql("select 1 / 0;\nselect 'goes on';")
    assert out == "goes on\n" and "division by zero" in err, (out, err)


def cancel():
    cancelled({})


def cancelled(environment):
    command = [PSQL, "-X", "-q", "-c", tap.SLEEP]
    sleeper = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    too_long = threading.Timer(tap.WAIT_SECONDS_MAX, sleeper.kill)
    too_long.start()
    said = sleeper.stderr.readline()
    assert "asleep" in said, said
    sleeper.send_signal(signal.SIGINT)
    said = sleeper.stderr.read()
    too_long.cancel()
    assert "canceling statement due to user request" in said, said
    sleeper.wait()


CHECKS = [connect, query, prepared, copy_out, large, error, cancel]
if tap.PORT == "write":
    CHECKS += [copy_in, listen_notify]
if VERSION >= 18:
    CHECKS += [pipeline, protocol_3_2]
    if tap.ENCRYPTED and os.environ["SERVER_VERSION"] == "18":
        CHECKS += [connect_by_direct_tls]
tap.run(CHECKS)
