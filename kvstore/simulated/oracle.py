"""Judges what nodes applied and what clients were told, against the model and against each other."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import NamedTuple

import msgspec

from consensus.messages import NO_OP
from consensus.simulation.linearizability import Operation, check
from consensus.simulation.violation import Violation
from kvstore.commands import (
    Append,
    Cas,
    Command,
    Delete,
    Entry,
    Exists,
    Get,
    Incr,
    Opaque,
    Set,
    Tick,
    is_read_only,
)
from kvstore.limits import NODE_SESSIONS
from kvstore.simulated.model import (
    EARLY,
    EMPTY,
    EXPIRED,
    FORGOTTEN,
    NEVER_TWICE,
    NOTHING,
    UNKEPT,
    UNTOLD,
    Model,
    Seen,
    costs_too_much,
    seen,
    step,
)
from kvstore.state import entries
from kvstore.state.entries import Applied
from kvstore.state.machine import StateMachine

PLAIN = b"plain"
"""The key that clients without a session append to: a name, a dot, the number of the request, a semicolon."""
MOST_ORDERS = 200_000
"""The order of the log's slots explains a history at once. If it does not, this many beginnings of others are tried."""
_pack = msgspec.msgpack.Encoder().encode


class Told(msgspec.Struct, frozen=True):
    """What a client is told about one of its requests.

    ``slot`` is the one that executed it, 0 for a read; a read shows the state after the slots up to ``as_of``.
    """

    client: str
    sequence: int
    command: Command
    slot: int
    as_of: int
    result: Seen


class Earliest(NamedTuple):
    """The earliest time that a clock showed at some moment, in ms since 1970. It means nothing once a clock was set."""

    wall: int
    clocks_set: int


