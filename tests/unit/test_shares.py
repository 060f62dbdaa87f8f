"""What one client may take of a turn of the event loop, and of the bytes that are under way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvstore import clocks
from kvstore.errors import UnavailableError
from kvstore.resp.connection import MAX_BACKLOG
from kvstore.resp.hub import FLUSHED_AT_ONCE, Hub
from kvstore.resp.room import MAX_LARGE_BYTES, MAX_LARGE_BYTES_EACH, MIN_LARGE_BYTES
from kvstore.resp.shares import Shares
from tests.unit.resp_client import Client, Node, packed

MIB = 1_048_576


class Loop:
    """An event loop that turns when a test says so."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []

    def soon(self, function: Callable[[], None]) -> None:
        self.ready.append(function)

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for function in ready:
            function()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(clocks, "seconds", lambda: now[0])
    return now


def hub_without_time(loop: Loop, password: str | None = None) -> Hub:
    """A server whose clients have used up their share as soon as anybody looks at the clock."""
    shares = Shares(loop.soon)
    shares.share_seconds = -1.0
    shares.turn_seconds = 3_600.0  # however slow the machine is
    return Hub(password, shares)


@pytest.mark.parametrize("nothing", [b"\r\n", b"*0\r\n", b"*-1\r\n"])
def test_requests_without_arguments_take_time_too(nothing: bytes) -> None:
    loop = Loop()
    client = Client(hub=hub_without_time(loop))
    client.connection.received(nothing * 100 + packed("PING"))
    turns = 0
    while loop.ready:
        loop.turn()
        turns += 1
    assert turns >= 100 and client.said == b"+PONG\r\n"


@pytest.mark.parametrize("password", [None, "secret"])
@pytest.mark.parametrize("request_", ["PING", "COMMAND COUNT", "NOSUCH", "SET a", "CLIENT ID"])
def test_requests_that_are_answered_at_once_are_served_one_share_a_turn(request_: str, password: str | None) -> None:
    loop = Loop()
    hub = hub_without_time(loop, password)
    hub.shares.turn_seconds = 1_000.0  # on a busy machine one request may take all of it
    greedy, other = Client(hub=hub), Client(hub=hub)
    greedy.connection.received(packed(request_) * 100)
    assert greedy.said.count(b"\r\n") <= 2 and greedy.paused
    other.connection.received(packed("PING"))
    assert other.said  # nobody waits for the rest
    turns = 0
    while loop.ready:
        loop.turn()
        turns += 1
    assert turns >= 99 and not greedy.paused
    assert greedy.said.count(b"\r\n") == 100


def test_what_a_client_has_sent_is_not_answered_while_some_of_it_waits() -> None:
    loop = Loop()
    client = Client(hub=hub_without_time(loop))
    assert client.connection.is_answered
    client.connection.received(packed("PING") * 3)  # for further turns
    while loop.ready:
        assert not client.connection.is_answered
        loop.turn()
    assert client.connection.is_answered
    client.connection.received(packed("SET a 1") + packed("GET a"))  # for each other
    assert not client.connection.is_answered
    for answer in client.node.waiting:
        answer()
    assert not client.connection.is_answered
    client.turn()
    assert client.connection.is_answered
    client.connection.received(packed("SET a 1"))
    client.connection.lost()
    assert client.connection.is_answered  # nobody waits for it


def test_plain_requests_that_are_refused_at_once_take_their_time_of_a_turn() -> None:
    class Refusing(Node):
        def execute(self, *arguments: object, **options: object) -> None:
            raise UnavailableError("more requests are waiting")

    loop = Loop()
    client = Client(Refusing(), hub=hub_without_time(loop))
    client.connection.received(packed("SET a 1") * 100)
    turns = 0
    while loop.ready:
        loop.turn()
        turns += 1
    assert turns >= 99 and client.said.count(b"-CLUSTERDOWN") == 100


def test_requests_that_waited_for_a_write_are_started_one_share_a_turn() -> None:
    loop = Loop()
    node = Node()
    client = Client(node, hub=hub_without_time(loop))
    client.connection.received(packed("SET a 1") + packed("GET a") + packed("ECHO x") * 100)
    for _ in range(2):
        loop.turn()
        node.waiting.pop()()
    node_turns = 0
    while loop.ready:
        loop.turn()
        node_turns += 1
    client.turn()
    assert node_turns > 90
    assert client.said == b"+OK\r\n$1\r\n1\r\n" + b"$1\r\nx\r\n" * 100


