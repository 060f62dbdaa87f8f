"""Replies with much in them are encoded in portions, and say the same as if they were encoded at once."""

from __future__ import annotations

import msgspec
import pytest

from kvstore.commands import Command, Get, Scan, Set, Txn, Value, Walk
from kvstore.resp.encoding import Array, Bulk, Error, RespValue, Verbatim, encode
from kvstore.resp.hub import Hub
from kvstore.resp.kept import SAMPLED, about_size
from kvstore.resp.kv_commands import _packed
from kvstore.resp.long_reply import PORTION_BYTES, PORTION_ITEMS, LongReply
from kvstore.resp.shares import Shares
from kvstore.store import Reply
from tests.unit.resp_client import Client, Node, packed
from tests.unit.test_shares import Loop, hub_without_time

NESTED: list[RespValue] = [[1, [b"x", None] * 900, []], 2.5, [[[]]], {"a": [b"b"]}, "text", Error("ERR no")]
encode_packed = msgspec.msgpack.Encoder().encode


def made(reply: list[RespValue] | Array | Bulk, version: int) -> tuple[bytes, int]:
    """The reply encoded in portions, and in how many turns."""
    loop = Loop()
    done: list[list[bytes]] = []
    shares = hub_without_time(loop).shares
    LongReply(reply, version, "test", shares, lambda: True, done.append).carry_on()
    turns = 1
    while loop.ready:
        assert not done
        loop.turn()
        turns += 1
    (pieces,) = done
    return b"".join(pieces), turns


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("count", [0, 1, PORTION_ITEMS - 1, PORTION_ITEMS, 3 * PORTION_ITEMS])
def test_portions_say_what_the_whole_says(version: int, count: int) -> None:
    reply = NESTED * (count // 8) + [7] * count
    data, turns = made(reply, version)
    assert data == encode(reply, version)
    assert made(Array(iter(reply), 0), version) == (data, turns)
    assert encode(Array(iter(reply), 0), version) == data and turns > count // PORTION_ITEMS
    parts: list[RespValue] = [b"%d" % number for number in range(count)]
    data, turns = made(Bulk(iter(parts), 0), version)
    assert data == encode(Bulk(iter(parts), 0), version) and turns > count // PORTION_ITEMS


def test_a_portion_has_few_large_items() -> None:
    _, turns = made([b"x" * PORTION_BYTES] * 5, 2)
    assert turns > 4


def test_a_fault_in_an_item_is_one_error() -> None:
    def items() -> object:
        yield from range(2 * PORTION_ITEMS)
        raise ValueError("no")

    data, _ = made(Array(items(), 0), 2)  # type: ignore[arg-type]
    assert data.startswith(b"-UNKNOWN") and data.count(b"\r\n") == 1


def test_a_client_that_is_gone_is_not_served_to_the_end() -> None:
    loop = Loop()
    done: list[list[bytes]] = []
    reply: list[RespValue] = [1] * 10 * PORTION_ITEMS
    LongReply(reply, 2, "test", hub_without_time(loop).shares, lambda: False, done.append).carry_on()
    assert not loop.ready and len(done) == 1 and len(done[0]) == 2


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 70_000])
@pytest.mark.parametrize("kind", ["rows", "keys", "outcomes"])
def test_a_packed_reply_is_made_of_its_parts(count: int, kind: str) -> None:
    node = Node()
    for number in range(min(count, 300)):
        node.state._keys.overwrite(b"%d" % number, Value(b"v"), 1)
    query: Command = {"rows": Scan(b"", 0), "keys": Walk(b"", 0), "outcomes": Txn([Get(b"1")] * min(count, 300))}[kind]
    result = node.state.query(query, 0)
    if count > 300:
        many = {"rows": "rows", "keys": "keys", "outcomes": "results"}[kind]
        result = msgspec.structs.replace(result, **{many: getattr(result, many) * (count // 300)})
    reply = Reply(result)
    assert msgspec.msgpack.decode(b"".join(_packed(reply)), type=Reply) == reply
    assert count in (0, 1, 15) or b"".join(_packed(reply)) == encode_packed(reply)


def test_others_are_served_while_a_reply_is_encoded() -> None:
    loop = Loop()
    hub, node = hub_without_time(loop), Node()
    client, other = Client(node, hub=hub), Client(node, hub=hub)
    names = [b"%04d" % number for number in range(4 * PORTION_ITEMS)]
    for name in names:
        node.state._keys.overwrite(name, Value(b"v"), 1)
    for start, request in enumerate((b"KEYS *", b"MGET " + b" ".join(names), b"GET 0000")):
        arguments = request.split()
        client.connection.received(
            b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in arguments)
        )
        assert start or not client.said
    heard = False
    for turn in range(100):
        while node.waiting:
            node.waiting.pop(0)()
        if turn == 2:
            other.connection.received(b"*1\r\n$4\r\nPING\r\n")
        loop.turn()
        hub.flush()
        heard |= other.said == b"+PONG\r\n" and len(client.said) < 1_000
    assert heard
    keys = b"*1000\r\n" + b"".join(b"$4\r\n%b\r\n" % name for name in names)
    assert client.said == keys + b"*1000\r\n" + b"$1\r\nv\r\n" * 1_000 + b"$1\r\nv\r\n"


def test_a_long_reply_is_made_once_and_errors_after_it_are_not_sent() -> None:
    loop = Loop()
    hub, node = Hub(shares=Shares(loop.soon)), Node()
    client = Client(node, hub=hub)
    client.ask("MULTI", *["SET a 1"] * 40, "EXEC", "READONLY", "KEYS *")
    assert client.said.endswith(b"*40\r\n" + b"+OK\r\n" * 41 + b"*1\r\n$1\r\na\r\n")


@pytest.mark.parametrize("version", [2, 3])
def test_a_text_in_portions_says_what_the_whole_says(version: int) -> None:
    lines = [b"line %d\n" % number for number in range(3 * PORTION_ITEMS)]
    in_portions, turns = made(Bulk(iter(lines), 0, is_text=True), version)
    assert in_portions == encode(Verbatim(b"".join(lines).decode()), version) and turns == 4
    assert in_portions == encode(Bulk(iter(lines), 0, is_text=True), version)


def test_the_list_of_all_clients_is_made_in_portions_and_counted_before() -> None:
    """Of 10,000 clients with long names it took 108 ms, and three of them within MULTI 323 ms."""
    loop = Loop()
    hub, node = hub_without_time(loop), Node()
    clients = [Client(node, hub=hub) for _ in range(1_000)]
    asks = clients[0]
    asks.connection.received(packed("CLIENT LIST"))
    assert len(loop.ready) == 1 and hub.held > 1_000 * 100
    turns = 0
    while loop.ready:
        loop.turn()
        turns += 1
    asks.turn()
    assert turns >= 1_000 // PORTION_ITEMS - 1
    assert asks.said.count(b"\nid=") == 1_000 and hub.held == 0


def test_all_clients_are_not_listed_within_a_transaction() -> None:
    client = Client()
    assert client.ask("MULTI", "CLIENT ID", "client list") == (
        b"+OK\r\n+QUEUED\r\n-ERR CLIENT LIST is not allowed within MULTI\r\n"
    )
    assert client.ask("EXEC").startswith(b"-EXECABORT")


def test_many_clients_are_ended_in_several_turns() -> None:
    loop = Loop()
    hub, node = hub_without_time(loop), Node()
    clients = [Client(node, hub=hub) for _ in range(50)]
    clients[0].connection.received(packed("CLIENT KILL TYPE normal SKIPME no"))
    clients[7].connection.lost()
    turns = 0
    while loop.ready:
        loop.turn()
        turns += 1
    hub.flush()
    assert turns >= 48 and clients[0].said == b":50\r\n"
    assert all(client.closed for client in clients if client is not clients[7])


@pytest.mark.parametrize("count", [0, 1, 100, SAMPLED - 1, 10 * SAMPLED + 3])
def test_the_size_of_many_items_is_found_by_looking_at_some(count: int) -> None:
    """To look at all of 2.7 million keys took 64 ms."""
    looked = 0

    def size(item: bytes) -> int:
        nonlocal looked
        looked += 1
        return len(item)

    keys = [b"x" * (10 + number % 7) for number in range(count)]
    about, exact = about_size(keys, size), sum(map(len, keys))
    assert looked <= SAMPLED and abs(about - exact) <= exact // 50
    assert about == exact or count > SAMPLED
    looked = 0
    about_size(keys, size, 1_000)
    assert looked <= SAMPLED // 1_000 + 1


def test_a_read_by_kv_execute_runs_alone() -> None:
    """It may be a scan of everything: 256 in a pipeline were all under way at once."""
    node = Node()
    client = Client(node)
    for command, number in ((Walk(b"", 0), 1), (Set(b"k", Value(b"v")), 50)):
        session = b"s" if number > 1 else b""
        node.started.clear()
        for sequence in range(1, 51):
            request = [b"KV.EXECUTE", session, b"%d" % sequence, b"1", encode_packed(command)]
            client.connection._expected = 0
            client.connection.received(
                b"*5\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in request)
            )
        assert len(node.started) == number
        client.turn()
        assert len(node.started) == 50
