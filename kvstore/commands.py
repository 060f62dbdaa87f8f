"""The commands, their results, and the entry that carries a command through the log.

This file is the vocabulary; :mod:`kvstore.language` turns commands into text and back, and
:mod:`kvstore.state_machine` executes them. None of these values can be part of a reference cycle, and there are very
many of them, so that the garbage collector is told to leave them alone.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

MAX_KEY_BYTES = 1_024
MAX_VALUE_BYTES = 1_048_576
MAX_TXN_COMMANDS = 1_000
MAX_INTEGER = 2**63 - 1
"""Integers of ``incr`` are signed 64-bit, as in Redis."""


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a key holds: bytes, and whether they are JSON text whose type must be kept.

    ``json`` is set only where the bytes alone would be read back as something else: a string that looks like a number,
    an object, a list, true, false, null. Numbers and all other strings are plain (see :mod:`kvstore.json_values`).
    """

    data: bytes
    json: bool = False


class Set(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="set"):
    """Store a value. ``ttl`` in milliseconds from the entry's stamp, 0 = for ever (an earlier expiry is dropped)."""

    key: bytes
    value: Value
    ttl: int = 0
    when: Literal["", "nx", "xx"] = ""
    ifeq: Value | None = None


class Get(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get"):
    key: bytes


class Delete(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delete"):
    keys: list[bytes]


class Exists(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="exists"):
    keys: list[bytes]


class Cas(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="cas"):
    """Replace ``old`` by ``new``, keeping the key's expiry; with ``create``, a missing key is set to ``new``."""

    key: bytes
    old: Value
    new: Value
    create: bool = False


class Incr(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="incr"):
    """Add ``by`` to a decimal integer (a missing key counts as 0), keeping the key's expiry."""

    key: bytes
    by: int = 1


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="append"):
    """Append bytes to the value (a missing key counts as empty), keeping the key's expiry."""

    key: bytes
    data: bytes


class Push(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="push"):
    """Append an item to the JSON list that the key holds (a missing key counts as an empty list)."""

    key: bytes
    item: Value


class Scan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="scan"):
    """Keys with this prefix in byte order, with their values; ``limit`` 0 = all."""

    prefix: bytes = b""
    limit: int = 0


class Count(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="count"):
    prefix: bytes = b""


class Expire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="expire"):
    """Let a key expire ``ttl`` milliseconds after the entry's stamp; 0 or less deletes it now."""

    key: bytes
    ttl: int


class Ttl(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="ttl"):
    key: bytes


class Persist(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="persist"):
    key: bytes


Subject: TypeAlias = Literal["value", "version", "slot"]
Comparison: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]


class Condition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A test in a transaction. A missing key has version 0 and slot 0, and no value: only ``!=`` holds for it.

    ``value`` compares with ``operand`` by = and != only; ``version`` and ``slot`` compare with ``number``.
    """

    subject: Subject
    key: bytes
    comparison: Comparison
    operand: Value | None = None
    number: int = 0


class Txn(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="txn"):
    """Several commands as one slot: all conditions hold -> ``then``, else ``otherwise``; all or nothing.

    A branch whose command fails (for example incr on text) changes nothing at all.
    """

    then: list[Simple]
    conditions: list[Condition] = []
    otherwise: list[Simple] = []


class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tick"):
    """Only moves the log's clock on, so that keys expire though nobody writes. Proposed by the leader."""


Simple: TypeAlias = Set | Get | Delete | Exists | Cas | Incr | Append | Push | Scan | Count | Expire | Ttl | Persist
Command: TypeAlias = (
    Set | Get | Delete | Exists | Cas | Incr | Append | Push | Scan | Count | Expire | Ttl | Persist | Txn | Tick
)
READ_ONLY = (Get, Exists, Scan, Count, Ttl)
"""Commands that change nothing: outside a transaction they need no slot, only a linearizable read."""


class Opaque(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="json"):
    """Any JSON value proposed to a slot by name, as the text it was given in.

    A string in the command language is executed; anything else is chosen, kept, and executed as nothing.
    """

    json: bytes


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one slot holds, as MessagePack.

    ``session`` and ``sequence`` identify a client's request across retries ("" = not retried); the client has received
    the results of all its sequences below ``acknowledged``. ``stamp`` is the leader's clock in milliseconds since 1970.
    """

    session: str
    sequence: int
    acknowledged: int
    stamp: int
    command: Command | Opaque


# -- results: deterministic, recorded under (session, sequence), the same on every replica -----------------------------


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="done"):
    """The command took effect and has nothing more to say."""


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="found"):
    """A key's value, the slots that last changed and that created it, and the number of changes since."""

    value: Value
    slot: int
    created: int
    version: int


class Missing(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="missing"):
    """The key does not exist (get, cas, expire, ttl, persist)."""


class NotMet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="not_met"):
    """A condition of the command did not hold, and nothing changed; ``reason`` says which."""

    reason: str


class Integer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="integer"):
    """A count, a new number or length, or a time to live in milliseconds (-1 = the key has no expiry)."""

    number: int


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One key of a scan; ``expires`` in milliseconds since 1970, 0 = never."""

    key: bytes
    value: Value
    slot: int
    created: int
    version: int
    expires: int


class Rows(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="rows"):
    rows: list[Row]


class Failed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="failed"):
    """The command cannot be executed on the key as it is (incr on text, over a limit); nothing changed."""

    reason: str


class Outcomes(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="outcomes"):
    """A transaction's: whether its conditions held, and the results of the branch that ran, in order."""

    succeeded: bool
    results: list[SimpleResult]


class NotACommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="not_a_command"):
    """The slot's value is kept in the log, but is no command: executing it did nothing."""


class Expired(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="expired"):
    """The request was executed before and its result acknowledged, so it is no longer recorded; nothing was done."""


SimpleResult: TypeAlias = Done | Found | Missing | NotMet | Integer | Rows | Failed
Result: TypeAlias = Done | Found | Missing | NotMet | Integer | Rows | Failed | Outcomes | NotACommand | Expired
