"""Real nodes, one of whose disks becomes slow: only a quorum's disks hold up a write, and no disk holds up the rest."""

from __future__ import annotations

import re
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.system.servers import Servers, eventually
from tests.system.test_server_faults import Load

DELAY = 0.4
"""What a slow disk takes for a write, in seconds: most of the shortest election time-out."""
STILL = 6.0
"""What a write takes on a disk that stands still: no leader is waited for so long."""
SECONDS = 3.0
AT_ONCE = 2
"""So many turns may wait for a disk that was quick until then."""
HONEST = re.compile("may have happened|never proposed|nothing was read")


class SlowDisks:
    """A cluster, each of whose nodes can be given a slow disk."""

    def __init__(self, root: Path, arguments: Sequence[str] = (), count: int = 3) -> None:
        self.servers = Servers(root, count=count, arguments=arguments)
        for name in self.servers.names:
            launcher = [sys.executable, "-m", "tests.system.slow_disk", str(self._file(name))]
            self.servers.start(name, prefix=launcher)

    def _file(self, name: str) -> Path:
        return self.servers.root / f"{name}.delay"

    def slow_down(self, *names: str, delay: float = DELAY) -> None:
        for name in names:
            self._file(name).write_text(str(delay))

    def speed_up(self) -> None:
        for name in self.servers.names:
            self._file(name).unlink(missing_ok=True)

    def time_writes(self, name: str, *, count: int = 1_000_000, seconds: float = 60) -> list[float]:
        """How long each of so many writes took, one after the other, or of those in so many seconds."""
        took: list[float] = []
        with self.servers.client(name) as client:
            client.set("w", 0)  # connected, and whatever had to be found out is known
            now = time.monotonic()
            until = now + seconds
            while now < until and len(took) < count:
                began = now
                assert client.set(f"w{len(took)}", len(took))
                now = time.monotonic()
                took.append(now - began)
        return took

    def rounds(self) -> int:
        """How often a leader was elected, or tried to be."""
        return max(int(self.servers.status(name)["promised"].split(".")[0]) for name in self.servers.names)

    def losses(self) -> int:
        """How often a node lost its connection to another."""
        return sum(self.servers.log(name).count("peer_lost") for name in self.servers.names)

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
        assert len(expected) > 20
        for name in self.servers.names:
            eventually(lambda name=name: self.rows(name) == expected, f"{name} holds what the leader holds")  # type: ignore[misc]


