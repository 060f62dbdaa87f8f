"""Maelstrom's protocol: JSON lines in, typed requests out, and replies as exact text.

The protocol: https://github.com/jepsen-io/maelstrom/blob/main/doc/protocol.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import get_args

import msgspec

from consensus.membership import MAX_NODES
from kvstore.commands import Found, Get, Push, Result, Set, Simple, SimpleResult, Txn
from kvstore.errors import CommandError
from kvstore.limits import check
from kvstore.node.node import SlotRow
from kvstore.node.peer_messages import PeerMessage
from kvstore.values import from_json, to_json

Raw = msgspec.Raw

TIMEOUT, NOT_SUPPORTED, UNAVAILABLE, MALFORMED = 0, 10, 11, 12
KEY_MISSING, PRECONDITION_FAILED = 20, 22


class ErrorReply(Exception):
    """A request that is answered with an error of this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class UnreadableLineError(ValueError):
    """A line that is not a message and cannot be answered: it is not a JSON object, or lacks ``src`` or ``body``."""


class WireMessage(msgspec.Struct, frozen=True):
    """One line of input, its request not yet looked into.

    ``msg_id`` is the JSON it came as, empty when there was none. ``fault``, if any, is why it can only be answered with
    an error.
    """

    src: str
    dest: str
    kind: str
    msg_id: Raw
    body: Raw
    fault: str = ""


class _Line(msgspec.Struct, frozen=True):
    src: str
    body: Raw
    dest: str = ""


class _Head(msgspec.Struct, frozen=True):
    kind: Raw = msgspec.field(name="type", default=Raw(b""))
    msg_id: Raw = Raw(b"")


class InitRequest(msgspec.Struct, frozen=True):
    node_id: str
    node_ids: list[str]


class ProposeAtRequest(msgspec.Struct, frozen=True):
    """``multi_paxos_propose``: a value for a slot by name."""

    slot: Raw
    value: Raw


class ReadRequest(msgspec.Struct, frozen=True):
    key: Raw


class WriteRequest(msgspec.Struct, frozen=True):
    key: Raw
    value: Raw


class CasRequest(msgspec.Struct, frozen=True):
    """lin-kv's compare-and-set; ``from`` is a keyword of Python."""

    key: Raw
    old: Raw = msgspec.field(name="from")
    new: Raw = msgspec.field(name="to")
    create_if_not_exists: bool = False


class TxnRequest(msgspec.Struct, frozen=True):
    """``txn``: micro-operations [kind, key, value], kind r, w or append."""

    txn: list[tuple[str, Raw, Raw]]


class EchoRequest(msgspec.Struct, frozen=True):
    echo: Raw


class LogRequest(msgspec.Struct, frozen=True):
    """``multi_paxos_log``: this node's log."""


WireRequest = (
    InitRequest | ProposeAtRequest | ReadRequest | WriteRequest | CasRequest | TxnRequest | EchoRequest | LogRequest
)

_REQUESTS: dict[str, type[WireRequest]] = {
    "init": InitRequest,
    "multi_paxos_propose": ProposeAtRequest,
    "multi_paxos_log": LogRequest,
    "read": ReadRequest,
    "write": WriteRequest,
    "cas": CasRequest,
    "txn": TxnRequest,
    "echo": EchoRequest,
}

PEER_TYPES = frozenset(kind.__struct_config__.tag for kind in get_args(PeerMessage))

_decode_line = msgspec.json.Decoder(_Line).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_SLOT = re.compile(rb"[1-9][0-9]{0,18}")


def parse_message(line: bytes) -> WireMessage:
    """Take a line apart. Raises UnreadableLineError for a line that is not a message.

    A body stays the JSON text it came as, so that its values can go back unchanged.
    """
    try:
        # Values are passed on unparsed: bytes that are not text would come out again.
        line.decode()
        outer = _decode_line(line)
        head = _decode_head(outer.body)
    except UnicodeDecodeError as error:
        raise UnreadableLineError(f"not UTF-8 ({error})") from error
    except RecursionError as error:
        raise UnreadableLineError("JSON nested too deeply") from error
    except msgspec.DecodeError as error:
        return _salvage(line, error)
    kind, fault = _kind(head.kind)
    return WireMessage(outer.src, outer.dest, kind, head.msg_id, outer.body, fault)


def _kind(text: Raw) -> tuple[str, str]:
    """A request's type, or what is wrong with it."""
    if bytes(text)[:1] == b'"':
        return msgspec.json.decode(text, type=str), ""
    return "", f"type must be a string, not {_shown(text)}" if bytes(text) else "type is missing"


