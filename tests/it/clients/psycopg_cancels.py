"""Cancels a hundred queries, one after the other, in twenty sessions that all sleep; then all of them at once.

The argument says by which method of psycopg: "cancel" sends the request in clear, "cancel_safe" encrypted if the session
is. The environment variable PSYCOPG_IMPL chooses the libpq: "binary" is the one that psycopg brings along, "python" the
system's.
"""

import asyncio
import random
import sys

import psycopg
from psycopg import errors

import tap

SESSIONS = 20
CANCELS = 100


class Sleeper:
    """A session that sleeps, and sleeps on after it has been cancelled."""

    def __init__(self, session, node):
        self.session = session
        self.node = node
        self.asleep = asyncio.Event()
        self.query = None
        session.add_notice_handler(lambda _: self.asleep.set())

    @staticmethod
    async def begin():
        session = await psycopg.AsyncConnection.connect(autocommit=True)
        node = await (await session.execute("select inet_server_port()")).fetchone()
        return Sleeper(session, node[0])

    async def sleep(self):
        self.asleep.clear()
        self.query = asyncio.create_task(self.session.execute(tap.SLEEP))
        await asyncio.wait_for(self.asleep.wait(), tap.WAIT_SECONDS_MAX)

    async def cancel(self):
        if sys.argv[1] == "cancel_safe":
            await self.session.cancel_safe(timeout=tap.WAIT_SECONDS_MAX)
        else:
            await asyncio.to_thread(self.session.cancel)
        try:
            await asyncio.wait_for(self.query, tap.WAIT_SECONDS_MAX)
            raise AssertionError("slept to the end")
        except errors.QueryCanceled:
            pass


async def hundred_of_hundred():
    sleepers = await asyncio.gather(*(Sleeper.begin() for _ in range(SESSIONS)))
    nodes = [sleeper.node for sleeper in sleepers]
    assert len(set(nodes)) == 2 and all(nodes.count(node) == SESSIONS // 2 for node in nodes), nodes
    await asyncio.gather(*(sleeper.sleep() for sleeper in sleepers))
    order = random.Random(7)
    for number in range(CANCELS):
        sleeper = order.choice(sleepers)
        await sleeper.cancel()
        woken = [other for other in sleepers if other is not sleeper and other.query.done()]
        assert not woken, f"cancel {number + 1} has hit {len(woken)} others"
        await sleeper.sleep()
    await asyncio.gather(*(sleeper.cancel() for sleeper in sleepers))
    await asyncio.gather(*(sleeper.session.close() for sleeper in sleepers))


def each_cancel_hits_its_query_and_no_other():
    asyncio.run(hundred_of_hundred())


print(f"# libpq {psycopg.pq.version()}, {psycopg.pq.__impl__}")
tap.run([each_cancel_hits_its_query_and_no_other])
