"""The table of keys and values: changes gather in memory, and reach SQLite in large batches, if need be on a thread."""

from __future__ import annotations

import heapq
import sqlite3
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import dropwhile, islice, repeat, takewhile
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from kvstore.commands import Value
from kvstore.state.cell import Cell
from kvstore.state.due import DueKeys
from kvstore.state.gaps import Gaps
from kvstore.state.rows import (
    MANY_ROWS,
    Overlay,
    count_expiring,
    count_prefix,
    count_present,
    keys_from,
    read_expires,
    read_row,
    read_slot,
    rows_from,
    write_rows,
)

MAX_CLEAN_BYTES = 24 * 1_048_576
"""The last committed batch stays in memory as a cache if it is no larger than this."""
ROW_BYTES = 200
"""About how much memory a key takes besides its bytes."""
SAMPLE = 200
"""Of so many keys it is found out whether they are new, to tell about how many are."""
PREPARED_KEYS = 1_000
"""So many are prepared at once for a look at a range."""
LOOK_WORK = 10_000
"""How much a read may look at that is done at once, in units of about a microsecond."""
LOOK_SECONDS = 0.01
LOOKS = 32
"""How long it may take, which is looked at every so many keys."""
_FOUND_WORK = 8
_WORK_PER_BYTES = 10
_SORTED_PER_WORK = 3
_COUNTED_PER_WORK = 4
"""Shifts: of bytes that are read, keys that are sorted together and keys that are counted, to units of work."""
BLOCK_KEYS = 512
"""Keys in order stand in blocks of so many, up to twice as many: to put one in its place moves no more than a block."""
_FEW_NEW = 8
"""Of keys that are new, each is put in its place where there are so many times as many; others are sorted with them."""

MAX_COUNTED = 50_000
MAX_COUNTED_CHANGES = 100
"""So many keys, of the database and of each layer in memory, are looked at to tell how many expire."""

_CLEAR = "DELETE FROM kv"
_EXPIRING = "SELECT count(*), coalesce(sum(expires), 0) FROM (SELECT expires FROM kv WHERE expires IS NOT NULL LIMIT ?)"
_ReadFrom: TypeAlias = Callable[[sqlite3.Connection, bytes], list[Iterator[tuple[bytes, Cell | None]]]]
_key_of = itemgetter(0)
_UNBOUNDED = 1 << 62
_LAST_SLOT = 2**63 - 1


GONE_AT_ONCE = 5_000
"""So many keys that are gone are passed over at once for a slot, which does not pay for them."""
NOTED_GAP = 64
"""Where so many keys in a row are gone, it is noted, so that the next one who comes this way jumps."""


class TooLongError(Exception):
    """A read looks at more than may be looked at at once."""


class ManyGoneError(Exception):
    """More keys are gone on the way than are passed over at once. How far it came is noted: it is to be tried again."""


class Changes(NamedTuple):
    """What one commit writes: the keys that changed, and the number of keys.

    ``doubtful`` are the keys of which it is not yet known whether the table holds them, each with the slot that first
    stored it; ``size`` does not count them. ``cleared``: all keys were removed first.
    """

    cleared: bool
    keys: Overlay
    size: int
    doubtful: dict[bytes, int]

    def write(self, connection: sqlite3.Connection) -> int:
        """Write the keys into the open transaction; returns how many of the doubtful ones are new."""
        if self.cleared:
            connection.execute(_CLEAR)
        return write_rows(connection, self.keys, self.doubtful)


