"""What client programs asked for in Redis' protocol, what they were told, and whether the log explains all of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from consensus.simulation.violation import Violation
from kvstore.commands import (
    Append,
    Command,
    Configure,
    Delete,
    Entry,
    Expired,
    Forgotten,
    Incr,
    Integer,
    Opaque,
    Set,
    Txn,
)
from kvstore.simulated.model import DONE, FAILED, NOT_MET, ModelCell, Seen
from kvstore.simulated.oracle import Oracle
from kvstore.state import sessions
from kvstore.store import Reply
from kvstore.whole.replies import NodeError, ReplyValue

AskKind: TypeAlias = Literal["", "write", "count", "read", "local", "watch"]
OWN = b"p:"
"""The keys of these clients begin with this: nobody else changes them."""
MANY_SESSIONS = 1_000
"""Where the store remembers so many no client of a run is pushed out by others."""
NOTHING_KNOWN = 1 << 62
"""When a request returned that was never answered."""
_unpack = msgspec.msgpack.Decoder(Reply).decode


class Ask(msgspec.Struct, eq=False):
    """One request of a client program, and what became of it.

    ``kind``: what it does to the keys of these clients: a write that carries a ``tag``, which nobody uses twice; one
    more on a counter; a read, or a local one, of ``keys``; the beginning of a watch of ``keys``; or nothing. ``shows``:
    what the client has read since it began to watch these keys: EXEC succeeds only if the keys still hold it.
    ``watch``: the first WATCH of these keys: EXEC does nothing only if one of them has changed since.
    ``expected``: how the reply may begin, where that is known beforehand. ``line``: the number of its connection.
    ``session``: the name and the sequence that it is sent under; ``again``: not for the first time. ``called`` and
    ``returned`` are in the order of all calls and returns.
    """

    arguments: tuple[bytes | str | int, ...]
    kind: AskKind = ""
    tag: bytes = b""
    keys: tuple[bytes, ...] = ()
    expected: tuple[ReplyValue, ...] = ()
    shows: Mapping[bytes, bytes | None] | None = None
    watch: Ask | None = None
    raw: bytes = b""
    silent: bool = False
    never: bool = False
    session: tuple[str, int] = ("", 0)
    again: bool = False
    line: int = 0
    called: int = 0
    returned: int = NOTHING_KNOWN
    reply: ReplyValue = None
    slot: int = 0
    """Where the judge places it in the log."""

    @property
    def answered(self) -> bool:
        return self.returned != NOTHING_KNOWN

    @property
    def refused(self) -> bool:
        """Whether it certainly did not happen."""
        return self.never or (isinstance(self.reply, NodeError) and not self.reply.startswith("UNKNOWN "))

    @property
    def done(self) -> bool:
        """Whether its outcome is known, and it happened."""
        return self.answered and not self.never and not isinstance(self.reply, NodeError)


class Promises:
    """Collects what was asked and told; and, once the run is over, the log slot by slot. Then it judges.

    The log decides in which order the writes happened. So each request is placed in it: a write where it is, a read
    where the keys held what it was told. Every place must come after what had returned before the request was called,
    and after what was asked before on the same connection.
    """

    def __init__(self, counts: Counter[str], oracle: Oracle) -> None:
        self.counts = counts
        self._oracle = oracle
        self.asks: list[Ask] = []
        self.told_upto: list[tuple[str, int]] = []
        """Sessions, and up to where each was executed by what a node says."""
        self._time = 0
        self._changes: defaultdict[bytes, list[tuple[int, bytes | None]]] = defaultdict(list)
        self._places: defaultdict[bytes, list[tuple[int, Seen]]] = defaultdict(list)
        self._counted: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
        self._last = 0
        self._refused_watch: set[int] = set()
        """The connections on which a WATCH was refused, and no transaction has followed."""

    # -- while the run goes on ----------------------------------------------------------------------------------------

    def call(self, ask: Ask, line: int) -> None:
        """A client sends a request."""
        self._time += 1
        ask.called, ask.line = self._time, line
        self.asks.append(ask)
        if ask.session[0]:
            self._oracle.asked(*ask.session)

    def answer(self, ask: Ask, reply: ReplyValue) -> str:
        """A client has its reply; returns what is wrong with it, "" if nothing."""
        self._time += 1
        ask.returned, ask.reply = self._time, reply
        if ask.session[0] and isinstance(reply, bytes):
            result = _unpack(reply).result
            if isinstance(result, Integer):
                ask.reply = result.number
            elif isinstance(result, Forgotten) and sessions.MAX_SESSIONS < MANY_SESSIONS:
                self.counts["session: unknown to the store"] += 1
                ask.never = True  # in an earlier attempt it may have been executed: then it must not be once more
            elif not (ask.again and isinstance(result, Expired)):
                return f"request {ask.session} gave {result!r:.300}"
        name = ask.arguments[0] if ask.arguments else ""
        if name in ("WATCH", "UNWATCH", "EXEC", "DISCARD", "RESET"):
            is_aborted = ask.line in self._refused_watch
            self._refused_watch.discard(ask.line)
            is_refused = isinstance(reply, NodeError) and not reply.startswith("ERR ")  # as within MULTI
            if name == "WATCH" and (is_aborted or is_refused):
                self._refused_watch.add(ask.line)
            elif name == "EXEC" and is_aborted:
                self.counts["watch: refused, and its transaction with it"] += 1
                wrong = f"EXEC after a WATCH that was refused is answered {reply!r:.300}"
                return "" if isinstance(reply, NodeError) else wrong
        if isinstance(reply, NodeError):
            code = reply.partition(" ")[0]
            self.counts[f"reply: {code}"] += 1
            if ask.kind and code in ("CLUSTERDOWN", "MISCONF", "UNKNOWN"):
                if code == "UNKNOWN":
                    ask.returned = NOTHING_KNOWN
                return ""
        if not ask.expected:
            return f"{ask.arguments[:3]} is answered {reply!r:.300}" if isinstance(reply, NodeError) else ""
        for expected in ask.expected:
            if reply == expected and isinstance(reply, NodeError) == isinstance(expected, NodeError):
                return ""
            if isinstance(reply, NodeError) and isinstance(expected, NodeError) and reply.startswith(expected):
                return ""
        return f"{ask.arguments[:3]} is answered {reply!r:.300}, not {ask.expected[0]!r:.300}"

    # -- the log ------------------------------------------------------------------------------------------------------

    def executed(self, slot: int, entry: Entry, outcome: Seen, cells: Mapping[bytes, ModelCell]) -> None:
        """A slot of the log, in order: what it executed, and what is stored after it."""
        self._last = slot
        command = entry.command
        if isinstance(command, Opaque | Configure):
            return
        parts: Sequence[Command] = command.then if isinstance(command, Txn) else [command]
        tags: dict[bytes, None] = {}
        for part in parts:
            match part:
                case Set(key, value) if key.startswith(OWN):
                    tags[value.data.rpartition(b":")[2]] = None
                    self._change(slot, key, cells)
                case Append(key, data) if key.startswith(OWN):
                    tags[data.removesuffix(b";")] = None
                    self._change(slot, key, cells)
                case Delete(keys):
                    for key in keys:
                        if key.startswith(OWN):
                            tags[key.rpartition(b":")[2]] = None
                            self._change(slot, key, cells)
                case Incr(key) if key.startswith(OWN):
                    self._change(slot, key, cells)
                case _:
                    pass
        for tag in tags:
            self._places[tag].append((slot, outcome))
        if isinstance(command, Incr) and command.key.startswith(OWN) and isinstance(outcome, int):
            self._counted[command.key][outcome] = slot

    def _change(self, slot: int, key: bytes, cells: Mapping[bytes, ModelCell]) -> None:
        cell = cells.get(key)
        changes = self._changes[key]
        if cell is None and (not changes or changes[-1][1] is None):
            return
        if cell is None or cell.slot == slot:
            if changes and changes[-1][0] == slot:
                changes.pop()
            changes.append((slot, None if cell is None else cell.data))

    # -- the judgement ------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Raises Violation."""
        self._judge_writes()
        self._judge_sessions()
        self._judge_counters()
        self._judge_order()
        self._judge_aborts()

    def _judge_aborts(self) -> None:
        for ask in self.asks:
            if ask.watch is None or not (ask.done and ask.watch.done) or ask.reply is not None:
                continue
            seen = ask.watch.slot  # or later
            if not any(seen < slot <= ask.slot for key in ask.keys for slot, _ in self._changes[key]):
                raise Violation(
                    "a transaction is aborted only if a watched key has changed",
                    f"{ask.tag!r} was aborted in slot {ask.slot}, and {ask.keys} are the same since slot {seen}",
                    slots=[ask.slot],
                )

    def _judge_writes(self) -> None:
        tags: defaultdict[bytes, list[Ask]] = defaultdict(list)
        for ask in self.asks:
            if ask.kind == "write":
                tags[ask.tag].append(ask)
        for tag, asks in tags.items():
            places = self._places.get(tag, [])
            if len(places) > 1:
                slots = [slot for slot, _ in places]
                raise Violation("what a client asks for once happens once", f"{tag!r} is in {slots}", slots=slots)
            if not places and any(_says_done(ask.reply) for ask in asks):
                raise Violation(
                    "what a node says has happened has happened",
                    f"{asks[0].arguments[:2]} of {tag!r} was answered {asks[0].reply!r}, and is nowhere in the log",
                )
            if all(ask.refused for ask in asks):
                if places:
                    raise Violation(
                        "what was refused for certain does not happen",
                        f"{asks[0].arguments[:2]} of {tag!r} was answered {asks[0].reply!r} and is in slot"
                        f" {places[0][0]}",
                        slots=[places[0][0]],
                    )
                continue
            for ask in asks:
                if not ask.done:
                    continue
                if not places:
                    raise Violation("nothing acknowledged is lost", f"{tag!r} was answered {ask.reply!r}")
                ask.slot, outcome = places[0]
                is_recalled = ask.again and isinstance(ask.reply, bytes)  # only that it was done
                if not is_recalled and not _agrees(outcome, ask.reply):
                    raise Violation(
                        "what is told is what happened",
                        f"{tag!r} was answered {ask.reply!r:.300}; in slot {ask.slot} it gives {outcome!r:.300}",
                        slots=[ask.slot],
                    )
                self._judge_watch(ask)

    def _judge_watch(self, ask: Ask) -> None:
        if ask.shows is None:
            return
        if ask.reply is None:
            self.counts["watch: aborted"] += 1
            return
        self.counts["watch: a transaction went through"] += bool(ask.shows)
        for key, shown in ask.shows.items():
            before = self._held(key, ask.slot - 1)
            if before != shown:
                raise Violation(
                    "a transaction whose watched keys have changed does nothing",
                    f"{ask.tag!r} in slot {ask.slot}: {key!r} was read as {shown!r} and held {before!r} by then",
                    slots=[ask.slot],
                )

    def _held(self, key: bytes, slot: int) -> bytes | None:
        """What a key held after a slot."""
        changes = self._changes[key]
        at = bisect_right(changes, slot, key=lambda change: change[0])
        return changes[at - 1][1] if at else None

    def _judge_sessions(self) -> None:
        slots: dict[tuple[str, int], int] = {}
        for ask in self.asks:
            if ask.session[0] and (places := self._places.get(ask.tag)):
                slots[ask.session] = places[0][0]
        before: tuple[str, int] = ("", 0)
        for request in sorted(slots):
            if request[0] == before[0] and slots[request] < slots[before]:
                raise Violation(
                    "a client's requests are executed in the order of their sequences",
                    f"{request} in slot {slots[request]}, {before} in slot {slots[before]}",
                    slots=[slots[request], slots[before]],
                )
            before = request
        for name, upto in self.told_upto:
            missing = [number for number in range(1, upto + 1) if (name, number) not in slots]
            if missing:
                raise Violation(
                    "a session was executed as far as a node says", f"{name}: {missing} are not, {upto} was told"
                )

    def _judge_counters(self) -> None:
        unknown: Counter[bytes] = Counter()
        claimed: dict[int, Ask] = {}
        for ask in self.asks:
            if ask.kind != "count":
                continue
            (key,) = ask.keys
            if not ask.done:
                unknown[key] += not ask.refused
                continue
            assert isinstance(ask.reply, int)
            ask.slot = self._counted[key].get(ask.reply, 0)
            if not ask.slot or ask.slot in claimed:
                raise Violation(
                    "a counter counts every acknowledged request once",
                    f"{key!r}: the reply {ask.reply} stands for {'two requests' if ask.slot else 'no slot'}",
                    slots=[ask.slot] if ask.slot else [],
                )
            claimed[ask.slot] = ask
        for key, slots in self._counted.items():
            more = sum(slot not in claimed for slot in slots.values())
            if more > unknown[key]:
                raise Violation(
                    "a counter counts no request twice",
                    f"{key!r}: {more} slots that nobody was told of, and {unknown[key]} requests without an answer",
                )

    def _judge_order(self) -> None:
        """Each request takes place after what had returned before it, and after those before it on its connection."""
        asks = [ask for ask in self.asks if ask.kind and ask.done]
        by_return = sorted(asks, key=lambda ask: ask.returned)
        floor, returned = 0, 0
        on_line: dict[int, int] = {}
        for ask in sorted(asks, key=lambda ask: ask.called):
            while by_return[returned].returned < ask.called:
                if by_return[returned].kind != "local":
                    floor = max(floor, by_return[returned].slot)
                returned += 1
            before = on_line.get(ask.line, 0)
            if ask.kind == "local":
                ask.slot = self._place(ask, before)
            elif ask.kind in ("read", "watch"):
                ask.slot = self._place(ask, max(floor, before))
            elif ask.slot <= max(floor, before) and not ask.again:
                raise Violation(
                    "a write takes place after all that was answered before",
                    f"{ask.arguments[:3]} of {ask.tag!r} took place in slot {ask.slot}; before it was sent slot"
                    f" {floor} had been seen, and slot {before} on its own connection",
                    slots=[ask.slot],
                )
            on_line[ask.line] = max(before, ask.slot)

    def _place(self, ask: Ask, floor: int) -> int:
        """The first slot from ``floor`` on after which the keys hold what a read was told."""
        if ask.kind == "watch":
            return floor
        values = ask.reply if isinstance(ask.reply, list) else [ask.reply]
        told = dict(zip(ask.keys, values, strict=True))
        slot = floor
        while True:
            wrong = next((key for key, value in told.items() if self._held(key, slot) != value), None)
            if wrong is None:
                return slot
            changes = self._changes[wrong]
            at = bisect_right(changes, slot, key=lambda change: change[0])
            while at < len(changes) and changes[at][1] != told[wrong]:
                at += 1
            if at == len(changes):
                held = self._held(wrong, floor)
                raise Violation(
                    "a read shows no less than was seen before, and only what was chosen",
                    f"{ask.arguments[:3]} ({ask.kind}) was told {told[wrong]!r:.200} for {wrong!r}, which nothing from"
                    f" slot {floor} on explains, where it held {held!r:.200}",
                    slots=[floor],
                )
            slot = changes[at][0]


def _says_done(reply: ReplyValue) -> bool:
    return isinstance(reply, NodeError) and reply.startswith("UNKNOWN it happened")


def _agrees(outcome: Seen, reply: ReplyValue) -> bool:
    """Whether a reply tells what the model says."""
    match outcome, reply:
        case (bool(holds), tuple(results)), _:
            if not holds:
                return reply is None
            return isinstance(reply, list) and len(results) == len(reply) and all(map(_agrees, results, reply))
        case str(), _ if outcome == DONE:
            return reply == b"OK"
        case str(), _ if outcome == FAILED:
            return isinstance(reply, NodeError)
        case str(), _ if outcome == NOT_MET:
            return reply is None
        case _:
            return outcome == reply
