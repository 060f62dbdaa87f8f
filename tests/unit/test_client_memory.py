"""What clients that do not finish, or do not take their replies, may keep in memory."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.commands import Command, Get, GetDelete, Incr, Set, SetMany, Txn, Value
from kvstore.errors import UnavailableError
from kvstore.resp import hub as hubs
from kvstore.resp.client_command import MAX_NAME_BYTES
from kvstore.resp.connection import MAX_VALUES, Connection
from kvstore.resp.hub import Hub
from kvstore.resp.parser import MAX_REQUEST_BYTES, Parser, ProtocolError
from kvstore.resp.spec import Spec
from kvstore.resp.table import TABLE
from tests.examples import examples
from tests.unit.resp_client import Client, Node, packed
from tests.unit.test_argument_sizes import shapes

KIB = 1_024


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Transport:
    """Dies with the last connection that refers to it."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def pause(self, wanted: bool) -> None: ...


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"*2\r\n$3\r\nGET\r\n$100\r\nx",
        b"*2\r\n$3\r\nGET\r\n$1000000\r\n" + b"x" * 100_000,
        packed("multi") + packed("set k v"),
        packed("client setname me") + packed("watch k"),
        packed("client kill id 1 skipme no"),
        packed("quit"),
        packed("GET k") * 300,
        b"post / http\r\n",
        b"*x\r\n",
    ],
)
def test_a_connection_that_is_lost_is_freed_at_once(sent: bytes, no_collector: None) -> None:
    transport = Transport()
    node, hub = Node(), Hub()
    connection = Connection(node, hub, write=transport.write, close=transport.close, pause=transport.pause)
    if sent:
        connection.received(sent)
    while node.waiting:
        node.waiting.pop(0)()
    hub.flush()
    gone = weakref.ref(transport)
    connection.lost()
    del connection, transport
    assert gone() is None
    assert (hub.held, hub.clients) == (0, {})


@pytest.mark.parametrize("spec", TABLE.values(), ids=lambda spec: spec.name)
def test_a_request_leaves_no_circle(spec: Spec, no_collector: None) -> None:
    """The collector looks late, and not at all while a node is busy."""
    for request in shapes(spec):
        client = Client()
        left = 1
        for _ in range(3):  # the first may import something
            client.connection._order.add(list(request))
            client.turn()
            left = gc.collect()
        assert left == 0, request


def closed(*sent: bytes, password: str | None = "secret") -> bytes:
    """What a client hears that is disconnected for this, "" for one that is not."""
    client = Client(password=password)
    for piece in sent:
        client.connection.received(piece)
    client.turn()
    return client.said if client.closed else b""


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"*11\r\n", b"unauthenticated multibulk length"),
        (b"*10\r\n$4\r\nAUTH\r\n", b""),
        (b"*1\r\n$16385\r\n", b"unauthenticated bulk length"),
        (b"*2\r\n$4\r\nAUTH\r\n$16384\r\nx", b""),
        (b"*100000000\r\n", b"invalid multibulk length"),
        (b"x" * 70_000, b"too big inline request"),
    ],
)
def test_before_the_password_requests_are_small(sent: bytes, said: bytes) -> None:
    heard = closed(sent)
    assert heard == (b"-ERR Protocol error: %b\r\n" % said if said else b"")
    assert closed(*(sent[at : at + 1] for at in range(min(len(sent), 66_000)))) == heard


def test_with_the_password_they_may_be_large() -> None:
    client = Client(password="secret")
    large = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n" + b"v" * 100_000 + b"\r\n"
    client.connection.received(packed("auth secret") + large[:50_000])
    client.connection.received(large[50_000:] + packed("strlen k"))
    client.turn()
    assert client.said == b"+OK\r\n+OK\r\n:100000\r\n"
    client.ask("reset")
    client.connection.received(large)
    assert client.closed
    assert client.said.endswith(b"unauthenticated bulk length\r\n")