def test_a_turn_ends_for_all_clients_together() -> None:
    loop = Loop()
    shares = Shares(loop.soon)
    hub = Hub(shares=shares)
    clients = [Client(hub=hub) for _ in range(5)]
    shares.spent = 1.0
    for client in clients:
        client.connection.received(packed("PING"))
        assert not client.said and client.paused
    shares.turn_seconds = -1.0  # as if one of them took all of it
    for number in range(1, 6):
        loop.turn()
        assert sum(bool(client.said) for client in clients) == number
    assert not loop.ready and not any(client.paused for client in clients)


def test_what_arrives_when_the_turn_is_over_is_not_even_parsed() -> None:
    """A thousand values of stars, 200 KB each, took 1.4 s of one turn."""
    loop = Loop()
    hub = Hub(shares=Shares(loop.soon))
    client = Client(hub=hub)
    hub.shares.turn_seconds = -1.0
    first, second = packed("PING") + b"*2\r\n$4\r\nEC", b"HO\r\n$1\r\nx\r\n"
    client.connection.received(first)
    client.connection.received(second)  # the transport may have read it already
    assert client.connection._parser.unfinished == 0 and not client.connection._parser.has_rest
    assert client.connection.held == hub.held == len(first + second)
    loop.turn()
    assert client.said == b"+PONG\r\n$1\r\nx\r\n" and hub.held == 0 and not client.paused
    client.connection.received(first)
    client.connection.lost()
    loop.turn()
    assert hub.held == 0 and client.said.count(b"PONG") == 1


def test_replies_to_many_clients_leave_in_several_turns() -> None:
    """1,000 replies of a megabyte took 108 ms of one."""
    loop = Loop()
    node, hub = Node(), Hub(shares=Shares(loop.soon))
    clients = [Client(node, hub=hub) for _ in range(3 * FLUSHED_AT_ONCE)]
    for client in clients:
        client.connection.received(packed("SET a 1"))
    while node.waiting:
        node.waiting.pop(0)()
    hub.shares.turn_seconds = -1.0  # as if it had taken all of a turn
    hub.flush()
    for part in (1, 2, 3):
        assert [client.said for client in clients].count(b"+OK\r\n") == part * FLUSHED_AT_ONCE
        loop.turn()
    assert not loop.ready


def test_a_client_that_leaves_is_not_served_any_further() -> None:
    loop = Loop()
    client = Client(hub=hub_without_time(loop))
    client.connection.received(packed("PING") * 10)
    said = client.said
    client.connection.lost()
    while loop.ready:
        loop.turn()
    assert client.said == said


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", ["SET a {}", "SET a {} PX 1000", "APPEND a {}", "MSET a {} b 1"])
def test_large_writes_of_one_client_run_some_at_a_time(request_: str) -> None:
    node = Node()
    client = Client(node)
    one = packed(request_.format("x" * (MIB - 2 * MAX_BACKLOG)))
    client.connection.received(one * 30)
    assert len(node.started) == MAX_LARGE_BYTES_EACH // MIB and client.paused
    client.turn()
    assert len(node.started) == 30 and not client.paused


def test_large_writes_of_all_clients_have_a_bound_too(clock: list[float]) -> None:
    loop = Loop()
    node, hub = Node(), Hub(shares=Shares(loop.soon))
    hub.shares.turn_seconds = hub.shares.share_seconds = 1_000.0
    clients = [Client(node, hub=hub) for _ in range(20)]
    for client in clients:
        client.connection.received(packed("SET a " + "x" * (MIB - 200)) * 4)
    most = hub.shares.room.limit // MIB
    assert len(node.started) == most < 20
    small = Client(node, hub=hub)
    small.connection.received(packed("SET b 1"))  # is not held up
    assert len(node.started) == most + 1
    clients[0].connection.lost()  # what it had under way gives its room back all the same
    while node.waiting:
        node.waiting.pop(0)()
        loop.turn()
        assert len(node.waiting) <= hub.shares.room.limit // (MIB - 200) + 1
    hub.flush()
    assert all(client.said == b"+OK\r\n" * 4 for client in clients[1:])
    assert hub.shares.room.has(hub.shares.room.limit, clients[0].connection)


