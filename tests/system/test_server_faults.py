"""Real nodes over TCP under faults: nothing acknowledged is lost, histories are linearizable, and service goes on."""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from consensus.ballot import Ballot
from consensus.messages import Accept, Prepare
from consensus.simulation.linearizability import PENDING
from kvstore.commands import Found, Get, Incr, Set, Value
from kvstore.handles.remote import RemoteStore
from kvstore.node.peer_messages import Forward
from kvstore.node.peer_messages import Request as Forwarded
from kvstore.state.entries import UNREADABLE
from tests.fuzz.sender import packed
from tests.system.register import Operation, Request, Saw, check
from tests.system.servers import HOST, Servers, eventually, running

KEYS = 5
CLIENTS = 4
FAULT_SECONDS = 5.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with running(tmp_path) as servers:
        yield servers


class Load:
    """Clients that read, write and compare through all nodes, and note what they saw."""

    def __init__(self, servers: Servers) -> None:
        self.histories: dict[str, list[Operation]] = {f"r{key}": [] for key in range(KEYS)}
        self.acknowledged_at: list[float] = []
        self.failures: list[Exception] = []
        self._servers = servers
        self._stop = threading.Event()
        self._next_value = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        rng = random.Random(number)
        while not self._stop.is_set():
            key = f"r{rng.randrange(KEYS)}"
            with self._lock:
                self._next_value += 1
                value = self._next_value
            request = rng.choice(
                [Request("read"), Request("write", (value,)), Request("cas", (rng.randrange(9), value))]
            )
            called = time.monotonic()
            result = self._perform(rng.choice(self._servers.names), key, request)
            returned = time.monotonic() if result is not None else PENDING
            if result is not None or request.kind != "read":
                operation = Operation(f"c{number}", called, returned, request, result)
                with self._lock:
                    self.histories[key].append(operation)
            if result is True:
                self.acknowledged_at.append(time.monotonic())

    def _perform(self, name: str, key: str, request: Request) -> object:
        """The result, None when nobody knows it."""
        try:
            with redis.Redis(HOST, self._servers.ports[name], socket_timeout=3, retry=Retry(NoBackoff(), 0)) as client:
                if request.kind == "read":
                    value = client.get(key)
                    return Saw(None if value is None else int(value))
                if request.kind == "write":
                    return bool(client.set(key, request.arguments[0]))
                old, new = request.arguments
                return client.execute_command("SET", key, new, "IFEQ", old) is not None
        except (redis.RedisError, OSError) as error:
            self.failures.append(error)
            time.sleep(0.01)
            return None

    def verify(self) -> None:
        """Every history is linearizable, and there was something to see."""
        for key, history in self.histories.items():
            verdict = check(history)
            assert verdict.linearizable, f"{key}: no order explains {verdict.stuck}"
        assert len(self.acknowledged_at) > 20


def kill_one_after_the_other(servers: Servers, until: float) -> None:
    rng = random.Random(1)
    while time.monotonic() < until:
        name = rng.choice(servers.names)
        servers.kill(name)
        time.sleep(rng.uniform(0.1, 0.6))
        servers.start(name)
        servers.wait_until_serving(name)


def kill_all_at_once(servers: Servers, until: float) -> None:
    while time.monotonic() < until:
        time.sleep(1.0)
        servers.kill()
        servers.start()
        servers.wait_until_serving()


def pause_leaders(servers: Servers, until: float) -> None:
    while time.monotonic() < until:
        name = servers.leader()
        servers.pause(name)
        time.sleep(1.2)
        servers.resume(name)
        time.sleep(0.3)


@pytest.mark.parametrize("trouble", [kill_one_after_the_other, kill_all_at_once, pause_leaders])
def test_histories_under_faults_are_linearizable(servers: Servers, trouble: Callable[[Servers, float], None]) -> None:
    with Load(servers) as load:
        trouble(servers, time.monotonic() + FAULT_SECONDS)
        servers.wait_until_serving()
    load.verify()
    logs = [_log(servers, name) for name in servers.names]
    shortest = min(map(len, logs))
    assert shortest > 20
    assert len({tuple(log[:shortest]) for log in logs}) == 1, "all nodes chose the same"


