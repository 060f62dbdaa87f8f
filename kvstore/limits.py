"""The bounds of every command, checked before it reaches the log."""

from __future__ import annotations

from typing import assert_never

import msgspec

from consensus.ballot import MAX_NUMBER
from kvstore.commands import (
    MAX_CONDITIONS,
    MAX_INTEGER,
    MAX_KEY_BYTES,
    MAX_TXN_COMMANDS,
    MAX_VALUE_BYTES,
    Append,
    Cas,
    Clear,
    Command,
    Copy,
    Count,
    Delete,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    IncrFloat,
    Persist,
    Push,
    Rename,
    Scan,
    Set,
    SetMany,
    SetRange,
    Tick,
    Ttl,
    Txn,
    Value,
    Walk,
)
from kvstore.decimal_text import decimal_of
from kvstore.errors import CommandError
from kvstore.values import from_json

MAX_TTL = 100 * 366 * 24 * 3_600_000
"""The longest time to live: a hundred years in ms."""
MAX_TIME = 2**53 - 1
"""The latest time of an expiry, in ms since 1970: the largest integer that every JSON reader reads exactly."""
MAX_JSON_BYTES = MAX_VALUE_BYTES
"""The most that all JSON values of one command may have together: to read them takes fifty times as long as to copy."""
MAX_JSON_VALUES = 16_384
"""So many of them at most: to look at each takes a microsecond, and a slot writes no more in any case."""
MAX_COMMAND_BYTES = 16 * 1_048_576
"""The most that a transaction, or an mset, may take in its slot."""

MAX_SESSION_BYTES = 200
NODE_SESSIONS = "node:"
"""The names of nodes' own sessions begin with this, and those of no client do."""
LOAD_SESSIONS = "load-"
"""Those of loads: what other clients do does not make the store forget which files were loaded."""

SHOWN_SESSION = 13
"""So many characters of a session's name are shown to others: who knows all of it can use up its sequences."""

_encode = msgspec.msgpack.Encoder().encode


def check(command: Command) -> None:
    """Raise CommandError, naming the field and the bound, when a command is over a limit or has what is no JSON."""
    for value in _check_all_but_json(command):
        # A client of KV.EXECUTE may claim so of any bytes, and every replica has to parse them later.
        from_json(value.data)


def check_parsed(command: Command) -> None:
    """The same for a command whose values were made of JSON: to read it once more takes as long again."""
    _check_all_but_json(command)


def _check_all_but_json(command: Command) -> list[Value]:
    """Raise CommandError when a command is over a limit; what is said to be JSON in it is returned."""
    check_bounds(command)
    if type(command) is Set and not command.value.json and command.ifeq is None:
        return []
    values = [value for value in _values(command) if value.json] if type(command) is not Get else []
    if values:
        size = sum([len(value.data) for value in values])
        if size > MAX_JSON_BYTES:
            raise CommandError(
                f"the command has {size:,} bytes of JSON in all, at most {MAX_JSON_BYTES:,} are allowed: split it"
            )
        if len(values) > MAX_JSON_VALUES:
            raise CommandError(
                f"the command has {len(values):,} JSON values, at most {MAX_JSON_VALUES:,} are allowed: split it"
            )
    return values


def _values(command: Command) -> list[Value]:
    """The values that a command compares or writes."""
    match command:
        case Set():
            return [command.value] if command.ifeq is None else [command.value, command.ifeq]
        case SetMany():
            return command.values
        case Cas(_, old, new):
            return [old, new]
        case Push(_, item):
            return [item]
        case Txn():
            compared = [condition.operand for condition in command.conditions if condition.operand is not None]
            return compared + [value for part in (*command.then, *command.otherwise) for value in _values(part)]
        case _:
            return []


def check_bounds(command: Command) -> None:
    """The same, without a look at what is said to be JSON: that takes long, and is done before it is proposed."""
    # As in the executor, comparing types is the quickest way to the most frequent commands.
    if type(command) is Set:
        _check_key(command.key)
        _check_set(command)
        return
    if type(command) is Get:
        _check_key(command.key)
        return
    match command:
        case Incr(key, by):
            _check_key(key)
            _check_range("number", by, -MAX_INTEGER - 1, MAX_INTEGER)
        case Delete(keys) | Exists(keys):
            _check_keys(keys)
        case Txn():
            _check_txn(command)
        case SetMany() | Cas() | IncrFloat() | Append() | SetRange() | Push():
            _check_values(command)
        case Expire():
            _check_key(command.key)
            _check_range("time to live in ms", command.ttl, -MAX_TTL, MAX_TTL)
            _check_range("time in ms since 1970", command.expires, 0, MAX_TIME)
        case GetExpire():
            _check_key(command.key)
            _check_lifetime(command.ttl, command.expires)
        case GetDelete(key) | Ttl(key) | Persist(key):
            _check_key(key)
        case Rename(key, to) | Copy(key, to):
            _check_keys([key, to])
        case Scan(prefix, limit):
            _check_size("prefix", prefix, MAX_KEY_BYTES)
            _check_range("limit", limit, 0, MAX_INTEGER)
        case Count(prefix):
            _check_size("prefix", prefix, MAX_KEY_BYTES)
        case Walk(after, number, pattern, skip):
            _check_size("key", after, MAX_KEY_BYTES)
            _check_size("pattern", pattern, MAX_KEY_BYTES)
            _check_range("count", number, 0, MAX_INTEGER)
            _check_range("number to skip", skip, 0, MAX_INTEGER)
        case Tick() | Clear():
            pass
        case _:
            assert_never(command)


