"""The commands, their results, and the entry that carries a command through the log.

This file is the vocabulary; :mod:`kvstore.language.parser` turns commands into text and back, and
:mod:`kvstore.state.machine` executes them. None of these values can be part of a reference cycle, and there are very
many of them, so that the garbage collector is told to leave them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, assert_never, final, get_args

import msgspec

MAX_KEY_BYTES = 1_024
MAX_VALUE_BYTES = 1_048_576
MAX_TXN_COMMANDS = 16_384
MAX_INTEGER = 2**63 - 1
"""Integers of ``incr`` are signed 64-bit, as in Redis."""


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a key holds: bytes, and whether they are JSON text whose type must be kept.

    ``json`` is set only where the bytes alone would be read back as something else: a string that looks like a number,
    an object, a list, true, false, null. Numbers and all other strings are plain (see :mod:`kvstore.values`).
    """

    data: bytes
    json: bool = False


@final
class Set(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="set"):
    """Store a value. ``ttl`` in milliseconds from the entry's stamp, 0 = for ever (an earlier expiry is dropped).

    ``expires``: a time in ms since 1970 in place of a ttl (one that has passed deletes the key); ``keep_ttl``: an
    earlier expiry stays. With ``get`` the result is what the key held before, Found or Missing, stored or not.
    """

    key: bytes
    value: Value
    ttl: int = 0
    when: Literal["", "nx", "xx"] = ""
    ifeq: Value | None = None
    expires: int = 0
    keep_ttl: bool = False
    get: bool = False


@final
class SetMany(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="mset"):
    """Store ``values`` under ``keys``, one each, for ever; with ``nx`` all of them or, if any key exists, none."""

    keys: list[bytes]
    values: list[Value]
    nx: bool = False


@final
class Get(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="get"):
    key: bytes


@final
class Delete(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delete"):
    keys: list[bytes]


@final
class GetDelete(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="getdel"):
    """Delete a key; the result is what it held."""

    key: bytes


@final
class GetExpire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="getex"):
    """Read a key and change its expiry: to ``ttl`` ms from the entry's stamp, or the time ``expires`` (ms since 1970),
    or none (``persist``); with neither it stays."""

    key: bytes
    ttl: int = 0
    expires: int = 0
    persist: bool = False


@final
class Exists(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="exists"):
    keys: list[bytes]


@final
class Cas(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="cas"):
    """Replace ``old`` by ``new``, keeping the key's expiry; with ``create``, a missing key is set to ``new``."""

    key: bytes
    old: Value
    new: Value
    create: bool = False


@final
class Incr(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="incr"):
    """Add ``by`` to a decimal integer (a missing key counts as 0), keeping the key's expiry."""

    key: bytes
    by: int = 1


@final
class IncrFloat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="incrbyfloat"):
    """Add a decimal number, given as text, to another; exact in decimal. The result is Found: the new value."""

    key: bytes
    by: bytes


@final
class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="append"):
    """Append bytes to the value (a missing key counts as empty), keeping the key's expiry."""

    key: bytes
    data: bytes


@final
class SetRange(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="setrange"):
    """Overwrite a part of the value, which is filled up with NULs where it was shorter; keeps the key's expiry."""

    key: bytes
    offset: int
    data: bytes


@final
class Push(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="push"):
    """Append an item to the JSON list that the key holds (a missing key counts as an empty list)."""

    key: bytes
    item: Value


@final
class Scan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="scan"):
    """Keys with this prefix in byte order, with their values; ``limit`` 0 = all."""

    prefix: bytes = b""
    limit: int = 0


@final
class Count(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="count"):
    prefix: bytes = b""


@final
class Walk(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="walk"):
    """The keys after ``after`` in byte order, ``skip`` of them left out, ``count`` of them looked at (0 = all): those
    that match the glob ``pattern`` (b"" = all). The result is Keys."""

    after: bytes = b""
    count: int = 0
    pattern: bytes = b""
    skip: int = 0


@final
class Rename(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="rename"):
    """Give a key's value and expiry another name, whatever that held; with ``nx`` only if it held nothing."""

    key: bytes
    to: bytes
    nx: bool = False


@final
class Copy(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="copy"):
    """Copy a key's value and expiry to another key, which must not exist, or which is replaced."""

    key: bytes
    to: bytes
    replace: bool = False


@final
class Clear(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="clear"):
    """Delete every key; the result is their number."""