class Writer:
    """A client with large writes to do, one after the other."""

    last_command = "set"

    def __init__(self, shares: Shares, name: str, said: list[str]) -> None:
        self.shares, self.name, self.said = shares, name, said
        self.left = 0
        self.waits = False
        self.under_way: list[float] = []

    def carry_on(self) -> None:
        self.waits = False
        while self.left and not self.waits:
            if self.shares.room.has(MIB, self):
                self.shares.room.take(MIB, self)
                self.left -= 1
                self.said.append(self.name)
                self.under_way.append(clocks.seconds())
            else:
                self.waits = True
                self.shares.room.wait(MIB, self)

    def answered(self) -> None:
        self.shares.room.give(MIB, self.under_way.pop(0))
        if not self.waits:
            self.carry_on()


def test_room_is_given_in_the_order_in_which_it_was_asked_for(clock: list[float]) -> None:
    """Whoever had some would otherwise take it again and again, since its next write is there first."""
    loop = Loop()
    shares = Shares(loop.soon)
    shares.room.limit = 2 * MIB
    said: list[str] = []
    first, second, third, gone = (Writer(shares, name, said) for name in "abcd")
    first.left = second.left = third.left = 6
    for writer in (first, second, gone, third):
        writer.carry_on()
    shares.room.wait(MIB, gone)  # it will not need any
    while first.left or second.left or third.left:
        for writer in (first, second, third):
            for _ in range(len(writer.under_way)):
                writer.answered()
        loop.turn()
    so_far = [[said[:end].count(name) for name in "abc"] for end in range(len(said) + 1)]
    assert all(max(counts) - min(counts) <= 3 for counts in so_far), said
    for writer in (second, third):
        writer.answered()
    assert shares.room.has(2 * MIB, gone) and not loop.ready


def test_a_client_that_reads_on_before_its_turn_comes_is_read_from() -> None:
    """It waited for room, and its own earlier write was answered first: from then on nobody read from it."""
    client = Client()
    large = packed("SET a " + "x" * (MIB - 200))
    client.connection.received(large * 3)
    client.connection.carry_on()
    assert not client.paused and len(client.node.started) == 3


def test_there_is_as_much_room_as_is_answered_soon(clock: list[float]) -> None:
    """Small writes wait behind large ones, 5 s on a slow disk while there was room for 32 MiB of these."""
    loop = Loop()
    shares = Shares(loop.soon)
    writers = [Writer(shares, str(number), []) for number in range(50)]

    def write(seconds_a_megabyte: float) -> float:
        """All of them write; returns how long the last ones took."""
        for writer in writers:
            writer.left += 20
            writer.carry_on()
        took = 0.0
        while any(writer.under_way or writer.left for writer in writers):
            for writer in sorted(writers, key=lambda writer: writer.under_way[:1] or [clock[0]]):
                if writer.under_way:
                    clock[0] += seconds_a_megabyte
                    took = clock[0] - writer.under_way[0]
                    writer.answered()
            loop.turn()
        return took

    write(0.08)
    assert shares.room.limit < 8 * MIB
    assert write(0.08) < 1.0
    write(0.001)
    assert shares.room.limit == MAX_LARGE_BYTES
    write(5.0)
    assert shares.room.limit == MIN_LARGE_BYTES


@pytest.mark.parametrize("request_", ["COPY big c{}", "SETRANGE s{} 1048000 x", "APPEND big {}", "EXPIRE big 10{}"])
def test_what_changes_much_with_few_bytes_is_counted_too(request_: str) -> None:
    """400 copies of a megabyte, sent as 16 KB, held up everybody for six seconds until the disk had them."""
    node = Node()
    client, other = Client(node), Client(node)
    client.ask("SET big " + "x" * 1_000_000)
    client.ask("INCR n")
    node.started.clear()
    client.connection.received(b"".join(packed(request_.format(number)) for number in range(40)))
    assert len(node.started) <= 2 + MAX_LARGE_BYTES_EACH // 1_000_000 and client.paused
    other.connection.received(packed("INCR n"))
    assert node.started[-1].startswith("incr")
    client.turn()
    assert len(node.started) == 41 and not client.paused
    assert client.hub.shares.room.has(client.hub.shares.room.limit, client.connection)
    node.started.clear()
    client.connection.received(packed("INCR n") * 40)
    assert len(node.started) == 40, "it is forgotten when something small was changed"