def shown_session(name: str) -> str:
    """As much of a session's name as other clients may know."""
    is_secret = len(name) > SHOWN_SESSION and not name.startswith(NODE_SESSIONS)
    return f"{name[:SHOWN_SESSION]}..." if is_secret else name


def check_session_size(size: int) -> None:
    """Raise CommandError when a session's name has too many bytes."""
    if size > MAX_SESSION_BYTES:
        raise CommandError(
            f"the session's name has {size:,} bytes, at most {MAX_SESSION_BYTES} are allowed: use a shorter one"
        )


def check_session(name: str, sequence: int, acknowledged: int, since: int) -> None:
    """Raise CommandError when a client may not use a session of this name, or when a number is out of range."""
    check_session_size(len(name.encode(errors="surrogatepass")))
    if name.startswith(NODE_SESSIONS):
        raise CommandError(f"sessions named {NODE_SESSIONS}... are the nodes' own: choose another name")
    _check_range("sequence", sequence, 1, MAX_NUMBER)
    _check_range("acknowledged sequence", acknowledged, 0, sequence)
    _check_range("slot at which the session began", since, 0, MAX_NUMBER)


def _check_set(command: Set) -> None:
    _check_value("value", command.value)
    _check_lifetime(command.ttl, command.expires)
    if command.keep_ttl and (command.ttl or command.expires):
        raise CommandError("a time to live and KEEPTTL exclude each other")
    if command.ifeq is not None:
        _check_value("IFEQ value", command.ifeq)


def _check_values(command: SetMany | Cas | IncrFloat | Append | SetRange | Push) -> None:
    """The keys of a command, and what it writes into them."""
    if isinstance(command, SetMany):
        _check_keys(command.keys)
        if len(command.keys) != len(command.values):
            raise CommandError(f"{len(command.keys)} keys have {len(command.values)} values: give one for each")
        for value in command.values:
            _check_value("value", value)
        _check_total(command)
        return
    _check_key(command.key)
    match command:
        case Cas(_, old, new):
            _check_value("old value", old)
            _check_value("new value", new)
        case IncrFloat(_, by):
            if decimal_of(by) is None:
                raise CommandError(f"the number {by[:40]!r} must be a decimal number of at most 1e308, such as -0.5")
        case Append(_, data):
            _check_size("text", data, MAX_VALUE_BYTES)
        case SetRange(_, offset, data):
            _check_size("text", data, MAX_VALUE_BYTES)
            _check_range("offset", offset, 0, MAX_VALUE_BYTES)
        case Push(_, item):
            _check_value("item", item)
        case _:
            assert_never(command)


def _check_lifetime(ttl: int, expires: int) -> None:
    _check_range("time to live in ms", ttl, 0, MAX_TTL)
    _check_range("time in ms since 1970", expires, 0, MAX_TIME)
    if ttl and expires:
        raise CommandError("a time to live and a time exclude each other")


def _check_keys(keys: list[bytes]) -> None:
    if not keys:
        raise CommandError("name at least one key")
    for key in keys:
        _check_key(key)


def _check_total(command: SetMany | Txn) -> None:
    size = len(_encode(command))
    if size > MAX_COMMAND_BYTES:
        raise CommandError(
            f"the command has {size:,} bytes in all, at most {MAX_COMMAND_BYTES:,} are allowed: split it"
        )


def check_conditions(count: int) -> None:
    """Raise CommandError when these are more conditions than a slot has time for, before any is looked at."""
    if count > MAX_CONDITIONS:
        raise CommandError(f"a transaction has {count:,} conditions, at most {MAX_CONDITIONS:,} are allowed: split it")


def _check_txn(txn: Txn) -> None:
    check_conditions(len(txn.conditions))
    count = len(txn.then) + len(txn.otherwise)
    if count > MAX_TXN_COMMANDS:
        raise CommandError(f"a transaction has {count:,} commands, at most {MAX_TXN_COMMANDS:,} are allowed: split it")
    if not txn.then:
        raise CommandError("a transaction needs at least one command")
    for command in (*txn.then, *txn.otherwise):
        check_bounds(command)
    _check_total(txn)
    for condition in txn.conditions:
        _check_key(condition.key)
        if condition.operand is not None:
            _check_value("value", condition.operand)
        _check_range(condition.subject, condition.number, 0, MAX_INTEGER)
        if condition.subject == "value" and (condition.operand is None or condition.comparison not in ("=", "!=")):
            raise CommandError("a value is compared by = or != only")


def _check_key(key: bytes) -> None:
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise CommandError(
            f"the key has {len(key)} bytes, it must have 1 to {MAX_KEY_BYTES:,}: use a "
            + ("shorter key" if key else "key that is not empty")
        )


def _check_value(name: str, value: Value) -> None:
    _check_size(name, value.data, MAX_VALUE_BYTES)


def _check_size(name: str, data: bytes, most: int) -> None:
    if len(data) > most:
        raise CommandError(f"the {name} has {len(data):,} bytes, at most {most:,} are allowed: split it over keys")


def _check_range(name: str, number: int, low: int, high: int) -> None:
    if not low <= number <= high:
        raise CommandError(f"the {name} is {number}, it must be from {low} to {high}")
