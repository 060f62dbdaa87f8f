"""Clients of many kinds that try to fill a node's memory: it stays below the figure in docs/operations.md."""

from __future__ import annotations

import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from kvstore.commands import Get, Set, Txn, Value
from tests.system.servers import HOST, Servers, eventually, running
from tests.unit.resp_client import packed

ROOT = Path(__file__).parents[3]
MIB = 1_048_576
SECONDS = 2.5
CLIENTS = 12
TRIED = 1_000
"""MiB. What these clients get a node to is far below the figure, which is the sum of all bounds."""

Kind = Callable[[socket.socket], Iterator[bytes]]
"""What a client of this kind sends, piece by piece, without taking an answer."""


def figure() -> int:
    """MiB that a node can need at most, as documented."""
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"A node needs at most about (\d+)\.(\d) GB", text)
    assert found
    return (int(found[1]) * 10 + int(found[2])) * 1_000 // 10


def auth(_: socket.socket) -> Iterator[bytes]:
    yield packed("auth secret")


def request(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def unfinished(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield b"*2\r\n$3\r\nGET\r\n$62000000\r\n"
    for _piece in range(59):
        yield b"x" * MIB


def many_arguments(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield b"*1000000\r\n"
    for _piece in range(99):
        yield b"$1\r\nx\r\n" * 10_000


def stranger(_: socket.socket) -> Iterator[bytes]:
    yield b"*2\r\n$4\r\nAUTH\r\n$62000000\r\n"
    for _piece in range(59):
        yield b"x" * MIB


def strange_digits(_: socket.socket) -> Iterator[bytes]:
    for _piece in range(59):
        yield b"*" + b"1" * MIB


def reader(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for _piece in range(100):
        yield packed("get big") * 10


def reader_of_many(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for _piece in range(20):
        yield packed("mget" + " big" * 12)


def transaction(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield packed("multi")
    for _piece in range(15):
        yield packed(f"set k {'x' * 1_000_000}")


def small_transaction(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield packed("multi")
    for _piece in range(16):
        yield packed("get big") * 1_000


def watcher(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for piece in range(16):
        yield packed("watch " + " ".join(f"{'w' * 900}{piece}.{number}" for number in range(1_000)))


def namer(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield packed("client setname " + "n" * 60_000_000)
    yield packed("echo " + "n" * 60_000_000)


def writer(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for number in range(200):
        yield packed(f"set k{number % 20} {'x' * MIB}")


def mixed(_: socket.socket) -> Iterator[bytes]:
    """Each read waits for the write before it, and the writes behind it for the read."""
    yield from auth(_)
    for number in range(200):
        yield packed(f"set m{number % 20} {'x' * MIB}") + packed(f"strlen m{number % 20}")


def executor(_: socket.socket) -> Iterator[bytes]:
    """Results of 15 MB in a session."""
    yield from auth(_)
    session = b"s%d" % _.fileno()
    reads = msgspec.msgpack.encode(Txn([Set(b"n", Value(b"1")), *[Get(b"big")] * 15]))
    for sequence in range(1, 100):
        yield request(b"KV.EXECUTE", session, b"%d" % sequence, b"1", reads)


def sql(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for _number in range(50):
        yield request(b"KV.SQL", b"SELECT zeroblob(30000000)")


def echo(_: socket.socket) -> Iterator[bytes]:
    """Answered at once, behind a write that is not."""
    yield from auth(_)
    for number in range(100):
        yield packed(f"set e {number}") + packed("echo " + "x" * MIB) * 4


def client_lists(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for _number in range(500):
        yield packed("client list") + packed("command docs") + packed("kv.log 1")


def reader_of_missing_keys(_: socket.socket) -> Iterator[bytes]:
    """Large requests that wait for a quorum."""
    yield from auth(_)
    for _number in range(50):
        yield packed("mget" + f" {'q' * 1_000}" * 2_000)


KINDS: list[Kind] = [
    *(unfinished, many_arguments, stranger, strange_digits, reader, reader_of_many, transaction, small_transaction),
    *(watcher, namer, writer, mixed, executor, sql, echo, client_lists, reader_of_missing_keys),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Servers]:
    if not Path("/proc/self/status").exists():
        pytest.skip("a process's memory is read from /proc, which this system has not")
    password = tmp_path / "password"
    password.write_text("secret")
    with running(tmp_path, 1, ["--password-file", str(password)], password="secret") as servers:
        yield servers


def memory(servers: Servers, field: str) -> int:
    """MiB."""
    status = Path(f"/proc/{servers.pid('n1')}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) // 1_024


def attack(servers: Servers, kinds: list[Kind], beside: Callable[[], None], seconds: float = SECONDS) -> None:
    """Let clients of these kinds send what the node takes, for a while."""
    clients = []
    for number in range(CLIENTS * len(kinds)):
        client = socket.create_connection((HOST, servers.ports["n1"]))
        client.setblocking(False)
        clients.append((client, kinds[number % len(kinds)](client), bytearray()))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for client, pieces, rest in clients:
            if not rest:
                rest += next(pieces, b"")
            with suppress(OSError):
                del rest[: client.send(rest[:MIB])]
        beside()
    for client, _, _ in clients:
        client.close()


@pytest.mark.parametrize(
    "kinds", [*([kind] for kind in KINDS), KINDS], ids=lambda kinds: "+".join(k.__name__ for k in kinds)[:30]
)
def test_the_figure_is_not_exceeded(server: Servers, kinds: list[Kind]) -> None:
    with closing(server.client("n1", socket_timeout=10)) as healthy:
        healthy.set("big", b"x" * MIB)
        worst = 0.0

        def beside() -> None:
            nonlocal worst
            began = time.monotonic()
            healthy.set("healthy", "yes")
            worst = max(worst, time.monotonic() - began)

        attack(server, kinds, beside)
        assert memory(server, "VmHWM") < min(figure(), TRIED)
        assert worst < 5
        assert healthy.get("healthy") == b"yes"
        eventually(lambda: memory(server, "VmRSS") < 250, f"its memory is given back: {memory(server, 'VmRSS')} MiB")


def test_the_figure_is_not_exceeded_without_a_quorum(tmp_path: Path) -> None:
    """What waits for a quorum waits for seconds, and more comes all the while."""
    password = tmp_path / "password"
    password.write_text("secret")
    with running(tmp_path, 3, ["--password-file", str(password)], password="secret") as servers:
        with servers.client(servers.leader()) as client:
            client.set("big", b"x" * MIB)
        servers.kill("n2", "n3")
        attack(servers, KINDS, lambda: None, 3 * SECONDS)
        assert servers.is_running("n1"), servers.log("n1")[-3_000:]
        assert memory(servers, "VmHWM") < min(figure(), TRIED)
        eventually(lambda: memory(servers, "VmRSS") < 400, f"it is given back: {memory(servers, 'VmRSS')} MiB")
        servers.start("n2", "n3")
        servers.wait_until_serving()


def test_thousands_of_connections_with_something_unfinished(server: Servers) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(5_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            client = socket.create_connection((HOST, server.ports["n1"]))
            client.sendall(b"*2\r\n$4\r\nAUTH\r\n$16384\r\n" + b"x" * 15_360)
            clients.append(client)
        with server.client("n1") as healthy:
            eventually(lambda: int(healthy.info()["connected_clients"]) > count, "all are connected")
            assert healthy.set("healthy", "yes")
        assert memory(server, "VmHWM") < 100 + count // 20
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: memory(server, "VmRSS") < 200, f"its memory is given back: {memory(server, 'VmRSS')} MiB")
