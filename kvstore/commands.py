"""The commands, their results, and the entry that carries a command through the log.

This file is the vocabulary. :mod:`kvstore.language.parser` turns text into commands, :mod:`kvstore.language.canonical`
turns commands into text, and :mod:`kvstore.state.machine` executes them. There are very many of these values, and none
of them can be part of a reference cycle, so the garbage collector is told to leave them alone (``gc=False``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias, assert_never, final, get_args

import msgspec

from consensus.ballot import MAX_NUMBER, Number

MAX_KEY_BYTES = 1_024
MAX_VALUE_BYTES = 1_048_576
MAX_TXN_COMMANDS = 16_384
MAX_INTEGER = 2**63 - 1
"""The largest integer that ``incr`` works on: they are signed 64-bit integers, as in Redis."""


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a key holds: bytes, and whether they are JSON text whose type must be kept.

    ``json`` is set only where the bytes alone would be read back as a value of another type: for a string that looks
    like a number, an object, a list, true, false and null. Numbers and all other strings are plain bytes (see
    :mod:`kvstore.values`).
    """

    data: bytes
    json: bool = False


@final
class Set(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="set"):
    """Store a value. It expires ``ttl`` ms after the entry's stamp, with 0 never; an earlier expiry is dropped.

    ``expires`` is a time in ms since 1970 in place of a ttl; one that has passed deletes the key. With ``keep_ttl`` an
    earlier expiry stays. With ``get`` the result is what the key held before, as Found or Missing, whether the new
    value was stored or not.
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
    """Store each of ``values`` under the key at its place in ``keys``, without an expiry.

    With ``nx`` nothing is stored if any of the keys exists.
    """

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
    """Delete a key; the result is what the key held."""

    key: bytes


@final
class GetExpire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="getex"):
    """Read a key and change its expiry: to ``ttl`` ms after the entry's stamp, to the time ``expires`` (ms since 1970),
    or with ``persist`` to none. With none of the three the expiry stays as it is."""

    key: bytes
    ttl: int = 0
    expires: int = 0
    persist: bool = False


@final
class Exists(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="exists"):
    keys: list[bytes]


@final
class Cas(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="cas"):
    """Replace ``old`` by ``new``, keeping the key's expiry. With ``create`` a missing key is set to ``new``."""

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
    """Add a decimal number, given as text, to the one that the key holds. The result is Found, with the new value.

    The sum is calculated in decimal and rounded to 17 digits, so it is the same on every replica.
    """

    key: bytes
    by: bytes


@final
class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="append"):
    """Append bytes to the value (a missing key counts as empty), keeping the key's expiry."""

    key: bytes
    data: bytes


@final
class SetRange(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="setrange"):
    """Overwrite the bytes from ``offset`` on, keeping the key's expiry. A shorter value is first padded with NULs."""

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
    """The keys with this prefix in byte order, with their values: at most ``limit`` of them, with 0 all."""

    prefix: bytes = b""
    limit: int = 0


@final
class Count(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="count"):
    prefix: bytes = b""


@final
class Walk(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="walk"):
    """Of the keys after ``after``, in byte order, pass over ``skip`` and look at the next ``count``, with 0 at all.

    The result is Keys: those of them that match the glob ``pattern``; b"" matches every key.
    """

    after: bytes = b""
    count: int = 0
    pattern: bytes = b""
    skip: int = 0


@final
class Rename(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="rename"):
    """Move a key's value and expiry to the key ``to``, replacing what that one held; with ``nx`` only if it is missing.

    The old key is gone afterwards.
    """

    key: bytes
    to: bytes
    nx: bool = False


@final
class Copy(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="copy"):
    """Copy a key's value and expiry to the key ``to``, which must be missing unless ``replace`` is set."""

    key: bytes
    to: bytes
    replace: bool = False


@final
class Clear(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="clear"):
    """Delete every key; the result is the number of keys deleted."""


