"""What nodes keep in memory: bounded when they rest, and whoever does not read their replies."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.servers import HOST, Servers, eventually, running

KEYS = 100_000
VALUE = "x" * 256
AT_REST = 150
"""MiB."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    if not Path("/proc/self/status").exists():
        pytest.skip("a process's memory is read from /proc, which this system has not")
    with running(tmp_path) as servers:
        yield servers


def resident(servers: Servers, name: str) -> int:
    """MiB, as the system says, not the node."""
    status = Path(f"/proc/{servers.pid(name)}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1_024


def rests(servers: Servers, name: str) -> bool:
    """Whether all that the node applied is in its database: what it gives back, it gives back then."""
    state = servers.root / name / "state.db"
    with closing(sqlite3.connect(f"{state.as_uri()}?mode=ro", uri=True)) as database:
        (committed_upto,) = database.execute("SELECT applied_upto FROM progress").fetchone()
    return int(servers.status(name)["applied_upto"]) == int(committed_upto)


def test_a_node_at_rest_is_small(servers: Servers) -> None:
    with servers.client(servers.leader()) as client:
        for first in range(0, KEYS, 1_000):
            pipeline = client.pipeline(transaction=False)
            for number in range(first, first + 1_000):
                pipeline.set(f"key:{number:012d}", VALUE)
            pipeline.execute()
    for name in servers.names:
        eventually(lambda name=name: int(servers.status(name)["keys"]) == KEYS, f"{name} holds all keys")  # type: ignore[misc]
    for name in servers.names:
        eventually(lambda name=name: rests(servers, name), f"{name} has nothing to do", seconds=30)  # type: ignore[misc]
        eventually(
            lambda name=name: resident(servers, name) < AT_REST,  # type: ignore[misc]
            f"{name} holds all keys in less than {AT_REST} MiB",
            seconds=10,
        )


def test_who_takes_no_replies_is_given_no_more(servers: Servers) -> None:
    leader = servers.leader()
    readers = []
    with servers.client(leader) as client:
        client.set("large", b"x" * 1_000_000)
        before = resident(servers, leader)
        for _ in range(5):
            reader = socket.create_connection((HOST, servers.ports[leader]))
            reader.sendall(b"GET large\r\n" * 1_000)
            readers.append(reader)
        until = time.monotonic() + 3
        highest = before
        while time.monotonic() < until:
            assert client.set("small", 1)
            highest = max(highest, resident(servers, leader))
    for reader in readers:
        reader.close()
    assert highest - before < 5 * 40  # MiB; each asked for 1,000