ExpireWhen: TypeAlias = Literal["", "nx", "xx", "gt", "lt", "xx lt"]


@final
class Expire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="expire"):
    """Let a key expire ``ttl`` milliseconds after the entry's stamp; 0 or less deletes it now.

    ``expires``: a time in ms since 1970 in place of a ttl. ``when``: only if it has no expiry (nx), has one (xx), the
    new one is later (gt) or earlier (lt); no expiry counts as the latest, unless there has to be one (xx lt).
    """

    key: bytes
    ttl: int
    expires: int = 0
    when: ExpireWhen = ""


@final
class Ttl(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="ttl"):
    """The time until a key expires in ms; ``absolute``: the time when it does, in ms since 1970. -1 = never."""

    key: bytes
    absolute: bool = False


@final
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


@final
class Txn(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="txn"):
    """Several commands as one slot: all conditions hold -> ``then``, else ``otherwise``; all or nothing.

    A branch whose command fails (for example incr on text) changes nothing at all; with ``partial`` only that command
    changes nothing and the others stand, which is what Redis' MULTI means.
    """

    then: list[Simple]
    conditions: list[Condition] = []
    otherwise: list[Simple] = []
    partial: bool = False


@final
class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tick"):
    """Only moves the log's clock on, so that keys expire though nobody writes. Proposed by the leader."""


Read: TypeAlias = Get | Exists | Scan | Walk | Count | Ttl
"""Commands that change nothing, so that outside of a transaction they need no slot, only a linearizable read."""
Fallible: TypeAlias = Incr | IncrFloat | Append | SetRange | Push
"""Commands whose result is Failed where a key holds what they cannot work on, or would hold too much."""
Infallible: TypeAlias = Set | SetMany | GetDelete | GetExpire | Delete | Cas | Rename | Copy | Clear | Expire | Persist
"""Commands that change the store and never fail. The type checker proves it of what executes them."""
Write: TypeAlias = Infallible | Fallible
Simple: TypeAlias = Read | Write
"""What a transaction may consist of. A new command is added to exactly one of Read, Fallible and Infallible."""
Command: TypeAlias = Simple | Txn | Tick

_READS = frozenset(get_args(Read))
_FALLIBLE = frozenset(get_args(Fallible))


def is_read_only(command: Command) -> bool:
    """Whether a command changes nothing, and so needs no slot; a transaction of reads is one read of all its keys."""
    if type(command) is Txn:
        return all(type(part) in _READS for part in (*command.then, *command.otherwise))
    return type(command) in _READS


def may_fail(command: Command) -> bool:
    """Whether the result of a command can be Failed; that of a partial transaction never is."""
    if isinstance(command, Txn):
        return not command.partial and any(type(part) in _FALLIBLE for part in (*command.then, *command.otherwise))
    return type(command) in _FALLIBLE


def keys_written(command: Write) -> Sequence[bytes] | None:
    """The keys that a command may change; None if that is every key there is."""
    match command:
        case SetMany() | Delete():
            return command.keys
        case Rename():
            return command.key, command.to
        case Copy():
            return (command.to,)
        case Clear():
            return None
        case Set() | Cas() | GetDelete() | GetExpire() | Expire() | Persist():
            return (command.key,)
        case Incr() | IncrFloat() | Append() | SetRange() | Push():
            return (command.key,)
        case _:
            assert_never(command)


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


class Keys(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="keys"):
    """Keys of a walk; ``after``: where the next one goes on, b"" when all were looked at."""

    keys: list[bytes]
    after: bytes


NOT_AN_INTEGER = "the value is not an integer"
NOT_A_NUMBER = "the value is not a number"
OVERFLOW = "the result would not fit a signed 64-bit integer"
OUT_OF_RANGE = "the result would be beyond 1e308"
NOT_TEXT = "the value is JSON, and this takes text: use push on a list, or set"
NOT_A_LIST = "the value is not a JSON list"
TOO_LARGE = f"the value would be over {MAX_VALUE_BYTES} bytes: keep values smaller, or split them over keys"
"""Why commands fail on a key; the Redis face has words of its own for these."""


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


InfallibleResult: TypeAlias = Done | Found | Missing | NotMet | Integer | Rows | Keys
SimpleResult: TypeAlias = InfallibleResult | Failed
Result: TypeAlias = SimpleResult | Outcomes | NotACommand | Expired
