"""One running node: a replica, its log store and state machine, and the requests that wait for them.

A host drives it: it brings in messages, requests and time, carries out each turn, and says when records are durable.
The node reads no clock, opens no socket and starts no thread, so that the stdin node, an embedded store and a server
share it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from consensus.ballot import Ballot
from consensus.catchup import one_message
from consensus.election import Timing
from consensus.log import NO_END
from consensus.messages import Record, Run
from consensus.replica import Replica, Role
from kvstore.commands import Command, Found, Get, Query, Result, Slots
from kvstore.errors import DamagedError, KvstoreError, Refusal, StateDamagedError, StorageFullError, UnavailableError
from kvstore.node.fading import FadingReads
from kvstore.node.faults import failed
from kvstore.node.log_rows import log_rows
from kvstore.node.peer_messages import Forward, ForwardSlot, ForwardSlotReply, LeftOut, PeerMessage
from kvstore.node.pending import PendingRead, ReadyReads, RecordQueue
from kvstore.node.proposals import MAX_PENDING, REFUSED_AT_ONCE, Proposals
from kvstore.state import entries
from kvstore.state.commit_schedule import Commits, is_large
from kvstore.state.entries import Applied
from kvstore.state.identity import entry_hash
from kvstore.state.keyspace import TooLongError
from kvstore.state.machine import Batch, IsLate, StateMachine
from kvstore.state.rows import Overlay
from kvstore.state.sql import Table
from kvstore.storage.log_store import LogStore
from kvstore.store import LogRow, Reply, SlotReply, Status

KEEP_SLOTS = 4_096
KEEP_BYTES = 16 * 1_048_576
"""This many applied slots, of this many bytes at most, stay in memory for followers that are a little behind; followers
further behind are served from the log store."""
APPLY_SLOTS = 256
APPLY_BYTES = 65_536
"""After applying this many slots, or about so many bytes of them, the node checks whether the changes that wait for a
commit leave room for more, and whether its turn is over; also after a single one that may take long."""
READS_CHECKED = 16
LITTLE_BYTES = 65_536
"""After this many plain reads of so short values, or any other one, it checks whether its turn is over."""
MAX_READY = 64
"""For so many slots not applied yet it is known which reads wait for them; later reads wait for the last of these."""
EXPIRY_PATIENCE = 1_000
"""How long, in ms, a query of the database waits for keys that are due to go."""
_ALL_THAT_IS_DUE = Slots([])
MAX_LONG_READS = 1_024
LONG_AT_ONCE = 4
"""So many long reads may wait, and so many of them are handed on at once: two are executed, and the next ones are
there."""
MAX_GAPS_TOLD = 100
"""A status names so many gaps in the log, the first ones."""
GIVE_UP_INTERVAL = 50
"""How often, in ms, the node looks for requests whose time is over."""


class SlotRow(NamedTuple):
    """One slot of this node's log, as JSON text."""

    slot: int
    json: bytes
    status: Literal["chosen", "accepted"]


ApplySlots: TypeAlias = Callable[[int, Sequence[bytes], IsLate], list[Applied]]
"""As ``StateMachine.apply``."""
ReadLater: TypeAlias = Callable[[Query, int, int, Callable[[Result | Exception], None]], None]
"""Executes a read elsewhere, on what is committed: the read, ms since 1970, its deadline, and whom to tell the result
or what went wrong."""


class Turn(NamedTuple):
    """What the host must do: append ``records`` to the log store, then call ``persisted``; send ``messages``.

    While an append is under way no further records are handed out.
    """

    records: list[Record]
    messages: list[tuple[str, PeerMessage]]


