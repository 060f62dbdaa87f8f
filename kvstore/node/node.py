"""One running node: a replica, its log store and state machine, and the requests that wait for them.

A host drives it: it brings in messages, requests and time, carries out each turn, and says when records are durable.
The node reads no clock, opens no socket and starts no thread, so that the stdin node, an embedded store and a server
share it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from consensus.ballot import Ballot
from consensus.catchup import one_message
from consensus.election import Timing
from consensus.leader import BYTES_PER_MS
from consensus.log import NO_END
from consensus.messages import Record, Run
from consensus.replica import SLOT_WINDOW, Replica, Role
from kvstore.commands import Command, Entry, Opaque, Tick
from kvstore.errors import CommandError, DamagedError, Refusal, StorageFullError, UnavailableError
from kvstore.node.peer_messages import Forward, ForwardSlot, ForwardSlotReply, LeftOut, PeerMessage, Request
from kvstore.node.pending import CommandProposal, Read, RecordQueue, SlotProposal
from kvstore.state import entries
from kvstore.state.commit_schedule import Commits, is_large
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.log_store import LogStore
from kvstore.store import Reply, SlotReply

MAX_PENDING = 65_536
MAX_MEMORY = 256 * 1_048_576
"""Requests that may wait, and bytes of these and of the log in memory; beyond it requests are refused, so that clients
slow down."""
KEEP_SLOTS = 4_096
KEEP_BYTES = 16 * 1_048_576
"""Applied slots stay in memory so far, for followers a little behind; others are served from the log store."""
APPLY_SLOTS = 256
"""After so many it is looked at whether the changes that wait for a commit leave room for more."""
FORWARD_PATIENCE = 500
"""How long a follower waits, in ms, before it hands its requests to the leader once more; longer while much is under
way, since the leader proposes it once more too."""
GIVE_UP_INTERVAL = 50
COPIES_ON_DISK = 4
"""A value is written to log.db and state.db, and to the WAL of each."""


class SlotRow(NamedTuple):
    """One slot of this node's log, as JSON text."""

    slot: int
    json: bytes
    status: Literal["chosen", "accepted"]


class Turn(NamedTuple):
    """What the host must do: append ``records`` to the log store, then call ``persisted``; send ``messages``.

    While an append is under way no further records are handed out.
    """

    records: list[Record]
    messages: list[tuple[str, PeerMessage]]


