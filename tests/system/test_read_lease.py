"""Real nodes with ``--read-lease``: what a paused leader reads when it goes on, and who may take part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.system.servers import Servers, eventually, running
from tests.system.test_server_faults import Load

PAUSE_SECONDS = 3.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with running(tmp_path, arguments=["--read-lease"]) as servers:
        yield servers


def write(servers: Servers, names: list[str], value: int) -> None:
    """Until one of the nodes has acknowledged it."""

    def written() -> bool:
        for name in names:
            try:
                with servers.client(name, retry=Retry(NoBackoff(), 0)) as client:
                    return bool(client.set("k", value))
            except redis.RedisError:
                continue
        return False

    eventually(written, f"{value} is written")


def test_a_leader_that_stood_still_never_serves_a_stale_value(servers: Servers) -> None:
    for value in (1, 2, 3):
        leader = servers.leader()
        others = [name for name in servers.names if name != leader]
        write(servers, [leader], 10 * value)
        with ExitStack() as stack:
            clients = [stack.enter_context(servers.client(leader, retry=Retry(NoBackoff(), 0))) for _ in range(20)]
            for client in clients:
                assert client.get("k") == b"%d" % (10 * value)
            paused_at = time.monotonic()
            servers.pause(leader)
            write(servers, others, 10 * value + 1)
            # What is asked now was asked after the write, and waits in the sockets of a process with an old clock.
            pools = [client.connection_pool for client in clients]
            connections = [pool.get_connection() for pool in pools]
            for connection in connections:
                connection.send_command("GET", "k")
            time.sleep(max(0.0, paused_at + PAUSE_SECONDS - time.monotonic()))
            servers.resume(leader)
            for connection in connections:
                assert connection.read_response() == b"%d" % (10 * value + 1)
            for pool, connection in zip(pools, connections, strict=True):
                pool.release(connection)
        servers.wait_until_serving()


def test_histories_with_leaders_paused_and_killed_are_linearizable(servers: Servers) -> None:
    with Load(servers) as load:
        for number in range(4):
            leader = servers.leader()
            time.sleep(0.5)
            if number % 2:
                servers.kill(leader)
                servers.start(leader)
            else:
                servers.pause(leader)
                time.sleep(1.5)
                servers.resume(leader)
            servers.wait_until_serving()
    load.verify()


def test_a_planned_end_of_the_leader_hands_over_in_spite_of_its_lease(servers: Servers) -> None:
    leader = servers.leader()
    (other, _) = [name for name in servers.names if name != leader]
    write(servers, [leader], 1)
    began = time.monotonic()
    assert servers.stop(leader) == 0
    write(servers, [other], 2)
    assert servers.leader() != leader
    assert time.monotonic() - began < 10
    with servers.client(other) as client:
        assert client.get("k") == b"2"


def test_a_node_without_the_option_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, arguments=["--read-lease"]) as servers:
        stranger = next(name for name in servers.names if name != servers.leader())
        servers.stop(stranger)
        servers._arguments = []
        servers.start(stranger)
        eventually(
            lambda: "with a read lease of 600 ms" in servers.log(stranger),
            "the node without the option is told why it is refused",
        )
        assert servers.status(stranger).get("role") != "leader"
        with servers.client(servers.leader()) as client:
            assert client.set("k", 1)
