"""Maelstrom's protocol: JSON lines in, typed requests out, and replies as exact text.

The protocol: https://github.com/jepsen-io/maelstrom/blob/main/doc/protocol.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import msgspec

from kvstore.commands import Found, Get, Push, Result, Set, Simple, SimpleResult, Txn
from kvstore.errors import CommandError
from kvstore.json_values import from_json, to_json
from kvstore.limits import check
from kvstore.node import SlotRow

Raw = msgspec.Raw

TIMEOUT, NOT_SUPPORTED, UNAVAILABLE, MALFORMED, CRASH = 0, 10, 11, 12, 13
KEY_MISSING, PRECONDITION_FAILED = 20, 22


class RequestError(Exception):
    """A request that is answered with an error of this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Line(msgspec.Struct, frozen=True):
    """One line of input; ``dest`` may be missing, all else is checked before it is used."""

    src: str
    body: Raw
    dest: str = ""


class Head(msgspec.Struct, frozen=True):
    """What every request's body has; a type that is no string is kept for the error that names it."""

    kind: str | int | float | bool | list[object] | dict[str, object] | None = msgspec.field(name="type", default=None)
    msg_id: Raw = Raw(b"")


class Init(msgspec.Struct, frozen=True):
    node_id: str
    node_ids: list[str]


class ProposeAt(msgspec.Struct, frozen=True):
    """``multi_paxos_propose``: a value for a slot by name."""

    slot: Raw
    value: Raw


class Read(msgspec.Struct, frozen=True):
    key: Raw


class Write(msgspec.Struct, frozen=True):
    key: Raw
    value: Raw


class Cas(msgspec.Struct, frozen=True):
    """lin-kv's compare-and-set; ``from`` is a word of Python."""

    key: Raw
    old: Raw = msgspec.field(name="from")
    new: Raw = msgspec.field(name="to")
    create_if_not_exists: bool = False


class Transact(msgspec.Struct, frozen=True):
    """``txn``: micro-operations [kind, key, value], kind r, w or append."""

    txn: list[tuple[str, Raw, Raw]]


class Echo(msgspec.Struct, frozen=True):
    echo: Raw


class Log(msgspec.Struct, frozen=True):
    """``multi_paxos_log``: this node's log."""


Request = Init | ProposeAt | Read | Write | Cas | Transact | Echo | Log

_REQUESTS: dict[str, type[Request]] = {
    "init": Init,
    "multi_paxos_propose": ProposeAt,
    "multi_paxos_log": Log,
    "read": Read,
    "write": Write,
    "cas": Cas,
    "txn": Transact,
    "echo": Echo,
}

parse_line = msgspec.json.Decoder(Line).decode
"""Raises msgspec.DecodeError for a line that is no message."""
parse_head = msgspec.json.Decoder(Head).decode


def parse_request(kind: object, body: Raw) -> Request:
    """The request in a body; RequestError names the field that is wrong."""
    if not isinstance(kind, str):
        raise RequestError(MALFORMED, f"type must be a string, not {json.dumps(kind)[:80]}")
    if kind not in _REQUESTS:
        raise RequestError(NOT_SUPPORTED, f"type {kind!r} is not supported: there are {', '.join(_REQUESTS)}")
    try:
        return msgspec.json.decode(body, type=_REQUESTS[kind])
    except msgspec.DecodeError as error:
        raise RequestError(MALFORMED, f"malformed {kind}: {error}") from error


def parse_slot(text: Raw) -> int:
    """A slot number from 1 to 2**63 - 1."""
    raw = bytes(text)
    if not (raw.isdigit() and 1 <= int(raw) < 2**63 and raw[:1] != b"0"):
        raise RequestError(MALFORMED, f"slot must be a whole number from 1 to 2**63 - 1, not {raw[:80].decode()}")
    return int(raw)


def parse_key(text: Raw) -> bytes:
    """A key: a string as it is, an integer as its decimal text."""
    try:
        key = msgspec.json.decode(text, type=str | int, strict=True)
        data = str(key).encode()
        check(Get(data))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise RequestError(MALFORMED, f"key must be a string or an integer, not {bytes(text)[:80].decode()}") from error
    except CommandError as error:
        raise RequestError(MALFORMED, str(error)) from error
    return data


def parse_txn(request: Transact) -> Txn:
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
            raise RequestError(MALFORMED, f"txn: an operation is r, w or append, not {kind!r}")
    return Txn(commands)


# -- replies ----------------------------------------------------------------------------------------------------------

Field = tuple[str, bytes | str | int | bool]


def encode_reply(src: str, dest: str, kind: str, in_reply_to: Raw, fields: Sequence[Field], msg_id: int) -> bytes:
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


def log_field(rows: Iterable[SlotRow]) -> Field:
    """The payload of ``multi_paxos_log_ok``."""
    shown = [_object([("slot", _text(row.slot)), ("value", row.json), ("status", _text(row.status))]) for row in rows]
    return ("log", b"[" + b", ".join(shown) + b"]")


def txn_field(request: Transact, results: Sequence[SimpleResult]) -> Field:
    """The payload of ``txn_ok``: the operations with what each read filled in."""
    operations = []
    for (kind, key, value), result in zip(request.txn, results, strict=True):
        shown = bytes(value) if kind != "r" else value_json(result)
        operations.append(b"[" + b", ".join([_text(kind), bytes(key), shown]) + b"]")
    return ("txn", b"[" + b", ".join(operations) + b"]")


def value_json(result: Result) -> bytes:
    """What a read found, as JSON; null when the key does not exist."""
    return to_json(result.value) if isinstance(result, Found) else b"null"


def _object(fields: Sequence[tuple[str, bytes]]) -> bytes:
    return b"{" + b", ".join(_text(name) + b": " + value for name, value in fields) + b"}"


def _text(value: str | int | bool) -> bytes:
    return json.dumps(value).encode()