@pytest.mark.parametrize("begin", [b"*", b"$", b"*1\r\n$", b"*1\r\n*", b"*1\r\n+", b"*1\r\n", b"*2\r\n$1\r\nx\r\n$"])
@pytest.mark.parametrize("filler", [b"1", b"0", b"x", b"-", b" "])
@pytest.mark.parametrize("piece", [1, 100, 10_000])
def test_what_never_becomes_a_request_is_refused_early(begin: bytes, filler: bytes, piece: int) -> None:
    parser = Parser()
    given = 0
    with pytest.raises(ProtocolError):
        while given <= 64 * KIB + piece:
            data = begin + filler * piece if not given else filler * piece
            parser.feed(data)
            given += len(data)
            assert parser.next() is None


TOKENS = [b"*", b"$", b"%", b"~", b">", b"|", b"+", b"-", b":", b"(", b"=", b"_", b"#", b",", b"!", b"\r\n", b"\n"]
NUMBERS = [b"0", b"1", b"2", b"9999", b"4294967294", b"99999999999", b"-1", b"+1", b"00", b"x", b"ab"]


def fed(pieces: list[bytes]) -> tuple[list[list[bytes]], str]:
    """The requests in these pieces, and what is wrong with what follows them, if anything is."""
    parser, found = Parser(), list[list[bytes]]()
    try:
        for piece in pieces:
            parser.feed(piece)
            while (request := parser.next()) is not None or parser.is_interrupted:
                found.append(request or [])
            assert parser.has_rest or not parser.unfinished
    except ProtocolError as error:
        return found, str(error)
    return found, ""


@examples(2_000)
@given(st.lists(st.sampled_from([*TOKENS, *NUMBERS, b"$1\r\nx\r\n", b"*1\r\n"]), max_size=25), st.integers(1, 9))
def test_rubbish_is_refused_however_it_arrives_and_never_fails_in_another_way(tokens: list[bytes], size: int) -> None:
    """A map whose key is a list, 17 bytes, ended a node: hiredis reads RESP3, and raised TypeError."""
    data = b"*2\r\n" + b"".join(tokens)
    requests, wrong = fed([data])
    again, wrong_again = fed([data[at : at + size] for at in range(0, len(data), size)])
    assert (requests, wrong) == (again, wrong_again)


@pytest.mark.parametrize("kind", [b"*", b"%", b"~", b">", b"|", b"+", b"-", b":", b"(", b"=", b"_", b"#", b",", b"!"])
@pytest.mark.parametrize("number", [b"0", b"1", b"9999", b"100000000", b"4294967294"])
def test_an_argument_of_another_kind_is_refused_before_anything_is_made_of_it(kind: bytes, number: bytes) -> None:
    client = Client()
    tracemalloc.start()
    try:
        client.connection.received(b"*2\r\n" + kind + number + b"\r\n*0\r\n+x\r\n")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    client.turn()
    assert client.said == b"-ERR Protocol error: expected '$', got '" + kind + b"'\r\n" and client.closed
    assert most < 100_000


def test_what_is_kept_of_many_small_arguments_is_counted() -> None:
    tracemalloc.start()
    try:
        parser = Parser()
        for number in range(4_000):
            parser.feed((b"" if number else b"*9999\r\n") + b"$2\r\n")
            assert parser.next() is None
            parser.feed(b"%02d\r\n" % (number % 100))
            assert parser.next() is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parser.unfinished > 0.8 * held