class Looks:
    """How long a node takes to answer what needs no write to its disk."""

    def __init__(self, servers: Servers, name: str) -> None:
        self.seconds: dict[str, list[float]] = {"PING": [], "GET r1": [], "KV.LOG 1 9": []}
        self._client = servers.client(name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Looks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            for request, seconds in self.seconds.items():
                began = time.monotonic()
                self._client.execute_command(*request.split())
                seconds.append(time.monotonic() - began)

    def verify(self) -> None:
        waited = {request: sorted(seconds)[-9:] for request, seconds in self.seconds.items()}
        assert all(len(seconds) > 20 for seconds in self.seconds.values()), waited
        assert sum(took > DELAY / 2 for seconds in self.seconds.values() for took in seconds) <= AT_ONCE, waited


@contextmanager
def running(root: Path, *arguments: str, count: int = 3) -> Iterator[SlowDisks]:
    disks = SlowDisks(root, arguments, count)
    try:
        disks.servers.wait_until_serving()
        yield disks
    finally:
        disks.servers.close()


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[SlowDisks]:
    with running(tmp_path) as disks:
        yield disks


@pytest.mark.parametrize("slow_leader", [False, True], ids=["a follower", "the leader"])
def test_a_slow_disk_holds_up_nobody_else(disks: SlowDisks, slow_leader: bool) -> None:
    leader = disks.servers.leader()
    followers = [name for name in disks.servers.names if name != leader]
    slow = leader if slow_leader else followers[0]
    rounds, losses = disks.rounds(), disks.losses()
    disks.slow_down(slow)
    with Load(disks.servers) as load, Looks(disks.servers, slow) as looks:
        took = sorted(disks.time_writes(leader, seconds=SECONDS))
    load.verify()
    assert load.failures == []
    assert took[len(took) * 99 // 100] < DELAY / 4, took[-9:]  # a quorum is quick
    assert sum(seconds > DELAY / 2 for seconds in took) <= AT_ONCE, took[-9:]
    looks.verify()
    assert (disks.rounds(), disks.losses()) == (rounds, losses)
    assert disks.servers.leader() == leader
    disks.speed_up()
    disks.wait_until_equal()


def test_a_write_waits_for_a_quorum_of_disks_and_no_longer_than_a_request_may(tmp_path: Path) -> None:
    with running(tmp_path, "--request-timeout", "1") as disks:
        leader = disks.servers.leader()
        rounds = disks.rounds()
        disks.slow_down(*(name for name in disks.servers.names if name != leader))
        assert sum(disks.time_writes(leader, count=3)) > 3 * DELAY
        disks.slow_down(*disks.servers.names)
        assert sum(disks.time_writes(leader, count=3)) > 3 * DELAY
        time.sleep(3 * DELAY)  # each disk holds what is chosen: a leader whose disk lacked it would hand over
        disks.slow_down(*disks.servers.names, delay=3)
        with disks.servers.client(leader, retry=Retry(NoBackoff(), 0)) as client:
            began = time.monotonic()
            with pytest.raises(redis.ResponseError, match="may have happened"):
                client.set("late", 1)
            assert time.monotonic() - began < 2
            assert client.get("w0") == b"0"  # a quorum answers, if not from its disks
            disks.speed_up()
            eventually(lambda: client.get("late") == b"1", "what may have happened has happened")
        assert disks.servers.leader() == leader
        assert disks.rounds() == rounds


def test_a_disk_that_stands_still_holds_up_the_cluster_but_briefly(disks: SlowDisks) -> None:
    leader = disks.servers.leader()
    followers = [name for name in disks.servers.names if name != leader]
    rounds = disks.rounds()
    acknowledged = [time.monotonic()]
    with Load(disks.servers) as load, disks.servers.client(followers[0]) as client:
        disks.slow_down(leader, delay=STILL)
        time.sleep(0.3)
        disks.speed_up()  # for writes that begin from now on
        while acknowledged[-1] < acknowledged[0] + STILL + 2:
            assert client.set(f"w{len(acknowledged)}", "1")
            acknowledged.append(time.monotonic())
        assert disks.servers.leader() != leader, "whoever has a quicker disk leads"
    assert disks.servers.log(leader).count("disk_stalled") >= 1
    load.verify()
    assert max(after - before for before, after in pairwise(acknowledged)) < STILL / 2
    unclear = [error for error in load.failures if not HONEST.search(str(error))]
    assert all(isinstance(error, redis.TimeoutError) for error in unclear), unclear
    assert disks.rounds() <= rounds + 3
    disks.wait_until_equal()


def test_a_node_that_is_told_to_end_while_a_write_is_under_way_finishes_it(tmp_path: Path) -> None:
    """The write takes longer than the node waits for its clients."""
    with running(tmp_path, count=1) as disks, disks.servers.client("n1") as client:
        client.set("before", 1)
        disks.slow_down("n1", delay=8)
        threading.Thread(target=_set_and_forget, args=(disks.servers, "under way")).start()
        eventually(lambda: int(disks.servers.status("n1")["last_slot"]) == 2, "it is under way")
        time.sleep(0.2)
        disks.speed_up()
        assert disks.servers.stop("n1") == 0
        log = disks.servers.log("n1")
        assert "ended" in log
        assert "bug" not in log
        assert "cannot_go_on" not in log
        with closing(sqlite3.connect(disks.servers.root / "n1" / "state.db")) as state:
            assert state.execute("SELECT applied_upto FROM progress").fetchone() == (2,), "its last commit was made"
        disks.servers.start("n1")
        disks.servers.wait_until_serving()
        with disks.servers.client("n1") as again:
            assert again.get("under way") == b"1"


def _set_and_forget(servers: Servers, key: str) -> None:
    with suppress(redis.RedisError, OSError), servers.client("n1", retry=Retry(NoBackoff(), 0)) as client:
        client.set(key, 1)