class Keyspace:
    """What keys hold, as the slots applied so far have left it.

    A change lies in ``_dirty`` until it is written, then in ``_settled`` or ``_in_flight`` until it is committed:
    ``reader`` sees committed rows only, but at any time, while ``writer`` may be with another thread after ``take``;
    ``wait_for_writer`` returns once it is back. A plain ``overwrite`` does not look at the table, which would cost more
    than all the rest of it: in ``_dirty`` and ``_in_flight`` a key may lie unseen, over what the layer below holds. The
    keys among them that may be new are in doubt, and not in ``_size`` yet. Each of the three layers may be cleared:
    whatever lies below is gone.
    """

    def __init__(
        self,
        reader: sqlite3.Connection,
        writer: sqlite3.Connection,
        size: int,
        wait_for_writer: Callable[[], object] = lambda: None,
        clock: int = 0,
    ) -> None:
        self._size = size
        self._doubtful: dict[bytes, int] = {}
        self._doubtful_in_flight: dict[bytes, int] = {}
        self._unlooked: Iterator[tuple[bytes, int]] = iter(())
        self._looked_at = self._new_in_flight = 0  # of those in flight
        self.dirty_bytes = 0
        """About how many bytes were changed since the last ``take``."""
        self._taken_bytes = 0
        self._reader = reader
        self._writer = writer
        self._is_reading = False
        self._wait_for_writer = wait_for_writer
        self._dirty: Overlay = {}
        self._settled: Overlay = {}
        self._in_flight: Overlay = {}
        self._clean: Overlay = {}
        self._is_cleared = self._settled_is_cleared = self._in_flight_is_cleared = False
        self._orders: list[InOrder] = []
        self._clock = clock
        self._log_clock = clock
        self._has_met_due = False
        self.read_bytes = 0
        """How many bytes of values were read from the table, since whoever counts them last set it to 0."""
        self.is_applying = False
        """Whether slots are being applied: only then a key that is due is removed when somebody asks for it."""
        self.is_bounded = False
        """Whether a read is under way that may look at ``LOOK_WORK`` at most."""
        self._left = self._looks = 0
        self._ends = 0.0
        self._undo: list[tuple[bytes, Cell | None]] | None = None
        self._grown = 0
        self._discarded: list[Overlay] = []
        self._gaps = Gaps()
        self.removed = 0
        """At least as many keys were removed since the last ``take``."""
        self._removed_in_flight = 0
        self._left_gone = _UNBOUNDED
        self._noted_gap = NOTED_GAP
        self._due = DueKeys(reader, self._expires)
        self.is_overdue = self._is_due_by(clock)
        """Whether keys may be there that are due and not removed yet."""

    def close(self) -> None:
        """It is used no more, and refers to nothing that refers to it."""
        self._due.close()

    @property
    def size(self) -> int:
        """The number of keys, those included that are due and not removed yet."""
        if self._doubtful or self._doubtful_in_flight:
            if self.is_bounded:
                self.spend(2 * (len(self._doubtful) + len(self._doubtful_in_flight)))
            self._dispel_doubts()
        return self._size

    @property
    def known_size(self) -> int:
        """The number of keys without those that may be new. It may be less than that for as long as some of these were
        removed while it was still open whether they are new."""
        return max(self._size, 0)

    @property
    def size_at_most(self) -> int:
        """The number of keys, if all are new that may be new."""
        return self._size + len(self._doubtful) + len(self._doubtful_in_flight)

    @property
    def about_size(self) -> int:
        """The number of keys; while it is unknown of many whether they are new, as if those were like some of them."""
        doubtful = len(self._doubtful) + len(self._doubtful_in_flight)
        if doubtful <= PREPARED_KEYS:
            return self.size
        self._read()
        some = list(islice(self._doubtful or self._doubtful_in_flight, SAMPLE))
        slot = min(next(iter(layer.values()), _LAST_SLOT) for layer in (self._doubtful, self._doubtful_in_flight))
        new = len(some) - count_present(self._reader, some, slot)
        # Some of those in flight may have been removed since: they are taken off already, and not yet counted.
        return max(self._size + doubtful * new // len(some), 0)

    def prepare(self) -> bool:
        """Do a part of what a look at a range, or at the number of keys, needs first; whether nothing much is left.

        That is to find out of new keys whether they are new, and to put them in order. It changes nothing that a slot
        can see, and depends on what was committed: so it may take as many turns as it likes.
        """
        in_flight = self._doubtful_in_flight
        if len(in_flight) - self._looked_at > PREPARED_KEYS:
            # The writer may be at work with them: nothing is taken away before all are known.
            self._new_in_flight += self._count_new(dict(islice(self._unlooked, PREPARED_KEYS)))
            self._looked_at += PREPARED_KEYS
            return False
        if len(self._doubtful) > PREPARED_KEYS:
            # From the end: whoever takes from the front passes over all that was taken there before.
            some = dict([self._doubtful.popitem() for _ in range(PREPARED_KEYS)])
            self._size += self._count_new(some)
            return False
        for layer in self._layers()[0]:
            order = self._in_order(layer)
            if order.unsorted > PREPARED_KEYS:
                order.sort(PREPARED_KEYS)
                return False
            if order.unsorted:
                order.sort(PREPARED_KEYS)
        return True

    def _count_new(self, some: dict[bytes, int]) -> int:
        """How many of these keys in doubt are new."""
        self._read()
        # The commit under way may have ended by now: what it stored was created by its own slots.
        return len(some) - count_present(self._reader, some, min(some.values(), default=0))

    @property
    def has_many_gone(self) -> bool:
        """Whether there may be more keys that are gone and still to be passed over than are passed over at once."""
        return self.removed + self._removed_in_flight > GONE_AT_ONCE

    def bound_gone(self, is_bounded: bool) -> None:
        """From here on raise ManyGoneError after passing over ``GONE_AT_ONCE`` keys that are gone; or no longer so."""
        self._left_gone = GONE_AT_ONCE if is_bounded else _UNBOUNDED
        # Whoever begins again must find less to pass over each time, however it lies.
        self._noted_gap = 1 if is_bounded else NOTED_GAP

    def bound(self, is_bounded: bool) -> None:
        """From here on reads raise TooLongError once they have looked at ``LOOK_WORK``, or no longer do so."""
        self.is_bounded = is_bounded
        self._left = LOOK_WORK
        self._looks = 0
        self._ends = time.monotonic() + LOOK_SECONDS if is_bounded else 0.0

    def spend(self, work: int) -> None:
        """A read that is bounded looks at so much more."""
        self._left -= work
        self._looks += 1
        # The clock as well: rows that are not in memory take far longer.
        if self._left < 0 or (not self._looks % LOOKS and time.monotonic() > self._ends):
            raise TooLongError

    @property
    def unwritten_bytes(self) -> int:
        """About how many bytes were changed and are not yet in the database."""
        return self.dirty_bytes + (self._taken_bytes if self._in_flight else 0)

    def slot(self, key: bytes) -> int:
        """The slot that last changed the key, 0 if it does not exist."""
        if self.is_overdue:
            cell = self.get(key)
            return 0 if cell is None else cell.slot
        is_known, cell = self._in_memory(key)
        if is_known:
            return 0 if cell is None else cell.slot
        return read_slot(self._reader, key)

    def _expires(self, key: bytes) -> int:
        """When the key expires, though it may be due; 0 for never, or if it does not exist."""
        is_known, cell = self._in_memory(key)
        if is_known:
            return 0 if cell is None else cell.expires
        return read_expires(self._reader, key)

    def _in_memory(self, key: bytes) -> tuple[bool, Cell | None]:
        """Whether memory knows of the key, and what it holds, though unseen. Else the table is about to be read."""
        for layer, is_cleared in (
            (self._dirty, self._is_cleared),
            (self._settled, self._settled_is_cleared),
            (self._in_flight, self._in_flight_is_cleared),
        ):
            if key in layer or is_cleared:
                return True, layer.get(key)
        self._read()
        if self.is_bounded:
            self.spend(_FOUND_WORK)
        return False, None

    def get(self, key: bytes) -> Cell | None:
        """What the key holds, None if it does not exist."""
        if self.is_overdue:
            cell = self._cell_of(key)
            if cell is None or not self._is_due(cell):
                return cell
            if self.is_applying:
                self._remove(key, cell)
            return None
        return self._cell_of(key)

    def _is_due(self, cell: Cell) -> bool:
        if 0 < cell.expires <= self._clock:
            if cell.expires > self._log_clock:
                self._has_met_due = True
            return True
        return False

    def look_ahead(self, clock: int) -> None:
        """Until ``look_back`` keys that are due by this time, which is later than the log's, count as gone too."""
        self.is_overdue = True
        self._clock = clock
        self._has_met_due = False

    def look_back(self) -> bool:
        """Return to the log's own time; whether anything was asked since ``look_ahead`` that a due key may change."""
        self._clock = self._log_clock
        self.is_overdue = self._is_due_by(self._log_clock)
        return self._has_met_due

    @property
    def next_expiry(self) -> int | None:
        """No key is due before this time (ms since 1970); None when no key expires."""
        return self._due.next

    def _is_due_by(self, clock: int) -> bool:
        return self._due.next is not None and self._due.next <= clock

    def _cell_of(self, key: bytes) -> Cell | None:
        """What the key holds, though it may be due."""
        if key not in self._dirty:
            return None if self._is_cleared else self._below(key)
        cell = self._dirty[key]
        if cell is not None and cell.is_unseen:
            cell = self._see(key, cell, self._below(key))
        return cell

    def _see(self, key: bytes, cell: Cell, before: Cell | None) -> Cell:
        """Note in ``_dirty`` what is known now."""
        cell = self._dirty[key] = cell.over(before)
        if self._doubtful.pop(key, None) is not None:
            self._size += before is None
        return cell

    def _below(self, key: bytes) -> Cell | None:
        """What the key holds below ``_dirty``."""
        if key in self._settled or self._settled_is_cleared:
            return self._settled.get(key)
        if key in self._in_flight:
            cell = self._in_flight[key]
            if cell is not None and cell.is_unseen:
                row = self._row(key)
                # The commit may have ended meanwhile; then the row is already the one that it wrote.
                cell = self._in_flight[key] = row if row is not None and row.slot == cell.slot else cell.over(row)
            return cell
        if self._in_flight_is_cleared:
            return None
        cell = self._clean.get(key)
        if cell is not None and not cell.is_unseen:
            return cell
        return self._row(key)

    def _row(self, key: bytes) -> Cell | None:
        self._read()
        cell = read_row(self._reader, key)
        if cell is not None:
            self.read_bytes += len(cell.value.data)
        if self.is_bounded:
            self.spend(_FOUND_WORK + (0 if cell is None else len(cell.value.data) >> _WORK_PER_BYTES))
        return cell

    def _read(self) -> None:
        """Read from one snapshot of the database: a lock for each row would cost more than finding the row."""
        if not self._is_reading and self._reader is not self._writer:
            self._reader.execute("BEGIN")
            self._is_reading = True

    def _dispel_doubts(self) -> None:
        """Find out how many keys are new."""
        self._read()
        for doubtful in (iter(self._doubtful.items()), self._unlooked):
            while some := dict(islice(doubtful, PREPARED_KEYS)):
                self._size += self._count_new(some)
        self._size += self._new_in_flight
        self._doubtful, self._doubtful_in_flight, self._unlooked = {}, {}, iter(())
        self._looked_at = self._new_in_flight = 0

    def release(self) -> None:
        """At the end of a turn: give up the snapshot that was read from, if a commit is under way.

        Otherwise the next turn can use it too. A snapshot that is kept during a commit would make the WAL grow.
        """
        if self._is_reading and self._in_flight:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            if self._reader.in_transaction:  # SQLite has ended it itself when a read failed
                self._reader.execute("COMMIT")

    def put(self, key: bytes, cell: Cell, *, is_new: bool = False) -> None:
        """Store what the key holds from now on, after a ``get``; ``is_new``: it did not exist."""
        if self._undo is not None:
            self._undo.append((key, self.get(key)))
        self._size += is_new
        self._grown += is_new
        self._store(key, cell)

    def overwrite(self, key: bytes, value: Value, slot: int, expires: int = 0) -> None:
        """Store a value, whatever the key held before."""
        if self._undo is not None or self.is_overdue:
            before = self.get(key)
            created, version = (before.created, before.version + 1) if before else (slot, 1)
            self.put(key, Cell(value, slot, created, version, expires), is_new=before is None)
            return
        before = self._dirty.get(key)
        if before is not None and not expires:  # as below, but without a call: most commands of most loads come here
            self.dirty_bytes += len(value.data) - len(before.value.data)
            self._dirty[key] = Cell(value, slot, before.created, before.version + 1)
            return
        before = before or self._glance(key, slot, value)
        if before is None:
            self._size += 1
            before = Cell(value, slot, slot, 0)
        self._store(key, Cell(value, slot, before.created, before.version + 1, expires))

    def _glance(self, key: bytes, slot: int, value: Value) -> Cell | None:
        """What memory says that the key holds; where it says nothing, an unseen ``Cell`` that begins at ``slot``."""
        for layer, is_cleared in (
            (self._dirty, self._is_cleared),
            (self._settled, self._settled_is_cleared),
            (self._in_flight, self._in_flight_is_cleared),
            (self._clean, False),
        ):
            if key in layer or is_cleared:
                cell = layer.get(key)
                # An unseen one exists, but all else lies below.
                return Cell(value, slot, -slot, 0) if cell is not None and cell.is_unseen else cell
        self._doubtful[key] = slot
        return Cell(value, slot, -slot, 0)

    def _store(self, key: bytes, cell: Cell) -> None:
        replaced = self._dirty.get(key)
        self.dirty_bytes += len(cell.value.data)
        self.dirty_bytes += len(key) + ROW_BYTES if replaced is None else -len(replaced.value.data)
        self._dirty[key] = cell
        if self._gaps:
            self._gaps.cut(key)
        if cell.expires:
            self.dirty_bytes += ROW_BYTES
            self._due.add(key, cell.expires)

    def delete(self, key: bytes) -> None:
        """Remove a key, which exists, after a ``get``."""
        self._remove(key, self.get(key) if self._undo is not None else None)

    def _remove(self, key: bytes, cell: Cell | None) -> None:
        """Remove a key that exists and holds this, which only matters within a transaction."""
        if self._undo is not None:
            self._undo.append((key, cell))
        self._dirty[key] = None
        self.removed += 1
        self._size -= 1
        self._grown -= 1
        self.dirty_bytes += len(key) + ROW_BYTES

    # -- all or nothing -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From here on changes can be rolled back."""
        self._undo = []
        self._grown = 0

    def break_off(self) -> None:
        """Roll back all changes since ``begin``, if there was one."""
        if self._undo is not None:
            self.end(keep=False)

    def end(self, keep: bool) -> None:
        """Keep or roll back all changes since ``begin``."""
        undo, self._undo = self._undo or [], None
        if not keep:
            self._size -= self._grown
            self._gaps.clear()
            for key, cell in reversed(undo):
                self._dirty[key] = cell
                self.removed += cell is None  # a range has to pass over it, though it never was there

    # -- ranges -------------------------------------------------------------------------------------------------------

    # Nothing here waits for the writer, or writes: the rows of the table and the keys in memory are merged.

    def scan(self, prefix: bytes, limit: int) -> Iterator[tuple[bytes, Cell]]:
        """The keys with this prefix and what they hold, in byte order; ``limit`` 0 = all."""
        count = 0
        for key, row in self._from(prefix, rows_from):
            if not key.startswith(prefix):
                return
            cell = row or self._cell_of(key)
            assert cell is not None
            if self.is_bounded:
                self.spend(_FOUND_WORK + (len(cell.value.data) >> _WORK_PER_BYTES))
            if self.is_overdue and self._is_due(cell):
                continue
            yield key, cell
            count += 1
            if count == limit:
                return

    def names(self, prefix: bytes, limit: int) -> list[bytes]:
        """The first keys with this prefix, in byte order; what they hold is not read."""
        keys: Iterator[bytes] = map(_key_of, self._from(prefix, keys_from))
        if self.is_overdue:
            keys = filter(self._lives, keys)
        return list(takewhile(lambda key: key.startswith(prefix), islice(keys, limit)))

    def count(self, prefix: bytes = b"") -> int:
        """The number of keys with this prefix, those included that are due and not removed yet."""
        if self._clock != self._log_clock:
            self._has_met_due = True  # which keys are due is not counted
        if not prefix:
            return self.size
        layers, shows_table = self._layers()
        if any(layers) or not shows_table:
            return sum(1 for _ in takewhile(partial(_begins_with, prefix), self._from(prefix, keys_from)))
        if self.is_bounded:
            self.spend(self._size >> _COUNTED_PER_WORK)
        self._read()
        return count_prefix(self._reader, prefix)

    def expiring(self) -> tuple[int, int]:
        """About how many keys will expire, and the sum of their times, in ms since 1970.

        At most ``MAX_COUNTED`` of the database are counted, and of each layer in memory the latest changes.
        """
        layers, shows_table = self._layers()
        number = total = 0
        if shows_table:
            self._read()
            number, total = self._reader.execute(_EXPIRING, (MAX_COUNTED,)).fetchone()
        seen: set[bytes] = set()
        for layer in layers:
            for key in islice(reversed(layer), MAX_COUNTED_CHANGES):
                if key in seen:
                    continue
                seen.add(key)
                cell = layer[key]
                if cell is not None and cell.expires:
                    number, total = number + 1, total + cell.expires
        if shows_table and seen:
            known, sum_of_known = count_expiring(self._reader, seen)
            number, total = max(0, number - known), max(0, total - sum_of_known)
        return number, total

    def walk(self, after: bytes, skip: int, count: int) -> list[bytes]:
        """The keys after ``after`` in byte order, without the first ``skip`` of them, at most ``count`` (0 = all)."""
        keys: Iterator[bytes] = map(_key_of, self._from(after, keys_from))
        if self.is_overdue:
            keys = filter(self._lives, keys)
        later = islice(dropwhile(after.__eq__, keys), skip, None)
        return list(islice(later, count or None))  # the sum of both may be more than islice takes

    def _lives(self, key: bytes) -> bool:
        cell = self._cell_of(key)
        return cell is not None and not self._is_due(cell)

    def _layers(self) -> tuple[list[Overlay], bool]:
        """What lies over the table, the uppermost first, and whether anything of the table shows."""
        layers = [self._dirty]
        if not self._is_cleared:
            layers.append(self._settled)
            if not self._settled_is_cleared:
                layers.append(self._in_flight)
                return layers, not self._in_flight_is_cleared
        return layers, False

    def _in_order(self, layer: Overlay) -> InOrder:
        self._forget_orders()
        for known in self._orders:
            if known.layer is layer:
                return known
        self._orders.append(InOrder(layer))
        return self._orders[-1]

    def _forget_orders(self) -> None:
        layers = (self._dirty, self._settled, self._in_flight)
        self._orders = [order for order in self._orders if any(order.layer is layer for layer in layers)]

    def _from(self, first: bytes, read: _ReadFrom) -> Iterator[tuple[bytes, Cell | None]]:
        """The keys from ``first`` on in byte order, and what ``read`` says of them, None where memory knows better."""
        start: bytes | None = first
        while start is not None:
            end = self._gaps.end_of(start) if self._gaps else None
            if end == b"":
                return
            start = yield from self._from_to_gap(end or start, read)

    def _from_to_gap(self, first: bytes, read: _ReadFrom) -> Generator[tuple[bytes, Cell | None], None, bytes | None]:
        """The same up to where keys are known to be gone; returns where they begin, None at the end."""
        layers, shows_table = self._layers()
        if self.is_bounded:
            self.spend(sum([self._in_order(layer).work for layer in layers if layer]))
        sources: list[Iterator[tuple[bytes, Cell | None]]] = [
            zip(self._in_order(layer).since(first), repeat(None)) for layer in layers if layer
        ]
        if shows_table:
            self._read()
            sources += read(self._reader, first)
        before, gone = None, 0
        gap = first
        for key, row in heapq.merge(*sources, key=_key_of):  # of equal keys the uppermost layer's comes first
            if self.is_bounded:
                self.spend(1)
            if key == before:
                continue
            before = key
            if _exists(layers, key):
                if gone >= self._noted_gap:
                    self._gaps.note(gap, key)
                gap, gone = key + b"\0", 0
                yield key, row
                continue
            if not gone % NOTED_GAP and self._gaps and self._gaps.end_of(key) is not None:
                if gone:
                    self._gaps.note(gap, key)
                return key
            gone += 1
            self._left_gone -= 1
            if self._left_gone < 0:
                self._gaps.note(gap, key + b"\0")
                raise ManyGoneError
        if gone >= self._noted_gap:
            self._gaps.note(gap, b"")
        return None

    def clear(self) -> None:
        """Remove every key; one by one only if that may have to be undone."""
        if self._undo is not None:
            for key in self.walk(b"", 0, 0):
                self.delete(key)
            return
        self._discarded.append(self._dirty)
        self._dirty, self._is_cleared = {}, True
        self._size, self._doubtful, self._doubtful_in_flight, self._unlooked = 0, {}, {}, iter(())
        self._looked_at = self._new_in_flight = 0
        self._due.clear()

    def come_to(self, clock: int) -> bool:
        """Time has come to ``clock``, if no key is due by then; otherwise ``expire`` lets it."""
        if self._is_due_by(clock):
            return False
        self._clock = self._log_clock = clock
        return True

    def expire(self, clock: int) -> None:
        """Time has come to ``clock``: remove the keys that are due, the earliest first, as many as one slot may."""
        while not self.prepare_expiry(clock):
            continue
        if self.come_to(clock):
            return
        self._clock = self._log_clock = clock
        due, self.is_overdue = self._due.take(clock)
        # Without a look at what they hold, which may be large.
        doubtful = {key: self._doubtful.pop(key) for key in due if key in self._doubtful}
        self._size += self._count_new(doubtful)
        for key in due:
            self._remove(key, None)

    def prepare_expiry(self, clock: int) -> bool:
        """Do a part of the search for what ``expire`` will remove; whether all of it is found."""
        if not self._is_due_by(clock):
            return True
        self._read()
        return self._due.prepare(clock)

    # -- to SQLite ----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Write all changes into the writer's open transaction, so that it sees them; waits for the writer."""
        self._wait_for_writer()
        self._dispel_doubts()
        for key, cell in self._dirty.items():
            if cell is not None and cell.is_unseen:
                self._see(key, cell, self._below(key))
        rows, self._dirty = self._dirty, {}
        is_cleared, self._is_cleared = self._is_cleared, False
        if is_cleared:
            self._settled, self._settled_is_cleared = {}, True
        self._settled.update(rows)
        try:
            if is_cleared:
                self._writer.execute(_CLEAR)
            write_rows(self._writer, rows)
        except sqlite3.Error:
            self._writer.rollback()
            self._dirty, self._settled = self._settled, {}
            self._is_cleared, self._settled_is_cleared = self._settled_is_cleared, False
            raise

    def take(self) -> Changes:
        """The changes to write and commit now, which may be done on another thread; others gather meanwhile."""
        self._stop_reading()
        rows, self._dirty = self._dirty, {}
        is_cleared, self._is_cleared = self._is_cleared, False
        self._in_flight = {**self._settled, **rows} if self._settled and not is_cleared else rows
        self._in_flight_is_cleared = is_cleared or self._settled_is_cleared
        self._settled, self._settled_is_cleared = {}, False
        self._taken_bytes, self.dirty_bytes = self.dirty_bytes, 0
        self._removed_in_flight, self.removed = self.removed, 0
        self._due.taken()
        self._doubtful, self._doubtful_in_flight = {}, self._doubtful
        self._unlooked = iter(self._doubtful_in_flight.items())
        self._looked_at = self._new_in_flight = 0
        return Changes(is_cleared, rows, self._size, self._doubtful_in_flight)

    def committed(self, new: int) -> None:
        """What was taken is in the database for good; ``new`` of the doubtful keys were new."""
        self._stop_reading()
        if self._doubtful_in_flight:
            self._size += new
            self._doubtful_in_flight = {}
        self._unlooked = iter(())
        self._looked_at = self._new_in_flight = 0
        # If nothing was changed meanwhile the node is idle, and the memory can be given back.
        self._discarded.append(self._clean)
        if self._dirty and self._taken_bytes <= MAX_CLEAN_BYTES:
            self._clean = self._in_flight
        else:
            self._clean = {}
            self._discarded.append(self._in_flight)
        self._in_flight, self._in_flight_is_cleared = {}, False
        self._removed_in_flight = 0
        self._gaps.clear()
        self._due.committed()
        self._forget_orders()

    def take_discarded(self) -> list[Overlay]:
        """What nobody refers to any more: for a thread to free, since to free it all at once takes long."""
        discarded, self._discarded = self._discarded, []
        return discarded

    def rolled_back(self) -> None:
        """Nothing of what was taken is in the database, nor what was settled before: it is to be written again."""
        self._dispel_doubts()
        for key, cell in self._dirty.items():
            below = self._in_flight.get(key)
            if cell is not None and below is not None and cell.is_unseen:
                self._dirty[key] = replace(cell, created=below.created, version=below.version + cell.version)
        if not (self._is_cleared or self._settled_is_cleared):
            self._settled = {**self._in_flight, **self._settled}
            self._settled_is_cleared = self._in_flight_is_cleared
        if not self._is_cleared:
            self._dirty = {**self._settled, **self._dirty}
            self._is_cleared = self._settled_is_cleared
        self._in_flight, self._in_flight_is_cleared = {}, False
        self._settled, self._settled_is_cleared = {}, False
        self.dirty_bytes += self._taken_bytes
        self.removed += self._removed_in_flight
        self._removed_in_flight = 0
        self._due.rolled_back()
        self._forget_orders()


class InOrder:
    """The keys of a layer in their order. A layer only gets more keys, so that only the new ones have to be sorted."""

    def __init__(self, layer: Overlay) -> None:
        self.layer = layer
        self._blocks: list[list[bytes]] = []
        self._firsts: list[bytes] = []
        """With which key each block begins."""
        self._count = 0
        """How many keys are in the blocks."""
        self._known = 0
        """How many keys the layer had when it was looked at last."""
        self._rest: Iterator[bytes] = iter(())
        self._taken = self._left = 0
        """Those that were new then, from the newest on, how many of them were taken, and how many are left."""
        self._behind: list[bytes] = []
        """Those that were left when more came, which is seldom."""

    @property
    def unsorted(self) -> int:
        """How many keys are still to be put in order."""
        return len(self.layer) - self._count

    @property
    def work(self) -> int:
        """What it takes to do so, in units of about a microsecond."""
        new = self.unsorted
        return new if self._are_few(new) else (self._count + new) >> _SORTED_PER_WORK

    def _are_few(self, new: int) -> bool:
        return new * _FEW_NEW <= self._count

    def sort(self, most: int) -> None:
        """Put so many more in order."""
        new = len(self.layer) - self._known
        if new:
            if self._left:
                first = new + self._taken
                self._behind += islice(reversed(self.layer), first, first + self._left)
            # From the end: whoever looks for the new ones from the front passes over all others.
            self._known, self._rest, self._taken, self._left = len(self.layer), reversed(self.layer), 0, new
        some = list(islice(self._rest, min(most, self._left)))
        self._taken += len(some)
        self._left -= len(some)
        most -= len(some)
        if most and self._behind:
            some += self._behind[-most:]
            del self._behind[-most:]
        some.sort()
        if self._are_few(len(some)):
            for key in some:
                self._put(key)
        else:
            keys = [key for block in self._blocks for key in block]
            keys += some
            keys.sort()
            self._blocks = [keys[start : start + BLOCK_KEYS] for start in range(0, len(keys), BLOCK_KEYS)]
            self._firsts = [block[0] for block in self._blocks]
        self._count += len(some)

    def _put(self, key: bytes) -> None:
        place = bisect_right(self._firsts, key) - 1
        if place < 0:
            place = 0
            self._firsts[0] = key
        block = self._blocks[place]
        insort(block, key)
        if len(block) > 2 * BLOCK_KEYS:
            self._blocks.insert(place + 1, block[BLOCK_KEYS:])
            del block[BLOCK_KEYS:]
            self._firsts.insert(place + 1, self._blocks[place + 1][0])

    def since(self, first: bytes) -> Iterator[bytes]:
        """The keys from ``first`` on."""
        if self.unsorted:
            self.sort(self.unsorted)
        start = max(bisect_right(self._firsts, first) - 1, 0)
        for place in range(start, len(self._blocks)):
            block = self._blocks[place]
            for index in range(bisect_left(block, first) if place == start else 0, len(block)):
                yield block[index]


def _begins_with(prefix: bytes, item: tuple[bytes, Cell | None]) -> bool:
    return item[0].startswith(prefix)


def _exists(layers: list[Overlay], key: bytes) -> bool:
    """Whether a key that one of the layers or the table has exists."""
    return next((layer[key] is not None for layer in layers if key in layer), True)


def free(discarded: list[Overlay]) -> None:
    """Free what was discarded, on any thread, a little at a time: the interpreter's lock is held all the while."""
    for overlay in discarded:
        while overlay:
            for _ in range(min(MANY_ROWS, len(overlay))):
                overlay.popitem()
            time.sleep(0)