def test_what_changes_much_waits_while_the_disk_is_behind_and_little_does_not() -> None:
    node = Node()
    client = Client(node)
    client.hub.shares.room.is_closed = node.is_behind
    client.ask("SET big " + "x" * 1_000_000)
    node.behind = True
    client.connection.received(packed("SET a 1") + packed("INCR n"))
    assert len(node.started) == 3
    client.connection.received(packed("SET a " + "x" * 100_000) * 2)
    client.turn()
    assert len(node.started) == 3 and client.paused
    node.behind = False
    client.hub.flush()  # as in each turn
    client.turn()
    assert len(node.started) == 5 and not client.paused


def test_a_transaction_counts_with_all_that_it_has_queued() -> None:
    node = Node()
    client = Client(node)
    transaction = packed("MULTI") + packed("SET a " + "x" * (MIB - 10)) * 3 + packed("EXEC")
    client.connection.received(transaction * 2)
    assert len(node.started) == 1
    client.turn()
    assert len(node.started) == 2 and client.said.count(b"+OK") == 8


# -- rubbish ----------------------------------------------------------------------------------------------------------


def test_requests_before_rubbish_are_answered_first() -> None:
    client = Client()
    client.connection.received(
        packed("SET a 1") + packed("GET a") + packed("SET a 2") + packed("GET a") + b"*x\r\n" + packed("SET a 3")
    )
    client.turn()
    assert client.said == b"+OK\r\n$1\r\n1\r\n+OK\r\n$1\r\n2\r\n-ERR Protocol error: invalid multibulk length\r\n"
    assert client.closed and len(client.node.started) == 4


@pytest.mark.parametrize("before", [0, 1, MAX_BACKLOG - 1, MAX_BACKLOG, 3 * MAX_BACKLOG])
def test_however_many_came_before_the_rubbish(before: int) -> None:
    client = Client()
    client.connection.received((packed("INCR a") + packed("GET a")) * before + b"*1\r\n:1\r\n" + packed("PING") * 9)
    client.turn()
    assert client.said.count(b"\r\n") == 3 * before + 1
    assert client.said.endswith(b"-ERR Protocol error: expected '$', got ':'\r\n") and client.closed


def test_rubbish_behind_a_share_that_is_used_up() -> None:
    loop = Loop()
    client = Client(hub=hub_without_time(loop))
    client.connection.received(packed("ECHO x") * 20 + b"*x\r\n")
    while loop.ready:
        loop.turn()
    client.turn()
    assert client.said == b"$1\r\nx\r\n" * 20 + b"-ERR Protocol error: invalid multibulk length\r\n"
    assert client.closed


def test_a_scan_looks_at_so_many_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvstore.resp.keys.MAX_SCAN_COUNT", 10)
    client = Client()
    client.ask(*[f"SET k{number:02} x" for number in range(15)])
    assert client.ask("SCAN 0 COUNT 1000").count(b"k") == 10


def test_names_for_completion_are_found_without_what_the_keys_hold() -> None:
    node = Node()
    client = Client(node)
    client.ask("SET a 1", "SET ab 1", "SET abc 1", "SET b 1")
    node.state.commit()
    client.ask("DEL ab", "SET abd 1")
    assert node.state.keys(b"ab", 10) == [b"abc", b"abd"] and node.state.keys(b"", 2) == [b"a", b"abc"]


def test_the_list_of_clients_names_what_each_asked_for_last() -> None:
    client = Client()
    for line, name in (("PING", b"ping"), ("SET k v", b"set"), ("GET k", b"get"), ("SET k v PX 9", b"set")):
        client.ask(line)
        assert b" cmd=%b " % name in client.connection.client.describe().encode()


def test_who_asks_for_a_turn_twice_gets_one() -> None:
    loop = Loop()
    shares = Shares(loop.soon)
    client, other = Client(hub=Hub(shares=shares)), Client(hub=Hub(shares=shares))
    shares.spent = 1.0
    for asking in (client, client, other, client):
        shares.wait(asking.connection)
    assert len(shares._waiting) == 2
    loop.turn()
    assert shares.is_idle and not loop.ready


def test_what_is_thrown_away_takes_of_the_turn_too() -> None:
    client = Client(hub=Hub(shares=Shares(Loop().soon)))
    client.connection.received(packed("get a") + packed("quit"))
    before = client.hub.shares.late
    client.connection.received(bytes(MIB))
    assert not client.closed and client.hub.shares.late > before