class Oracle:
    """One for a whole run: over all nodes, incarnations and clients.

    The nodes' states are compared after every ``every``-th slot. To look at a state as a whole has its changes written
    into the database; with longer pauses they gather in memory, as they do outside.
    """

    def __init__(self, counts: Counter[str], every: int) -> None:
        self.model = Model()
        self.history: list[Operation[Command]] = []
        self.doubtful: dict[tuple[str, int], Operation[Command]] = {}
        """The requests of which their clients will never hear a result."""
        self._counts = counts
        self._every = every
        self._modelled_upto = 0
        self._results: dict[int, int] = {0: 0}
        self._digests: dict[int, tuple[str, str]] = {}
        self._time = 0
        self._walls: dict[str, int] = {}
        self._clocks_set = 0
        """How often a clock was set back, or a new one came in."""
        self._seen_upto = 0
        self._floors: dict[tuple[str, int], int] = {}
        self._open: Counter[tuple[str, int]] = Counter()
        self._costly: set[tuple[str, int]] = set()
        """The requests that did nothing, since they would have cost too much."""
        self._plain: dict[tuple[str, int], tuple[int, Seen]] = {}
        """The requests without a session that were executed, with the slot and the result."""
        self._executed_last: dict[str, int] = {}
        self._arrived: set[tuple[str, int]] = set()
        self._refused: dict[tuple[str, str], set[int]] = {}
        """By process and session the writes refused or given up that have not come again."""

    # -- time of day --------------------------------------------------------------------------------------------------

    def clock_read(self, node: str, wall: int) -> None:
        """A node was told the time of day."""
        if wall < self._walls.get(node, wall + 1):
            self._clocks_set += 1
        self._walls[node] = wall

    def earliest(self) -> Earliest:
        """What the slowest of all clocks shows: whoever leads, its clock shows no less later on."""
        return Earliest(min(self._walls.values()), self._clocks_set)

    def shown(self, node: str, told: Told, expires: int, since: Earliest) -> None:
        """A node shows a key, which expires at this time (0 = never), to a read that came to it at that time."""
        if since.clocks_set == self._clocks_set and 0 < expires <= since.wall:
            raise Violation(
                "a read shows no key whose time was over when it was asked for",
                f"{node} answers read {told.sequence} of {told.client} with {told.result!r} as of slot {told.as_of};"
                f" the key's time was {expires}, and no clock showed less than {since.wall} when the read came",
                nodes=[node],
                slots=[told.as_of],
            )

    # -- while the run goes on ----------------------------------------------------------------------------------------

    def next_time(self) -> int:
        """The next point in the order of all calls and returns."""
        self._time += 1
        return self._time

    def applied(self, node: str, slot: int, value: bytes, applied: Applied, state: StateMachine) -> None:
        """A node executed a slot with this result."""
        if slot == self._modelled_upto + 1:
            self._model(node, slot, value, applied)
        results = zlib.crc32(_pack((value, applied.result, state.clock)), self._results.get(slot - 1, 0))
        if self._results.setdefault(slot, results) != results:
            raise Violation(
                "all nodes get the same results from the same slots",
                f"slot {slot}: {node} got {applied.result}, at clock {state.clock}, others did not",
                nodes=[node],
                slots=[slot],
            )
        if slot % self._every == 0:
            self.compare(node, state)

    def compare(self, node: str, state: StateMachine) -> None:
        """Does a node have the state that others had after the same slots?"""
        slot, digest = state.applied_upto, state.digest()
        first, known = self._digests.setdefault(slot, (node, digest))
        if known != digest:
            raise Violation(
                "all nodes have the same state after the same slots",
                f"after slot {slot} the state of {node} differs from that of {first}",
                nodes=[node, first],
                slots=[slot],
            )

    def _model(self, node: str, slot: int, value: bytes, applied: Applied) -> None:
        """The first node to apply a slot: does its result agree with the naive one?"""
        self._modelled_upto = slot
        if value == NO_OP:
            return
        entry = entries.entry_of(value)
        if isinstance(entry.command, Tick):
            self._counts["expiry: the leader moved the clock on"] += 1
        executed_in, expected = self.replay(slot, entry, node, costs_too_much(applied.result))
        if expected == EARLY:
            self._counts["session: a request before its turn"] += 1
        elif entry.session and executed_in == slot:
            self._judge_order(slot, entry)
        if entry.session and expected not in (FORGOTTEN, EARLY, NEVER_TWICE) and executed_in != slot:
            self._counts["session: a duplicate chosen in a second slot"] += 1
            what = {EXPIRED: "its result is no longer kept", UNKEPT: "its result was too large to be kept"}
            self._counts[f"session: a duplicate executed: {what.get(str(expected), 'the result is recalled')}"] += 1
        given = NOTHING if _is_no_command(entry) and expected == NOTHING else seen(applied.result)
        if given != expected:
            raise Violation(
                "every request is executed once, as its command says",
                f"slot {slot}: {entries.as_text(entry, 0)} of {entry.session or 'nobody'}, request {entry.sequence},"
                f" gave {given!r} on {node}; executed once, in slot {executed_in}, it gives {expected!r}",
                nodes=[node],
                slots=[slot, executed_in],
            )

    def _judge_order(self, slot: int, entry: Entry) -> None:
        before = self._executed_last.get(entry.session, 0)
        self._executed_last[entry.session] = entry.sequence
        if before > entry.sequence:
            raise Violation(
                "the requests of a session are executed in their order",
                f"slot {slot} executes request {entry.sequence} of {entry.session}, after request {before}",
                slots=[slot],
            )

    def replay(self, slot: int, entry: Entry, node: str = "", too_much: bool = False) -> tuple[int, Seen]:
        """Execute what a slot holds on the model; returns the slot that really executed it, and its result.

        ``too_much``: it did nothing, since it would have cost more than a slot may.
        """
        expected = self.model.apply(slot, entry, too_much)
        executed_in, _ = self.model.executed.get((entry.session, entry.sequence), (0, None))
        if too_much:
            self._counts["cost: too much for its slot"] += 1
            self._costly.add((entry.session, entry.sequence))
        if expected == FORGOTTEN:
            self._counts["session: forgotten, and its request not executed"] += 1
        client, sequence = entry.session, entry.sequence
        if executed_in == slot and isinstance(entry.command, Append) and entry.command.key == PLAIN:
            client, sequence = self._plain_executed(node, slot, entry.command.data, expected)
        of_client = client and not client.startswith(NODE_SESSIONS)
        if of_client and executed_in == slot and not self._open[client, sequence]:
            raise Violation(
                "what was refused for certain does not happen",
                f"slot {slot} executes request {sequence} of {client}, and every node that was asked"
                " for it has said that it was never proposed",
                nodes=[node] if node else [],
                slots=[slot],
            )
        return executed_in, expected

    def _plain_executed(self, node: str, slot: int, data: bytes, result: Seen) -> tuple[str, int]:
        """Whose request this is. Raises Violation if it was executed before."""
        name, _, number = data.rstrip(b";").partition(b".")
        request = name.decode(), int(number)
        if request in self._plain:
            raise Violation(
                "a request without a session is executed at most once",
                f"slots {self._plain[request][0]} and {slot} execute request {request[1]} of {request[0]}",
                nodes=[node],
                slots=[self._plain[request][0], slot],
            )
        self._plain[request] = slot, result
        self._counts["request: executed under a node's own session"] += 1
        return request

    def _executed(self, told: Told) -> tuple[int, Seen]:
        """The slot that executed a request, 0 if none did, and its result."""
        request = (told.client, told.sequence)
        return self.model.executed.get(request) or self._plain.get(request, (0, None))

    def arrived(self, client: str, sequence: int) -> bool:
        """Whether a request without a session arrives for the first time: a connection repeats nothing."""
        is_first = (client, sequence) not in self._arrived
        self._arrived.add((client, sequence))
        return is_first

    def asked(self, client: str, sequence: int) -> None:
        """A request has reached a node: from now on it may happen."""
        self._open[client, sequence] += 1

    def taken(self, process: str, client: str, sequence: int, acknowledged: int) -> None:
        """A process of a node takes a write. Raises Violation if it has left one that the client sent before."""
        left = self._not_given_up(process, client, acknowledged)
        if not left or sequence < min(left):
            return
        if sequence > min(left):
            raise Violation(
                "nothing behind a refused request is taken before that one comes again",
                f"{process} takes request {sequence} of {client}, and has refused or given up request {min(left)}",
                nodes=[process.split()[0]],
            )
        left.clear()

    def _not_given_up(self, process: str, client: str, acknowledged: int) -> set[int]:
        """The writes that a process has left, without those that are settled: acknowledged, or executed elsewhere."""
        session = self.model.sessions.get(client)
        acknowledged = max(acknowledged, session.acknowledged if session else 0)
        left = {
            sequence
            for sequence in self._refused.get((process, client), ())
            if sequence >= acknowledged and (client, sequence) not in self.model.executed
        }
        self._refused[process, client] = left
        return left

    def refused(self, client: str, sequence: int) -> None:
        """A node says of a write that reached it that it did not happen and will not."""
        self._open[client, sequence] -= 1

    def left(self, process: str, client: str, sequence: int, acknowledged: int) -> None:
        """A process of a node has refused a write, or given it up: the client has to send it again."""
        left = self._not_given_up(process, client, acknowledged)
        if left and min(left) < sequence:
            self._counts["request: refused behind a refused one"] += 1
        left.add(sequence)

    def called(self, client: str, sequence: int) -> int:
        """A client begins a request. Its answer must show everything that any client has been shown by now."""
        self._floors[client, sequence] = self._seen_upto
        return self.next_time()

    def returned(self, told: Told) -> int:
        """A client has its answer."""
        self._seen_upto = max(self._seen_upto, told.slot or told.as_of)
        return self.next_time()

    def told(self, node: str, told: Told, applied_upto: int) -> None:
        """A node answers a client. The answer must be final: chosen, durable on a majority, applied."""
        if told.slot:
            self._told_of_write(node, told, applied_upto)
            return
        floor = self._floors[told.client, told.sequence]
        if told.as_of < floor:
            raise Violation(
                "a read shows everything that was acknowledged or read before it was asked for",
                f"{node} answers read {told.sequence} of {told.client} as of slot {told.as_of}, when the client asked"
                f" slot {floor} had been seen",
                nodes=[node],
                slots=[floor],
            )

    def _told_of_write(self, node: str, told: Told, applied_upto: int) -> None:
        if told.slot > applied_upto:
            raise Violation(
                "a reply is sent after its slot is applied",
                f"{node} answers request {told.sequence} of {told.client}, in slot {told.slot}, and has applied"
                f" {applied_upto}",
                nodes=[node],
                slots=[told.slot],
            )
        executed_in, expected = self._executed(told)
        if told.result in UNTOLD:
            return  # as the model has it
        if not executed_in or told.result != expected:
            raise Violation(
                "what is told is what happened",
                f"{node} answers request {told.sequence} of {told.client} with {told.result!r} in slot {told.slot};"
                f" the log gives {expected!r} in slot {executed_in}",
                nodes=[node],
                slots=[told.slot],
            )
        if executed_in <= self._floors[told.client, told.sequence]:
            raise Violation(
                "a write comes after everything that was seen before it was asked for",
                f"{node} answers request {told.sequence} of {told.client}, executed in slot {executed_in}; when the"
                f" client asked slot {self._floors[told.client, told.sequence]} had been seen",
                nodes=[node],
                slots=[executed_in],
            )

    # -- when it is over ----------------------------------------------------------------------------------------------

    def judge(self, acknowledged: list[Told], whole: bool) -> None:
        """Everything acknowledged is in the log, and every history has an order that explains it.

        ``whole``: commands touch several keys, so that the history is explained as one; else key by key.
        """
        for told in acknowledged:
            executed_in, expected = self._executed(told)
            if told.slot and (not executed_in or expected != told.result):
                raise Violation(
                    "nothing acknowledged is lost",
                    f"{told.client} was told {told.result!r} for request {told.sequence}, the log says {expected!r}",
                    slots=[told.slot],
                )
        for request, operation in self.doubtful.items():
            # What became of it the log knows: as a search would have to try both, many of them would take for ever.
            executed_in, result = self.model.executed.get(request, (0, None))
            if executed_in and request not in self._costly:
                known = operation._replace(returned=self.next_time(), result=(result,), slot=executed_in)
                self.history.append(known)
        histories: dict[bytes, list[Operation[Command]]] = {}
        for operation in self.history:
            histories.setdefault(b"" if whole else _key(operation.request), []).append(operation)
        for key, history in histories.items():
            self._explain(key, history)

    def _explain(self, key: bytes, history: list[Operation[Command]]) -> None:
        verdict = check(history, EMPTY, step, is_read=is_read_only, most=MOST_ORDERS)
        if verdict.linearizable:
            return
        stuck = "; ".join(
            f"{op.client}: {op.request} gave {op.result[0] if isinstance(op.result, tuple) else 'nothing'}"
            f" between {op.called} and {op.returned}"
            for op in verdict.stuck[:4]
        )
        where = f"key {key.decode()}" if key else "the whole history"
        if verdict.given_up:
            where += f", of which {MOST_ORDERS} orders were tried"
        raise Violation(
            "every client's history is linearizable",
            f"{where}: after {len(verdict.longest)} of {len(history)} operations none of these can come next: {stuck}",
        )


def _is_no_command(entry: Entry) -> bool:
    return isinstance(entry.command, Opaque)


def _key(request: Command) -> bytes:
    match request:
        case Delete(keys) | Exists(keys):
            return keys[0]
        case Set(key) | Get(key) | Cas(key) | Incr(key) | Append(key):
            return key
        case _:
            raise NotImplementedError(f"{type(request).__name__} is not part of a history of one key")
