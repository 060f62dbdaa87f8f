"""Requests on their way into the log: which ones a node takes, to whom it hands them, and when it does so again."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from consensus.ballot import Ballot
from consensus.leader import BYTES_PER_MS
from consensus.log import NO_END
from consensus.messages import NO_OP, Run
from consensus.replica import SLOT_WINDOW, Replica, Role
from kvstore.commands import Command, Early, Entry, Expired, Forgotten, Opaque, Result, Set, Tick, Unkept
from kvstore.errors import CommandError, DataDirError, Refusal, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.limits import NODE_SESSIONS, check_session
from kvstore.node.peer_messages import Forward, ForwardSlot, ForwardSlotReply, LeftOut, PeerMessage, Request
from kvstore.node.pending import CommandProposal, SlotProposal
from kvstore.state import entries
from kvstore.state.commit_schedule import Commits
from kvstore.state.entries import Applied
from kvstore.state.machine import StateMachine
from kvstore.store import Reply, SlotReply

MAX_PENDING = 65_536
MAX_MEMORY = 256 * 1_048_576
"""A node refuses requests while more than this many wait, or while they or the log take more bytes of memory than this,
so that clients slow down."""
MAX_FORWARD_BYTES = 4 * 1_048_576
"""Requests of about this many bytes are handed to a leader in one message."""
MAX_REPEATS = 16
"""A request that waits for its outcome is taken so many times more, each time for another caller who hears of it."""
FORWARD_PATIENCE = 500
"""How long a follower waits, in ms, before it hands its requests to the leader again. It waits longer while many bytes
are under way, since the leader repeats its own messages too."""
MAX_BROKEN = 10_000
"""Of this many sessions it is remembered that one of their requests was refused."""
GAP_SHARE = 3
"""In so much of that memory, as a shift, values may wait behind slots without one; followers keep twice as much."""
FILLED_AT_ONCE = 4_096
LOOKED_AT_ONCE = 1_024
"""Of so many proposals for slots that wait it is looked in a turn whether their slots are chosen."""
REFUSED_AT_ONCE = 4_096
"""So many callers are told in one go that their requests are given up, of tens of thousands that may be at once."""
COPIES_ON_DISK = 2
"""A request is written to log.db and to its WAL, and what it changes to state.db and to its WAL."""


_FULL = "the disk is full: the write was refused, make room and try again"
_UNTOLD = {Expired, Forgotten, Unkept}

_BEHIND = "request {} of this session was refused: send it again before any later one"
_NOT_BROKEN = 0, 0


class Proposals:
    """The requests of this node's clients, and those that followers handed to it as leader.

    Each request's ``done`` is called once. ``now`` and ``wall`` are set by the node whenever time passes, both in ms.
    ``free_bytes`` tells how much room on the disk new writes may take.
    """

    def __init__(
        self,
        replica: Replica,
        state: StateMachine,
        commits: Commits,
        *,
        rng: random.Random,
        now: int,
        wall: int,
        free_bytes: Callable[[], int] | None,
    ) -> None:
        self._rng = rng
        self._state = state
        self.now = now
        self.wall = wall
        self.log_full: StorageFullError | None = None
        """Set while the log finds no room on the disk."""
        self._replica = replica
        self._commits = commits
        self._begin_session()
        # Not from 0: a late answer to the process before a restart must not be taken for one to this.
        self._slot_request = rng.getrandbits(52)
        self._commands: dict[tuple[str, int], CommandProposal] = {}
        self._slots: dict[int, SlotProposal] = {}
        self._unlooked: deque[int] = deque()
        """Those of which it was not looked yet whether their slots are chosen, since the last that were."""
        self._looked_at = replica.times_chosen
        self._pending_bytes = 0
        self.changed = 0
        """About how many bytes all requests together change that were taken so far."""
        self._given_up: deque[tuple[CommandProposal | SlotProposal, str]] = deque()
        """Requests given up, each with the reason, whose callers are still to be told. Until then they count as
        waiting: their memory is still held."""
        self._repeats = 0
        """How many callers wait for a request that somebody else waits for too."""
        self._broken: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """The first and last requests refused of a client's session, which come again in their order: none behind the
        first is taken before that one."""
        self._free_bytes = free_bytes
        self._budget: int | None = None
        self._to_send: list[CommandProposal | SlotProposal] = []
        self._sends_anew = True
        self._anew_at = NO_END
        self._begun: set[str] = set()
        self._early: dict[tuple[str, int], None] = {}
        """Of these a slot held a copy before it was their turn."""
        self._led_by: tuple[str | None, Ballot] = (None, replica.ballot)
        self._stamp = 0
        self._tick_upto = 0
        self._messages: list[tuple[str, PeerMessage]] = []

    def _begin_session(self) -> None:
        """Requests that bring no session of their own run under this one, new for every incarnation."""
        self._session = f"{NODE_SESSIONS}{self._replica.node}.{self._rng.getrandbits(64):016x}"
        self._since = self._state.applied_upto
        self._sequence = 0
        self._acknowledged = 1

    @property
    def waiting(self) -> int:
        """The number of requests that wait for their outcome."""
        return len(self._commands) + len(self._slots) + len(self._given_up)

    # -- admission ----------------------------------------------------------------------------------------------------

    def add_command(
        self,
        command: Command,
        done: Callable[[Reply | Refusal], None],
        deadline: int,
        session: str,
        sequence: int,
        acknowledged: int,
        size: int,
        since: int = 0,
    ) -> None:
        """Take a command of a client; one without a session runs under this node's own.

        Raises CommandError, StorageFullError or UnavailableError when it is not taken, and UnknownOutcomeError when the
        same request waits already and so many callers wait for it that this one cannot.
        """
        is_done = False
        if session:
            check_session(session, sequence, acknowledged, since)
            waiting = self._commands.get((session, sequence))
            if waiting is not None:
                first = self._first_missing(session, sequence, acknowledged)
                if 0 < first < sequence:
                    raise UnknownOutcomeError(f"{_BEHIND.format(first)}; this one waits already, and may happen")
                self._repeat(waiting, acknowledged, done, deadline)
                return
            is_done = sequence <= self._state.executed_upto(session)
        changed = size
        if not is_done and (type(command) is not Set or command.ifeq is not None):
            try:
                changed = self._state.changed_bytes(command, size)
            except CommandError:
                if session:
                    self._break(session, sequence)
                raise
        if is_done:
            self._admit_again(session, sequence, size)
        elif session:
            self._admit_in_order(session, sequence, acknowledged, size, changed)
        else:
            self._admit(size, changed)
        self.changed += changed
        if changed > size:
            size = changed  # it will take so much memory
        if not session:
            self._sequence += 1
            session, sequence, acknowledged = self._session, self._sequence, self._acknowledged
            since = self._since
        request = Request(session, sequence, acknowledged, command, since)
        proposal = CommandProposal(deadline=deadline, size=size, request=request, done=done)
        self._commands[session, sequence] = proposal
        self._pending_bytes += size
        self._to_send.append(proposal)

    def _repeat(
        self,
        waiting: CommandProposal,
        acknowledged: int,
        done: Callable[[Reply | Refusal], None],
        deadline: int,
    ) -> None:
        """A request is sent again before it was answered: both callers shall hear. It keeps its place in the queue.

        What it was weighed as it stays, whatever comes under its number.
        """
        request = waiting.request
        if waiting.others is None:
            waiting.others = []
        is_full = len(self._commands) + len(self._slots) + self._repeats >= MAX_PENDING
        if is_full or len(waiting.others) == MAX_REPEATS:
            why = f"so do {MAX_PENDING} requests" if is_full else f"was sent again {MAX_REPEATS} times"
            raise UnknownOutcomeError(
                f"request {request.sequence} of session {request.session!r} waits already, and {why}:"
                " wait for its outcome before you send it once more"
            )
        waiting.others.append(waiting.done)
        self._repeats += 1
        waiting.done = done
        waiting.request = replace(request, acknowledged=max(request.acknowledged, acknowledged))
        waiting.deadline = max(waiting.deadline, deadline)
        if not waiting.unsent:
            waiting.unsent = True
            self._to_send.append(waiting)

    def add_tick(self, done: Callable[[Reply | Refusal], None], deadline: int) -> None:
        """Let time pass in the log, for reads of this node that wait for it. Raises StorageFullError.

        A full disk does not refuse it, as it takes none of a leader's own: the reserve has room for them.
        """
        if self.log_full is not None:
            raise StorageFullError(str(self.log_full))
        self._sequence += 1
        key = (self._session, self._sequence)
        request = Request(self._session, self._sequence, self._acknowledged, Tick(), self._since)
        proposal = CommandProposal(deadline=deadline, request=request, done=done)
        self._commands[key] = proposal
        self._to_send.append(proposal)

    def add_slot(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None], deadline: int) -> None:
        """Take a JSON value that a client proposes for a slot.

        Raises CommandError when the slot is out of range, or when the value is a command that costs more than one may.
        """
        highest = self._replica.chosen_upto + SLOT_WINDOW
        if not 1 <= slot <= highest:
            raise CommandError(
                f"slot must be from 1 to {highest}, not {slot}: at most {SLOT_WINDOW} past what is chosen without a gap"
            )
        changed = self._state.changed_bytes_of_json(json)
        self._admit(len(json), changed)
        self.changed += changed
        self._slot_request += 1
        proposal = SlotProposal(
            deadline=deadline, size=max(len(json), changed), number=self._slot_request, slot=slot, json=json, done=done
        )
        self._slots[self._slot_request] = proposal
        self._unlooked.append(self._slot_request)
        self._pending_bytes += proposal.size
        self._to_send.append(proposal)

    def _admit_in_order(self, session: str, sequence: int, acknowledged: int, size: int, changed: int) -> None:
        """Refuse what follows a refused request of its session, unless that one is settled."""
        broken = self._broken
        first = self._first_missing(session, sequence, acknowledged)
        if 0 < first < sequence:
            raise UnavailableError(_BEHIND.format(first))
        last = broken[session][1] if first else 0
        try:
            self._admit(size, changed)
        except UnavailableError:
            self._break(session, sequence)
            raise
        if first and sequence == first:  # those behind it come next; an earlier one that comes again mends nothing
            if first < last:
                broken[session] = first + 1, last
            else:
                del broken[session]

    def _first_missing(self, session: str, sequence: int, acknowledged: int) -> int:
        """The first request of a session that was refused and not settled since; 0 if there is none."""
        broken = self._broken
        first, last = broken.get(session, _NOT_BROKEN)
        if not last:
            return 0
        # The client has given up what it acknowledges, and other nodes may have taken what this one refused.
        first = max(first, acknowledged, self._state.executed_upto(session) + 1)
        if first > last:
            del broken[session]
            return 0
        broken[session] = first, max(sequence, last)
        return first

    def _admit_again(self, session: str, sequence: int, size: int) -> None:
        """Let a request that was executed, or given up, ask for its result, which costs no more than a slot.

        Raises UnknownOutcomeError when it cannot be taken now, since it may well have happened.
        """
        try:
            self._admit(size, size)
        except UnavailableError as error:
            raise UnknownOutcomeError(
                f"request {sequence} of session {session!r} was sent before, and its result cannot be asked for now:"
                f" {error}"
            ) from error

    def _break(self, session: str, sequence: int) -> None:
        """A request of this session was refused, or given up."""
        broken = self._broken
        first, last = broken.pop(session, (sequence, sequence))
        broken[session] = min(sequence, first), max(sequence, last)
        if len(broken) > MAX_BROKEN:
            broken.popitem(last=False)

    def _admit(self, size: int, changed: int) -> None:
        """Refuse a request that cannot be taken, before anything has happened. It changes about so many bytes."""
        full = self.log_full or self._commits.full
        if full is not None:
            raise StorageFullError(str(full))  # not the same one again: each raise adds to its traceback
        if (
            self.waiting + self._repeats >= MAX_PENDING
            or self._pending_bytes > MAX_MEMORY
            or self._replica.memory_bytes > MAX_MEMORY
            or self._replica.is_held_up
        ):
            raise UnavailableError(
                f"more than {MAX_PENDING} requests or {MAX_MEMORY} bytes are waiting: send them more slowly"
            )
        if self._free_bytes is not None:
            if self._budget is None:
                self._budget = self._room()
            self._budget -= COPIES_ON_DISK * (size + changed)
            if self._budget < 0:
                raise StorageFullError(_FULL)

    def _room(self) -> int:
        """What new writes may take on the disk, in bytes; below 0 when none may."""
        assert self._free_bytes is not None
        under_way = 2 * self._pending_bytes + self._state.unwritten_bytes
        return self._free_bytes() - COPIES_ON_DISK * under_way

    @property
    def writes_refused(self) -> str:
        """Why writes are refused for want of room, "" if they are not."""
        full = self.log_full or self._commits.full
        if full is not None:
            return str(full)
        try:
            return _FULL if self._free_bytes is not None and self._room() < 0 else ""
        except DataDirError as error:
            return str(error)

    # -- sending ------------------------------------------------------------------------------------------------------

    def note_leader(self) -> None:
        """After a change of leader everything unfinished is sent again; the session table removes the duplicates."""
        led_by = (self._replica.leader, self._replica.ballot)
        if led_by != self._led_by:
            self._led_by = led_by
            self._tick_upto = 0
            self._begun.clear()
            self.send_all_again()

    def send_all_again(self) -> None:
        """Hand all unfinished requests to the leader once more, before any later one."""
        self._to_send = self._proposals()
        for proposal in self._to_send:
            proposal.unsent = True
        self._sends_anew = True
        self._anew_at = NO_END

    def _proposals(self) -> list[CommandProposal | SlotProposal]:
        return [*self._commands.values(), *self._slots.values()]

    @property
    def has_unsent(self) -> bool:
        """Whether a request waits to be handed to a leader."""
        return bool(self._to_send)

    def send(self, leader: str) -> None:
        """Propose what waits, or hand it to the leader."""
        proposals, self._to_send = self._to_send, []
        commands: list[Request] = []
        size = 0
        for proposal in proposals:
            if proposal.closed:
                continue
            proposal.tried, proposal.unsent = True, False
            proposal.sent_at = self.now
            if isinstance(proposal, CommandProposal):
                commands.append(proposal.request)
                size += proposal.size
                if size > MAX_FORWARD_BYTES and leader != self._replica.node:
                    self._send_commands(leader, commands)
                    commands, size = [], 0
                continue
            # In the order of arrival: a command before this one takes the lowest free slot first.
            self._send_commands(leader, commands)
            commands = []
            if leader == self._replica.node:
                proposal.phase1_skipped = self._propose_at(proposal.slot, proposal.json)
            else:
                self._messages.append((leader, ForwardSlot(proposal.number, proposal.slot, proposal.json)))
        self._send_commands(leader, commands)

    def _send_commands(self, leader: str, requests: list[Request]) -> None:
        if requests and leader == self._replica.node:
            self._propose(requests)
        elif requests:
            self._messages.append((leader, Forward(self._replica.ballot, self._sends_anew, requests)))
            self._sends_anew = False

    def take_messages(self) -> list[tuple[str, PeerMessage]]:
        """The messages to other nodes since the last call, at the end of a turn."""
        self._budget = None
        messages, self._messages = self._messages, []
        return messages

    # -- what other nodes hand on -------------------------------------------------------------------------------------

    def on_forward(self, sender: str, forward: Forward) -> None:
        """Propose a follower's requests, unless some that its clients sent before them may be missing."""
        if self._replica.role is not Role.LEADER or forward.ballot != self._replica.ballot:
            return
        if self._replica.memory_bytes > MAX_MEMORY or self._replica.is_held_up:
            self._begun.discard(sender)
        elif forward.anew:
            self._begun.add(sender)
        if sender in self._begun:
            self._replica.urgent_upto = max(self._replica.urgent_upto, self._propose(forward.requests))
        else:
            self._messages.append((sender, LeftOut(forward.ballot)))

    def on_left_out(self, message: LeftOut) -> None:
        """The leader did not take a Forward: all requests go to it once more in a while."""
        if message.ballot == self._replica.ballot:
            self._anew_at = min(self._anew_at, self.now + FORWARD_PATIENCE)

    def on_forward_slot(self, sender: str, message: ForwardSlot) -> None:
        """Propose a follower's value for a slot. Ignored while memory is short: the follower repeats it later."""
        replica = self._replica
        if replica.memory_bytes > MAX_MEMORY or replica.is_held_up or replica.role is not Role.LEADER:
            return
        if message.slot > replica.chosen_upto and replica.is_chosen(message.slot):
            # Asked again: it may lie beyond the ranges that the leader's news has room for.
            replica.supply(sender, replica.accepted(message.slot, message.slot))
        if message.slot <= replica.chosen_upto + SLOT_WINDOW:
            skipped = self._propose_at(message.slot, message.json)
            replica.urgent_upto = max(replica.urgent_upto, message.slot)
            self._messages.append((sender, ForwardSlotReply(message.request, skipped)))

    def on_forward_slot_reply(self, message: ForwardSlotReply) -> None:
        """The leader proposed this node's value for a slot."""
        if message.request in self._slots:
            self._slots[message.request].phase1_skipped = message.phase1_skipped

    # -- into the log -------------------------------------------------------------------------------------------------

    def _propose(self, requests: Iterable[Request]) -> int:
        """Returns the last slot that they took."""
        stamp = self._next_stamp()
        ranges = self._replica.propose(
            [
                entries.encode(
                    Entry(
                        request.session,
                        request.sequence,
                        request.acknowledged,
                        stamp,
                        request.command,
                        request.since,
                    )
                )
                for request in requests
            ]
        )
        return ranges[-1][1] if ranges else 0

    def _propose_at(self, slot: int, json: bytes) -> bool:
        """Propose for a slot by name unless it is taken; returns whether Phase 1 was skipped for it."""
        proposed = self._replica.propose_at(slot, entries.encode(Entry("", 0, 0, self._next_stamp(), Opaque(json))))
        return not (proposed and self._replica.first_proposal == slot)

    def _next_stamp(self) -> int:
        """The time for entries proposed now; never before that of an entry already in the log."""
        self._stamp = max(self._stamp, self.wall, self._state.clock)
        return self._stamp

    def expire_keys(self) -> None:
        """When a key is due, move the log's clock on: expiry is a command in the log, not a timer on each node."""
        due = self._state.next_expiry
        if due is None or due > self.wall or self._replica.role is not Role.LEADER:
            return
        if self.wall <= self._state.clock:
            return  # a slot removes keys only when time has passed since the one before
        if self._tick_upto <= self._state.applied_upto:  # else a tick is under way
            ranges = self._replica.propose([entries.encode(Entry("", 0, 0, self._next_stamp(), Tick()))])
            self._tick_upto = ranges[-1][1]

    def fill_gaps(self) -> None:
        """On a leader: once much waits in memory behind slots without a value, these get no-ops, the lowest first.

        Otherwise nothing that could take them would be taken any more, for want of memory.
        """
        replica = self._replica
        if replica.memory_bytes <= MAX_MEMORY >> GAP_SHARE or replica.role is not Role.LEADER:
            return
        for first, last in replica.gaps(1):
            replica.propose([NO_OP] * min(last - first + 1, FILLED_AT_ONCE))

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def complete(self, run: Run, outcomes: list[Applied]) -> None:
        """The commands of a run were applied: answer those that wait for them."""
        if not self._commands:
            return
        opened = self._replica.opened(run.ballot)
        waiting, ballot = self._commands.pop, run.ballot
        for slot, applied in enumerate(outcomes, run.first):
            if type(applied.result) is Early:
                self._early[applied.session, applied.sequence] = None
                continue
            proposal = waiting((applied.session, applied.sequence), None)
            if proposal is not None and applied.result is not None:
                self._close(proposal)
                if type(applied.result) in _UNTOLD and applied.session.startswith(NODE_SESSIONS):
                    self._tell(proposal, self._untold(applied.session, applied.result))
                    continue
                self._tell(proposal, Reply(applied.result, slot, ballot, None if opened is None else slot != opened))

    def _untold(self, session: str, result: Result) -> UnknownOutcomeError:
        """What a client is told that has no session of its own, when there is no result to show for its request."""
        if type(result) is Forgotten:
            if session == self._session:  # else this was done for another request of that session
                self._begin_session()  # thousands of later ones pushed it out while it was idle
            return UnknownOutcomeError("the store no longer knows the session of this node: it may have happened")
        return UnknownOutcomeError("it happened, and its result is no longer known")

    def acknowledge(self) -> None:
        """After commands were answered: note up to which sequence this node's own session has all its results."""
        self._acknowledged = next(
            (sequence for session, sequence in self._commands if session == self._session), self._sequence + 1
        )
        if self._early:
            self._take_turns()

    def _take_turns(self) -> None:
        """Hand on again what came early, once nothing before it in its session waits here any more."""
        lowest: dict[str, int] = {}
        sessions = {session for session, _ in self._early}
        for session, sequence in self._commands:
            if session in sessions:
                lowest[session] = min(sequence, lowest.get(session, NO_END))
        early, self._early = self._early, {}
        gaps: list[CommandProposal | SlotProposal] = []
        for session, sequence in early:
            proposal = self._commands.get((session, sequence))
            if proposal is None:
                continue
            if lowest[session] < sequence:
                self._early[session, sequence] = None
                continue
            if session == self._session:
                # Those before it that were given up are done with.
                proposal.request = replace(proposal.request, acknowledged=sequence)
            elif self._state.is_early(session, sequence, proposal.request.acknowledged):
                gaps.append(proposal)
                continue
            if not proposal.unsent:
                proposal.unsent = True
                self._to_send.append(proposal)
        if gaps:
            self._drop(gaps, "a request before it in its session was not executed")

    def complete_slots(self, chosen: Callable[[int], bytes], is_late: Callable[[], bool]) -> bool:
        """Answer the proposals for slots that are known as chosen by now; ``chosen`` gives the value of one.

        Returns whether all were looked at: some thousands may wait, and to write down one value may take milliseconds.
        """
        if not self._slots:
            self._unlooked.clear()
            self._looked_at = self._replica.times_chosen
            return True
        if not self._unlooked and self._replica.times_chosen != self._looked_at:
            self._looked_at = self._replica.times_chosen
            self._unlooked.extend(self._slots)
        slot, json = 0, b""
        looked = 0
        while self._unlooked:
            proposal = self._slots.get(self._unlooked.popleft())
            looked += 1
            if proposal is not None and self._replica.is_chosen(proposal.slot):
                del self._slots[proposal.number]
                self._close(proposal)
                if proposal.slot != slot:  # many may ask for one
                    slot, json = proposal.slot, entries.as_json(chosen(proposal.slot))
                proposal.done(SlotReply(slot, json, proposal.phase1_skipped))
                if is_late():
                    break
            elif looked >= LOOKED_AT_ONCE:
                break
        return not self._slots or (not self._unlooked and self._replica.times_chosen == self._looked_at)

    def give_up(self) -> bool:
        """Answer the requests whose time is over, and hand on again what a leader may never have received.

        Returns whether all were: of tens of thousands some are left for the next tick.
        """
        follows = self._replica.leader not in (None, self._replica.node)
        patience = FORWARD_PATIENCE + self._pending_bytes // BYTES_PER_MS
        is_late = self._anew_at <= self.now
        is_all = True
        late: list[CommandProposal | SlotProposal] = []
        for proposal in self._proposals():
            if proposal.deadline <= self.now:
                if len(late) == REFUSED_AT_ONCE:
                    is_all = False
                else:
                    late.append(proposal)
            elif follows and proposal.tried and proposal.sent_at + patience <= self.now:
                is_late = True
        if late:
            self._drop(late, "no quorum answered in time")
        if is_late:
            self.send_all_again()
        return is_all

    def storage_failed(self, error: StorageFullError) -> None:
        """The log found no room: answer the requests that depend on this node's disk, and refuse later ones."""
        self.log_full = error
        alone = len(self._replica.configuration.nodes) == 1
        self._drop([proposal for proposal in self._proposals() if proposal.tried or alone], str(error))

    def _close(self, proposal: CommandProposal | SlotProposal) -> None:
        proposal.closed = True
        self._pending_bytes -= proposal.size

    def _drop(self, proposals: list[CommandProposal | SlotProposal], why: str) -> None:
        """Give these up, and with a client's request those behind it in its session."""
        first: dict[str, int] = {}
        for proposal in proposals:
            if isinstance(proposal, CommandProposal) and not proposal.request.session.startswith(NODE_SESSIONS):
                session, sequence = proposal.request.session, proposal.request.sequence
                first[session] = min(sequence, first.get(session, NO_END))
        for session, sequence in first.items():
            self._break(session, sequence)
        dropped = set(map(id, proposals))
        if first:  # one pass for all of them: each may be of a session of its own
            for behind in self._commands.values():
                session, sequence = behind.request.session, behind.request.sequence
                if first.get(session, NO_END) < sequence:
                    dropped.add(id(behind))
                    self._break(session, sequence)
        for proposal in self._proposals():
            if id(proposal) not in dropped or proposal.closed:
                continue
            proposal.closed = True
            if isinstance(proposal, CommandProposal):
                del self._commands[proposal.request.session, proposal.request.sequence]
            else:
                del self._slots[proposal.number]
            self._given_up.append((proposal, why))
        self.tell_given_up()

    def tell_given_up(self) -> None:
        """Tell some of those whose requests were given up, the first ones first. Every tick tells more."""
        for _ in range(REFUSED_AT_ONCE):
            if not self._given_up:
                return
            proposal, why = self._given_up.popleft()
            self._pending_bytes -= proposal.size
            if isinstance(proposal, CommandProposal):
                self._tell(proposal, proposal.refusal(why))
            else:
                proposal.done(proposal.refusal(why))

    def _tell(self, proposal: CommandProposal, outcome: Reply | Refusal) -> None:
        """Give the outcome to everybody who waits for it, in the order in which they asked."""
        if proposal.others is not None:
            self._repeats -= len(proposal.others)
            for done in proposal.others:
                done(outcome)
        proposal.done(outcome)
