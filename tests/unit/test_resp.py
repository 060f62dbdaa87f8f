"""The Redis face without a socket: bytes cut anywhere, replies in order, and clients that read slowly."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random
from time import monotonic
from typing import cast, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.ballot import Ballot
from kvstore.commands import (
    MAX_TXN_COMMANDS,
    MAX_VALUE_BYTES,
    Cas,
    Command,
    Condition,
    Get,
    Push,
    Read,
    Set,
    SetMany,
    Simple,
    Txn,
    Value,
)
from kvstore.errors import Refusal, UnavailableError, UnknownOutcomeError
from kvstore.limits import MAX_COMMAND_BYTES
from kvstore.node.node import Node
from kvstore.resp import cursors
from kvstore.resp.connection import MAX_BACKLOG, MAX_UNSENT
from kvstore.resp.cursors import Cursors, OwnCursors
from kvstore.resp.encoding import encode
from kvstore.resp.errors import RequestError
from kvstore.resp.kv_commands import LOG_VALUE_BYTES, MAX_LOG_BYTES, MAX_LOG_ROWS, _only_reads
from kvstore.resp.lcs import lcs
from kvstore.resp.parser import ARGUMENT_OVERHEAD, MAX_LINE_BYTES, Parser, ProtocolError, split_line
from kvstore.resp.table import TABLE
from kvstore.state import entries
from kvstore.state.machine import StateMachine
from kvstore.storage.log_store import MemoryLog
from kvstore.store import LogRow
from tests.examples import examples
from tests.unit.resp_client import Client, packed

# -- parsing ----------------------------------------------------------------------------------------------------------

requests = st.lists(
    st.lists(st.binary(max_size=30), min_size=1, max_size=4).filter(lambda arguments: len(arguments) > 0), max_size=6
)


def wire(request: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(request) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in request)


def parse(pieces: list[bytes]) -> list[list[bytes]]:
    parser = Parser()
    found = []
    for piece in pieces:
        parser.feed(piece)
        while (request := parser.next()) is not None:
            if not request:
                continue
            found.append(request)
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[first:last] for first, last in pairwise(at)]


@given(requests, st.lists(st.integers(0, 10_000), max_size=8), st.booleans())
def test_requests_are_the_same_however_they_are_cut(sent: list[list[bytes]], places: list[int], typed: bool) -> None:
    data = b"".join(map(wire, sent))
    expected = list(sent)
    if typed:
        data += b"set 'a b' \"\\x41\\n\"\r\n" + b"".join(map(wire, sent))
        expected += [[b"set", b"a b", b"A\n"], *sent]
    assert parse(cut(data, places)) == expected


@given(st.lists(st.integers(0, 10_000), max_size=4))
def test_values_that_look_like_huge_headers_are_values(places: list[int]) -> None:
    sent = [[b"SET", b"k", b"*99999999\r\n$99999999\r\n"], [b"GET", b"k"]]
    assert parse(cut(b"".join(map(wire, sent)), places)) == sent


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"*", b"$", b"\r\n", b"1", b"-1", b"*1\r\n", b"$3\r\nget\r\n", b"9" * 9, b'"', b"\n", b":"]
            ),
        ).filter(bool),
        max_size=20,
    )
)
@examples(500)
def test_rubbish_is_a_protocol_error_or_waits_for_more(pieces: list[bytes]) -> None:
    try:
        for request in parse(pieces):
            assert request
            assert all(type(word) is bytes for word in request)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"*2000000\r\n",
        b"*99999999999999999999\r\n",
        b"*1\r\n$-5\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*1\r\n*1\r\n$1\r\na\r\n",
        b"*1\r\n:1\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*-0\r\n",
        b"*1\r\n$+4\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$0004\r\nPING\r\n",
        b"*1\r\n$-0\r\n",
        b"'open\r\n",
        b"x" * (MAX_LINE_BYTES + 1),
        b'"a"b\r\n',
    ],
)
def test_what_exceeds_a_bound_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse([data])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"*1\r\n:5\r\n", "expected '$', got ':'"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", "expected '$', got '*'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$4\r\nPING\r\n*1\r\n:5\r\n", "expected '$', got ':'"),
    ],
)
def test_protocol_errors_are_worded_as_by_redis(data: bytes, what: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        parse([data])
    assert str(raised.value) == what


def test_a_typed_line_is_split_as_in_redis_cli() -> None:
    assert split_line(b"set  k 'it\\'s' \"\\x00\\t\" a\\b") == [b"set", b"k", b"it's", b"\0\t", b"a\\b"]


def test_white_space_on_a_typed_line_is_as_in_redis() -> None:
    assert parse([b"PING\r\r\n"]) == [[b"PING"]]
    assert parse([b'ECHO a\rb "c"\r\r\n']) == [[b"ECHO", b"a", b"b", b"c"]]
    assert parse([b" \x0b ECHO a\x0bb\n"]) == [[b"ECHO", b"a\x0bb"]]
    assert parse([b"PING\0 what follows\n"]) == [[b"PING"]]


def test_a_parsed_request_leaves_nothing_in_the_parser() -> None:
    parser = Parser()
    parser.feed(wire([b"SET", b"k", bytes(1_000_000)]))
    assert parser.next()
    assert parser._data == b""


def test_a_stranger_types_no_long_lines() -> None:
    parser = Parser(trusted=False)
    parser.feed(b"PING " + b"a" * 20_000 + b"\n")
    with pytest.raises(ProtocolError, match="unauthenticated"):
        parser.next()


def test_a_long_pipeline_without_a_pause_is_parsed_whole() -> None:
    sent = [[b"SET", b"k%d" % number, b"v" * 1_000] for number in range(5_000)]
    data = b"".join(map(wire, sent))
    assert parse([data[at : at + 4_001] for at in range(0, len(data), 4_001)]) == sent


# -- encoding ---------------------------------------------------------------------------------------------------------


def test_replies_in_both_versions() -> None:
    assert encode({"a": [1, None, 0.5, "b"]}, 2) == b"*2\r\n$1\r\na\r\n*4\r\n:1\r\n$-1\r\n$3\r\n0.5\r\n$1\r\nb\r\n"
    assert encode({"a": [1, None, 0.5, "b"]}, 3) == b"%1\r\n$1\r\na\r\n*4\r\n:1\r\n_\r\n,0.5\r\n$1\r\nb\r\n"


# -- a connection -----------------------------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_requests() -> None:
    client = Client()
    assert client.ask("SET a 1", "GET a", "PING", "INCR a", "GET a") == b"+OK\r\n$1\r\n1\r\n+PONG\r\n:2\r\n$1\r\n2\r\n"


def test_writes_are_started_together_and_a_read_waits_for_them() -> None:
    client = Client()
    client.connection.received(packed("SET a 1") + packed("SET b 2") + packed("GET a") + packed("SET c 3"))
    assert client.node.started == ["set a=1", "set b=2"]
    client.turn()
    assert client.node.started == ["set a=1", "set b=2", "get a", "set c=3"]


def test_getex_without_a_time_is_a_read_and_waits_for_the_writes_before_it() -> None:
    client = Client()
    client.connection.received(packed("SET a 1") + packed("GETEX a") + packed("GETEX a EX 10"))
    assert client.node.started == ["set a=1"]
    client.turn()
    assert client.node.started == ["set a=1", "get a", "getex a EX 10"]


def test_reads_that_may_take_long_are_started_one_at_a_time() -> None:
    client = Client()
    client.ask("SET a 1")
    client.node.started.clear()
    client.connection.received(packed("KEYS x*") + packed("SCAN 0") + packed("GET a"))
    assert client.node.started == ["keys x*"]
    client.node.waiting.pop(0)()
    assert client.node.started == ["keys x*", "keys * COUNT 10"]
    client.node.waiting.pop(0)()
    assert client.node.started == ["keys x*", "keys * COUNT 10", "get a"]
    client.turn()
    assert client.said.endswith(b"*0\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n$1\r\n1\r\n")


@pytest.mark.parametrize("alone", ["KEYS x*", "SCAN 0"])
def test_rubbish_behind_a_request_that_runs_alone_is_told(alone: str) -> None:
    client = Client()
    client.connection.received(packed(alone) + b"*x\r\n")
    assert client.said == b""
    client.turn()
    assert client.said.startswith(b"*")
    assert client.said.endswith(b"-ERR Protocol error: invalid multibulk length\r\n")
    assert client.closed


def test_requests_that_wait_are_counted_whole() -> None:
    client = Client()
    many = [b"MGET", *(b"k%06d" % number for number in range(100_000))]
    data = packed("INCR a") + wire(many)
    for at in range(0, len(data), 10_000):
        client.connection.received(data[at : at + 10_000])
    assert client.node.started == ["incr a"]
    assert client.hub.held >= 100_000 * (ARGUMENT_OVERHEAD + 7)
    client.turn()
    client.turn()
    assert client.hub.held < 1_000_000


def test_a_client_that_sends_too_much_is_not_read_from() -> None:
    client = Client()
    client.ask(*["PING"] * MAX_BACKLOG)
    client.said = b""
    client.connection.received(packed("INCR a") * (MAX_BACKLOG * 3))
    assert client.paused
    assert len(client.node.started) == MAX_BACKLOG
    while client.node.waiting:
        client.node.waiting.pop(0)()
    client.hub.flush()
    assert not client.paused
    assert client.said == b"".join(b":%d\r\n" % number for number in range(1, MAX_BACKLOG * 3 + 1))


def test_no_further_request_is_started_for_a_client_that_does_not_read_its_replies() -> None:
    client = Client()
    client.connection.writable(False)
    client.connection.received(packed("INCR a") * 3)
    assert client.paused
    assert client.node.started == []
    client.connection.writable(True)
    client.turn()
    assert not client.paused
    assert client.said == b":1\r\n:2\r\n:3\r\n"


@pytest.mark.parametrize("mode", ["READONLY", "READWRITE"])
def test_a_slow_reader_of_large_values_fills_no_memory(mode: str) -> None:
    client = Client()
    client.ask("SET a " + "x" * MAX_VALUE_BYTES, mode)
    client.said = b""
    client.takes = MAX_VALUE_BYTES
    client.connection.received(packed("GET a") * MAX_BACKLOG * 4)  # 1 GiB of replies
    client.turn()
    assert client.paused
    assert MAX_VALUE_BYTES < len(client.said) < 2 * MAX_UNSENT


def test_large_values_come_as_quickly_as_the_client_takes_them() -> None:
    client = Client()
    client.ask("SET a " + "x" * MAX_VALUE_BYTES, "SET b 1")
    requests = packed("GET b") * 100 + packed("GET a") * 20
    client.said = b""
    client.connection.received(requests)
    turns = 0
    while client.node.waiting:
        client.turn()
        turns += 1
    assert client.said == b"$1\r\n1\r\n" * 100 + (b"$%d\r\n%b\r\n" % (MAX_VALUE_BYTES, b"x" * MAX_VALUE_BYTES)) * 20
    assert turns < 20
    assert not client.paused


def test_a_client_that_went_away_harms_nobody() -> None:
    client = Client()
    client.connection.received(packed("SET a 1") + packed("GET a"))
    client.connection.lost()
    client.turn()
    assert client.said == b""
    assert client.hub.clients == {}


@pytest.mark.parametrize(
    ("refusal", "code"), [(UnavailableError("no quorum"), b"-CLUSTERDOWN"), (UnknownOutcomeError("late"), b"-UNKNOWN")]
)
def test_refusals_say_whether_it_may_have_happened(refusal: Refusal, code: bytes) -> None:
    client = Client()
    client.node.refusal = refusal
    for request in ("SET a 1", "GET a", "INCR a", "MGET a b"):
        assert client.ask(request).startswith(code), request


def test_reply_modes() -> None:
    client = Client()
    assert client.ask("CLIENT REPLY SKIP", "SET a 1", "GET a") == b"$1\r\n1\r\n"
    assert client.ask("CLIENT REPLY OFF", "SET a 2", "GET a") == b""
    assert client.ask("CLIENT REPLY SKIP", "GET a", "GET a") == b""
    assert client.ask("CLIENT REPLY ON", "GET a") == b"+OK\r\n$1\r\n2\r\n"
    assert client.ask("CLIENT REPLY OFF", "RESET", "PING") == b"+RESET\r\n+PONG\r\n"
    assert client.ask("CLIENT REPLY SKIP", "RESET", "PING") == b"+PONG\r\n"


def test_without_the_password_nothing_is_done() -> None:
    client = Client(password="secret")
    assert client.ask("GET a").startswith(b"-NOAUTH")
    assert client.ask("MULTI").startswith(b"-NOAUTH")
    assert client.ask("AUTH wrong").startswith(b"-WRONGPASS")
    assert client.ask("HELLO 3").startswith(b"-NOAUTH")
    assert client.ask("HELLO 3 AUTH default secret").startswith(b"%8")
    assert client.ask("GET a") == b"_\r\n"


def test_a_transaction_is_queued_and_executed_as_one() -> None:
    client = Client()
    assert client.ask("MULTI", "SET a 1", "GET a", "PING", "EXEC") == (
        b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n$1\r\n1\r\n+PONG\r\n"
    )
    assert client.node.started == ["txn PARTIAL { set a=1; get a }"]
    assert client.ask("MULTI", "EXEC") == b"+OK\r\n*0\r\n"
    assert client.ask("MULTI", "SET a 9", "DISCARD", "GET a") == b"+OK\r\n+QUEUED\r\n+OK\r\n$1\r\n1\r\n"
    assert client.ask("MULTI", "NOSUCH", "SET a 9", "EXEC").endswith(
        b"+QUEUED\r\n-EXECABORT Transaction discarded because of previous errors.\r\n"
    )
    assert client.ask("GET a") == b"$1\r\n1\r\n"


def test_requests_that_can_never_be_executed_are_not_kept() -> None:
    client = Client()
    client.ask("MULTI")
    large = "SET a " + "x" * MAX_VALUE_BYTES
    said = [client.ask(large) for _ in range(40)]
    assert said[0] == b"+QUEUED\r\n"
    assert any(one.startswith(b"-ERR a transaction has at most") for one in said)
    assert "multi=0 " in client.connection.client.describe()
    assert client.ask("EXEC").startswith(b"-EXECABORT")


def test_a_watch_that_is_not_answered_yet_belongs_to_its_transaction() -> None:
    """Everything is sent at once: the next EXEC must wait for the WATCH, and later ones must not see its keys."""
    client = Client()
    other = Client(client.node)
    client.connection.received(packed("WATCH a") + packed("MULTI") + packed("GET b") + packed("EXEC"))
    assert client.node.started == ["slots a"]
    client.turn()
    assert client.said.endswith(b"+QUEUED\r\n*1\r\n$-1\r\n")
    assert client.node.started[-1].startswith("txn PARTIAL { if slot a = 0 then get b }")
    for end in ("UNWATCH", "MULTI DISCARD", "RESET"):
        client.ask("WATCH a", *end.split())
        other.ask("INCR a")
        assert client.ask("MULTI", "SET b 1", "EXEC").endswith(b"*1\r\n+OK\r\n"), end


def test_a_transaction_whose_watch_was_refused_does_nothing() -> None:
    """Everything is sent at once: the client does not know of the refusal when it sends EXEC."""
    client = Client()
    client.node.refusal = UnavailableError("no quorum")
    client.connection.received(packed("WATCH a") + packed("MULTI") + packed("SET b 1") + packed("EXEC"))
    waiting, client.node.waiting[:] = list(client.node.waiting), []
    for answer in waiting:
        answer()
    client.node.refusal = None
    client.turn()
    assert client.said.startswith(b"-CLUSTERDOWN")
    assert client.said.endswith(b"-EXECABORT Transaction discarded because a WATCH before it was refused.\r\n")
    assert client.ask("WATCH a", "MULTI", "SET b 1", "EXEC").endswith(b"*1\r\n+OK\r\n"), "that goes for one transaction"
    for end in ("UNWATCH", "MULTI DISCARD", "RESET"):
        client.node.refusal = UnavailableError("no quorum")
        client.ask("WATCH a")
        client.node.refusal = None
        client.ask(*end.split())
        assert client.ask("MULTI", "SET b 1", "EXEC").endswith(b"*1\r\n+OK\r\n"), end


def test_what_is_queued_and_watched_is_bounded() -> None:
    client = Client()
    client.ask("MULTI")
    value = "x" * MAX_VALUE_BYTES
    assert client.ask(*[f"SET a {value}"] * 15) == b"+QUEUED\r\n" * 15
    assert client.ask(f"SET a {value}").startswith(b"-ERR a transaction has at most")
    assert client.ask("SET a 1", "EXEC").startswith(b"+QUEUED\r\n-EXECABORT")
    client.ask("MULTI")
    assert client.ask(*["GET a"] * MAX_TXN_COMMANDS).count(b"+QUEUED") == MAX_TXN_COMMANDS
    assert client.ask("GET a").startswith(b"-ERR a transaction has at most")
    client.ask("DISCARD")
    keys = " ".join(map(str, range(MAX_TXN_COMMANDS)))
    assert client.ask(f"WATCH {keys}") == b"+OK\r\n"
    assert client.ask("WATCH another").startswith(b"-ERR at most 16,384 keys")
    assert client.ask("MULTI", "SET a 1", "EXEC").endswith(b"because a WATCH before it was refused.\r\n")


def test_what_is_not_a_command_is_refused() -> None:
    client = Client()
    packed = entries.encode(Set(b"k", Value(b"v")))
    for rubbish in (b"", b"\xc1", packed.replace(b"set", b"s\xfft"), packed + b"1", b"\x91" * 9_000):
        request = [b"KV.EXECUTE", b"s", b"1", b"1", rubbish]
        client.said = b""
        client.connection.received(wire(request))
        client.turn()
        assert client.said.startswith(b"-ERR this node cannot read the command"), rubbish[:9]


def test_a_command_that_is_too_large_is_refused_before_it_is_read() -> None:
    """What is in it does not matter: JSON takes long to read."""
    client = Client()
    client.connection.received(wire([b"KV.EXECUTE", b"s", b"1", b"1", bytes(MAX_COMMAND_BYTES + 1)]))
    client.turn()
    assert client.said.startswith(b"-ERR the command has 16,777,217 bytes in all")


def test_the_log_is_shown_a_part_at_a_time() -> None:
    client = Client()
    row = LogRow(1, Ballot(1, "n1"), "chosen", "x" * MAX_VALUE_BYTES, "", 0, 0, None)
    client.node.log = lambda first, last, most_bytes: iter([row] * 100)  # type: ignore[method-assign]
    assert MAX_LOG_BYTES <= len(client.ask("KV.LOG 1")) < MAX_LOG_BYTES + 2 * MAX_VALUE_BYTES
    client.node.log = lambda first, last, most_bytes: iter([msgspec.structs.replace(row, value="x")] * 2_000)  # type: ignore[method-assign]
    assert client.ask("KV.LOG 1").startswith(b"*%d\r\n" % MAX_LOG_ROWS)


def test_a_part_of_the_log_holds_few_large_values() -> None:
    """They are shown by their sizes only, and read all the same."""
    node = Node("n1", ["n1"], MemoryLog(), StateMachine(None), rng=Random(1), now=0, wall=0)
    for number in range(20):
        node.execute(Set(b"%d" % number, Value(bytes(MAX_VALUE_BYTES))), lambda outcome: None, 100)
    for _ in range(10):
        node.tick(0, 0)
        node.append(node.turn().records)
        node.persisted()
        node.apply()
    first = node.applied_upto - 19
    rows = list(node.log(first, None, LOG_VALUE_BYTES))
    assert [row.slot for row in rows] == list(range(first, first + LOG_VALUE_BYTES // MAX_VALUE_BYTES))
    client = Client()
    client.node.log = node.log  # type: ignore[method-assign]
    assert client.ask(f"KV.LOG {first}").count(b"<set of") == 20


def test_watched_keys_are_compared_when_the_transaction_is_applied() -> None:
    client = Client()
    other = Client(client.node)
    client.ask("SET a 1", "WATCH a b")
    client.connection.received(packed("MULTI") + packed("SET a 2"))
    client.connection.received(packed("EXEC"))
    before = len(client.said)
    # This write is chosen before the transaction, although it is sent later.
    other.connection.received(packed("SET b 5"))
    client.node.waiting.reverse()
    client.turn()
    other.turn()
    assert client.said[before:] == b"*-1\r\n"
    assert client.ask("GET a") == b"$1\r\n1\r\n"
    assert client.ask("WATCH a", "MULTI", "SET a 3", "EXEC").endswith(b"*1\r\n+OK\r\n")
    other.ask("SET c 1")
    assert client.ask("WATCH c", "MULTI", "EXEC") == b"+OK\r\n+OK\r\n*0\r\n"


def test_every_command_in_the_table_exists_and_checks_its_arguments() -> None:
    for spec in TABLE.values():
        client = Client()
        if spec.arity not in (1, -1):
            said = client.ask(spec.name)
            assert said.startswith(b"-ERR wrong number of arguments"), (spec.name, said)
        arguments = [f"{spec.name} " + " ".join(["1"] * (abs(spec.arity) - 1 + extra)) for extra in range(3)]
        for request in arguments:
            if spec.name not in ("info", "role", "wait", "kv.status"):  # which need a server to ask
                client.ask(request.strip())
        assert not client.node.waiting


def test_local_reads_are_local_in_a_transaction_too() -> None:
    client = Client()
    client.ask("SET a 1")
    client.node.refusal = UnavailableError("no quorum")
    assert client.ask("MULTI", "GET a", "EXEC").endswith(b"-CLUSTERDOWN no quorum\r\n")
    assert client.ask("READONLY", "MULTI", "GET a", "EXEC").endswith(b"*1\r\n$1\r\n1\r\n")
    assert client.ask("MULTI", "SET a 2", "EXEC").endswith(b"-CLUSTERDOWN no quorum\r\n")


@pytest.mark.parametrize("head", [b"POST / HTTP/1.1\r\nHost: here\r\n\r\n", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"])
def test_a_page_in_a_browser_cannot_give_commands(head: bytes) -> None:
    client = Client()
    client.connection.received(head + b"SET a 1\r\nFLUSHALL\r\n")
    client.turn()
    assert client.node.started == []
    assert client.closed


@pytest.mark.parametrize(
    "command",
    [
        Set(b"a", Value(b"[", True)),
        Set(b"a", Value(b"1"), ifeq=Value(b"{]", True)),
        SetMany([b"a"], [Value(b"\xff", True)]),
        Push(b"a", Value(b"]", True)),
        Cas(b"a", Value(b"", True), Value(b"1", True)),
        Txn([Set(b"a", Value(b"[" * 200 + b"]" * 200, True))]),
        Txn([Get(b"a")], [Condition("value", b"a", "=", Value(b"NaN", True))]),
    ],
)
def test_invalid_json_does_not_reach_the_log(command: Command) -> None:
    """A later command on such a value would end every replica, and again after each restart."""
    client = Client()
    packed_command = msgspec.msgpack.encode(command)
    client.connection.received(wire([b"KV.EXECUTE", b"session", b"1", b"0", packed_command]))
    client.turn()
    assert client.said.startswith(b"-ERR the value is ")
    assert client.node.started == []


arguments = st.one_of(
    st.sampled_from([b"k", b"", b"0", b"1", b"-1", b"9" * 19, b"9" * 400, b"\xff", b"nan", b"1e400", b"[", b"*", b"{"]),
    st.sampled_from([b"GET", b"EX", b"PX", b"NX", b"COUNT", b"MATCH", b"TYPE", b"IDX", b"LEN", b"SETNAME", b"SETINFO"]),
    st.sampled_from([b"LIST", b"INFO", b"KILL", b"ID", b"ADDR", b"DOCS", b"GETKEYS", b"AUTH", b"LIB-NAME", b"REPLY"]),
    st.binary(max_size=8),
)


@given(st.lists(st.tuples(st.sampled_from(sorted(TABLE)), st.lists(arguments, max_size=6)), min_size=1, max_size=6))
@examples(500)
def test_no_request_ends_the_node(sent: list[tuple[bytes, list[bytes]]]) -> None:
    """A wrong request gets an error as its reply; an exception that nobody catches would stop the whole node."""
    client = Client()
    for name, rest in sent:
        if name in (b"info", b"role", b"wait", b"kv.status"):  # which need a server to ask
            continue
        client.connection.received(wire([name, *rest]))
        client.turn()
    client.connection.client.describe()


def test_quit_answers_all_before_it_ends() -> None:
    client = Client()
    assert client.ask("SET a 1", "QUIT", "SET a 2") == b"+OK\r\n+OK\r\n"
    assert client.closed
    assert client.node.started == ["set a=1"]


def test_the_longest_common_subsequence() -> None:
    client = Client()
    client.ask("MSET a ohmytext b mynewtext")
    assert client.ask("LCS a b") == b"$6\r\nmytext\r\n"
    assert client.ask("LCS a b LEN") == b":6\r\n"
    assert client.ask("LCS a b IDX WITHMATCHLEN MINMATCHLEN 4") == (
        b"*4\r\n$7\r\nmatches\r\n*1\r\n*3\r\n*2\r\n:4\r\n:7\r\n*2\r\n:5\r\n:8\r\n:4\r\n$3\r\nlen\r\n:6\r\n"
    )


@pytest.mark.parametrize("request_", ["LCS a b", "LCS a b LEN", "LCS a b IDX"])
def test_values_too_long_to_compare_are_an_error_and_end_nothing(request_: str) -> None:
    client = Client()
    client.ask("MSET a " + "x" * 3_000 + " b " + "y" * 3_000)
    assert client.ask(request_).startswith(b"-ERR the product of the lengths")
    assert client.ask("MULTI", request_, "SET c 1", "EXEC").endswith(b"compare shorter values\r\n+OK\r\n")


texts = st.binary(max_size=20) | st.text("ab", max_size=20).map(str.encode)


@given(texts, texts)
def test_a_common_subsequence_is_one_and_none_is_longer(one: bytes, other: bytes) -> None:
    lengths = {(i, j): 0 for i in range(len(one) + 1) for j in range(len(other) + 1)}
    for i, j in product(range(len(one)), range(len(other))):
        longer = max(lengths[i, j + 1], lengths[i + 1, j])
        lengths[i + 1, j + 1] = lengths[i, j] + 1 if one[i] == other[j] else longer
    found = lcs(one, other, False, False, with_length=False, least=0)
    assert isinstance(found, bytes)
    for text in (one, other):
        rest = iter(text)
        assert all(byte in rest for byte in found)
    assert len(found) == lengths[len(one), len(other)] == lcs(one, other, True, False, with_length=False, least=0)
    where = lcs(one, other, False, True, with_length=True, least=0)
    assert isinstance(where, dict)
    assert where["len"] == len(found)
    parts = b""
    matches = cast("list[tuple[tuple[int, int], tuple[int, int], int]]", where["matches"])
    for (first, last), (second, end), size in reversed(matches):
        assert one[first : last + 1] == other[second : end + 1]
        assert last - first + 1 == size
        parts += one[first : last + 1]
    assert parts == found


def test_comparing_long_values_is_too_quick_to_disturb_an_election() -> None:
    one, other = (bytes(Random(seed).choices(b"ab", k=2_000)) for seed in (1, 2))
    began = monotonic()
    lcs(one, other, False, True, with_length=True, least=0)
    assert monotonic() - began < 0.3


def test_no_client_pushes_out_the_cursors_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "MAX_CURSORS", 50)
    shared = Cursors()
    kept = [(own, own.add(b"%d" % number)) for own in [OwnCursors(shared) for _ in range(3)] for number in range(5)]
    greedy = OwnCursors(shared)
    last = [greedy.add(b"%d" % number) for number in range(200)][-1]
    other = OwnCursors(shared)
    assert [own.key(cursor) for own, cursor in kept] == 3 * [b"0", b"1", b"2", b"3", b"4"]
    assert other.key(last) == b"199"  # any connection may go on with it
    assert other.key(other.add(b"x")) == b"x"
    assert [own.key(cursor) for own, cursor in kept] == 3 * [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("steps", [1, 3, 120])
@pytest.mark.parametrize("stay", [True, False])
def test_a_scan_goes_on_however_many_there_were_before(monkeypatch: pytest.MonkeyPatch, steps: int, stay: bool) -> None:
    monkeypatch.setattr(cursors, "MAX_CURSORS", 150)
    shared = Cursors()
    lives = OwnCursors(shared)
    kept = [lives.add(b"%d" % number) for number in range(10)]
    for _ in range(300):
        own = OwnCursors(shared)
        for number in range(steps):
            assert own.key(own.add(b"%d" % number)) == b"%d" % number
        if not stay:
            own.lose()
            own.lose()
            assert own.key(own.add(b"late")) == b"late"  # a scan that was under way
    if not stay:
        assert [lives.key(cursor) for cursor in kept] == [b"%d" % number for number in range(10)]


def test_what_lost_connections_have_left_is_forgotten_first_and_the_oldest_before_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cursors, "MAX_CURSORS", 500)
    shared = Cursors()
    lives, first, second = OwnCursors(shared), OwnCursors(shared), OwnCursors(shared)
    kept = [lives.add(b"lives") for _ in range(200)]
    many = [first.add(b"first") for _ in range(150)]
    few = [second.add(b"second") for _ in range(50)]
    first.lose()
    second.lose()
    for _ in range(200):
        lives.add(b"more")
    with pytest.raises(RequestError, match="too old"):
        lives.key(many[99])
    assert {lives.key(cursor) for cursor in [*many[100:], *few, *kept]} == {b"first", b"second", b"lives"}
    for _ in range(100):
        lives.add(b"more")
    with pytest.raises(RequestError, match="too old"):
        lives.key(few[-1])
    assert lives.key(kept[0]) == b"lives"
    lives.add(b"one too many")
    with pytest.raises(RequestError, match="too old"):
        lives.key(kept[0])


def test_a_command_without_a_session_is_a_read_by_what_it_is() -> None:
    reads = set(get_args(Read))
    for kind in get_args(Simple):
        packed_command = b"\x92" + bytes([0xA0 + len(kind.__struct_config__.tag)]) + kind.__struct_config__.tag.encode()
        assert _only_reads([b"KV.EXECUTE", b"", b"0", b"0", packed_command]) is (kind in reads)
        assert not _only_reads([b"KV.EXECUTE", b"s", b"1", b"1", packed_command])
    assert not _only_reads([b"KV.EXECUTE", b""])