class Node:
    """Takes requests and calls ``done`` with the outcome of each, once, within a later ``apply`` or ``tick``.

    Times are in ms: ``now`` and deadlines by a clock that never jumps, ``wall`` since 1970. ``free_bytes`` tells how
    much room new writes may take; a write that finds none is refused before it is proposed. ``keep_slots``: so many
    applied slots stay in memory. ``background``: has ``state.write`` called on another thread with a batch, and then
    ``committed`` here; without it the node writes the state itself.
    """

    def __init__(
        self,
        node_id: str,
        nodes: Iterable[str],
        log: LogStore,
        state: StateMachine,
        *,
        rng: random.Random,
        now: int,
        wall: int,
        timing: Timing | None = None,
        free_bytes: Callable[[], int] | None = None,
        keep_slots: int = KEEP_SLOTS,
        background: Callable[[Batch], None] | None = None,
    ) -> None:
        recover(log, state)
        self.log = log
        self.state = state
        self.replica = Replica(
            node_id,
            nodes,
            rng=rng,
            now=now,
            promised=log.promised,
            chosen_upto=state.applied_upto,
            accepted=log.tail(state.applied_upto),
            timing=timing,
        )
        # Only those who forwarded a request wait to hear that it is chosen, and those whose reads need it.
        self.replica.urgent_upto = 0
        self.session = f"{node_id}.{rng.getrandbits(64):016x}"
        """Requests that bring no session of their own run under this one, new for every incarnation."""
        self._now = now
        self._wall = wall
        self._stamp = 0
        self._sequence = 0
        self._acknowledged = 1
        # Not from 0: a late answer to the process before a restart must not be taken for one to this.
        self._slot_request = rng.getrandbits(52)
        self._commands: dict[tuple[str, int], CommandProposal] = {}
        self._slots: dict[int, SlotProposal] = {}
        self._pending_bytes = 0
        self._reads: dict[int, list[Read]] = {}
        self._to_send: list[CommandProposal | SlotProposal] = []
        self._sends_anew = True
        self._anew_at = NO_END
        self._begun: set[str] = set()
        self._messages: list[tuple[str, PeerMessage]] = []
        self._led_by: tuple[str | None, Ballot] = (None, self.replica.ballot)
        self._tick_upto = 0
        self._records = RecordQueue()
        self._chosen: list[Run] = []
        self._reads_upto = 0
        self._fetches: list[tuple[str, int, int]] = []
        self._full: StorageFullError | None = None
        self._free_bytes = free_bytes
        self._keep_slots = keep_slots
        self._budget: int | None = None
        self._commits = Commits(state, lambda: self.replica.durable_upto, background, now)
        self._give_up_at = now

    # -- requests -----------------------------------------------------------------------------------------------------

    def execute(
        self,
        command: Command,
        done: Callable[[Reply | Refusal], None],
        deadline: int,
        *,
        session: str = "",
        sequence: int = 0,
        acknowledged: int = 0,
        size: int = 0,
    ) -> None:
        """Put a command through the log, exactly once however often the leader changes.

        ``size``: bytes it takes on the way, about. Raises StorageFullError or UnavailableError when it is not taken.
        """
        self._admit(size)
        if not session:
            self._sequence += 1
            session, sequence, acknowledged = self.session, self._sequence, self._acknowledged
        key = (session, sequence)
        request = Request(session, sequence, acknowledged, command)
        proposal = CommandProposal(deadline=deadline, size=size, request=request, done=done)
        if key in self._commands:  # sent again before it was answered: both shall hear
            waiting = self._commands[key]
            proposal.done = _both(waiting.done, done)
            proposal.deadline = max(waiting.deadline, deadline)
            self._close(waiting)
        self._commands[key] = proposal
        self._pending_bytes += size
        self._to_send.append(proposal)

    def propose_at(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None], deadline: int) -> None:
        """Propose a JSON value for a slot by name. Raises CommandError when the slot is out of range."""
        highest = self.replica.chosen_upto + SLOT_WINDOW
        if not 1 <= slot <= highest:
            raise CommandError(
                f"slot must be from 1 to {highest}, not {slot}: at most {SLOT_WINDOW} past what is chosen without a gap"
            )
        self._admit(len(json))
        self._slot_request += 1
        proposal = SlotProposal(
            deadline=deadline, size=len(json), number=self._slot_request, slot=slot, json=json, done=done
        )
        self._slots[self._slot_request] = proposal
        self._pending_bytes += proposal.size
        self._to_send.append(proposal)

    def query(self, query: Command, done: Callable[[Reply | Refusal], None], deadline: int) -> None:
        """A linearizable read, of a command that changes nothing: no slot, but a quorum confirms the leader first."""
        self._reads.setdefault(self.replica.read(), []).append(Read(query, done, deadline))

    @property
    def has_pending(self) -> bool:
        """Whether any request waits for its outcome."""
        return bool(self._commands or self._slots or self._reads)

    @property
    def waiting(self) -> int:
        """How many requests wait for their outcome."""
        return len(self._commands) + len(self._slots) + sum(map(len, self._reads.values()))

    @property
    def is_alone(self) -> bool:
        """Whether the cluster has no other node."""
        return len(self.replica.configuration.nodes) == 1

    def hand_over(self) -> None:
        """If this node leads, let another do so from now on; what waits here is handed on to it."""
        self.replica.hand_over()

    def accepted(self, first: int, last: int) -> Iterator[Run]:
        """What the slots first..last hold, in order.

        From memory where that reaches: the log store may still lack what was accepted last, chosen by the others and
        applied here, and hold an older value in its place.
        """
        start = self.replica.log_start
        recent = self.replica.accepted(max(first, start), last)
        yield from self.log.read(first, min(last, start - 1))
        yield from recent

    def log_rows(self) -> Iterator[SlotRow]:
        """This node's log: every slot that holds a value, in order."""
        for run in self.accepted(1, self.replica.last_slot):
            for slot, value in enumerate(run.values, run.first):
                yield SlotRow(slot, entries.as_json(value), "chosen" if self.replica.is_chosen(slot) else "accepted")

    def _admit(self, size: int) -> None:
        """Refuse what cannot be taken, before anything has happened."""
        full = self._full or self._commits.full
        if full is not None:
            raise StorageFullError(str(full))  # not the same one again: each raise adds to its traceback
        if (
            len(self._commands) + len(self._slots) >= MAX_PENDING
            or self._pending_bytes > MAX_MEMORY
            or self.replica.memory_bytes > MAX_MEMORY
        ):
            raise UnavailableError(
                f"more than {MAX_PENDING} requests or {MAX_MEMORY} bytes are waiting: send them more slowly"
            )
        if self._free_bytes is not None:
            if self._budget is None:
                self._budget = self._free_bytes()
            self._budget -= COPIES_ON_DISK * size
            if self._budget < 0:
                raise StorageFullError("the disk is full: the write was refused, make room and try again")

    # -- the host's side ----------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: PeerMessage) -> None:
        """A message from another node."""
        match message:
            case Forward():
                if self.replica.role is Role.LEADER and message.ballot == self.replica.ballot:
                    self._on_forward(sender, message)
            case LeftOut():
                if message.ballot == self.replica.ballot:
                    self._anew_at = min(self._anew_at, self._now + FORWARD_PATIENCE)
            case ForwardSlot() if self.replica.memory_bytes > MAX_MEMORY:
                return  # as if it had been lost: it is handed on again later
            case ForwardSlot():
                if self.replica.role is Role.LEADER and message.slot <= self.replica.chosen_upto + SLOT_WINDOW:
                    skipped = self._propose_at(message.slot, message.json)
                    self.replica.urgent_upto = max(self.replica.urgent_upto, message.slot)
                    self._messages.append((sender, ForwardSlotReply(message.request, skipped)))
            case ForwardSlotReply():
                if message.request in self._slots:
                    self._slots[message.request].phase1_skipped = message.phase1_skipped
            case _:
                self.replica.receive(sender, message)

    def resume(self, peer: str) -> None:
        """Messages to this node may have been lost. If it leads, it gets all requests again before any later one."""
        if peer == self.replica.leader:
            self._send_all_again()

    def tick(self, now: int, wall: int) -> None:
        """Let time pass: before the other inputs of a turn, and every ``tick_interval`` while nothing happens."""
        self._now, self._wall = now, wall
        self.replica.tick(now)
        self._give_up()
        self._expire_keys()

    @property
    def tick_interval(self) -> int:
        """How often to call ``tick``, in ms: a cluster has time-outs, a node alone only keys that expire."""
        return 100 if self.is_alone else 10

    def turn(self) -> Turn:
        """Pass on what came in; returns what to do. ``apply`` is to follow, at the latest after the next few turns."""
        self._note_leader()
        self._send()
        effects = self.replica.effects()
        self._records.add(effects.records, effects.upto)
        self._chosen += effects.chosen
        self._reads_upto = max(self._reads_upto, effects.reads)
        self._fetches += effects.fetches
        self._budget = None
        messages, self._messages = self._messages, []
        messages += effects.messages
        return Turn(self._records.take(self._now), messages)

    def apply(self) -> None:
        """Apply what was chosen and complete requests.

        Not a part of the turn, so that others need not wait for it: messages can leave and an append begin before.
        """
        if self._chosen:
            self._apply_chosen()
            self._acknowledged = next(
                (sequence for session, sequence in self._commands if session == self.session), self._sequence + 1
            )
        self._complete_slots()
        if self._reads_upto and not self._chosen:
            self._serve_reads(self._reads_upto)
            self._reads_upto = 0
        fetches, self._fetches = self._fetches, []
        for receiver, first, last in fetches:
            self.replica.supply(receiver, one_message(self.log.read(first, last)))
        self._tidy()

    def persisted(self) -> None:
        """The records of the last turn that had any are durable."""
        self.replica.persisted(self._records.written())
        self._full = None

    def storage_failed(self, error: StorageFullError) -> None:
        """There was no room for those records. They stay in line, and new writes are refused until they are stored."""
        self._records.failed(self._now)
        self._full = error
        for proposal in self._proposals():
            if proposal.tried or self.is_alone:
                self._drop(proposal, str(error))
        self._commits.tell(self._now, error)

    def committed(self, batch: Batch, outcome: int | StorageFullError) -> None:
        """``state.write`` gave this outcome in the background."""
        self._commits.ended(batch, outcome, self._now)

    def when_committed(self, done: Callable[[UnavailableError | None], None], deadline: int) -> None:
        """Call ``done`` once the database shows all that is applied now, or why it does not."""
        self._commits.wait(done, deadline)

    def close(self) -> None:
        """Commit the state as far as the log is durable, and close both stores. Nothing may be under way."""
        self._commits.close(self._now)
        self.state.close()
        self.log.close()

    # -- proposals on their way ---------------------------------------------------------------------------------------

    def _note_leader(self) -> None:
        """After a change of leader everything unfinished is sent once more; the session table removes the doubles."""
        led_by = (self.replica.leader, self.replica.ballot)
        if led_by != self._led_by:
            self._led_by = led_by
            self._tick_upto = 0
            self._begun.clear()
            self._send_all_again()

    def _send_all_again(self) -> None:
        self._to_send = self._proposals()
        self._sends_anew = True
        self._anew_at = NO_END

    def _proposals(self) -> list[CommandProposal | SlotProposal]:
        return [*self._commands.values(), *self._slots.values()]

    def _send(self) -> None:
        if not self._to_send and not self._reads:
            return
        leader = self.replica.leader
        if leader is None:
            self.replica.campaign()
            return
        proposals, self._to_send = self._to_send, []
        commands: list[Request] = []
        for proposal in proposals:
            if proposal.closed:
                continue
            proposal.tried = True
            proposal.sent_at = self._now
            if isinstance(proposal, CommandProposal):
                commands.append(proposal.request)
                continue
            # In the order of arrival: a command before this one takes the lowest free slot first.
            self._send_commands(leader, commands)
            commands = []
            if leader == self.replica.node:
                proposal.phase1_skipped = self._propose_at(proposal.slot, proposal.json)
            else:
                self._messages.append((leader, ForwardSlot(proposal.number, proposal.slot, proposal.json)))
        self._send_commands(leader, commands)

    def _send_commands(self, leader: str, requests: list[Request]) -> None:
        if requests and leader == self.replica.node:
            self._propose(requests)
        elif requests:
            self._messages.append((leader, Forward(self.replica.ballot, self._sends_anew, requests)))
            self._sends_anew = False

    def _on_forward(self, sender: str, forward: Forward) -> None:
        """Propose the requests, unless some that the sender's clients sent before them may be missing."""
        if self.replica.memory_bytes > MAX_MEMORY:
            self._begun.discard(sender)
        elif forward.anew:
            self._begun.add(sender)
        if sender in self._begun:
            self.replica.urgent_upto = max(self.replica.urgent_upto, self._propose(forward.requests))
        else:
            self._messages.append((sender, LeftOut(forward.ballot)))

    def _propose(self, requests: Iterable[Request]) -> int:
        """Returns the last slot that they took."""
        stamp = self._next_stamp()
        ranges = self.replica.propose(
            [
                entries.encode(Entry(request.session, request.sequence, request.acknowledged, stamp, request.command))
                for request in requests
            ]
        )
        return ranges[-1][1] if ranges else 0

    def _propose_at(self, slot: int, json: bytes) -> bool:
        """Propose for a slot by name unless it is taken; returns whether Phase 1 was skipped for it."""
        proposed = self.replica.propose_at(slot, entries.encode(Entry("", 0, 0, self._next_stamp(), Opaque(json))))
        return not (proposed and self.replica.first_proposal == slot)

    def _next_stamp(self) -> int:
        """The time for entries proposed now; never before that of an entry already in the log."""
        self._stamp = max(self._stamp, self._wall, self.state.clock)
        return self._stamp

    def _expire_keys(self) -> None:
        """When a key is due, move the log's clock on: expiry is a command in the log, not a timer on each node."""
        due = self.state.next_expiry
        if due is None or due > self._wall or self.replica.role is not Role.LEADER or self._tick_upto:
            return
        ranges = self.replica.propose([entries.encode(Entry("", 0, 0, self._next_stamp(), Tick()))])
        self._tick_upto = ranges[-1][1]

    def _give_up(self) -> None:
        """Answer the requests whose time is over, and hand on again what a leader may never have received."""
        if self._now < self._give_up_at:
            return
        self._give_up_at = self._now + GIVE_UP_INTERVAL
        follows = self.replica.leader not in (None, self.replica.node)
        patience = FORWARD_PATIENCE + self._pending_bytes // BYTES_PER_MS
        is_late = self._anew_at <= self._now
        for proposal in self._proposals():
            if proposal.deadline <= self._now:
                self._drop(proposal, "no quorum answered in time")
            elif follows and proposal.tried and proposal.sent_at + patience <= self._now:
                is_late = True
        if is_late:
            self._send_all_again()
        for number, reads in list(self._reads.items()):
            late = [read for read in reads if read.deadline <= self._now]
            if late:
                self._reads[number] = [read for read in reads if read.deadline > self._now]
                if not self._reads[number]:
                    del self._reads[number]
            for read in late:
                read.done(UnavailableError("no quorum confirmed a leader in time: nothing was read"))
        self._commits.tell(self._now, self._full)

    def _close(self, proposal: CommandProposal | SlotProposal) -> None:
        proposal.closed = True
        self._pending_bytes -= proposal.size

    def _drop(self, proposal: CommandProposal | SlotProposal, why: str) -> None:
        self._close(proposal)
        if isinstance(proposal, CommandProposal):
            del self._commands[proposal.request.session, proposal.request.sequence]
        else:
            del self._slots[proposal.number]
        proposal.done(proposal.refusal(why))

    # -- what was chosen ----------------------------------------------------------------------------------------------

    def _apply_chosen(self) -> None:
        """Apply what was chosen, as far as the changes that wait for a commit in the background leave room for it.

        A request of a few bytes can change a megabyte, so that the log's own bounds do not bound them.
        """
        waiting = deque(self._chosen)
        while waiting and self._commits.make_room(self._now):
            run = waiting.popleft()
            if len(run.values) > APPLY_SLOTS:
                waiting.appendleft(run.clip(run.first + APPLY_SLOTS, run.last))
                run = run.clip(run.first, run.first + APPLY_SLOTS - 1)
            self._apply(run)
        self._chosen = list(waiting)

    def _apply(self, run: Run) -> None:
        outcomes = self.state.apply(run.first, run.values)
        if not self._commands:
            return
        leads = self.replica.role is Role.LEADER
        first_proposal = self.replica.first_proposal
        waiting, ballot = self._commands.pop, run.ballot
        for slot, applied in enumerate(outcomes, run.first):
            proposal = waiting((applied.session, applied.sequence), None)
            if proposal is not None and applied.result is not None:
                self._close(proposal)
                proposal.done(Reply(applied.result, slot, ballot, slot != first_proposal if leads else None))

    def _complete_slots(self) -> None:
        for proposal in list(self._slots.values()):
            if self.replica.is_chosen(proposal.slot):
                del self._slots[proposal.number]
                self._close(proposal)
                json = entries.as_json(self._chosen_value(proposal.slot))
                proposal.done(SlotReply(proposal.slot, json, proposal.phase1_skipped))

    def _chosen_value(self, slot: int) -> bytes:
        value = self.replica.value(slot)
        return value if value is not None else next(self.log.read(slot, slot)).values[0]

    def _serve_reads(self, upto: int) -> None:
        for number in [number for number in self._reads if number <= upto]:
            for read in self._reads.pop(number):
                read.done(Reply(self.state.query(read.query, self._wall)))

    def _tidy(self) -> None:
        """Forget applied slots, and commit the state now and then."""
        applied_upto = self.state.applied_upto
        if self._tick_upto <= applied_upto:
            self._tick_upto = 0
        surplus = applied_upto - self.replica.log_start - self._keep_slots
        if surplus >= self._keep_slots >> 4 or self.replica.memory_bytes > KEEP_BYTES:
            self.replica.forget(applied_upto - (self._keep_slots if self.replica.memory_bytes <= KEEP_BYTES else 0))
        self._commits.tidy(self._now)


def _both(
    one: Callable[[Reply | Refusal], None], other: Callable[[Reply | Refusal], None]
) -> Callable[[Reply | Refusal], None]:
    def done(outcome: Reply | Refusal) -> None:
        one(outcome)
        other(outcome)

    return done


def recover(log: LogStore, state: StateMachine) -> None:
    """Apply what the log knows as chosen and a crash lost from the state database.

    Raises DamagedError when the log ends before the state does: acknowledged slots are missing from it.
    """
    if state.applied_upto > log.last:
        raise DamagedError(
            f"log.db ends at slot {log.last}, but state.db has applied up to slot {state.applied_upto}: slots"
            f" {log.last + 1}..{state.applied_upto} were lost from log.db. Restore the data directory from a backup"
        )
    for run in log.read(state.applied_upto + 1, log.chosen_upto):
        state.apply(run.first, run.values)
        if is_large(state):
            state.commit()
    if state.applied_upto < log.chosen_upto:
        raise DamagedError(
            f"log.db lacks slot {state.applied_upto + 1}, though slots up to {log.chosen_upto} were chosen:"
            " restore the whole data directory from a backup"
        )