def test_a_large_request_is_kept_once() -> None:
    parser = Parser()
    parser.feed(b"*16\r\n")
    for _ in range(15):
        parser.feed(b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n")
        assert parser.next() is None
    assert 15_000_000 <= parser.unfinished < 15_100_000
    parser.feed(b"$1\r\nx\r\n")
    assert list(map(len, parser.next() or [])) == [1_000_000] * 15 + [1]
    assert parser.next() is None
    assert parser.unfinished == 0


def test_a_request_of_many_arguments_is_parsed_in_parts() -> None:
    """A quarter of a megabyte of them, as much as arrives at once, took 43 ms of a turn."""
    parser = Parser()
    parser.feed(b"*20000\r\n" + b"$1\r\nx\r\n" * 20_000 + b"*1\r\n$4\r\nPING\r\n")
    parts = 0
    while (request := parser.next()) is None:
        assert parser.is_interrupted and parser.has_rest
        parts += 1
    assert request == [b"x"] * 20_000
    assert parts in (19, 20)
    assert parser.next() == [b"PING"]
    assert parser.next() is None and not parser.is_interrupted


def test_a_request_that_is_too_large_is_refused() -> None:
    parser = Parser()
    parser.feed(b"*1000\r\n")
    with pytest.raises(ProtocolError, match=str(MAX_REQUEST_BYTES)):
        for _ in range(100):
            parser.feed(b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n")
            assert parser.next() is None


def test_the_client_with_most_unfinished_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "MAX_HELD", 1_000_000)
    hub, node = Hub(), Node()
    clients = [Client(node, hub=hub, peer=f"1.2.3.4:{number}") for number in range(20)]
    for size, client in enumerate(clients):
        client.connection.received(b"*2\r\n$3\r\nGET\r\n$900000\r\n" + b"x" * (50_000 + 1_000 * size))
    hub.flush()
    ended = [client.closed for client in clients]
    assert hub.held <= 1_000_000
    assert 1 <= sum(ended) < 10
    assert not any(ended[:10])
    assert len(hub.clients) == 20 - sum(ended)
    assert clients[0].ask() == b""
    for client in clients:
        client.connection.lost()
    assert hub.held == 0


class Holder:
    """A connection that keeps as much as it is told to, and counts how often it is asked."""

    asked = 0

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.kept = 0
        self.client = hubs.Client(hub, self, "1.2.3.4:5", "")
        self.ended = False

    def keep(self, more: int) -> None:
        self.kept += more
        self.hub.hold(more)

    @property
    def held(self) -> int:
        Holder.asked += 1
        return self.kept

    def kill(self, *, at_once: bool = False) -> None:
        assert at_once
        self.ended = True
        self.hub.leave(self.client.number)
        self.hub.hold(-self.kept)
        self.kept = 0

    def flush(self) -> None: ...
    def count_held(self) -> None: ...
    def leave(self) -> None: ...
    def reset(self) -> None: ...
    def set_reply_mode(self, mode: bytes) -> None: ...
    def transaction_counts(self) -> tuple[int, int]:
        return -1, 0


def test_many_that_are_ended_in_one_turn_are_not_each_looked_for_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "MAX_HELD", 1_000_000)
    hub = Hub()
    clients = [Holder(hub) for _ in range(1_000)]
    for client in clients:
        client.keep(1_000)
    Holder.asked = 0
    for client in clients:
        if not client.ended:
            client.keep(1_000)
    ended = sum(client.ended for client in clients)
    assert hub.held <= 1_000_000 and 400 < ended < 800
    assert Holder.asked < 20 * len(clients), "ten million comparisons with ten thousand clients, otherwise"
    hub.flush()
    hog = next(client for client in clients if not client.ended)
    hog.keep(900_000)
    assert hog.ended, "what was found in an earlier turn says nothing of this one"


@pytest.mark.parametrize("what", ["queued", "watched", "not taken"])
def test_all_that_a_client_keeps_counts(what: str) -> None:
    client = Client()
    client.untaken = 0
    match what:
        case "queued":
            client.ask("multi", *["get k"] * 100)
            assert client.hub.held > 50_000
            client.ask("discard")
        case "watched":
            client.ask(*(f"watch {'k' * 900}{number}" for number in range(100)))
            assert client.hub.held > 90_000
            client.ask("unwatch")
        case _:
            client.takes = 1_000
            client.untaken = 5_000
            client.ask("echo " + "x" * 5_000)
            assert client.hub.held == 5_000
            client.untaken = 0
            client.connection.writable(True)
    assert client.hub.held == 0


