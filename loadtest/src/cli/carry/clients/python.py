"""Long sessions of Python's drivers, with state of their own: python.py psycopg|asyncpg FIRST COUNT

Each session counts in its own row of the table counters, and after every request compares counter and state. Prints one
line for each problem; works until its standard input is closed, and prints "requests N".
"""

import asyncio
import random
import sys
import threading

STATE = """select concat_ws('|', current_setting('work_mem'), current_setting('application_name'),
    current_setting('app.tenant', true), current_user,
    (select string_agg(channel, ',' order by channel) from pg_listening_channels() as listened (channel)))"""
COUNT = "update counters set n = n + 1 where id = {} returning n"
requests = 0
stopping = threading.Event()


def settings(number):
    return [
        f"set work_mem = '{2048 + number}kB'",
        f"set application_name = 'python {number}'",
        f"set app.tenant = 'tenant {number}'",
        f"listen channel_{number}",
    ] + (["set role carried"] if number % 2 else [])


def tell(number, what):
    print(f"{sys.argv[1]} {number}: {what}".replace("\n", " "), flush=True)


def compare(number, expected, counted, own, state):
    global requests
    requests += 1
    if counted != expected:
        tell(number, f"wrong: its counter is {counted}, not {expected}")
    if state != own:
        tell(number, f"wrong: its state is {state!r}, not {own!r}")


def psycopg_session(number):
    import psycopg

    with psycopg.connect("", autocommit=True, prepare_threshold=1) as session:
        for setting in settings(number):
            session.execute(setting)
        expected = session.execute("select n from counters where id = %s", (number,)).fetchone()[0]
        own = session.execute(STATE).fetchone()[0]
        while not stopping.is_set():
            with session.transaction():
                counted = session.execute(COUNT.format("%s"), (number,)).fetchone()[0]
                session.execute("select pg_sleep(%s)", (random.uniform(0.005, 0.05),))
            expected += 1
            compare(number, expected, counted, own, session.execute(STATE).fetchone()[0])
            stopping.wait(random.uniform(0.1, 0.3))


def psycopg_sessions(numbers):
    def one(number):
        try:
            psycopg_session(number)
        except Exception as error:
            tell(number, f"error: {error!r}")

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()


async def asyncpg_session(number, stop):
    import asyncpg

    session = await asyncpg.connect()
    for setting in settings(number):
        await session.execute(setting)
    expected = await session.fetchval("select n from counters where id = $1", number)
    own = await session.fetchval(STATE)
    while not stop.done():
        counted = await session.fetchval(COUNT.format("$1"), number)
        expected += 1
        compare(number, expected, counted, own, await session.fetchval(STATE))
        await asyncio.wait([stop], timeout=random.uniform(0.1, 0.3))
    await session.close()


async def asyncpg_sessions(numbers):
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    async def one(number):
        try:
            await asyncpg_session(number, stop)
        except Exception as error:
            tell(number, f"error: {error!r}")

    await asyncio.gather(*(one(number) for number in numbers))
    await stop


driver, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
numbers = range(first, first + count)
if driver == "psycopg":
    psycopg_sessions(numbers)
else:
    asyncio.run(asyncpg_sessions(numbers))
print(f"requests {requests}", flush=True)
