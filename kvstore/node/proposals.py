"""Requests on their way into the log: which ones a node takes, to whom it hands them, and when it does so again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from consensus.ballot import Ballot
from consensus.leader import BYTES_PER_MS
from consensus.log import NO_END
from consensus.messages import Run
from consensus.replica import SLOT_WINDOW, Replica, Role
from kvstore.commands import Command, Entry, Expired, Forgotten, Opaque, Result, Set, Tick, Unkept
from kvstore.errors import CommandError, Refusal, StorageFullError, UnavailableError, UnknownOutcomeError
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
MAX_REPEATS = 16
"""A request that waits for its outcome is taken so many times more, each time for another caller who hears of it."""
FORWARD_PATIENCE = 500
"""How long a follower waits, in ms, before it hands its requests to the leader again. It waits longer while many bytes
are under way, since the leader repeats its own messages too."""
MAX_BROKEN = 10_000
"""Of this many sessions it is remembered that one of their requests was refused."""
COPIES_ON_DISK = 2
"""A request is written to log.db and to its WAL, and what it changes to state.db and to its WAL."""


_UNTOLD = {Expired, Forgotten, Unkept}


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
        self._pending_bytes = 0
        self._repeats = 0
        """How many callers wait for a request that somebody else waits for too."""
        self._broken: dict[str, int] = {}
        """The first request refused of a client's session: none behind it is taken before it comes again."""
        self._free_bytes = free_bytes
        self._budget: int | None = None
        self._to_send: list[CommandProposal | SlotProposal] = []
        self._sends_anew = True
        self._anew_at = NO_END
        self._begun: set[str] = set()
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
        return len(self._commands) + len(self._slots)

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
        if session:
            check_session(session, sequence, acknowledged, since)
        changed = size
        if type(command) is not Set:
            changed = self._state.changed_bytes(command, size)
        if session:
            self._admit_in_order(session, sequence, acknowledged, size, changed)
        else:
            self._admit(size, changed)
        if changed > size:
            size = changed  # it will take so much memory
        if not session:
            self._sequence += 1
            session, sequence, acknowledged = self._session, self._sequence, self._acknowledged
            since = self._since
        key = (session, sequence)
        request = Request(session, sequence, acknowledged, command, since)
        proposal = CommandProposal(deadline=deadline, size=size, request=request, done=done)
        if key in self._commands:  # sent again before it was answered: both callers shall hear
            waiting = self._commands[key]
            proposal.others = waiting.others or []
            if len(proposal.others) == MAX_REPEATS:
                raise UnknownOutcomeError(
                    f"request {sequence} of session {session!r} waits already, and was sent again {MAX_REPEATS} times:"
                    " wait for its outcome before you send it once more"
                )
            proposal.others.append(waiting.done)
            self._repeats += 1
            proposal.deadline = max(waiting.deadline, deadline)
            proposal.tried = waiting.tried  # the first may be in the log already, whatever becomes of this one
            self._close(waiting)
        self._commands[key] = proposal
        self._pending_bytes += size
        self._to_send.append(proposal)

    def add_slot(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None], deadline: int) -> None:
        """Take a JSON value that a client proposes for a slot. Raises CommandError when the slot is out of range."""
        highest = self._replica.chosen_upto + SLOT_WINDOW
        if not 1 <= slot <= highest:
            raise CommandError(
                f"slot must be from 1 to {highest}, not {slot}: at most {SLOT_WINDOW} past what is chosen without a gap"
            )
        self._admit(len(json), len(json))
        self._slot_request += 1
        proposal = SlotProposal(
            deadline=deadline, size=len(json), number=self._slot_request, slot=slot, json=json, done=done
        )
        self._slots[self._slot_request] = proposal
        self._pending_bytes += proposal.size
        self._to_send.append(proposal)

    def _admit_in_order(self, session: str, sequence: int, acknowledged: int, size: int, changed: int) -> None:
        """Refuse what follows a refused request of its session, unless the client has given that one up."""
        broken = self._broken.get(session)
        if broken is not None and acknowledged <= broken < sequence:
            raise UnavailableError(f"request {broken} of this session was refused: send it again before any later one")
        try:
            self._admit(size, changed)
        except UnavailableError:
            self._break(session, sequence)
            raise
        self._broken.pop(session, None)

    def _break(self, session: str, sequence: int) -> None:
        """A request of this session was refused, or given up."""
        broken = self._broken
        broken[session] = min(sequence, broken.pop(session, sequence))
        if len(broken) > MAX_BROKEN:
            del broken[next(iter(broken))]

    def _admit(self, size: int, changed: int) -> None:
        """Refuse a request that cannot be taken, before anything has happened. It changes about so many bytes."""
        full = self.log_full or self._commits.full
        if full is not None:
            raise StorageFullError(str(full))  # not the same one again: each raise adds to its traceback
        if (
            len(self._commands) + len(self._slots) + self._repeats >= MAX_PENDING
            or self._pending_bytes > MAX_MEMORY
            or self._replica.memory_bytes > MAX_MEMORY
        ):
            raise UnavailableError(
                f"more than {MAX_PENDING} requests or {MAX_MEMORY} bytes are waiting: send them more slowly"
            )
        if self._free_bytes is not None:
            if self._budget is None:
                under_way = 2 * self._pending_bytes + self._state.unwritten_bytes
                self._budget = self._free_bytes() - COPIES_ON_DISK * under_way
            self._budget -= COPIES_ON_DISK * (size + changed)
            if self._budget < 0:
                raise StorageFullError("the disk is full: the write was refused, make room and try again")

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
        for proposal in proposals:
            if proposal.closed:
                continue
            proposal.tried = True
            proposal.sent_at = self.now
            if isinstance(proposal, CommandProposal):
                commands.append(proposal.request)
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
        if self._replica.memory_bytes > MAX_MEMORY:
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
        if replica.memory_bytes > MAX_MEMORY or replica.role is not Role.LEADER:
            return
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

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def complete(self, run: Run, outcomes: list[Applied]) -> None:
        """The commands of a run were applied: answer those that wait for them."""
        if not self._commands:
            return
        opened = self._replica.opened(run.ballot)
        waiting, ballot = self._commands.pop, run.ballot
        for slot, applied in enumerate(outcomes, run.first):
            proposal = waiting((applied.session, applied.sequence), None)
            if proposal is not None and applied.result is not None:
                self._close(proposal)
                if type(applied.result) in _UNTOLD and applied.session == self._session:
                    self._tell(proposal, self._untold(applied.result))
                    continue
                self._tell(proposal, Reply(applied.result, slot, ballot, None if opened is None else slot != opened))

    def _untold(self, result: Result) -> UnknownOutcomeError:
        """What a client is told that has no session of its own, when there is no result to show for its request."""
        if type(result) is Forgotten:
            self._begin_session()  # thousands of later ones pushed it out while it was idle
            return UnknownOutcomeError("the store no longer knows the session of this node: it may have happened")
        return UnknownOutcomeError("it happened, and its result is no longer known")

    def acknowledge(self) -> None:
        """After commands were answered: note up to which sequence this node's own session has all its results."""
        self._acknowledged = next(
            (sequence for session, sequence in self._commands if session == self._session), self._sequence + 1
        )

    def complete_slots(self, chosen: Callable[[int], bytes]) -> None:
        """Answer the proposals for slots that are known as chosen by now; ``chosen`` gives the value of one."""
        for proposal in list(self._slots.values()):
            if self._replica.is_chosen(proposal.slot):
                del self._slots[proposal.number]
                self._close(proposal)
                proposal.done(SlotReply(proposal.slot, entries.as_json(chosen(proposal.slot)), proposal.phase1_skipped))

    def give_up(self) -> None:
        """Answer the requests whose time is over, and hand on again what a leader may never have received."""
        follows = self._replica.leader not in (None, self._replica.node)
        patience = FORWARD_PATIENCE + self._pending_bytes // BYTES_PER_MS
        is_late = self._anew_at <= self.now
        for proposal in self._proposals():
            if proposal.deadline <= self.now:
                self._drop(proposal, "no quorum answered in time")
            elif follows and proposal.tried and proposal.sent_at + patience <= self.now:
                is_late = True
        if is_late:
            self.send_all_again()

    def storage_failed(self, error: StorageFullError) -> None:
        """The log found no room: answer the requests that depend on this node's disk, and refuse later ones."""
        self.log_full = error
        alone = len(self._replica.configuration.nodes) == 1
        for proposal in self._proposals():
            if proposal.tried or alone:
                self._drop(proposal, str(error))

    def _close(self, proposal: CommandProposal | SlotProposal) -> None:
        proposal.closed = True
        self._pending_bytes -= proposal.size

    def _drop(self, proposal: CommandProposal | SlotProposal, why: str) -> None:
        if proposal.closed:
            return  # with one before it in its session
        self._close(proposal)
        if isinstance(proposal, CommandProposal):
            session, sequence = proposal.request.session, proposal.request.sequence
            del self._commands[session, sequence]
            following: list[CommandProposal] = []
            if session != self._session and self._broken.get(session, NO_END) > sequence:
                self._break(session, sequence)
                following = [
                    later
                    for later in self._commands.values()
                    if later.request.session == session and later.request.sequence > sequence
                ]
            self._tell(proposal, proposal.refusal(why))
            for later in following:
                self._drop(later, why)
        else:
            del self._slots[proposal.number]
            proposal.done(proposal.refusal(why))

    def _tell(self, proposal: CommandProposal, outcome: Reply | Refusal) -> None:
        """Give the outcome to everybody who waits for it, in the order in which they asked."""
        if proposal.others is not None:
            self._repeats -= len(proposal.others)
            for done in proposal.others:
                done(outcome)
        proposal.done(outcome)