def _log(servers: Servers, name: str) -> list[tuple[object, ...]]:
    with servers.client(name) as client:
        applied_upto = int(servers.status(name)["applied_upto"])
        rows = client.execute_command("KV.LOG", 1, min(applied_upto, 1_000))
    # Under which ballot a node holds a chosen value depends on what it heard; the value does not.
    return [(row[0], row[3], row[4], row[5]) for row in rows]


def test_large_values_through_any_node_upset_nobody(servers: Servers) -> None:
    """They take long on their way to a leader and to the disks, and must not be sent again meanwhile."""
    leader = servers.leader()
    rounds = servers.status(leader)["promised"]
    for name in servers.names:
        with servers.client(name) as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(20):
                pipeline.set(f"large:{number}", b"x" * 1_000_000)
            assert pipeline.execute() == [True] * 20
    assert servers.leader() == leader
    assert servers.status(leader)["promised"] == rounds
    assert int(servers.status(leader)["last_slot"]) < 90, "hardly any was proposed twice"


async def _write(port: int, until: float) -> int:
    """Write without a pause until then; returns how many writes were acknowledged."""
    reader, writer = await asyncio.open_connection(HOST, port)
    count = 0
    while time.monotonic() < until:
        writer.write(packed([b"SET", b"k%d" % (count % 100), b"v" * 100]))
        assert await reader.readexactly(5) == b"+OK\r\n"
        count += 1
    writer.close()
    return count


async def _write_many(port: int, writers: int, until: float) -> tuple[int, float]:
    """So many writers. Returns how many writes were acknowledged, and for how long this process stood still at most."""
    writing = asyncio.gather(*(_write(port, until) for _ in range(writers)))
    longest = 0.0
    while not writing.done():
        before = time.monotonic()
        await asyncio.sleep(0.02)
        longest = max(longest, time.monotonic() - before)
    return sum(await writing), longest


def test_256_writers_and_a_follower_that_comes_and_goes_cost_no_leader_its_role(tmp_path: Path) -> None:
    """A follower is stopped, goes on, is killed and starts again. A machine that stands still says nothing."""
    for attempt in range(5):
        root = tmp_path / str(attempt)
        root.mkdir()
        with running(root, 3) as servers, ThreadPoolExecutor(1) as beside:
            leader = servers.leader()
            before = servers.status(leader)["ballot"]
            follower = next(name for name in servers.names if name != leader)
            writing = beside.submit(asyncio.run, _write_many(servers.ports[leader], 256, time.monotonic() + 12))
            for action in (servers.pause, servers.resume, servers.kill, servers.start):
                time.sleep(2)
                action(follower)
            count, stood_still = writing.result()
            assert count > 1_000
            if servers.leader() == leader and servers.status(leader)["ballot"] == before:
                return
            assert stood_still > 0.3, servers.log(follower) + servers.log(leader)
    pytest.skip("this machine stood still for more than 0.3 s in each of five runs")


def test_what_was_acknowledged_survives_the_loss_of_everything_but_the_disks(servers: Servers) -> None:
    with servers.client("n2") as client:
        for number in range(200):
            client.set(f"k{number}", number)
        servers.kill()
    servers.start()
    servers.wait_until_serving()
    with servers.client("n3") as client:
        assert client.mget([f"k{number}" for number in range(200)]) == [b"%d" % number for number in range(200)]


def test_a_rolling_restart_fails_no_request_of_a_client_that_tries_again(servers: Servers) -> None:
    ended = threading.Event()
    counted: list[int] = []

    def count() -> None:
        with RemoteStore([(HOST, port) for port in servers.ports.values()]) as store:
            while not ended.is_set():
                store.execute(Set(b"count", Value(b"%d" % len(counted))))
                counted.append(1)

    worker = threading.Thread(target=count)
    worker.start()
    for name in servers.names:
        assert servers.stop(name) == 0
        servers.start(name)
        servers.wait_until_serving(name)
    ended.set()
    worker.join()
    assert len(counted) > 20
    with servers.client("n1") as client:
        assert client.get("count") == b"%d" % (len(counted) - 1)


def test_a_retry_through_another_node_runs_once(servers: Servers) -> None:
    """The leader is paused while it has requests: whoever gets them next must not execute them twice."""
    nodes = [(HOST, port) for port in servers.ports.values()]
    with RemoteStore(nodes, patience=20) as store:
        for _ in range(3):
            name = servers.leader()
            servers.pause(name)
            timer = threading.Timer(1.5, servers.resume, [name])
            timer.start()
            for _ in range(20):
                store.execute(Incr(b"n"))
            timer.join()
        found = store.execute(Get(b"n")).result
    assert isinstance(found, Found)
    assert found.value.data == b"60"


