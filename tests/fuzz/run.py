"""One run: clients that send what ``kinds`` draws, and beside them healthy ones whose waits are measured."""

from __future__ import annotations

import hashlib
import select
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random

import hiredis

from tests.fuzz.kinds import KINDS, Request
from tests.system.servers import HOST, Servers, eventually

QUIET_SECONDS = 20.0
"""A client that hears nothing for so long hangs up."""


@dataclass
class Outcome:
    """What was seen. Times in seconds, memory in MiB."""

    pipelines: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    healthy: int = 0
    """Requests of healthy clients that were answered."""
    longest_wait: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    """By node, the most it ever had."""
    complaints: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def packed(request: Request) -> bytes:
    return b"*%d\r\n" % len(request) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in request)


class Sender:
    """A client of the fuzzer. What it sends follows from the seed alone; how far it gets is a matter of time."""

    def __init__(self, seed: str, ports: Sequence[int], kinds: Sequence[str], outcome: Outcome) -> None:
        self._random = Random(seed)
        self._ports = list(ports)
        self._kinds = list(kinds)
        self._totals = list(accumulate(KINDS[kind].weight for kind in kinds))
        self._outcome = outcome
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()

    def run(self, stopped: Callable[[], bool]) -> None:
        while not stopped():
            random = self._random
            kind = random.choices(self._kinds, cum_weights=self._totals)[0]
            requests = KINDS[kind].draw(random)
            port = random.choice(self._ports)
            manner = random.choices(["read", "leave", "reconnect", "pieces"], [80, 5, 5, 10])[0]
            cut = random.random()
            with self._outcome.lock:
                self._outcome.pipelines[kind] = self._outcome.pipelines.get(kind, 0) + 1
                self._outcome.requests += len(requests)
            with suppress(OSError):
                self._send(port, b"".join(map(packed, requests)), len(requests), manner, cut, stopped)
                continue
            self._hang_up()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _send(self, port: int, data: bytes, count: int, manner: str, cut: float, stopped: Callable[[], bool]) -> None:
        if self._socket is None or manner == "reconnect":
            self._hang_up()
            self._socket = socket.create_connection((HOST, port), timeout=5)
            self._reader = hiredis.Reader()
        if manner == "leave":  # in the middle of a request, and without a look at any answer
            self._socket.settimeout(1)
            self._socket.sendall(data[: int(len(data) * cut)])
            self._hang_up()
            return
        self._converse(self._socket, data, count, 1 + int(cut * 2_000) if manner == "pieces" else 65_536, stopped)

    def _converse(self, wire: socket.socket, data: bytes, count: int, piece: int, stopped: Callable[[], bool]) -> None:
        """Send all and take all answers, both at once. Raises OSError when the node hangs up or says nothing."""
        wire.setblocking(False)
        view, sent, heard = memoryview(data), 0, time.monotonic()
        piece = max(piece, len(data) // 500)
        while count and not stopped():
            readable, writable, _ = select.select([wire], [wire] if sent < len(data) else [], [], 0.5)
            if writable:
                with suppress(BlockingIOError):
                    sent += wire.send(view[sent : sent + piece])
            if readable:
                some = wire.recv(1 << 18)
                if not some:
                    raise ConnectionResetError("the node hung up")
                self._reader.feed(some)
                heard = time.monotonic()
                while count and self._reader.gets() is not False:
                    count -= 1
            if time.monotonic() - heard > QUIET_SECONDS:
                raise TimeoutError("no answer")


def be_healthy(servers: Servers, name: str, outcome: Outcome, stopped: Callable[[], bool]) -> None:
    """Write and read a key over and over, and measure; an error, or another's value, is a complaint."""
    ordinal = 0
    with servers.client(name, socket_timeout=30) as client:
        while not stopped():
            ordinal += 1
            key, value = f"healthy:{name}", str(ordinal).encode()
            for request in (("SET", key, value), ("GET", key)):
                began = time.monotonic()
                try:
                    answer = client.execute_command(*request)
                except Exception as error:
                    with outcome.lock:
                        outcome.complaints.append(f"{name} answered {request[0]} of a healthy client by {error!r}")
                    return
                with outcome.lock:
                    outcome.healthy += 1
                    outcome.longest_wait = max(outcome.longest_wait, time.monotonic() - began)
                if request[0] == "GET" and answer not in (value, None):  # None after FLUSHALL
                    with outcome.lock:
                        outcome.complaints.append(f"{name} gave {answer!r} for {value!r}")
            time.sleep(0.02)


def peak_memory(pid: int) -> int:
    """The most memory that a process ever had, in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def digest(state: Path, lasting_from: int) -> str:
    """What a store holds: a digest of all keys but those that expire before ``lasting_from``, in ms since 1970."""
    found = hashlib.sha256()
    with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as database:
        names = [row[1] for row in database.execute("PRAGMA table_info(kv)")]
        expires = names.index("expires")
        for row in database.execute("SELECT * FROM kv ORDER BY key"):
            if row[expires] is None or row[expires] == 0 or row[expires] > lasting_from:
                found.update(repr(row).encode())
    return found.hexdigest()


def fuzz(servers: Servers, seed: int, seconds: float, kinds: Sequence[str], clients: int = 6) -> Outcome:
    """Send for so long to a cluster that serves, then judge it: alive, in agreement, and able to start again."""
    outcome = Outcome()
    over = threading.Event()

    def stopped() -> bool:
        return over.is_set()

    ports = list(servers.ports.values())
    senders = [Sender(f"{seed}/{number}", ports, kinds, outcome) for number in range(clients)]
    threads = [threading.Thread(target=sender.run, args=(stopped,)) for sender in senders]
    threads += [threading.Thread(target=be_healthy, args=(servers, n, outcome, stopped)) for n in servers.names]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(map(servers.is_running, servers.names)):
        time.sleep(0.2)
    over.set()
    for thread in threads:
        thread.join()
    dead = [name for name in servers.names if not servers.is_running(name)]
    outcome.complaints += [f"{name} ended: {servers.log(name)[-3_000:]}" for name in dead]
    if not dead:
        judge(servers, outcome)
    return outcome


def judge(servers: Servers, outcome: Outcome) -> None:
    """Replicas agree, and nodes that end start again."""
    outcome.memory = {name: peak_memory(servers.pid(name)) for name in servers.names}
    servers.wait_until_serving()

    def all_applied() -> bool:
        return len({servers.status(name).get("applied_upto") for name in servers.names}) == 1

    eventually(all_applied, "all nodes have applied the same slots", 60)
    lasting_from = int(time.time() * 1_000) + 60_000
    for name in servers.names:
        status = servers.stop(name)
        if status:
            outcome.complaints.append(f"{name} ended with {status} when told to: {servers.log(name)[-3_000:]}")
    digests = {name: digest(servers.root / name / "state.db", lasting_from) for name in servers.names}
    if len(set(digests.values())) > 1:
        outcome.complaints.append(f"the replicas differ: {digests}")
    servers.start()
    servers.wait_until_serving()
