"""Judges what nodes applied and what clients were told, against the model and against each other."""

from __future__ import annotations

import zlib
from collections import Counter

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
    Expired,
    Get,
    Incr,
    Opaque,
    Set,
    Tick,
    is_read_only,
)
from kvstore.simulated.model import EMPTY, EXPIRED, FORGOTTEN, NOTHING, Model, Seen, seen, step
from kvstore.state import entries
from kvstore.state.entries import Applied
from kvstore.state.machine import StateMachine

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


class Oracle:
    """One for a whole run: over all nodes, incarnations and clients.

    The nodes' states are compared after every ``every``-th slot. To look at a state as a whole has its changes written
    into the database; with longer pauses they gather in memory, as they do outside.
    """

    def __init__(self, counts: Counter[str], every: int) -> None:
        self.model = Model()
        self.history: list[Operation[Command]] = []
        self._counts = counts
        self._every = every
        self._modelled_upto = 0
        self._results: dict[int, int] = {0: 0}
        self._digests: dict[int, tuple[str, str]] = {}
        self._time = 0
        self._seen_upto = 0
        self._floors: dict[tuple[str, int], int] = {}
        self._open: Counter[tuple[str, int]] = Counter()

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
        entry = entries.decode(value)
        if isinstance(entry.command, Tick):
            self._counts["expiry: the leader moved the clock on"] += 1
        executed_in, expected = self.model.apply(slot, entry)
        if entry.session and executed_in == slot and not self._open[entry.session, entry.sequence]:
            raise Violation(
                "what was refused for certain does not happen",
                f"slot {slot} executes request {entry.sequence} of {entry.session}, and every node that was asked"
                " for it has said that it was never proposed",
                nodes=[node],
                slots=[slot],
            )
        if executed_in != slot:
            self._counts["session: a duplicate chosen in a second slot"] += 1
            key = "the result is recalled" if applied.result != Expired() else "its result is no longer kept"
            self._counts[f"session: a duplicate executed: {key}"] += 1
        given = NOTHING if _is_no_command(entry) and expected == NOTHING else seen(applied.result)
        if given != expected and not (executed_in != slot and given in (EXPIRED, FORGOTTEN)):
            raise Violation(
                "every request is executed once, as its command says",
                f"slot {slot}: {entries.as_text(entry)} of {entry.session or 'nobody'}, request {entry.sequence}, gave"
                f" {given!r} on {node}; executed once, in slot {executed_in}, it gives {expected!r}",
                nodes=[node],
                slots=[slot, executed_in],
            )

    def asked(self, client: str, sequence: int) -> None:
        """A request has reached a node: from now on it may happen."""
        self._open[client, sequence] += 1

    def refused(self, client: str, sequence: int) -> None:
        """A node says of a request that reached it that it did not happen and will not."""
        self._open[client, sequence] -= 1

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
        executed_in, expected = self.model.executed.get((told.client, told.sequence), (0, None))
        if told.result == EXPIRED and executed_in:
            return  # a late copy of a request whose answer the client has
        if not executed_in or told.result != expected:
            raise Violation(
                "what is told is what happened",
                f"{node} answers request {told.sequence} of {told.client} with {told.result!r} in slot {told.slot};"
                f" the log gives {expected!r} in slot {executed_in}",
                nodes=[node],
                slots=[told.slot],
            )

    # -- when it is over ----------------------------------------------------------------------------------------------

    def judge(self, acknowledged: list[Told], whole: bool) -> None:
        """Everything acknowledged is in the log, and every history has an order that explains it.

        ``whole``: commands touch several keys, so that the history is explained as one; else key by key.
        """
        for told in acknowledged:
            executed_in, expected = self.model.executed.get((told.client, told.sequence), (0, None))
            if told.slot and (not executed_in or expected != told.result):
                raise Violation(
                    "nothing acknowledged is lost",
                    f"{told.client} was told {told.result!r} for request {told.sequence}, the log says {expected!r}",
                    slots=[told.slot],
                )
        histories: dict[bytes, list[Operation[Command]]] = {}
        for operation in self.history:
            histories.setdefault(b"" if whole else _key(operation.request), []).append(operation)
        for key, history in histories.items():
            self._explain(key, history)

    def _explain(self, key: bytes, history: list[Operation[Command]]) -> None:
        verdict = check(history, EMPTY, step, is_read=is_read_only)
        if verdict.linearizable:
            return
        stuck = "; ".join(
            f"{op.client}: {op.request} gave {op.result[0] if isinstance(op.result, tuple) else 'nothing'}"
            f" between {op.called} and {op.returned}"
            for op in verdict.stuck[:4]
        )
        raise Violation(
            "every client's history is linearizable",
            f"{'key ' + key.decode() if key else 'the whole history'}: after {len(verdict.longest)} of {len(history)}"
            f" operations none of these can come next: {stuck}",
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