READS = (
    *(("GET", "k"), ("MGET", "k", "l"), ("STRLEN", "k"), ("GETRANGE", "k", 0, -1), ("LCS", "k", "l"), ("EXISTS", "k")),
    *(("TYPE", "k"), ("TTL", "k"), ("PEXPIRETIME", "k"), ("KEYS", "*"), ("SCAN", 0), ("DBSIZE",), ("RANDOMKEY",)),
    ("KV.SQL", "SELECT * FROM kv"),
)


def test_without_a_quorum_requests_are_refused_and_nothing_stale_is_read(tmp_path: Path) -> None:
    with running(tmp_path, arguments=["--request-timeout", "1"]) as servers:
        with servers.client("n1") as client:
            client.set("k", 1)
        leader = servers.leader()
        others = [name for name in servers.names if name != leader]
        servers.kill(*others)
        with servers.client(leader, retry=Retry(NoBackoff(), 0)) as client:
            with pytest.raises(redis.RedisError, match=r"may have happened|never proposed"):
                client.set("k", 2)
            for request in READS:
                with pytest.raises(redis.exceptions.ClusterDownError, match="nothing was read"):
                    client.execute_command(*request)
            client.readonly()
            assert client.get("k") in (b"1", b"2")
            for request in READS:
                client.execute_command(*request)
        servers.start(*others)
        servers.wait_until_serving()
        with servers.client("n1") as client:
            assert client.get("k") in (b"1", b"2")


def test_failover_is_quick(servers: Servers) -> None:
    """The longest time without an acknowledged write, over several losses of the leader."""
    gaps = []
    for _ in range(3):
        leader = servers.leader()
        with Load(servers) as load:
            time.sleep(0.7)
            servers.kill(leader)
            time.sleep(2.5)
        times = sorted(load.acknowledged_at)
        gaps.append(max(after - before for before, after in pairwise(times)))
        servers.start(leader)
        servers.wait_until_serving()
    assert statistics.median(gaps) < 2.5, gaps  # 1.5 s on a quiet machine


@pytest.fixture
def small_disks(tmp_path: Path) -> Iterator[Servers]:
    """A cluster whose nodes have a file system of 24 MB each."""
    mounts = [tmp_path / name for name in ("n1", "n2", "n3")]
    try:
        for mount in mounts:
            mount.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        with running(tmp_path) as servers:
            yield servers
    finally:
        for mount in mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True)


@pytest.mark.parametrize("full_leader", [False, True], ids=["a follower", "the leader"])
def test_a_full_disk_on_one_node_does_not_stop_the_others(small_disks: Servers, full_leader: bool) -> None:
    servers = small_disks
    leader = servers.leader()
    followers = [name for name in servers.names if name != leader]
    full, other = (leader, followers[0]) if full_leader else (followers[1], followers[0])
    ballast = servers.root / full / "ballast"
    with Load(servers) as load, servers.client(other) as client:
        ballast.write_bytes(b"x" * (shutil.disk_usage(ballast.parent).free - 400_000))
        for number in range(200):
            client.set(f"k{number % 30}", b"v" * 10_000)
        assert "disk_full" in servers.log(full)
        assert servers.is_running(full)
        with servers.client(full) as refused:
            for request in (("SET", "k", 1), ("KV.SQL", "SELECT * FROM kv")):
                with pytest.raises(redis.ResponseError, match="MISCONF"):
                    refused.execute_command(*request)
            assert refused.get("k1") == b"v" * 10_000
            assert "disk" in str(servers.status(full)["writes_refused"])
        if full_leader:
            assert servers.leader() != full
        ballast.unlink()
        servers.wait_until_serving(full)
        eventually(lambda: "disk_has_room" in servers.log(full), "there is room again")
    load.verify()
    eventually(
        lambda: len({servers.status(name).get("applied_upto") for name in servers.names}) == 1,
        "the node whose disk was full has caught up",
    )