ExpireWhen: TypeAlias = Literal["", "nx", "xx", "gt", "lt", "xx lt"]


@final
class Expire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="expire"):
    """Let a key expire ``ttl`` milliseconds after the entry's stamp; 0 or less deletes it now.

    ``expires`` is a time in ms since 1970 in place of a ttl. ``when`` says on which condition: the key has no expiry
    (nx), has one (xx), the new one is later (gt), the new one is earlier (lt). A key without an expiry counts as one
    that expires last, unless it must have one (xx lt).
    """

    key: bytes
    ttl: int
    expires: int = 0
    when: ExpireWhen = ""


@final
class Ttl(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="ttl"):
    """How many ms are left until a key expires or, with ``absolute``, when it does, in ms since 1970; -1 for never."""

    key: bytes
    absolute: bool = False


@final
class Persist(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="persist"):
    key: bytes


Subject: TypeAlias = Literal["value", "version", "slot"]
Comparison: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]


class Condition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A test in a transaction. A missing key has version 0, slot 0 and no value, which differs from every value.

    The subject "value" is compared with ``operand``, by = and != only; "version" and "slot" with ``number``.
    """

    subject: Subject
    key: bytes
    comparison: Comparison
    operand: Value | None = None
    number: int = 0


@final
class Txn(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="txn"):
    """Several commands as one slot: ``then`` if all conditions hold, else ``otherwise``.

    If one of the commands fails (for example incr on text), none of them changes anything. With ``partial`` only the
    failing command changes nothing and the others take effect, which is what MULTI means in Redis.
    """

    then: list[Simple]
    conditions: list[Condition] = []
    otherwise: list[Simple] = []
    partial: bool = False


@final
class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tick"):
    """Only moves the log's clock on, so that keys expire while nobody writes. The leader proposes it."""


Read: TypeAlias = Get | Exists | Scan | Walk | Count | Ttl
"""Commands that change nothing, so that outside of a transaction they need no slot, only a linearizable read."""
Fallible: TypeAlias = Incr | IncrFloat | Append | SetRange | Push
"""Writes whose result is Failed if the key holds what they cannot work on, or if it would hold too much."""
Infallible: TypeAlias = Set | SetMany | GetDelete | GetExpire | Delete | Cas | Rename | Copy | Clear | Expire | Persist
"""Writes whose result is Failed only if they cost too much: a test executes all kinds to see that this is so."""
Write: TypeAlias = Infallible | Fallible
Simple: TypeAlias = Read | Write
"""What a transaction may consist of. A new command is added to exactly one of Read, Fallible and Infallible."""
Command: TypeAlias = Simple | Txn | Tick


class Slots(msgspec.Struct, frozen=True, gc=False):
    """A read that is no command: for each key the slot that last changed it as an Integer, 0 if it does not exist.

    Without keys it asks for nothing: it is answered once a later look at whatever is applied shows all that was
    acknowledged, and no key whose time was over.
    """

    keys: list[bytes]


class Names(msgspec.Struct, frozen=True, gc=False):
    """A read that is no command: the first keys with a prefix, as Keys."""

    prefix: bytes
    limit: int


Query: TypeAlias = Command | Slots | Names
"""What a linearizable read may ask for: a command for which ``is_read_only`` holds, the slots of keys, or names."""

_READS = frozenset(get_args(Read))
_FALLIBLE = frozenset(get_args(Fallible))


def is_read_only(command: Command) -> bool:
    """Whether a command changes nothing, and so needs no slot; a transaction of reads is one read of all its keys."""
    if type(command) in _READS:
        return True
    return type(command) is Txn and all(type(part) in _READS for part in (*command.then, *command.otherwise))


def may_fail(command: Command) -> bool:
    """Whether the result of a command can be Failed; that of a partial transaction never is.

    Any that names many keys is Failed also if it costs more than a slot may; see ``kvstore.state.cost``.
    """
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


