"""What an application does with asyncpg, which speaks the protocol itself, without libpq: through one port."""

import asyncio
import io

import asyncpg

import tap

ROWS = 20_000
LARGE = 20_000_000


def check(story):
    """A coroutine as a check, with a session of its own."""

    async def with_session():
        session = await asyncpg.connect()
        try:
            await story(session)
        finally:
            await session.close()

    def run():
        asyncio.run(asyncio.wait_for(with_session(), 2 * tap.WAIT_SECONDS_MAX))

    run.__name__ = story.__name__
    return run


@check
async def connect(session):
    in_recovery = await session.fetchval("select pg_is_in_recovery()")
    assert in_recovery == (tap.PORT == "read"), f"in recovery: {in_recovery}"
    assert await session.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == tap.ENCRYPTED_AT_SERVER


@check
async def query(session):
    rows = await session.fetch("select n, n::text from generate_series(1, $1::int) n", ROWS)
    assert [tuple(row) for row in rows] == [(number, str(number)) for number in range(1, ROWS + 1)]


@check
async def transaction(session):
    async with session.transaction():
        total = 0
        async for row in session.cursor("select generate_series(1, 10000)"):
            total += row[0]
        assert total == 50_005_000


@check
async def prepared(session):
    statement = await session.prepare("select $1::int + 1")
    for number in range(5):
        assert await statement.fetchval(number) == number + 1


@check
async def copy_out(session):
    out = io.BytesIO()
    await session.copy_from_query(f"select n, md5(n::text) from generate_series(1, {ROWS}) n", output=out)
    assert len(out.getvalue().splitlines()) == ROWS


@check
async def copy_in(session):
    await session.execute("create temporary table bulk (number int, word text)")
    records = [(number, f"word {number}") for number in range(ROWS)]
    assert await session.copy_records_to_table("bulk", records=records) == f"COPY {ROWS}"
    assert await session.fetchval("select sum(number) from bulk") == sum(range(ROWS))


@check
async def listen_notify(session):
    heard = asyncio.get_running_loop().create_future()
    await session.add_listener("asyncpg_news", lambda *news: heard.set_result(news[3]))
    speaker = await asyncpg.connect()
    await speaker.execute("notify asyncpg_news, 'all is well'")
    await speaker.close()
    assert await asyncio.wait_for(heard, tap.WAIT_SECONDS_MAX) == "all is well"


@check
async def large(session):
    text = tap.large_text(LARGE)
    assert await session.fetchval("select $1::text", text) == text


@check
async def error(session):
    try:
        await session.execute("select 1 / 0")
        raise AssertionError("nothing went wrong")
    except asyncpg.DivisionByZeroError:
        pass
    assert await session.fetchval("select 'goes on'") == "goes on"


@check
async def cancel(session):
    """A task that is cancelled cancels its query."""
    asleep = asyncio.Event()
    session.add_log_listener(lambda *_: asleep.set())
    sleeper = asyncio.create_task(session.execute(tap.SLEEP))
    await asyncio.wait_for(asleep.wait(), tap.WAIT_SECONDS_MAX)
    sleeper.cancel()
    try:
        await sleeper
        raise AssertionError("slept to the end")
    except asyncio.CancelledError:
        pass
    # asyncpg lets nothing else into the session before the server has confirmed the cancel
    assert await asyncio.wait_for(session.fetchval("select 'goes on'"), tap.WAIT_SECONDS_MAX) == "goes on"


CHECKS = [connect, query, transaction, prepared, copy_out, large, error]
if tap.PORT == "write":
    CHECKS += [copy_in, listen_notify]
# the cancel is encrypted if the session is, and where both pass through pgvane nobody can tell to which node it belongs
if tap.PORT == "write" or not tap.CANCELS_HIDDEN:
    CHECKS += [cancel]
tap.run(CHECKS)