def test_ten_thousand_idle_connections(tmp_path: Path) -> None:
    import resource
    import socket

    wanted = 10_000
    # Simulated programs that were killed leave files open, and their runs may have been in this process.
    needed = wanted + 500 + len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        pytest.skip(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    connections: list[socket.socket] = []
    try:
        with running(tmp_path, 1, ["--max-clients", str(wanted + 100)]) as servers:
            for _ in range(wanted):
                connections.append(socket.create_connection((HOST, servers.ports["n1"]), timeout=10))
            with servers.client("n1") as client:
                assert client.set("k", 1)
                assert client.get("k") == b"1"
                eventually(lambda: int(servers.status("n1")["clients"]) >= wanted, "all are counted")
            connections[-1].sendall(b"GET k\r\n")
            assert connections[-1].recv(100) == b"$1\r\n1\r\n"
            for connection in connections:
                connection.close()
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_comes_when_all_places_are_taken_is_told_so(tmp_path: Path) -> None:
    with running(tmp_path, 1, ["--max-clients", "3"]) as servers:
        with servers.client("n1") as first, servers.client("n1") as second, servers.client("n1") as third:
            assert first.ping() and second.ping() and third.ping()
            for _ in range(3):
                with (
                    servers.client("n1") as fourth,
                    pytest.raises(redis.ConnectionError, match="max number of clients"),
                ):
                    fourth.ping()
            assert first.config_get("maxclients") == {"maxclients": "3"}
            found = first.info()
            assert (found["connected_clients"], found["maxclients"]) == (3, 3)
            assert found["rejected_connections"] >= 3
            assert "client_refused" in servers.log("n1")
        eventually(lambda: bool(servers.status("n1")), "there is room again")


def test_files_are_kept_back_for_the_node_itself(tmp_path: Path) -> None:
    """As many clients as can be connect; the log, SQL and the other nodes still find descriptors."""
    servers = Servers(tmp_path)
    try:
        few_files = ("sh", "-c", 'ulimit -n 158; exec "$@"', "sh")
        servers.start(prefix=few_files)
        servers.wait_until_serving()
        assert "few_files" in servers.log("n1")
        clients = [servers.client("n1") for _ in range(30)]
        for client in clients:
            assert client.ping()
        with servers.client("n1") as one_more, pytest.raises(redis.ConnectionError, match="max number of clients"):
            one_more.ping()
        servers.kill("n2")
        servers.start("n2", prefix=few_files)
        assert clients[0].set("k", 1)
        assert clients[0].execute_command("KV.SQL", "SELECT 1")
        servers.wait_until_serving("n2")
        for client in clients:
            client.close()
    finally:
        servers.close()


def test_a_node_that_has_no_file_left_says_so_and_goes_on(tmp_path: Path) -> None:
    servers = Servers(tmp_path, count=1)
    try:
        servers.start()
        servers.wait_until_serving()
        process = servers.pid("n1")
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        with servers.client("n1") as client:
            assert client.set("k", 1)
            resource.prlimit(process, resource.RLIMIT_NOFILE, (4, before[1]))
            eventually(lambda: "too_many_files" in servers.log("n1"), "it says that no file is left")
            assert client.incr("k") == 2
            resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        with servers.client("n1") as client:
            assert client.get("k") == b"2"
    finally:
        servers.close()


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "k"),
        ("MGET", "k", "l"),
        ("SETRANGE", "k", 0, "x"),
        ("SET", "k", "x", "KEEPTTL"),
        ("INCR", "k"),
        ("WATCH", "k"),
    ],
    ids=lambda request: request[0],
)
def test_damage_to_the_state_ends_the_node_once_and_is_mended(tmp_path: Path, request_: tuple[object, ...]) -> None:
    with running(tmp_path, count=1) as servers:
        with servers.client("n1") as client:
            client.mset({"k": 1, "l": 2})
        assert servers.stop("n1") == 0
        state = sqlite3.connect(tmp_path / "n1" / "state.db")
        state.execute("UPDATE kv SET slot = 'x'")
        state.commit()
        state.close()
        servers.start("n1")
        servers.wait_until_serving()
        with suppress(redis.RedisError, OSError), servers.client("n1", retry=Retry(NoBackoff(), 0)) as client:
            client.execute_command(*request_)
        assert servers.wait("n1") == 3
        assert "is made again from log.db when the store is opened next" in servers.log("n1")
        assert "bug" not in servers.log("n1")
        servers.start("n1")
        servers.wait_until_serving()
        assert servers.log("n1").count("state_rebuilt") == 1
        with servers.client("n1") as client:
            assert client.get("l") == b"2"
            client.execute_command(*request_)
        assert servers.stop("n1") == 0


