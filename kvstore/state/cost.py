"""What commands may cost at most: their work, the bytes of their results and of what they change, from current sizes.

A node asks before it proposes a command, and every replica asks again when it applies the slot, since the sizes may
have grown in between. The answer depends on the command and on what the log has made of the keys, and on nothing else,
so that all replicas refuse the same slots. The bounds are a part of what a slot means: a change of them changes what
logs that exist already do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard, assert_never

from kvstore.commands import (
    MAX_VALUE_BYTES,
    Append,
    Cas,
    Clear,
    Command,
    Condition,
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
    Simple,
    Tick,
    Ttl,
    Txn,
    Value,
    Walk,
)
from kvstore.errors import CommandError
from kvstore.glob import compile_work, match_work, matcher
from kvstore.state.keyspace import ROW_BYTES, Keyspace

MAX_RESULT_BYTES = 16 * 1_048_576
"""The most bytes that the results of one slot have, as ``RESULT_BYTES`` and the values and keys in them count."""
MAX_READ_BYTES = 64 * 1_048_576
"""The same for a read, which takes no slot."""
MAX_CHANGED_BYTES = 64 * 1_048_576
"""The most bytes that one slot writes, or keeps while it may have to be undone."""
MAX_WORK = 60_000
"""The most work that one slot may be, in units of at most half a microsecond: nobody else is served meanwhile."""
MAX_READ_WORK = 1_000_000
"""The same for a read: one that takes long is left to a thread."""
WORD_WORK = 16
"""To read a word or a sign of a text as a part of a command."""
_TEXT_WORK_PER_BYTES = 5
"""Shift of a text's bytes to work: they are read several times, and those that are JSON with care."""
_IN_WORDS = bytes(
    [*range(48, 58), *range(65, 91), *range(97, 123), *range(128, 192), *range(0xC3, 0xE1), *range(0xE4, 256)]
)
"""Bytes of what separates no words: spaces beyond ASCII begin with C2 or E1 to E3."""
RESULT_BYTES = 64
COMMAND_WORK = 10
LOOKUP_WORK = 20
"""To find out what a key holds, for the estimate and for the command."""
KNOWN_WORK = 2
"""The same again."""
ROW_WORK = 4
"""To pass over one key of a range."""
SHOWN_WORK = 8
"""To pass over one whose value is looked at."""
CLEARED_WORK = 20
"""To remove one in such a way that it may come back."""
COUNTED_WORK = 8
WORK_PER_BYTES = 10
"""Shift of bytes to work: a value is read or copied at about a KiB in a unit."""
JSON_WORK_PER_BYTES = 2
"""Shift of bytes to work where JSON is parsed: about four bytes in a unit."""
_ITEMS_WORK = 3
_ITEMS_PER_BYTES = 6
"""Factor and shift of bytes to work where the items of a list are counted: some twenty bytes in a unit, so that a push
onto the largest list is less than a slot may be."""
_ASCII_PER_BYTES = 5
_TEXT_PER_BYTES = 3
"""Shifts of bytes to work where text becomes JSON: of ASCII, and of what may have bytes that are not UTF-8."""
_NUMBER_BYTES = 400
_PUSHED = 6
"""A byte of an item may become this many in JSON."""
_UNKNOWN = 1 << 62

TOO_MUCH_CHANGED = f"this would change more than {MAX_CHANGED_BYTES:,} bytes at once: split it"


class Bounds(NamedTuple):
    """How many units of work may be done at once, and how many bytes the results may have. ``spent``: the work that is
    done already."""

    work: int
    result: int
    spent: int = 0


def of_slot() -> Bounds:
    """What the commands of a slot may cost."""
    return Bounds(MAX_WORK, MAX_RESULT_BYTES)


def of_read() -> Bounds:
    """What a read may cost that takes no slot."""
    return Bounds(MAX_READ_WORK, MAX_READ_BYTES)


def text_work(json: bytes) -> int:
    """The work of reading a JSON value, proposed for a slot, as a command: none if it is no text."""
    if json.lstrip()[:1] != b'"':
        return 0
    return WORD_WORK * len(json.translate(None, _IN_WORDS)) + (len(json) >> _TEXT_WORK_PER_BYTES)


