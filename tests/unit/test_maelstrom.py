"""Maelstrom's protocol as text: what is a message, which field is wrong, and replies to the byte."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.commands import Done, Found, Get, Missing, Push, Set, Txn, Value
from kvstore.errors import CommandError
from kvstore.maelstrom import wire
from kvstore.maelstrom.wire import ErrorReply, UnreadableLineError, parse_message, parse_request
from kvstore.node.node import SlotRow

Raw = msgspec.Raw
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def message(body: str, src: str = "c1") -> wire.WireMessage:
    return parse_message(f'{{"src":"{src}","dest":"n1","body":{body}}}'.encode())


def refused(body: str) -> ErrorReply:
    with pytest.raises(ErrorReply) as caught:
        parse_request(message(body))
    return caught.value


# -- lines ----------------------------------------------------------------------------------------------------------


def test_a_message_keeps_its_values_as_they_were_written() -> None:
    parsed = message('{"type":"echo","msg_id":7,"echo":{"a" :1.50, "b":[ ]}}')
    assert (parsed.src, parsed.dest, parsed.kind, bytes(parsed.msg_id)) == ("c1", "n1", "echo", b"7")
    request = parse_request(parsed)
    assert isinstance(request, wire.EchoRequest)
    assert bytes(request.echo) == b'{"a" :1.50, "b":[ ]}'


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"rubbish", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "src"),
        (b'{"src":"c1"}', "body"),
        (b'{"body":{}}', "src"),
        (b'{"src":5,"body":{}}', "src"),
        (b'{"src":"c1","body":[1]}', "body"),
        (b'{"src":"c1","body":"x"}', "body"),
        (b'{"src":"c1","body":{"type":"echo","echo":NaN}}', "not valid JSON"),
        (b'{"src":"c1","body":{"type":"echo","echo":"\xe9"}}', "UTF-8"),
        (b"\x00\xff\xfe", "UTF-8"),
        (b'{"src":"c1","body":{"type":"echo","echo":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "deep"),
    ],
)
def test_a_line_that_is_no_message_says_why(line: bytes, why: str) -> None:
    with pytest.raises(UnreadableLineError, match=why):
        parse_message(line)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"src":"c1","body":{"type":' + b"9" * 5_000 + b"}}")
@example(b'{"src":"c1","dest":5,"body":{}}')
def test_whatever_comes_in_is_a_message_or_none(line: bytes) -> None:
    """Nothing else is raised, neither by the line nor by its request: one bad line must not take others with it."""
    try:
        parsed = parse_message(line)
    except UnreadableLineError:
        return
    try:
        parse_request(parsed)
    except ErrorReply:
        return


def test_half_a_surrogate_pair_is_answered_with_an_error() -> None:
    parsed = message(r'{"type":"write","msg_id":3,"key":"k","value":"\ud800"}')
    assert (parsed.src, bytes(parsed.msg_id)) == ("c1", b"3")
    with pytest.raises(ErrorReply, match="surrogate") as caught:
        parse_request(parsed)
    assert caught.value.code == 12


# -- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ("{}", 12, "type is missing"),
        ('{"type":5}', 12, "type must be a string, not 5"),
        ('{"type":"nonsense"}', 10, "nonsense"),
        ('{"type":"multi_paxos_propose","value":1}', 12, "slot"),
        ('{"type":"multi_paxos_propose","slot":1}', 12, "value"),
        ('{"type":"read"}', 12, "key"),
        ('{"type":"write","key":1}', 12, "value"),
        ('{"type":"cas","key":1,"to":1}', 12, "from"),
        ('{"type":"cas","key":1,"from":1}', 12, "to"),
        ('{"type":"cas","key":1,"from":1,"to":2,"create_if_not_exists":1}', 12, "create_if_not_exists"),
        ('{"type":"txn"}', 12, "txn"),
        ('{"type":"txn","txn":[["r",1]]}', 12, "txn"),
        ('{"type":"echo"}', 12, "echo"),
        ('{"type":"init","node_ids":["n1"]}', 12, "node_id"),
        ('{"type":"init","node_id":"n1","node_ids":[]}', 12, "node_ids"),
        ('{"type":"init","node_id":"n1","node_ids":["n1","n1"]}', 12, "different"),
        ('{"type":"init","node_id":"n1","node_ids":["n1",""]}', 12, "empty"),
        ('{"type":"init","node_id":"n1","node_ids":["n2"]}', 12, "node_id"),
        ('{"type":"init","node_id":"1","node_ids":["1","2","3","4","5","6","7","8"]}', 12, "1 to 7"),
    ],
)
def test_a_malformed_request_names_the_field(body: str, code: int, field: str) -> None:
    error = refused(body)
    assert error.code == code
    assert field in error.text


@given(st.integers(1, 2**63 - 1))
@example(1)
@example(2**63 - 1)
def test_slots(slot: int) -> None:
    assert wire.parse_slot(Raw(str(slot).encode())) == slot


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "true", "null", '"1"', "1.0", "1e3", "[1]", str(2**63), "9" * 5_000, '"a' + "é" * 60 + '"'],
)
def test_no_slots(text: str) -> None:
    with pytest.raises(ErrorReply, match="slot must be") as caught:
        wire.parse_slot(Raw(text.encode()))
    assert caught.value.code == 12
    assert len(caught.value.text) < 200


@pytest.mark.parametrize(
    ("text", "key"), [('"k"', b"k"), ("7", b"7"), ("-7", b"-7"), ('"é"', "é".encode()), (r'"\u00e9"', "é".encode())]
)
def test_keys(text: str, key: bytes) -> None:
    assert wire.parse_key(Raw(text.encode())) == key


@pytest.mark.parametrize(
    "text",
    ['""', "1.0", "1e3", "true", "null", "[1]", "{}", f'"{"k" * 1_025}"', "9" * 5_000, f'["a{"é" * 60}"]'],
)
def test_no_keys(text: str) -> None:
    with pytest.raises(ErrorReply, match="key") as caught:
        wire.parse_key(Raw(text.encode()))
    assert caught.value.code == 12


def test_a_transaction_is_one_command() -> None:
    request = parse_request(message('{"type":"txn","txn":[["r",1,null],["append",1,2],["w","k","v"]]}'))
    assert isinstance(request, wire.TxnRequest)
    assert wire.parse_txn(request) == Txn([Get(b"1"), Push(b"1", Value(b"2")), Set(b"k", Value(b"v"))])
    field = wire.txn_field(request, [Found(Value(b"[7]", True), 1, 1, 1), Done(), Done()])
    assert field == ("txn", b'[["r", 1, [7]], ["append", 1, 2], ["w", "k", "v"]]')


def test_an_unknown_operation_is_named() -> None:
    request = parse_request(message('{"type":"txn","txn":[["x",1,null]]}'))
    assert isinstance(request, wire.TxnRequest)
    with pytest.raises(ErrorReply, match="'x'"):
        wire.parse_txn(request)


def test_the_types_of_nodes_are_no_types_of_requests() -> None:
    for kind in wire.PEER_TYPES:
        assert refused(f'{{"type":"{kind}"}}').code == 10


# -- replies --------------------------------------------------------------------------------------------------------


def test_a_reply_is_exact() -> None:
    fields: list[wire.ReplyField] = [("slot", 1), ("phase1_skipped", False), ("chosen", True), ("value", b'"cmd1"')]
    assert wire.encode_reply("n1", "c1", "multi_paxos_propose_ok", Raw(b"2"), fields, 1) == (
        b'{"src": "n1", "dest": "c1", "body": {"type": "multi_paxos_propose_ok", "in_reply_to": 2, "slot": 1, '
        b'"phase1_skipped": false, "chosen": true, "value": "cmd1", "msg_id": 1}}\n'
    )


def test_without_msg_id_there_is_no_in_reply_to() -> None:
    line = wire.encode_reply("n1", "c1", "echo_ok", Raw(b""), [], 0)
    assert line == b'{"src": "n1", "dest": "c1", "body": {"type": "echo_ok", "msg_id": 0}}\n'


def test_the_log_is_exact() -> None:
    rows = [SlotRow(1, b'"set x=1"', "chosen"), SlotRow(3, b"null", "accepted")]
    assert wire.log_field(rows) == (
        "log",
        b'[{"slot": 1, "value": "set x=1", "status": "chosen"}, {"slot": 3, "value": null, "status": "accepted"}]',
    )


@given(st.text(), st.text(), JSON)
def test_every_reply_is_one_line_of_json(src: str, dest: str, value: object) -> None:
    line = wire.encode_reply(src, dest, "echo_ok", Raw(b"1"), [("echo", json.dumps(value).encode())], 4)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "src": src,
        "dest": dest,
        "body": {"type": "echo_ok", "in_reply_to": 1, "echo": value, "msg_id": 4},
    }


def test_a_missing_key_reads_as_null_in_a_transaction() -> None:
    assert wire.value_json(Missing()) == b"null"


def test_a_value_that_is_no_text_is_refused_by_name() -> None:
    request = parse_request(message('{"type":"txn","txn":[["w",1,1]]}'))
    assert isinstance(request, wire.TxnRequest)
    broken = wire.TxnRequest([("w", Raw(b"1"), Raw(b"nonsense"))])
    with pytest.raises(CommandError, match="JSON"):
        wire.parse_txn(broken)