def test_who_is_named_first_leads_when_all_start(tmp_path: Path) -> None:
    """Without waiting for a time-out, which takes 30 s here."""
    with running(tmp_path, arguments=["--election-ms", "30000..40000"]) as servers:
        assert servers.leader() == "n1"


def test_rubbish_from_a_node_ends_its_connection_and_harms_nobody(servers: Servers) -> None:
    """What is no message, from somebody who was let in as one of the nodes."""
    import socket

    from kvstore.server.frames import PROTOCOL_VERSION, Hello, Welcome, decode_answer, decode_message, frame

    servers.kill("n3")
    leader = servers.leader()
    real = frame(Forward(Ballot(1, "n1"), True, [Forwarded("s", 1, 1, Set(b"k", Value(b"v" * 50)))]))[4:]
    rng = random.Random(1)
    bodies = [b"\x81" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc1"]
    bodies += [frame(Accept(Ballot(2**40, "n3"), 2**63, [b"x"], 0))[4:], frame(Prepare(Ballot(2**64 - 1, "n3"), 1))[4:]]
    while len(bodies) < 50:
        body = bytearray(real if len(bodies) % 2 else rng.randbytes(rng.randint(1, 300)))
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            decode_message(bytes(body))
        except UNREADABLE:
            bodies.append(bytes(body))
    with servers.client(leader) as good:
        for number, body in enumerate(bodies):
            with socket.create_connection((HOST, servers.peers["n1"]), timeout=5) as connection:
                connection.sendall(frame(Hello("kvstore/n1,n2,n3", "n3", "n1", PROTOCOL_VERSION, 5)))
                assert isinstance(decode_answer(connection.recv(100)[4:]), Welcome)
                connection.sendall(len(body).to_bytes(4, "big") + body)
                with suppress(ConnectionResetError):
                    while connection.recv(100).strip(b"\0"):
                        continue
            assert good.set("k", number)
    assert servers.log("n1").count("peer_rubbish") >= 1
    assert servers.leader() == leader
    servers.start("n3")
    servers.wait_until_serving()


def test_strangers_are_refused_and_said_so(servers: Servers, tmp_path: Path) -> None:
    """A node of another cluster, and rubbish, on the port for nodes."""
    import socket

    from kvstore.server.frames import PROTOCOL_VERSION, Hello, Refused, decode_answer, frame

    port = servers.peers["n1"]
    for hello, reason in [
        (Hello("other/n1,n2,n3", "n2", "n1", PROTOCOL_VERSION, 5), "it belongs to cluster 'other/n1,n2,n3'"),
        (
            Hello("kvstore/n1,n2,n3 with a read lease of 600 ms", "n2", "n1", PROTOCOL_VERSION, 5),
            "this node to 'kvstore/n1,n2,n3'",
        ),
        (Hello("kvstore/n1,n2,n3", "n9", "n1", PROTOCOL_VERSION, 5), "n9 is not a node of this cluster"),
        (Hello("kvstore/n1,n2,n3", "n2", "n1", PROTOCOL_VERSION, 5), "another process is connected as n2"),
        (Hello("kvstore/n1,n2,n3", "n2", "n3", PROTOCOL_VERSION, 5), "it looks for node n3"),
        (Hello("kvstore/n1,n2,n3", "n1", "n1", PROTOCOL_VERSION, 5), "it calls itself n1"),
        (Hello("kvstore/n1,n2,n3", "n2", "n1", 99, 5), "it speaks version 99"),
    ]:
        for _ in range(2):
            with socket.create_connection((HOST, port), timeout=5) as connection:
                connection.sendall(frame(hello))
                said = b""
                while part := connection.recv(1_000):
                    said += part
        answer = decode_answer(said[4:])
        assert isinstance(answer, Refused)
        assert reason in answer.reason
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\0\0\0\x05hello"):
        with socket.create_connection((HOST, port), timeout=8) as connection:
            connection.sendall(rubbish)
            connection.settimeout(8)
            try:
                while connection.recv(1_000):
                    continue
            except ConnectionResetError:
                continue
    # Each reason is told once; those who try again and again, from one port after the other, do not fill the log.
    assert servers.log("n1").count("peer_refused") == 7
    assert servers.log("n1").count("peer_rubbish") == 1
    servers.wait_until_serving()