def too_much_work(most: int) -> str:
    """The reason to refuse what would be more than so many units of work."""
    return (
        f"this would be more than {most:,} units of work: name fewer keys or commands at a time, walk by scan, or"
        " compare large JSON by its version"
    )


def too_large(most: int) -> str:
    """The reason to refuse what has a result of more than so many bytes."""
    return f"the result would have more than {most:,} bytes: ask for fewer keys at a time"


def walk_work(command: Walk, size: int) -> int:
    """The work of a walk through a store of so many keys."""
    seen = min(command.count or size, size)
    each = ROW_WORK + command.pattern.count(b"*")
    return seen * each + min(command.skip, size) + compile_work(command.pattern)


def refused(txn: Txn, branch: Sequence[Simple], keys: Keyspace, bounds: Bounds) -> str:
    """Why one branch of a transaction must not be executed now, with its conditions; "" if it may be."""
    if not _Estimate(None, bounds, not txn.partial).of(txn.conditions, branch):
        return ""
    return _Estimate(keys, bounds, not txn.partial).of(txn.conditions, branch)


def refused_alone(command: Simple, keys: Keyspace, bounds: Bounds) -> str:
    """The same for a command that is not part of a transaction."""
    if not _Estimate(None, bounds, False).of((), (command,)):
        return ""
    return _Estimate(keys, bounds, False).of((), (command,))


def may_be_refused(command: Command) -> bool:
    """Whether there are values that the keys may hold with which a command alone in its slot costs too much."""
    if isinstance(command, Txn):
        for branch in (command.then, command.otherwise):
            if _Estimate(None, of_slot(), not command.partial).of(command.conditions, branch):
                return True
        return False
    return is_weighed_alone(command) and _Estimate(None, of_slot(), False).of((), (command,)) != ""


def is_weighed_alone(command: Command) -> TypeGuard[SetMany | Delete | Exists | Cas | Set]:
    """Whether a command that is not part of a transaction may name many keys, or compare JSON."""
    return isinstance(command, SetMany | Delete | Exists | Cas) or (
        isinstance(command, Set) and command.ifeq is not None
    )


def changed_bytes_of_text(command: Command, size: int, keys: Keyspace, spent: int) -> int:
    """As ``changed_bytes`` for a command that was read from a text, which took so much work."""
    bounds = of_slot()._replace(spent=spent)
    if isinstance(command, Txn | Tick):
        return changed_bytes(command, size, keys, bounds)
    estimate = _Estimate(keys, bounds, False, walks=False)
    if reason := estimate.of((), (command,)):
        raise CommandError(f"{reason}; nothing was proposed")
    return max(size, estimate.changed)


def pass_over_ranges(command: Command, keys: Keyspace) -> None:
    """Pass over the ranges that a command looks at, as far as a slot may, so that what is gone in them is noted.

    Raises ManyGoneError if that takes longer than a part of a turn: then it is to be done again.
    """
    for branch in (command.then, command.otherwise) if isinstance(command, Txn) else ((command,),):
        _Estimate(keys, of_slot(), isinstance(command, Txn)).of((), branch)  # type: ignore[arg-type]
        for part in branch:
            if isinstance(part, Count) and part.prefix and COUNTED_WORK * keys.size <= MAX_WORK:
                keys.count(part.prefix)


_REWRITES = {Append, SetRange, Push, Copy, Rename, Expire, Persist, GetExpire}
"""They write a value again of which their request says nothing."""
_LITTLE = 1_048_576