class Node:
    """Takes requests and calls ``done`` with the outcome of each, once, within a later ``apply`` or ``tick``.

    Times are in ms: ``now`` and deadlines by a clock that never jumps, ``wall`` since 1970. ``free_bytes`` tells how
    much room new writes may take; a write that finds none is refused before it is proposed. ``keep_slots`` is the
    number of applied slots that stay in memory.

    ``background`` is called with a batch: the host then calls ``write_state`` on another thread and ``committed`` when
    that returns. Without ``background`` the node writes the state itself. ``is_late`` tells within ``apply`` that the
    turn has lasted long enough: what is left comes in the next one (``has_more``). ``read_later`` is given the reads
    that look at too much for one turn; without it they are executed like any other. ``apply`` is called in place of
    ``state.apply``, by a simulator that looks at every slot.
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
        keep_slots: int | None = None,
        background: Callable[[Batch], None] | None = None,
        is_late: Callable[[], bool] | None = None,
        read_later: ReadLater | None = None,
        apply: ApplySlots | None = None,
    ) -> None:
        self._apply_slots: ApplySlots = apply or state.apply
        recover(log, state, self._apply_slots)
        self._log = log
        self._state = state
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
        self._commits = Commits(state, lambda: self.replica.durable_upto, background, now)
        self._proposals = Proposals(
            self.replica, state, self._commits, rng=rng, now=now, wall=wall, free_bytes=free_bytes
        )
        self._now = now
        self._wall = wall
        self._reads: dict[int, list[PendingRead]] = {}
        self._reading = 0
        self._records = RecordQueue()
        self._chosen: list[Run] = []
        self._ready: deque[ReadyReads] = deque()
        self._fading = FadingReads(self._proposals.add_tick)
        self._fetches: list[tuple[str, int, int]] = []
        self._keep_slots = KEEP_SLOTS if keep_slots is None else keep_slots
        self._give_up_at = now
        self._is_late = is_late or _never
        self._read_later = read_later
        self._long_reads = 0
        """How many wait for a commit, or to be executed, or are."""
        self._long_waiting: deque[PendingRead] = deque()
        self._long_running = 0
        self.has_more = False
        """Whether the last ``apply`` left something to do: its turn was over, or it has put a tick into the log."""
        self.last_done = ""
        """What ``apply`` did last, for people."""

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
        since: int = 0,
    ) -> None:
        """Put a command through the log, exactly once however often the leader changes.

        ``size``: about how many bytes it has. ``since``: a slot that was applied before the session began. Raises
        CommandError, StorageFullError or UnavailableError when it is not taken.
        """
        self._proposals.add_command(command, done, deadline, session, sequence, acknowledged, size, since)

    def propose_at(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None], deadline: int) -> None:
        """Propose a JSON value for a slot by name. Raises CommandError when the slot is out of range."""
        self._proposals.add_slot(slot, json, done, deadline)

    def query(self, query: Query, done: Callable[[Reply | Refusal], None], deadline: int) -> None:
        """A linearizable read, of a command that changes nothing: no slot, but a quorum confirms the leader first.

        Raises UnavailableError when it is not taken.
        """
        if self._reading + len(self._fading) + self._long_reads >= MAX_PENDING:
            raise UnavailableError(f"more than {MAX_PENDING} reads are waiting: send them more slowly")
        self._reading += 1
        self._reads.setdefault(self.replica.read(), []).append(PendingRead(query, done, deadline))

    @property
    def has_pending(self) -> bool:
        """Whether any request waits for its outcome."""
        return bool(self._reads or self._fading or self._long_reads or self._proposals.waiting)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for their outcome."""
        return self._proposals.waiting + self._reading + len(self._fading) + self._long_reads

    @property
    def is_alone(self) -> bool:
        """Whether the cluster has no other node."""
        return len(self.replica.configuration.nodes) == 1

    def campaign(self) -> None:
        """Ask to lead, unless a leader is at work."""
        self.replica.campaign()

    def hand_over(self) -> None:
        """If this node leads, let another do so from now on; what waits here is handed on to it."""
        self.replica.hand_over()

    # -- looking at it ------------------------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        return self.replica.node

    @property
    def role(self) -> Role:
        return self.replica.role

    @property
    def leads(self) -> bool:
        return self.replica.role is Role.LEADER

    @property
    def others_store_more(self) -> bool:
        """Whether slots are chosen, by other nodes' votes, that are not on this node's disk yet."""
        return self.replica.durable_upto < self.replica.chosen_upto

    @property
    def leader(self) -> str | None:
        """The node that leads as far as this one knows, None if it knows of none."""
        return self.replica.leader

    @property
    def ballot(self) -> Ballot:
        return self.replica.ballot

    @property
    def applied_upto(self) -> int:
        """The last slot that was applied here."""
        return self._state.applied_upto

    @property
    def has_uncommitted(self) -> bool:
        """Whether slots were applied that the state database does not show yet."""
        return self._state.uncommitted > 0

    def status(self, data_dir: str) -> Status:
        """Where this node stands; ``data_dir`` is where the host keeps its stores."""
        replica, state = self.replica, self._state
        return Status(
            node_id=replica.node,
            nodes=list(replica.configuration.nodes),
            role=replica.role.value,
            leader=replica.leader,
            ballot=replica.ballot,
            promised=replica.promised,
            chosen_upto=replica.chosen_upto,
            applied_upto=state.applied_upto,
            last_slot=replica.last_slot,
            gaps=replica.gaps(MAX_GAPS_TOLD),
            keys=state.count(),
            log_bytes=self._log.bytes(),
            state_bytes=state.bytes(),
            data_dir=data_dir,
            writes_refused=self._proposals.writes_refused,
        )

    def heard_chosen(self, peer: str) -> int:
        """The slot up to which another node knows what is chosen, as last heard from it; -1 if never."""
        return self.replica.heard_chosen.get(peer, -1)

    def look(self, query: Query, done: Callable[[Reply | Refusal], None], deadline: int) -> None:
        """Execute a read on what is applied here, however old that is, at once or later."""
        self._answer(PendingRead(query, done, deadline))

    @property
    def changed(self) -> int:
        """About how many bytes all requests together change that were taken so far."""
        return self._proposals.changed

    @property
    def commits_are_behind(self) -> bool:
        """Whether so much waits for a commit of the state that who changes much should wait."""
        return self._commits.are_behind

    @property
    def about_size(self) -> int:
        """About how many keys there are."""
        return self._state.count()

    def sql(self, query: str) -> Table:
        """Column names and rows of a query that reads; it sees everything applied here."""
        return self._state.sql(query)

    def keys(self, prefix: bytes, limit: int) -> list[bytes]:
        """Some keys with this prefix, in byte order, as applied here."""
        return self._state.keys(prefix, limit)

    def expiring(self) -> tuple[int, int]:
        """About how many keys will expire, and how many ms they have left on average."""
        return self._state.expiring(self._wall)

    def executed_upto(self, session: str) -> int:
        """The sequence of this session up to which all were executed here, 0 if none was."""
        return self._state.executed_upto(session)

    def log(self, first: int, last: int | None, most_bytes: int = NO_END) -> Iterator[LogRow]:
        """The slots first..last of this node's log that hold a value, in order, up to about so many bytes of values."""
        return log_rows(self.accepted, self._state, self.replica.is_chosen, first, last, most_bytes)

    def accepted(self, first: int, last: int) -> Iterator[Run]:
        """What the slots first..last hold, in order.

        From memory where that reaches: the log store may still lack what was accepted last, chosen by the others and
        applied here, and hold an older value in its place.
        """
        start = self.replica.log_start
        recent = self.replica.accepted(max(first, start), last)
        yield from self._log.read(first, min(last, start - 1))
        yield from recent

    def slot_rows(self) -> Iterator[SlotRow]:
        """This node's log: every slot that holds a value, in order."""
        for run in self.accepted(1, self.replica.last_slot):
            for slot, value in enumerate(run.values, run.first):
                yield SlotRow(slot, entries.as_json(value), "chosen" if self.replica.is_chosen(slot) else "accepted")

    # -- the host's side ----------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: PeerMessage) -> None:
        """A message from another node."""
        match message:
            case Forward():
                self._proposals.on_forward(sender, message)
            case LeftOut():
                self._proposals.on_left_out(message)
            case ForwardSlot():
                self._proposals.on_forward_slot(sender, message)
            case ForwardSlotReply():
                self._proposals.on_forward_slot_reply(message)
            case _:
                self.replica.receive(sender, message)

    def resume(self, peer: str) -> None:
        """Messages to this node may have been lost. If it leads, it gets all requests again before any later one."""
        if peer == self.replica.leader:
            self._proposals.send_all_again()

    def tick(self, now: int, wall: int) -> None:
        """Let time pass: before the other inputs of a turn, and every ``tick_interval`` while nothing happens.

        Raises StateDamagedError once the state database has been found damaged.
        """
        if self._state.damage is not None:
            raise self._state.damage  # whichever request met it has been answered
        self._now, self._wall = now, wall
        self._proposals.now, self._proposals.wall = now, wall
        self.replica.tick(now, wall)
        self._proposals.tell_given_up()
        if now >= self._give_up_at:
            self._give_up_at = now + GIVE_UP_INTERVAL
            self._give_up()
        self._proposals.expire_keys()
        self._proposals.fill_gaps()

    @property
    def tick_interval(self) -> int:
        """How often to call ``tick``, in ms: a cluster has time-outs, a node alone only keys that expire."""
        return 100 if self.is_alone else 10

    def turn(self) -> Turn:
        """Pass on what came in; returns what the host must do. Call ``apply`` after it, or after a few turns."""
        self._proposals.note_leader()
        if self._reads or self._proposals.has_unsent:
            leader = self.replica.leader
            if leader is None:
                self.replica.campaign()
            else:
                self._proposals.send(leader)
        effects = self.replica.effects()
        self._records.add(effects.records, effects.upto)
        self._chosen += effects.chosen
        if effects.reads:
            wall = effects.wall
            if len(self._ready) == MAX_READY:
                wall = max(wall, self._ready.pop().wall)
            self._ready.append(ReadyReads(effects.reads, self.replica.chosen_upto, wall))
        self._fetches += effects.fetches
        messages = self._proposals.take_messages()
        messages += effects.messages
        return Turn(self._records.take(self._now), messages)

    def apply(self) -> None:
        """Apply what was chosen and complete requests.

        Not a part of the turn, so that others need not wait for it: messages can leave and an append begin before.
        """
        self.has_more = False
        if self._chosen:
            self._apply_chosen()
            self._proposals.acknowledge()
        if not self._proposals.complete_slots(self._chosen_value, self._is_late):
            self.last_done = "proposals for slots"
            self.has_more = True
        if self._fading.ready:
            self._serve_faded()
        # Not only once nothing more is chosen: a node that cannot keep up would never serve any.
        while self._ready and self._ready[0].slot <= self._state.applied_upto:
            if not self._serve_reads(self._ready[0]):
                self.has_more = True
                break
            self._ready.popleft()
        while self._fetches:
            receiver, first, last = self._fetches.pop(0)
            self.last_done = "fetch"
            self.replica.supply(receiver, one_message(self._log.read(first, last)))
            if self._fetches and self._is_late():
                self.has_more = True
                break
        if self._fading.has_asked:
            self._fading.has_asked = False
            self.has_more = True
        self._tidy()

    @property
    def has_effects(self) -> bool:
        """Whether anything has come in that a turn would act upon."""
        return self.replica.has_effects

    def append(self, records: Sequence[Record]) -> None:
        """Make the records of a turn durable, on any thread; ``persisted`` or ``storage_failed`` is to follow.

        Raises StorageFullError when there is no room.
        """
        self._log.append(records)

    def persisted(self) -> None:
        """The records of the last turn that had any are durable."""
        self.replica.persisted(self._records.written())
        self._proposals.log_full = None

    def storage_failed(self, error: StorageFullError) -> None:
        """The disk had no room for those records. They stay in line; new writes are refused until they are stored."""
        self._records.failed(self._now)
        self._proposals.storage_failed(error)
        self._commits.tell(self._now, error)

    def write_state(self, batch: Batch) -> int:
        """Write a batch to the state database, on any thread; ``committed`` takes the outcome.

        Raises StorageFullError when there is no room.
        """
        return self._state.write(batch)

    def committed(self, batch: Batch, outcome: int | StorageFullError) -> list[Overlay]:
        """``write_state`` gave this outcome in the background. Returns what to ``free`` there."""
        self._commits.ended(batch, outcome, self._now)
        return self._state.take_discarded()

    def when_committed(self, done: Callable[[UnavailableError | None], None], deadline: int) -> None:
        """Call ``done`` once the database shows all that is applied now, or why it does not.

        If keys are due by this node's clock they go first, unless no leader lets them within a second.
        """
        due = self._state.next_expiry
        if due is None or due > self._wall or self.replica.leader is None:
            self._commits.wait(done, deadline)
            return
        proceed = partial(self._wait_for_commit, done, deadline)
        self.query(_ALL_THAT_IS_DUE, proceed, min(deadline, self._now + EXPIRY_PATIENCE))

    def _wait_for_commit(
        self, done: Callable[[UnavailableError | None], None], deadline: int, outcome: Reply | Refusal
    ) -> None:
        self._commits.wait(done, deadline)

    def close(self) -> None:
        """Commit the state as far as the log is durable, and close both stores. Nothing may be under way."""
        try:
            self._commits.close(self._now)
        finally:
            self._state.close()
            self._log.close()

    def _give_up(self) -> None:
        """Answer the requests whose time is over."""
        if not self._proposals.give_up():
            self._give_up_at = self._now
        self._give_up_reads()
        self._commits.tell(self._now, self._proposals.log_full)
        while self._long_waiting and self._long_waiting[0].deadline <= self._now:
            self._long_reads -= 1
            self._long_waiting.popleft().done(UnavailableError("the read did not begin in time: nothing was read"))

    def _give_up_reads(self) -> None:
        """As many as may be told in one go; the next tick goes on."""
        left = REFUSED_AT_ONCE
        for number, reads in list(self._reads.items()):
            late: list[PendingRead] = []
            others: list[PendingRead] = []
            for read in reads:
                (late if len(late) < left and read.deadline <= self._now else others).append(read)
            if not late:
                continue
            left -= len(late)
            self._reading -= len(late)
            self._reads[number] = others
            if not others:
                del self._reads[number]
            for read in late:
                read.done(UnavailableError("no quorum confirmed a leader in time: nothing was read"))
            if left == 0:
                self._give_up_at = self._now
                return

    # -- what was chosen ----------------------------------------------------------------------------------------------

    def _apply_chosen(self) -> None:
        """Apply what was chosen, as far as the changes that wait for a commit in the background leave room for it.

        A request of a few bytes can change a megabyte, so that the log's own bounds do not bound them.
        """
        waiting = deque(self._chosen)
        self.last_done = "slots"
        while waiting and self._commits.make_room(self._now):
            run = waiting.popleft()
            count = len(run.values)
            portion = APPLY_SLOTS if count < 2 else max(1, min(APPLY_SLOTS, count * APPLY_BYTES // (run.size + 1)))
            if count > portion:
                waiting.appendleft(run.clip(run.first + portion, run.last))
                run = run.clip(run.first, run.first + portion - 1)
            applied = self._apply_slots(run.first, run.values, self._is_late)
            self._proposals.complete(run, applied)
            if len(applied) < len(run.values):
                waiting.appendleft(run.clip(run.first + len(applied), run.last))
            if not applied or (waiting and self._is_late()):
                self.has_more = True
                break
        self._chosen = list(waiting)

    def _chosen_value(self, slot: int) -> bytes:
        value = self.replica.value(slot)
        return value if value is not None else next(self._log.read(slot, slot)).values[0]

    def _serve_reads(self, ready: ReadyReads) -> bool:
        """Serve reads whose slot is applied; False if the turn was over before the last of them."""
        state, as_of = self._state, ready.wall
        due = state.next_expiry
        if due is not None and state.clock < as_of and due <= as_of:
            return self._serve_what_lives(ready)
        for number in [number for number in self._reads if number <= ready.number]:
            reads = self._reads.pop(number)
            for index, read in enumerate(reads, 1):
                self._reading -= 1
                was_little = self._answer(read)
                if was_little and index % READS_CHECKED:
                    continue
                if not was_little:
                    self.last_done = type(read.query).__name__
                if self._is_late():
                    if index < len(reads):
                        self._reads[number] = reads[index:]
                    return False
        return True

    def _serve_what_lives(self, ready: ReadyReads) -> bool:
        """The same, except for reads that meet a key which is due by the leader's clock, ``ready.wall``.

        As a rule no key is due: the leader lets keys expire within some 10 ms.
        """
        fading: list[PendingRead] = []
        is_late = False
        for number in [number for number in self._reads if number <= ready.number]:
            reads = self._reads.pop(number)
            for index, read in enumerate(reads, 1):
                self._reading -= 1
                outcome = self._outcome_as_of(read.query, ready.wall)
                if outcome is None:
                    fading.append(read)
                else:
                    read.done(outcome)
                is_late = self._is_late()
                if is_late:
                    if index < len(reads):
                        self._reads[number] = reads[index:]
                    break
            if is_late:
                break
        if fading:
            self._fading.wait(fading)
        return not is_late

    def _serve_faded(self) -> None:
        ready, self._fading.ready = self._fading.ready, []
        for index, read in enumerate(ready, 1):
            self._answer(read)
            if self._is_late() and index < len(ready):
                self.has_more = True
                self._fading.ready = ready[index:] + self._fading.ready
                return

    def _outcome_as_of(self, query: Query, as_of: int) -> Reply | Refusal | None:
        try:
            result = self._state.query_as_of(query, self._wall, as_of, bounded=self._read_later is not None)
        except KvstoreError:
            raise  # the database itself fails
        except TooLongError:
            return None
        except Exception as error:
            return failed(type(query).__name__, error)
        return None if result is None else Reply(result)

    def _answer(self, read: PendingRead) -> bool:
        """Execute a read; returns whether it was surely little work, a Get of a short value or of none."""
        outcome: Reply | Refusal
        was_little = False
        try:
            result = self._state.query(read.query, self._wall, bounded=self._read_later is not None)
            outcome = Reply(result)
            if type(read.query) is Get:
                was_little = type(result) is not Found or len(result.value.data) <= LITTLE_BYTES
        except KvstoreError:
            raise  # the database itself fails
        except TooLongError:
            if self._long_reads < MAX_LONG_READS:
                self._long_reads += 1
                self._commits.wait(partial(self._answer_later, read), read.deadline)
                return False
            outcome = UnavailableError(f"more than {MAX_LONG_READS:,} long reads are waiting: send them more slowly")
        except Exception as error:
            outcome = failed(type(read.query).__name__, error)
        read.done(outcome)
        return was_little

    def _answer_later(self, read: PendingRead, refused: UnavailableError | None) -> None:
        """Execute a long read, now that all is committed that it must see; or not, because of a full disk.

        Without a commit it could only be executed here, in which time nothing else would be.
        """
        if refused is None and self._read_later is not None:
            self._long_waiting.append(read)
            self._start_long_reads()
            return
        self._long_reads -= 1
        read.done(refused or UnavailableError("nothing was read"))

    def _start_long_reads(self) -> None:
        """Hand on some of those that wait: a commit may be what a thousand have waited for."""
        while self._long_waiting and self._long_running < LONG_AT_ONCE and self._read_later is not None:
            read = self._long_waiting.popleft()
            self._long_running += 1
            self._read_later(read.query, self._wall, read.deadline, partial(self._answered_later, read))

    def _answered_later(self, read: PendingRead, result: Result | Exception) -> None:
        self._long_reads -= 1
        self._long_running -= 1
        self._start_long_reads()
        if isinstance(result, DamagedError):
            raise result  # the database itself fails
        if isinstance(result, UnavailableError):
            read.done(result)
        elif isinstance(result, KvstoreError):  # such as too many open files
            read.done(UnavailableError(f"nothing was read: {result}"))
        elif isinstance(result, Exception):
            read.done(failed(type(read.query).__name__, result))
        else:
            read.done(Reply(result))

    def _tidy(self) -> None:
        """Forget applied slots, and commit the state now and then."""
        applied_upto = self._state.applied_upto
        surplus = applied_upto - self.replica.log_start - self._keep_slots
        if surplus >= self._keep_slots >> 4 or self.replica.memory_bytes > KEEP_BYTES:
            self.replica.forget(applied_upto - (self._keep_slots if self.replica.memory_bytes <= KEEP_BYTES else 0))
        self._commits.tidy(self._now)


def _never() -> bool:
    return False


def check_fits(log: LogStore, state: StateMachine) -> None:
    """Raises StateDamagedError when the log has another value for the last slot that the state has applied."""
    slot = state.applied_upto
    if not state.entry or slot > log.last:
        return
    value = next((run.values[0] for run in log.read(slot, slot)), None)
    if value is None or entry_hash(value) != state.entry:
        raise StateDamagedError(f"state.db does not fit log.db, which has another value for slot {slot}")


def recover(log: LogStore, state: StateMachine, apply: ApplySlots) -> None:
    """Apply the chosen slots of the log that a crash removed from the state database.

    Raises DamagedError when the log ends before the state does: acknowledged slots are missing from it. Raises
    StateDamagedError when the state is not one that this log leads to.
    """
    if state.applied_upto > log.last:
        raise DamagedError(
            f"log.db ends at slot {log.last}, but state.db has applied up to slot {state.applied_upto}: slots"
            f" {log.last + 1}..{state.applied_upto} were lost from log.db. Restore the data directory from a backup"
        )
    check_fits(log, state)
    for run in log.read(state.applied_upto + 1, log.chosen_upto):
        while run.last > state.applied_upto:
            first = state.applied_upto + 1
            apply(first, run.clip(first, run.last).values, _never)
            if is_large(state):
                state.commit()
    if state.applied_upto < log.chosen_upto:
        raise DamagedError(
            f"log.db lacks slot {state.applied_upto + 1}, though slots up to {log.chosen_upto} were chosen:"
            " restore the whole data directory from a backup"
        )