@pytest.mark.parametrize("request_text", ["client setname {}", "client setinfo lib-name {}", "hello 3 setname {}"])
def test_names_are_bounded(request_text: str) -> None:
    client = Client()
    assert client.ask(request_text.format("n" * MAX_NAME_BYTES))[:1] in b"+%"
    refused = client.ask(request_text.format("n" * (MAX_NAME_BYTES + 1)))
    assert b"have at most 128 bytes, and this has 129: shorten it" in refused


def test_errors_do_not_repeat_what_is_long() -> None:
    client = Client()
    long = "x" * 10_000
    requests = [f"hello 3 {long}", f"client setinfo {long} x", f"client list type {long}", f"expire k 1 {long}"]
    requests += [f"client kill user {long}", f"client {long}", f"{long} {long}", f"command {long}", f"config {long}"]
    for request in requests:
        said = client.ask(request)
        assert said[:1] == b"-"
        assert len(said) < 500, request


def test_large_replies_are_made_one_at_a_time() -> None:
    """Until a reply is there nobody knows its length, and several large ones would be in memory at once."""
    client = Client()
    client.ask("mset " + " ".join(f"k{number} v" for number in range(9)))
    keys = " ".join(f"k{number}" for number in range(9))
    client.node.started.clear()
    client.connection.received(packed(f"mget {keys}") * 3 + packed("get k1"))
    assert len(client.node.started) == 1
    client.node.waiting.pop(0)()
    assert len(client.node.started) == 2
    client.turn()
    assert client.said.count(b"*9\r\n") == 3
    client.node.started.clear()
    few = " ".join(f"k{number}" for number in range(8))
    client.connection.received(packed(f"mget {few}") * 3)
    assert len(client.node.started) == 3
    client.turn()
    several = [packed("multi"), *[packed("getset k1 v")] * 9, packed("exec")]
    client.node.started.clear()
    client.connection.received(b"".join(several) * 2)
    assert len(client.node.started) == 1


def test_requests_that_wait_for_one_before_them_count_and_are_not_read_without_end() -> None:
    client = Client()
    client.connection.received(packed("incr n"))
    sent = 0
    while not client.paused:
        client.connection.received(packed("append k " + "x" * 100_000) + packed("strlen k"))
        sent += 1
        assert sent < 100
    assert 4_000_000 < client.hub.held < 9_000_000
    client.turn()
    assert not client.paused
    assert client.said.count(b"\r\n") == 2 * sent + 1
    assert client.hub.held == 0


def test_replies_that_wait_for_one_before_them_count_and_are_few() -> None:
    client = Client()
    client.connection.received(packed("incr n"))
    sent = 0
    while not client.paused:
        client.connection.received(packed("echo " + "x" * 1_000_000))
        sent += 1
        assert sent < 100
    assert 1_000_000 < client.hub.held < 16_000_000
    client.turn()
    assert client.said.count(b"$1000000") == sent
    assert client.hub.held == 0


@pytest.mark.parametrize("request_text", ["mget", "watch", "exists", "kv.sql"])
def test_large_reads_count_while_they_run(request_text: str) -> None:
    client = Client()
    request_ = packed(
        f"{request_text} " + "k" * 1_000 + (f" {'k' * 1_000}" * 99 if request_text != "kv.sql" else "k" * 99_000)
    )
    client.connection.received(request_ * 3)
    assert len(client.node.waiting) == 1
    assert 300_000 <= client.hub.held < 700_000
    client.turn()
    assert client.said.count(b"\r\n") >= 3
    client.ask("unwatch")
    assert client.hub.held == 0


def test_a_transaction_counts_while_it_runs() -> None:
    client = Client()
    client.connection.received(packed("multi") + packed("get k") * 100 + packed("exec"))
    assert client.hub.held > 100_000
    client.turn()
    assert client.hub.held == 0


