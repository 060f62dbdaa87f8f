"""Real nodes, one of whose disks becomes slow: only a quorum's disks hold up a write, and no disk holds up the rest."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.system.servers import Servers, eventually
from tests.system.test_server_faults import Load

DELAY = 0.4
"""What a slow disk takes for a write, in seconds: most of the shortest election time-out."""
STILL = 6.0
"""What a write takes on a disk that stands still: no leader is waited for so long."""
WRITES = 40


class SlowDisks:
    """A cluster, each of whose nodes can be given a slow disk."""

    def __init__(self, root: Path) -> None:
        self.servers = Servers(root)
        for name in self.servers.names:
            launcher = [sys.executable, "-m", "tests.system.slow_disk", str(self._file(name))]
            self.servers.start(name, prefix=launcher)
        self.servers.wait_until_serving()

    def _file(self, name: str) -> Path:
        return self.servers.root / f"{name}.delay"

    def slow_down(self, *names: str, delay: float = DELAY) -> None:
        for name in names:
            self._file(name).write_text(str(delay))

    def speed_up(self) -> None:
        for name in self.servers.names:
            self._file(name).unlink(missing_ok=True)

    def time_writes(self, name: str, count: int) -> float:
        """How long so many writes take, one after the other, in seconds."""
        with self.servers.client(name) as client:
            client.set("w", 0)  # connected, and whatever had to be found out is known
            began = time.monotonic()
            for number in range(count):
                assert client.set(f"w{number}", number)
            return time.monotonic() - began

    def rounds(self) -> int:
        """How often a leader was elected, or tried to be."""
        return max(int(self.servers.status(name)["ballot"].split(".")[0]) for name in self.servers.names)

    def rows(self, name: str) -> list[object]:
        with self.servers.client(name) as client:
            reply = client.execute_command("KV.SQL", "SELECT key, value, slot, version FROM kv ORDER BY key")
            assert isinstance(reply, list)
            return reply

    def wait_until_equal(self) -> None:
        """All nodes hold the same, quickly."""
        leader = self.servers.leader()
        upto = int(self.servers.status(leader)["chosen_upto"])
        for name in self.servers.names:
            eventually(lambda name=name: int(self.servers.status(name)["applied_upto"]) >= upto, f"{name} caught up")  # type: ignore[misc]
        expected = self.rows(leader)
        assert len(expected) > WRITES
        for name in self.servers.names:
            eventually(lambda name=name: self.rows(name) == expected, f"{name} holds what the leader holds")  # type: ignore[misc]


class Pings:
    """How long a node takes to answer what needs no disk."""

    def __init__(self, servers: Servers, name: str) -> None:
        self.seconds: list[float] = []
        self._client = servers.client(name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ping)

    def __enter__(self) -> Pings:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _ping(self) -> None:
        while not self._stop.wait(0.01):
            began = time.monotonic()
            self._client.ping()
            self.seconds.append(time.monotonic() - began)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[SlowDisks]:
    cluster = SlowDisks(tmp_path)
    try:
        yield cluster
    finally:
        cluster.servers.close()


@pytest.mark.parametrize("slow_leader", [False, True], ids=["a follower", "the leader"])
def test_a_slow_disk_holds_up_nobody_else(disks: SlowDisks, slow_leader: bool) -> None:
    leader = disks.servers.leader()
    followers = [name for name in disks.servers.names if name != leader]
    slow = leader if slow_leader else followers[0]
    rounds = disks.rounds()
    disks.slow_down(slow)
    with Load(disks.servers) as load, Pings(disks.servers, slow) as pings:
        took = disks.time_writes(leader, WRITES)
        time.sleep(3)
    load.verify()
    assert took < WRITES * DELAY / 4  # a quorum is quick
    assert sum(seconds > DELAY / 2 for seconds in pings.seconds) <= 3, sorted(pings.seconds)[-9:]
    assert disks.rounds() == rounds
    assert disks.servers.leader() == leader
    disks.speed_up()
    disks.wait_until_equal()


def test_a_write_waits_for_a_quorum_of_disks(disks: SlowDisks) -> None:
    leader = disks.servers.leader()
    disks.slow_down(*(name for name in disks.servers.names if name != leader))
    assert disks.time_writes(leader, 3) > 3 * DELAY
    disks.slow_down(*disks.servers.names)
    assert disks.time_writes(leader, 3) > 3 * DELAY
    assert disks.servers.leader() == leader


def test_a_disk_that_stands_still_holds_up_the_cluster_but_briefly(disks: SlowDisks) -> None:
    leader = disks.servers.leader()
    followers = [name for name in disks.servers.names if name != leader]
    acknowledged = [time.monotonic()]
    with Load(disks.servers) as load, disks.servers.client(followers[0]) as client:
        disks.slow_down(leader, delay=STILL)
        time.sleep(0.3)
        disks.speed_up()  # for writes that begin from now on
        while acknowledged[-1] < acknowledged[0] + STILL + 2:
            assert client.set(f"w{len(acknowledged)}", "1")
            acknowledged.append(time.monotonic())
    load.verify()
    assert max(after - before for before, after in pairwise(acknowledged)) < STILL / 2
    disks.wait_until_equal()
