"""The Redis face compared with Redis: requests whose answers are easily got wrong, with those of Redis 7.0."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstore.node.service import PeerInfo, ServerStatus
from kvstore.resp.hub import Hub
from kvstore.resp.info import info, role
from kvstore.resp.table import TABLE
from kvstore.store import Status
from tests.examples import examples
from tests.unit.resp_client import Client
from tests.unit.test_commands import STATUS

NOT_INTEGER = b"-ERR value is not an integer or out of range\r\n"
SYNTAX = b"-ERR syntax error\r\n"
TOO_LARGE = b"-ERR string exceeds maximum allowed size"


def answer(*requests: str) -> bytes:
    """The reply to the last of these requests, from a new client of an empty store."""
    client = Client()
    for request in requests[:-1]:
        client.ask(request)
    return client.ask(requests[-1])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("SET a b NX NX", b"+OK\r\n"),
        ("SET a b XX XX", b"$-1\r\n"),
        ("SET a b XX NX", SYNTAX),
        ("SET a b NX IFEQ c", SYNTAX),
        ("SET a b IFEQ c XX", SYNTAX),
        ("SET a b IFEQ c IFEQ d", SYNTAX),
        ("SET a b IFEQ", SYNTAX),
        ("SET a b KEEPTTL KEEPTTL", b"+OK\r\n"),
        ("SET a b EX 10 EX 10", b"+OK\r\n"),
        ("SET a b EX 10 PX 10", SYNTAX),
        ("SET a b EX 10 KEEPTTL", SYNTAX),
        ("SET a b EX 0 FOO", SYNTAX),
        ("SET a b EX x NX XX", SYNTAX),
        ("SET a b EX x", NOT_INTEGER),
        ("SET a b EX 010", NOT_INTEGER),
        ("SET a b EX -0", NOT_INTEGER),
        ("SET a b EX +10", NOT_INTEGER),
        ("SET a b EX 0", b"-ERR invalid expire time in 'set' command\r\n"),
        ("GETEX t PERSIST PERSIST", b"$2\r\n10\r\n"),
        ("GETEX t EX 10 EX 20", b"$2\r\n10\r\n"),
        ("GETEX t EX 10 PERSIST", SYNTAX),
        ("GETEX t EX", SYNTAX),
        ("INCR one", b":2\r\n"),
        ("INCR padded", NOT_INTEGER),
        ("INCR negative_zero", NOT_INTEGER),
        ("INCR beyond", NOT_INTEGER),
        ("INCR before", NOT_INTEGER),
        ("INCRBY one 01", NOT_INTEGER),
        ("SETRANGE t 9223372036854775807 x", TOO_LARGE),
        ("SETRANGE t 2000000 ", b":2\r\n"),
        ("GETRANGE t -1 -5", b"$0\r\n\r\n"),
        ("GETRANGE t -100 -50", b"$1\r\n1\r\n"),
        ("GETRANGE t 0 -100", b"$1\r\n1\r\n"),
        ("GETRANGE t 1 -100", b"$0\r\n\r\n"),
        ("GETRANGE nothing 0 -100", b"$0\r\n\r\n"),
        ("GETRANGE digits 2 0", b"$0\r\n\r\n"),
        ("GETRANGE digits 5 3", b"$0\r\n\r\n"),
        ("GETRANGE digits -2 0", b"$0\r\n\r\n"),
        ("SUBSTR digits 5 3", b"$0\r\n\r\n"),
        ("EXPIRE t 10 XX LT", b":0\r\n"),
        ("EXPIRE brief 10 LT XX", b":1\r\n"),
        ("EXPIRE brief 200 XX LT", b":0\r\n"),
        ("EXPIRE t 10 GT LT", b"-ERR GT and LT options at the same time are not compatible\r\n"),
        ("EXPIRE t -9223372036854775808", b"-ERR invalid expire time in 'expire' command\r\n"),
        ("PEXPIRE t -9223372036854775808", b":1\r\n"),
        ("EXPIREAT t -9000000000000000", b":1\r\n"),
        ("COPY t t", b"-ERR source and destination objects are the same\r\n"),
        ("COPY t t REPLACE", b"-ERR source and destination objects are the same\r\n"),
        ("KEYS ", b"*0\r\n"),
        ("SCAN 0 MATCH  COUNT 100", b"*2\r\n$1\r\n0\r\n*0\r\n"),
    ],
)
def test_arguments_mean_what_they_mean_to_redis(request_: str, expected: bytes) -> None:
    client = Client()
    client.ask(
        "MSET t 10 one 1 padded 01 negative_zero -0 beyond 9223372036854775808 before -9223372036854775809"
        " digits 0123456789",
        "SET brief x EX 100",
    )
    assert client.ask(request_).startswith(expected)


def test_times_are_rounded_to_the_nearest_second() -> None:
    assert answer("SET a 1", "PEXPIREAT a 4000000000499", "EXPIRETIME a") == b":4000000000\r\n"
    assert answer("SET a 1", "PEXPIREAT a 4000000000500", "EXPIRETIME a") == b":4000000001\r\n"


@pytest.mark.parametrize(
    "gone", ["EXPIREAT t -5", "PEXPIRE t -9223372036854775808", "PEXPIREAT t -9223372036854775808"]
)
def test_a_time_however_long_ago_removes_the_key(gone: str) -> None:
    assert answer("SET t 1", gone, "EXISTS t") == b":0\r\n"


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (["MULTI", "MULTI", "SET a 1", "EXEC"], b"*1\r\n+OK\r\n"),
        (["MULTI", "WATCH a", "SET a 1", "EXEC"], b"*1\r\n+OK\r\n"),
        (["MULTI", "SET a 1 FOO", "SET b 2", "EXEC"], b"*2\r\n" + SYNTAX + b"+OK\r\n"),
        (["MULTI", "INCRBY a x", "SET b 2", "EXEC"], b"*2\r\n" + NOT_INTEGER + b"+OK\r\n"),
        (["MULTI", "SCAN x", "EXEC"], b"*1\r\n-ERR invalid cursor\r\n"),
        (["MULTI", "HELLO 4", "PING", "EXEC"], b"*2\r\n-NOPROTO unsupported protocol version\r\n+PONG\r\n"),
        (
            ["MULTI", "SET a 1 FOO", "NOSUCH", "EXEC"],
            b"-EXECABORT Transaction discarded because of previous errors.\r\n",
        ),
        (["EXEC a"], b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n"),
        (["MULTI", "EXEC a", "EXEC"], b"-ERR EXEC without MULTI\r\n"),
        (["WATCH a a", "SET b 1", "MULTI", "EXEC"], b"*0\r\n"),
        (["WATCH a", "MULTI", "PING", "EXEC"], b"*1\r\n+PONG\r\n"),
        (["WATCH a", "SET a 1", "MULTI", "PING", "EXEC"], b"*-1\r\n"),
        (["WATCH a", "SET a 1", "EXEC", "MULTI", "PING", "EXEC"], b"*-1\r\n"),
        (["WATCH a", "SET a 1", "MULTI", "NOSUCH", "EXEC", "MULTI", "PING", "EXEC"], b"*1\r\n+PONG\r\n"),
    ],
)
def test_transactions_end_as_in_redis(requests: list[str], expected: bytes) -> None:
    assert answer(*requests) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("PING a b", b"-ERR wrong number of arguments for 'ping' command\r\n"),
        ("SELECT x", NOT_INTEGER),
        ("SELECT 1", b"-ERR DB index is out of range\r\n"),
        ("AUTH default any", b"+OK\r\n"),
        ("AUTH any", b"-ERR AUTH <password> called without any password configured for the default user. Are"),
        ("AUTH other any", b"-WRONGPASS "),
        ("HELLO x", b"-ERR Protocol version is not an integer or out of range\r\n"),
        ("HELLO 4", b"-NOPROTO unsupported protocol version\r\n"),
        ("HELLO 3 SETNAME", b"-ERR Syntax error in HELLO option 'SETNAME'\r\n"),
        ("CLIENT", b"-ERR wrong number of arguments for 'client' command\r\n"),
        ("CLIENT foo", b"-ERR unknown subcommand 'foo'. Try CLIENT HELP.\r\n"),
        ("CLIENT ID x", b"-ERR wrong number of arguments for 'client|id' command\r\n"),
        ("CLIENT REPLY FOO", SYNTAX),
        ("CLIENT NO-EVICT FOO", SYNTAX),
        ("CLIENT LIST FOO", SYNTAX),
        ("CLIENT LIST ID", SYNTAX),
        ("CLIENT LIST ID x", b"-ERR Invalid client ID\r\n"),
        ("CLIENT LIST TYPE foo", b"-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT LIST TYPE pubsub", b"$0\r\n\r\n"),
        ("CLIENT KILL ID 0", b"-ERR client-id should be greater than 0\r\n"),
        ("CLIENT KILL ID 1 FOO", SYNTAX),
        ("CLIENT KILL SKIPME foo", SYNTAX),
        ("CLIENT KILL USER foo", b"-ERR No such user 'foo'\r\n"),
        ("CLIENT KILL 1.1.1.1:1", b"-ERR No such client\r\n"),
        ("COMMAND COUNT x", b"-ERR wrong number of arguments for 'command|count' command\r\n"),
        ("COMMAND GETKEYS FOO a", b"-ERR Invalid command specified\r\n"),
        ("COMMAND GETKEYS SCAN 0", b"-ERR The command has no key arguments\r\n"),
        ("COMMAND GETKEYS MSET a 1 b 2", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("COMMAND LIST FILTERBY PATTERN mset*", b"*2\r\n$4\r\nmset\r\n$6\r\nmsetnx\r\n"),
        ("COMMAND LIST FILTERBY MODULE foo", b"*0\r\n"),
        ("COMMAND LIST FOO", SYNTAX),
        ("CONFIG GET", b"-ERR wrong number of arguments for 'config|get' command\r\n"),
        ("CONFIG FOO", b"-ERR unknown subcommand 'FOO'. Try CONFIG HELP.\r\n"),
        ("WAIT 0 x", b"-ERR timeout is not an integer or out of range\r\n"),
        ("WAIT 0 -1", b"-ERR timeout is negative\r\n"),
        ("FOO bar", b"-ERR unknown command 'FOO', with args beginning with: 'bar' \r\n"),
    ],
)
def test_requests_about_the_connection_are_answered_as_by_redis(request_: str, expected: bytes) -> None:
    assert answer(request_).startswith(expected)


def test_version_3_has_types_of_its_own_for_verbatim_text_and_sets() -> None:
    client = Client()
    assert client.ask("CLIENT INFO").startswith(b"$")
    assert client.ask("COMMAND INFO get").startswith(b"*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n")
    client.ask("HELLO 3")
    said = client.ask("CLIENT INFO")
    assert said.startswith(b"=%d\r\ntxt:id=1 " % (len(said) - len(b"=100\r\n\r\n")))
    assert client.ask("COMMAND INFO get").startswith(b"*1\r\n*10\r\n$3\r\nget\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n")


def test_subcommands_that_do_not_exist_break_a_transaction_off() -> None:
    assert answer("MULTI", "CLIENT foo", "EXEC").startswith(b"-EXECABORT")


def test_help_names_every_subcommand() -> None:
    said = answer("CLIENT HELP")
    for name in ("ID", "GETNAME", "SETNAME", "SETINFO", "INFO", "LIST", "KILL", "NO-EVICT", "NO-TOUCH", "REPLY"):
        assert b"+%b " % name.encode() in said


def test_only_the_clients_for_which_every_filter_holds_are_listed_or_killed() -> None:
    hub = Hub()
    mine, other, third = (Client(hub=hub, peer=f"1.2.3.4:{port}") for port in (1, 2, 3))
    assert mine.ask("CLIENT LIST ID 2 3 99").count(b"id=") == 2
    assert mine.ask("CLIENT LIST TYPE normal").count(b"id=") == 3
    assert mine.ask("CLIENT KILL ID 2 ADDR 1.2.3.4:3") == b":0\r\n"
    assert mine.ask("CLIENT KILL ID 1") == b":0\r\n"
    assert mine.ask("CLIENT KILL ID 2 ADDR 1.2.3.4:2 USER default TYPE normal") == b":1\r\n"
    assert (mine.closed, other.closed, third.closed) == (False, True, False)
    assert third.ask("CLIENT KILL ID 3 SKIPME no", "PING") == b":1\r\n"
    assert third.closed
    assert mine.ask("CLIENT KILL 1.2.3.4:1") == b"+OK\r\n"
    assert mine.closed


ASKS_THE_SERVER = (b"info", b"role", b"wait", b"kv.status")
ARGUMENTS = b"""
a b nokey x get mset default string 0 1 -1 2 3 10 1.5 nan 1e308 1e400 * [ \\
9223372036854775807 -9223372036854775808 99999999999999999999
NX XX GT LT GET IFEQ EX PX EXAT PXAT KEEPTTL PERSIST MATCH COUNT TYPE LEN IDX MINMATCHLEN WITHMATCHLEN REPLACE DB
LIST ID INFO ADDR USER SKIPME SETNAME GETNAME SETINFO LIB-NAME NO-EVICT AUTH DOCS GETKEYS FILTERBY PATTERN ACLCAT
HELP SYNC
"""
some_arguments = st.sampled_from([*ARGUMENTS.split(), b"", b"\xff\xfe", b"x" * 1_025, b"a\r\nb", b"SELECT 1"])
names = st.sampled_from(
    [name for name in TABLE if name not in (*ASKS_THE_SERVER, b"quit", b"client")]
) | st.sampled_from([b"multi", b"exec", b"watch", b"discard", b"reset", b"CLIENT"])


@given(st.lists(st.tuples(names, st.lists(some_arguments, max_size=6)), max_size=12), st.booleans())
@examples(300)
def test_every_request_has_one_answer_and_none_ends_the_node(
    sent: list[tuple[bytes, list[bytes]]], at_once: bool
) -> None:
    client = Client()
    packed = [
        b"*%d\r\n" % (len(arguments) + 1) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in (name, *arguments))
        for name, arguments in sent
    ]
    for piece in [b"".join(packed)] if at_once and packed else packed:
        client.connection.received(piece)
        client.turn()
    reader = hiredis.Reader()
    reader.feed(client.said)
    for _ in sent:
        assert reader.gets() is not False
    assert reader.gets() is False


def test_facts_about_commands_and_clients_are_as_in_redis() -> None:
    client = Client()
    listed = client.ask("CLIENT LIST")
    for field in (b"cmd=client|list ", b"ssub=", b"qbuf=", b"argv-mem=", b"tot-mem=", b"events=r ", b"redir=-1 "):
        assert field in listed
    assert b"no_auth" in client.ask("COMMAND INFO auth")
    assert b"noauth" not in client.ask("COMMAND")
    assert b"@dangerous" in client.ask("COMMAND INFO flushall")
    assert b"begin_search" in client.ask("COMMAND INFO get")
    assert client.ask("COMMAND INFO client|list client|nothing").startswith(b"*2\r\n*10\r\n$11\r\nclient|list\r\n:-2")
    assert b"$12\r\ndisplay_text\r\n$3\r\nkey\r\n" in client.ask("COMMAND DOCS get")
    assert client.ask("CONFIG GET MaxMemory") == b"*2\r\n$9\r\nMaxMemory\r\n$1\r\n0\r\n"


def test_a_client_that_is_killed_is_gone_at_once() -> None:
    hub = Hub()
    client, other = Client(hub=hub), Client(hub=hub)
    number = other.connection.client.number
    said = client.ask(f"CLIENT KILL ID {number}", "CLIENT LIST")
    assert said.startswith(b":1\r\n")
    assert b"id=%d " % number not in said


def serving(status: Status, peers: list[PeerInfo]) -> ServerStatus:
    return ServerStatus(status, "10.0.0.1:6401", "10.0.0.1:7401", 0, 0, 0, 0, 0, 0, 0, 0, {}, 0, 0, "", peers)


def test_addresses_of_nodes_are_shown_as_redis_shows_them() -> None:
    peers = [PeerInfo("n2", "10.0.0.2:7401", True, 7, "[::1]:6402"), PeerInfo("n3", "[fe80::3]:7401", False, 0)]
    leads = serving(replace(STATUS, role="leader", leader="n1"), peers)
    assert role(leads) == ["master", STATUS.chosen_upto, [["::1", "6402", "7"]]]
    said = info(leads, Hub(), (0, 0), [b"replication"]).text
    assert "slave0:ip=::1,port=6402,state=online,offset=7,lag=0\r\n" in said
    follows = serving(replace(STATUS, role="follower", leader="n2"), peers)
    assert role(follows) == ["slave", "::1", 6402, "connected", STATUS.applied_upto]
    assert "master_host:::1\r\nmaster_port:6402\r\n" in info(follows, Hub(), (0, 0), [b"replication"]).text