def test_replies_below_the_transports_own_bound_are_counted_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport calls its buffer full at a megabyte, and ten thousand clients can stay below that."""
    monkeypatch.setattr(hubs, "MAX_HELD", 100_000_000)
    hub, node = Hub(), Node()
    clients = [Client(node, hub=hub, peer=f"1.2.3.4:{number}") for number in range(300)]
    for client in clients:
        client.connection.received(packed("echo " + "x" * 900_000))
        client.untaken = 900_000
        hub.flush()
    ended = [client.closed for client in clients]
    assert 150 < sum(ended) < 200
    assert hub.held <= 100_000_000
    for client in clients:
        client.connection.lost()
    assert hub.held == 0


@pytest.mark.parametrize("state", ["reading", "leaving", "not taking"])
def test_who_is_ended_for_its_memory_is_cut_off_at_once(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is closed in the ordinary way stays until its client has taken everything."""
    client = Client()
    aborted: list[bool] = []
    client.connection._abort = lambda: aborted.append(True)
    client.ask("echo " + "x" * 900_000)
    client.untaken = 900_000
    if state == "leaving":
        client.ask("quit")
    elif state == "not taking":
        client.connection.writable(False)
    client.connection.count_held()
    assert client.hub.held >= 900_000
    monkeypatch.setattr(hubs, "MAX_HELD", 100_000)
    client.hub.hold(1)
    assert aborted == [True]
    client.hub.hold(-1)
    client.connection.lost()
    assert client.hub.held == 0


def test_what_is_answered_after_a_client_has_gone_counts_for_nobody() -> None:
    client = Client()
    client.connection.received(packed("incr n") + packed("echo " + "x" * 100_000) + packed("mget " + "k" * 5_000))
    client.connection.kill()
    client.turn()
    client.connection.lost()
    client.turn()
    assert client.hub.held == 0


def test_a_stranger_is_ended_before_anybody_who_has_given_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "MAX_HELD", 1_000_000)
    hub, node = Hub("secret"), Node()
    known = Client(node, hub=hub)
    known.ask("AUTH secret")
    known.connection.received(b"*2\r\n$4\r\nECHO\r\n$200000\r\n" + 150_000 * b"x")
    strangers = [Client(node, hub=hub, peer=f"1.2.3.4:{number}") for number in range(100)]
    for stranger in strangers:
        stranger.connection.received(b"*2\r\n$4\r\nAUTH\r\n$16000\r\n" + 15_000 * b"x")
    hub.flush()
    assert hub.held <= 1_000_000
    assert not known.closed and any(stranger.closed for stranger in strangers)
    known.connection.received(50_000 * b"x" + b"\r\n")
    known.turn()
    assert known.said.endswith(200_000 * b"x" + b"\r\n")


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        ("GETRANGE big 0 -1", MAX_VALUES),
        ("GETSET big x", MAX_VALUES),
        ("SET big x get", MAX_VALUES),
        ("SET big x PX 100000", 200),
        ("GETDEL big", MAX_VALUES),
        ("GETEX big", MAX_VALUES),
        ("MGET " + "big " * 7 + "big", MAX_VALUES // 8),
        ("KV.PROPOSE 1 x", MAX_VALUES),
        ("STRLEN big", 200),
    ],
)
def test_replies_with_values_are_few_though_those_before_were_short(request_: str, most: int) -> None:
    """After 300 PINGs, 256 times MGET of eight values were all under way, with two gigabytes of replies."""
    client = Client()
    Client(client.node).ask("SET big x")
    client.ask(*["PING"] * 300)
    for _ in range(2):
        client.connection.received(packed(request_) * 200)
        assert len(client.node.waiting) == most
        client.turn()
    assert client.connection._values == 0 and not client.connection.held
    client.connection.received((packed("MULTI") + packed("GETDEL big") * 8 + packed("EXEC")) * 20)
    assert len(client.node.waiting) == MAX_VALUES // 8
    client.turn()
    assert client.connection._values == 0 and client.said.count(b"+QUEUED") == 160
    assert client.connection.is_answered