def changed_bytes(command: Command, size: int, keys: Keyspace, bounds: Bounds) -> int:
    """About how many bytes a command changes at most, whose request has ``size`` bytes.

    Raises CommandError when it costs more than a slot may: then it must not be proposed.
    """
    if not isinstance(command, Txn):
        if is_weighed_alone(command) and (reason := refused_alone(command, keys, bounds)):
            raise CommandError(f"{reason}; nothing was proposed")
        if type(command) not in _REWRITES:
            return size
        estimate = _Estimate(keys, bounds, False, walks=False)
        estimate.of((), (command,))  # type: ignore[arg-type]
        return estimate.changed
    most = 0
    for branch in (command.then, command.otherwise):
        estimate = _Estimate(None, bounds, not command.partial)
        reason = estimate.of(command.conditions, branch)
        if reason or estimate.changed > _LITTLE:
            estimate = _Estimate(keys, bounds, not command.partial, walks=False)
            reason = estimate.of(command.conditions, branch)
        if reason:
            raise CommandError(f"{reason}; nothing was proposed")
        most = max(most, estimate.changed)
    return most


class _Estimate:
    """Adds up what commands cost, one after the other, each on the sizes that those before it may leave behind.

    Without ``keys`` every value is taken to be as large as a value can be, which needs no look at the store.
    ``undone``: all is kept that the commands replace, since they may have to be undone. Without ``walks`` ranges are
    not passed over, and keys of which it is unknown whether they are new count as new: that takes no time.
    """

    def __init__(self, keys: Keyspace | None, bounds: Bounds, undone: bool, *, walks: bool = True) -> None:
        self._keys = keys
        self._walks = walks
        self._most_work, self._most, self.work = bounds
        self._undone = undone
        self._sizes: dict[bytes, int] = {}
        self._cleared = False
        self._written = 0
        self.result = 0
        self.changed = 0

    def of(self, conditions: Sequence[Condition], commands: Sequence[Simple]) -> str:
        """Why these must not be executed, "" if they may be. Stops at the first that is too much."""
        for condition in conditions:
            self.work += COMMAND_WORK
            size = self._size(condition.key)
            if condition.operand is not None:
                self._compare(size, condition.operand)
            if self.work > self._most_work:
                return too_much_work(self._most_work)
        for command in commands:
            self.work += COMMAND_WORK
            self.result += RESULT_BYTES
            self._add(command)
            if self.work > self._most_work:
                return too_much_work(self._most_work)
            if self.result > self._most:
                return too_large(self._most)
            if self.changed > MAX_CHANGED_BYTES:
                return TOO_MUCH_CHANGED
        return ""

    def _is_over(self) -> bool:
        return self.work > self._most_work or self.result > self._most or self.changed > MAX_CHANGED_BYTES

    def _size(self, key: bytes) -> int:
        """The bytes of the value that a key holds by now, at most; 0 if it does not exist."""
        size = self._sizes.get(key, -1)
        if size >= 0:
            self.work += KNOWN_WORK + (size >> WORK_PER_BYTES)
        else:
            if self._cleared:
                size = 0
            elif self._keys is None:
                size = MAX_VALUE_BYTES
            else:
                cell = self._keys.get(key)
                size = 0 if cell is None else len(cell.value.data)
            self._sizes[key] = size
            self.work += LOOKUP_WORK + (size >> WORK_PER_BYTES)
        return size

    def _compare(self, size: int, with_value: Value) -> None:
        if with_value.json:
            work = (size + len(with_value.data)) >> JSON_WORK_PER_BYTES
            # A read may be more, but not at once: whoever reads JSON holds the interpreter's lock, on a thread too.
            self.work += work if work <= MAX_WORK else _UNKNOWN

    def _find(self, key: bytes) -> int:
        size = self._size(key)
        self.result += size
        return size

    def _write(self, key: bytes, size: int, or_stays: bool = False) -> None:
        """A key is written. ``or_stays``: or it keeps what it holds."""
        if self._undone or or_stays:
            before = self._size(key)
            if self._undone:
                self.changed += before
            self._sizes[key] = max(before, size) if or_stays else size
        else:
            self._sizes[key] = size
        self.work += size >> WORK_PER_BYTES
        self._written += size + len(key)
        self.changed += size + len(key) + ROW_BYTES

    def _delete(self, key: bytes) -> None:
        size = self._size(key)
        if self._undone:
            self.changed += size
        self._sizes[key] = 0
        self.changed += len(key) + ROW_BYTES

    def _add(self, command: Simple) -> None:
        match command:
            case Get(key):
                self._find(key)
            case Set():
                if command.get:
                    self._find(command.key)
                if command.ifeq is not None:
                    self._compare(self._size(command.key), command.ifeq)
                self._write(command.key, len(command.value.data), bool(command.when or command.ifeq is not None))
            case Incr(key):
                self._size(key)
                self._write(key, _NUMBER_BYTES, True)
            case IncrFloat(key):
                self._size(key)
                self.result += _NUMBER_BYTES
                self._write(key, _NUMBER_BYTES, True)
            case Append() | SetRange() | Push():
                self._grow(command)
            case SetMany():
                for key, value in zip(command.keys, command.values, strict=True):
                    if command.nx:
                        self._size(key)
                    self.work += COMMAND_WORK
                    self._write(key, len(value.data), command.nx)
                    if self._is_over():
                        return
            case Cas():
                self._compare(self._size(command.key), command.old)
                self._write(command.key, len(command.new.data), True)
            case GetDelete(key):
                self._find(key)
                self._delete(key)
            case GetExpire(key):
                self._write(key, self._find(key))
            case Delete(keys):
                for key in keys:
                    self._delete(key)
                    if self._is_over():
                        return
            case Exists(keys):
                for key in keys:
                    self._size(key)
                    if self._is_over():
                        return
            case Expire(key) | Persist(key):
                self._write(key, self._size(key))
            case Ttl(key):
                self._size(key)
            case Rename(key, to):
                self._write(to, self._size(key), True)
                self._delete(key)
            case Copy(key, to):
                self._write(to, self._size(key), True)
            case Scan() | Walk() | Count() | Clear():
                self._range(command)
            case _:
                assert_never(command)

    def _grow(self, command: Append | SetRange | Push) -> None:
        size = self._size(command.key)
        match command:
            case Append(_, data):
                size += len(data)
            case SetRange(_, offset, data):
                size = max(size, offset + len(data)) if data else size
            case Push(_, item):
                self.work += size * _ITEMS_WORK >> _ITEMS_PER_BYTES
                if not item.json:
                    self.work += len(item.data) >> (_ASCII_PER_BYTES if item.data.isascii() else _TEXT_PER_BYTES)
                size += _PUSHED * len(item.data) + 4
            case _:
                assert_never(command)
        self._write(command.key, min(size, MAX_VALUE_BYTES), True)

    def _range(self, command: Scan | Walk | Count | Clear) -> None:
        if self._keys is None:
            self.work = _UNKNOWN
            return
        size = len(self._sizes)
        if not self._cleared:
            size += self._keys.size if self._walks else self._keys.size_at_most
        match command:
            case Count(prefix):
                self.work += COUNTED_WORK * size if prefix else 0
            case Clear():
                if self._undone:
                    self.changed += self._pass_over(self._keys, Scan(), CLEARED_WORK)
                self._sizes, self._cleared = {}, True
            case Scan():
                self.result += self._pass_over(self._keys, command, SHOWN_WORK)
            case Walk():
                self.work += walk_work(command, size)
                self.result += self._written
                if self._walks and not (self._cleared or self._is_over()):
                    found = self._keys.walk(command.after, command.skip, command.count)
                    self.work += match_work(command.pattern, sum(map(len, found)))
                    if self._is_over():
                        return
                    matches = matcher(command.pattern)
                    self.result += sum([RESULT_BYTES + len(key) for key in found if matches(key)])
            case _:
                assert_never(command)

    def _pass_over(self, keys: Keyspace, command: Scan, work: int) -> int:
        """The bytes of the keys of a scan with their values; what is too much by itself is not added up to the end.

        ``work``: that of one key.
        """
        size = self._written
        if self._cleared or not self._walks:
            return size
        for key, cell in keys.scan(command.prefix, command.limit):
            self.work += work + (len(cell.value.data) >> WORK_PER_BYTES)
            size += ROW_BYTES + len(key) + len(cell.value.data)
            if self.work > self._most_work or size > MAX_CHANGED_BYTES:
                break
        return size