def _salvage(line: bytes, error: msgspec.DecodeError) -> WireMessage:
    """The sender of a line that msgspec refuses, who is to be told. Half a surrogate pair is JSON, but not text."""
    try:
        parsed = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise UnreadableLineError(f"not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise UnreadableLineError("not a JSON object") from error
    src, body = parsed.get("src"), parsed.get("body")
    if not isinstance(src, str):
        raise UnreadableLineError("src is missing or not a string") from error
    if not isinstance(body, dict):
        raise UnreadableLineError("body is missing or not an object") from error
    surrogate = not isinstance(error, msgspec.ValidationError)
    fault = "a string has half a surrogate pair, which is not Unicode text" if surrogate else str(error)
    msg_id = Raw(json.dumps(body["msg_id"]).encode() if "msg_id" in body else b"")
    return WireMessage(src, "", "", msg_id, Raw(b"{}"), fault)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def parse_request(message: WireMessage) -> WireRequest:
    """The request in a message; ErrorReply names the field that is wrong."""
    kind = message.kind
    if message.fault:
        raise ErrorReply(MALFORMED, message.fault)
    if kind not in _REQUESTS:
        raise ErrorReply(NOT_SUPPORTED, f"type {kind[:80]!r} is not supported: there are {', '.join(_REQUESTS)}")
    try:
        request = msgspec.json.decode(message.body, type=_REQUESTS[kind])
    except (msgspec.DecodeError, RecursionError) as error:  # when the line was parsed the stack had a little more room
        raise ErrorReply(MALFORMED, f"malformed {kind}: {error}") from error
    if isinstance(request, InitRequest):
        _check_init(request)
    return request


def _check_init(init: InitRequest) -> None:
    names = init.node_ids
    if not 1 <= len(names) <= MAX_NODES:
        remedy = ": initialise a smaller cluster" if names else ""
        raise ErrorReply(MALFORMED, f"init: node_ids must name 1 to {MAX_NODES} nodes, not {len(names)}{remedy}")
    if not all(names) or len(set(names)) != len(names):
        raise ErrorReply(MALFORMED, "init: node_ids must be different names, none of them empty")
    if init.node_id not in names:
        raise ErrorReply(MALFORMED, f"init: node_id {init.node_id!r} is not one of node_ids")


def parse_slot(text: Raw) -> int:
    """A slot number from 1 to 2**63 - 1."""
    # Measured as text first: Python refuses to convert thousands of digits.
    if not _SLOT.fullmatch(bytes(text)) or (slot := int(bytes(text))) >= 2**63:
        raise ErrorReply(MALFORMED, f"slot must be a whole number from 1 to 2**63 - 1, not {_shown(text)}")
    return slot


def parse_key(text: Raw) -> bytes:
    """A key: a string as it is, an integer as its decimal text."""
    try:
        key = msgspec.json.decode(text, type=str | int, strict=True)
        data = str(key).encode()
        check(Get(data))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ErrorReply(MALFORMED, f"key must be a string or an integer, not {_shown(text)}") from error
    except CommandError as error:
        raise ErrorReply(MALFORMED, str(error)) from error
    return data


def parse_txn(request: TxnRequest) -> Txn:
    """One command for all micro-operations, in their order."""
    commands: list[Simple] = []
    for kind, key_text, value in request.txn:
        key = parse_key(key_text)
        if kind == "r":
            commands.append(Get(key))
        elif kind == "w":
            commands.append(Set(key, from_json(bytes(value))))
        elif kind == "append":
            commands.append(Push(key, from_json(bytes(value))))
        else:
            raise ErrorReply(MALFORMED, f"txn: an operation is r, w or append, not {kind[:80]!r}")
    return Txn(commands)


# -- replies ----------------------------------------------------------------------------------------------------------

ReplyField = tuple[str, bytes | str | int | bool]


def encode_reply(src: str, dest: str, kind: str, in_reply_to: Raw, fields: Sequence[ReplyField], msg_id: int) -> bytes:
    """A reply's line. Graders compare it as text: the order of keys and the separators are part of the contract.

    A field's bytes are JSON text that goes out as it is.
    """
    body = [("type", _text(kind))]
    if bytes(in_reply_to):
        body.append(("in_reply_to", bytes(in_reply_to)))
    body += [(name, value if isinstance(value, bytes) else _text(value)) for name, value in fields]
    body.append(("msg_id", _text(msg_id)))
    return _object([("src", _text(src)), ("dest", _text(dest)), ("body", _object(body))]) + b"\n"


def encode_peer(src: str, dest: str, body: bytes) -> bytes:
    """A line that carries a message to another node."""
    return _object([("src", _text(src)), ("dest", _text(dest)), ("body", body)]) + b"\n"


def log_field(rows: Iterable[SlotRow]) -> ReplyField:
    """The payload of ``multi_paxos_log_ok``."""
    shown = [_object([("slot", _text(row.slot)), ("value", row.json), ("status", _text(row.status))]) for row in rows]
    return ("log", b"[" + b", ".join(shown) + b"]")


def txn_field(request: TxnRequest, results: Sequence[SimpleResult]) -> ReplyField:
    """The payload of ``txn_ok``: the operations with what each read filled in."""
    operations = []
    for (kind, key, value), result in zip(request.txn, results, strict=True):
        shown = bytes(value) if kind != "r" else value_json(result)
        operations.append(b"[" + b", ".join([_text(kind), bytes(key), shown]) + b"]")
    return ("txn", b"[" + b", ".join(operations) + b"]")


def value_json(result: Result) -> bytes:
    """The value that a read found, as JSON; null when the key does not exist."""
    return to_json(result.value) if isinstance(result, Found) else b"null"


def _object(fields: Sequence[tuple[str, bytes]]) -> bytes:
    return b"{" + b", ".join(_text(name) + b": " + value for name, value in fields) + b"}"


def _text(value: str | int | bool) -> bytes:
    return json.dumps(value).encode()


def _shown(text: Raw) -> str:
    """The beginning of a client's JSON, for a message about it."""
    return bytes(text).decode()[:80]