@pytest.mark.parametrize(
    ("command", "values"),
    [
        (Set(b"k", Value(b"v")), 0),
        (Set(b"k", Value(b"v"), get=True), 1),
        (Incr(b"k", 1), 0),
        (SetMany([b"k"], [Value(b"v")]), 0),
        (GetDelete(b"k"), 1),
        (Txn([Get(b"k")]), 16),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_kv_execute_may_answer_is_seen_from_its_tag(command: Command, values: int) -> None:
    spec, packed_command = TABLE[b"kv.execute"], msgspec.msgpack.encode(command)
    request = [b"kv.execute", b"s", b"1", b"1"]
    assert spec.values is not None
    assert spec.values([*request, packed_command]) == values
    assert spec.values([*request, b"\xdc\x00" + bytes([packed_command[0] - 0x90]) + packed_command[1:]]) == 16
    assert spec.values(request) == 16


class SlowReader(Client):
    """Takes so many bytes when it wants to, and no others."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.most = 0
        self.heard: list[bytes] = []

    def _write(self, data: bytes) -> None:
        self.heard.append(data)
        self.untaken += len(data)
        self.most = max(self.most, self.untaken)
        if self.untaken > 65_536:
            self.connection.writable(False)

    def take(self) -> None:
        was, self.untaken = self.untaken, 0
        if was > 65_536:
            self.connection.writable(True)

    def serve(self) -> None:
        """Let the node answer all that it has in one turn."""
        waiting, self.node.waiting = self.node.waiting, []
        for answer in waiting:
            answer()
        self.connection.flush()


@pytest.mark.parametrize("requests", [["GET big"], ["GET big", "STRLEN big", "GETRANGE big 0 -1", "EXISTS big"]])
def test_large_values_are_not_read_for_a_client_that_takes_none(requests: list[str]) -> None:
    """After 300 PINGs, 256 GETs of a megabyte each were answered in one turn."""
    node = Node()
    writer, slow = Client(node), SlowReader(node)
    writer.ask("SET big " + "a" * 1_000_000)
    slow.ask(*["PING"] * 300)
    slow.take()
    slow.heard.clear()
    number = 256 // len(requests)
    slow.connection.received(b"".join(map(packed, requests)) * number)
    before = len(node.waiting)
    assert before > 200 or len(requests) > 1
    for turn in range(500):
        slow.serve()
        assert slow.most < 20_000_000
        if slow.connection.is_answered:
            break
        if turn == 1:
            writer.connection.received(packed("SET big " + "b" * 1_000_000))
        slow.take()
    assert slow.connection.is_answered and not slow.connection.takes_slowly
    seen = b"".join(slow.heard)
    assert b"a" not in seen[seen.index(b"b") :], "who has seen the later value sees no earlier one"
    values = sum(request.startswith("GET") for request in requests) * number
    assert seen.count(b"$1000000\r\n") == values and seen.count(b":1000000\r\n") + seen.count(b":1\r\n") == 256 - values


def test_who_takes_none_and_leaves_is_forgotten(no_collector: None) -> None:
    transport = Transport()
    node, hub = Node(), Hub()
    Client(node).ask("SET big " + "a" * 1_000_000)
    connection = Connection(
        *(node, hub),
        write=transport.write,
        close=transport.close,
        pause=transport.pause,
        untaken=lambda: 10_000_000,
    )
    connection.received(packed("PING") * 100 + packed("GET big") * 100)
    connection.writable(False)
    while node.waiting:
        node.waiting.pop(0)()
    hub.flush()
    assert connection.takes_slowly and len(connection._put_off) == 100
    gone = weakref.ref(transport)
    connection.lost()
    del connection, transport
    assert gone() is None and hub.held == 0


def test_what_was_put_off_may_be_refused_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Node, *arguments: object) -> None:
        raise UnavailableError("no")

    node = Node()
    Client(node).ask("SET big " + "a" * 1_000_000)
    slow = SlowReader(node)
    slow.ask(*["PING"] * 300)
    slow.connection.received(packed("GET big") * 256)
    slow.serve()
    monkeypatch.setattr(Node, "query", refuse)
    slow.take()
    slow.connection.flush()
    assert b"".join(slow.heard).count(b"-CLUSTERDOWN no") > 200 and slow.connection.is_answered
