"""The REST APIs of nodes that are told what they are: Patroni's own server and handler, without a PostgreSQL below.

Reads one JSON array of nodes per line from standard input, makes them so, and answers with the line "done". Patroni's
code decides what each path and parameter means; what it asks its PostgreSQL and its DCS for is made up here.
"""

import json
import os
import sys
import time
from types import SimpleNamespace

from patroni import global_config, psycopg
from patroni.api import RestApiServer
from patroni.dcs import Cluster, ClusterConfig, Leader, Member, Status, SyncState

END_OF_WAL = 10 << 30


def cluster_of(node):
    """What the DCS says about the cluster of a node."""
    mode = {"synchronous_mode": "quorum" if node["quorum_mode"] else "on"}
    if node["in_standby_cluster"]:
        mode["standby_cluster"] = {"host": "192.0.2.1"}
    leader = Leader(1, "session", Member(1, node["leader"], "session", {})) if node["leader"] else None
    standbys = node["name"] if node["is_sync"] else "another"
    return Cluster(
        node["system"],
        ClusterConfig.from_node(1, json.dumps(mode)),
        leader,
        Status(END_OF_WAL, {}, []),
        [Member(1, node["name"], "session", {})],
        None,
        SyncState(1, node["leader"] or "another", standbys, 1),
        None,
        None,
        {},
    )


def row_of(node):
    """PostgreSQL's answer to the query of `RestApiHandler.get_postgresql_status`."""
    started = node["started"]
    if node["role"] == "primary":
        return [started, 1, END_OF_WAL, None, None, None, None, None, None, None, None, None]
    replayed = END_OF_WAL - node["lag"]
    return [started, 0, None, replayed, END_OF_WAL, False, None, END_OF_WAL, "streaming", None, END_OF_WAL, None]


class Postgresql(SimpleNamespace):
    """What Patroni knows of its own PostgreSQL."""

    POSTMASTER_START_TIME = TL_LSN = wal_name = lsn_name = wal_flush = ""
    major_version, server_version = 150000, 150008
    pending_restart_reason = None

    def replica_cached_timeline(self, timeline):
        return 1

    def replication_state_from_parameters(self, is_primary, receiver_state, restore_command):
        return None if is_primary else receiver_state


class Server(RestApiServer):
    """Patroni's server of one node."""

    def query(self, sql, *params):
        if self.node["state"] == "starting":
            raise psycopg.OperationalError("the database system is starting up")
        return [row_of(self.node)]


def patroni_of(node):
    """What Patroni's handler asks Patroni for."""
    leads = node["role"] != "replica"
    tags = dict(node["tags"], **({"noloadbalance": True} if node["noloadbalance"] else {}))
    return SimpleNamespace(
        version="4.1.5",
        tags=tags,
        noloadbalance=node["noloadbalance"],
        scheduled_restart={},
        postgresql=Postgresql(
            name=node["name"], scope=node["scope"], sysid=node["system"], role=node["role"], state=node["state"]
        ),
        dcs=SimpleNamespace(cluster=cluster_of(node), last_seen=int(time.time()), ttl=30),
        ha=SimpleNamespace(
            is_leader=lambda: leads,
            is_paused=lambda: False,
            failsafe_is_active=lambda: False,
            get_effective_tags=lambda: tags,
            watchdog=SimpleNamespace(is_healthy=True),
        ),
        logger=SimpleNamespace(queue_size=0, NORMAL_LOG_QUEUE_SIZE=2, records_lost=0),
    )


class Server(RestApiServer):
    """Patroni's server of one node."""

    def becomes(self, node):
        self.node, self.patroni = node, patroni_of(node)

    def query(self, sql, *params):
        if self.node["state"] == "starting":
            raise psycopg.OperationalError("the database system is starting up")
        return [row_of(self.node)]


running = {}
for line in sys.stdin:
    nodes = json.loads(line)
    for node in nodes:
        global_config.update(cluster_of(node))  # all clusters have the same mode
        address = node["listen"]
        if not node["up"] and address in running:
            server = running.pop(address)
            server.shutdown()
            server.server_close()
        elif node["up"] and address in running:
            running[address].becomes(node)
        elif node["up"]:
            server = Server(patroni_of(node), dict(node["tls"] or {}, listen=address, request_queue_size=128))
            server.becomes(node)
            server.start()
            running[address] = server
    print("done", flush=True)
os._exit(0)  # without waiting for the threads of the servers
