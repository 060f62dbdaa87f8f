"""The memory that a node can need at most: the table in docs/operations.md says what the constants say."""

from __future__ import annotations

import re
from pathlib import Path

from consensus.leader import MAX_ACCEPT_BYTES
from consensus.membership import MAX_NODES
from kvstore.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES
from kvstore.node import proposals
from kvstore.resp import connection, cursors, hub, kept, parser, room
from kvstore.server import peers, settings
from kvstore.state import commit_schedule, cost, keyspace, machine, sessions, sql

MIB = 1_048_576
CONNECTION_BYTES = 10 * 1_024
"""A connection with its parser and its transport."""
PENDING_BYTES = 1_024
"""What a request that waits takes beside its bytes."""
COPIES = 3
"""A result as rows, as a reply, and as what is sent."""
PROCESS = 60

BOUNDS = {
    "the process itself": PROCESS * MIB,
    "connections": hub.MAX_CLIENTS * CONNECTION_BYTES,
    "requests unfinished or waiting, transactions, large reads that run, replies not taken": hub.MAX_HELD
    + hub.COUNTED_BYTES,
    "small reads that wait for a quorum": proposals.MAX_PENDING * (connection.SMALL_READ_BYTES + PENDING_BYTES),
    "writes that wait for their outcome": proposals.MAX_MEMORY + proposals.MAX_PENDING * PENDING_BYTES,
    "results of one read and the reply made of them": COPIES * cost.MAX_READ_BYTES,
    "results of `KV.SQL`": 2 * COPIES * sql.MAX_BYTES,
    "positions of `SCAN`": cursors.MAX_CURSORS * (MAX_KEY_BYTES + 256),
    "values of the log in memory": proposals.MAX_MEMORY + MAX_ACCEPT_BYTES,
    "changes that wait for their commit": commit_schedule.MAX_UNCOMMITTED_BYTES
    + cost.MAX_CHANGED_BYTES
    + keyspace.MAX_CLEAN_BYTES,
    "results kept for sessions": len(sessions.KINDS) * sessions.MAX_WEIGHT,
    "pages of `state.db`": (machine.WRITER_CACHE_KB + machine.READER_CACHE_KB) * 1_024,
    "messages that wait for the other nodes, of seven": (MAX_NODES - 1) * (peers.MAX_UNSENT_BYTES + MAX_ACCEPT_BYTES),
}
EACH = {
    "requests unfinished or waiting, transactions, large reads that run, replies not taken": max(
        parser.MAX_REQUEST_BYTES, connection.MAX_VALUES * MAX_VALUE_BYTES
    ),
    "writes that wait for their outcome": room.MAX_LARGE_BYTES_EACH,
    "results kept for sessions": sessions.MAX_SESSION_BYTES,
}


def documented() -> tuple[dict[str, str], dict[str, str], float]:
    """The table, for one client and in all, and the figure below it in GB."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text().partition("## Memory")[2]
    rows = re.findall(r"^\| ([^|]+) \| (\d*) ?\| (\d+) \|", text, re.M)
    found = re.search(r"A node needs at most about (\d+\.\d) GB", text)
    assert found
    return {row[0]: row[2] for row in rows}, {row[0]: row[1] for row in rows if row[1]}, float(found[1])


def test_the_table_of_buffers_is_what_the_constants_say() -> None:
    in_all, each, _ = documented()
    assert in_all == {name: f"{bound / MIB:.0f}" for name, bound in BOUNDS.items()}
    assert each == {name: f"{bound / MIB:.0f}" for name, bound in EACH.items()}


def test_the_figure_is_the_sum_of_the_table() -> None:
    assert f"{sum(BOUNDS.values()) / 1e9:.1f}" == f"{documented()[2]:.1f}"


def test_what_is_not_counted_for_each_client_is_small() -> None:
    """Of ten thousand clients each may have so much that is told to nobody yet."""
    assert hub.MAX_CLIENTS * connection.PARKED_BYTES < 64 * MIB
    assert kept.MAX_WAITING_BYTES <= hub.MAX_HELD // 32
    assert settings.load({"node_id": "n1", "data_dir": "x"}, {}, None).max_clients == hub.MAX_CLIENTS