@final
class Opaque(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="json"):
    """Any JSON value that was proposed for a slot of a given number, as the text that it was given in.

    If it is a string in the command language, that command is executed; any other value is kept and does nothing.
    """

    json: bytes


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node of the cluster: its name, the random name of its data directory, and where others find it.

    ``peer`` and ``client`` are HOST:PORT, "" where they are not known. One that does not vote only learns.
    """

    name: str
    directory: str
    peer: str = ""
    client: str = ""
    votes: bool = True


@final
class Configure(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="configure"):
    """Configuration ``number`` of the cluster, which the leader proposes. It changes no key.

    The first one tells who the nodes are that began the cluster, and is taken if there is none yet. Every later one is
    the stop-sign of the one before; ``first`` is the node that is to ask first whether it may lead.
    """

    number: Number
    members: list[Member]
    first: str = ""

    @property
    def voters(self) -> list[str]:
        return [member.name for member in self.members if member.votes]

    @property
    def learners(self) -> list[str]:
        return [member.name for member in self.members if not member.votes]


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one slot holds, as MessagePack.

    ``session`` and ``sequence`` identify a client's request across retries; a request without a session ("") is never
    retried. The client has received the results of all sequences below ``acknowledged``. ``stamp`` is the leader's
    clock in milliseconds since 1970. Every slot that executed a request of this session is later than ``since``; -1 in
    entries of older versions, which did not say so.
    """

    session: str
    sequence: Number
    acknowledged: Number
    stamp: Number
    command: Command | Opaque | Configure
    since: Annotated[int, msgspec.Meta(ge=-1, le=MAX_NUMBER)] = -1


# -- results: deterministic, recorded under (session, sequence), the same on every replica -----------------------------


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="done"):
    """The command took effect, and there is nothing more to tell."""


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="found"):
    """A key's value, the slot that last changed it, the slot that created it, and its number of changes since then."""

    value: Value
    slot: int
    created: int
    version: int


class Missing(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="missing"):
    """The key does not exist."""


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
    """The keys that a walk found; ``after``: where the next walk goes on, b"" if no key is left to look at."""

    keys: list[bytes]
    after: bytes


NOT_AN_INTEGER = "the value is not an integer"
NOT_A_NUMBER = "the value is not a number"
OVERFLOW = "the result would not fit a signed 64-bit integer"
OUT_OF_RANGE = "the result would be beyond 1e308"
NOT_TEXT = "the value is JSON, and this takes text: use push on a list, or set"
NOT_A_LIST = "the value is not a JSON list"
TOO_LARGE = f"the value would be over {MAX_VALUE_BYTES} bytes: keep values smaller, or split them over keys"
"""Why commands fail on a key; Redis clients are told the same in the words of Redis."""


class Failed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="failed"):
    """The command cannot be executed on what the key holds (incr on text, a value over a limit); nothing changed."""

    reason: str


class Outcomes(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="outcomes"):
    """What a transaction gave: whether its conditions held, and the results of the commands that ran, in order."""

    succeeded: bool
    results: list[SimpleResult]


class NotACommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="not_a_command"):
    """The slot's value is kept in the log, but it is not a command, so executing it did nothing."""


class Expired(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="expired"):
    """The request was executed before, and its result is no longer recorded, as the client had acknowledged it."""


class Unkept(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="unkept"):
    """The request was executed before, and its result was too large to be kept for those who ask again."""


class Forgotten(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="forgotten"):
    """The request was not executed: its session is not known, and may be one that was dropped, so that the request may
    have been executed long ago."""


class Early(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="early"):
    """The request was not executed in this slot: one before it in its session was not executed yet, nor given up."""


SimpleResult: TypeAlias = Done | Found | Missing | NotMet | Integer | Rows | Keys | Failed
Result: TypeAlias = SimpleResult | Outcomes | NotACommand | Expired | Unkept | Forgotten | Early
