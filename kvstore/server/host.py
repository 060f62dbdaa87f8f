"""One node on an event loop: turns, a thread for its disk, and the service that its clients' connections use."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Protocol

from consensus.messages import Accepted, Record, Stored
from consensus.replica import Role
from kvstore import clocks, logs
from kvstore.addresses import address_text
from kvstore.commands import Command, Query, Result
from kvstore.errors import KvstoreError, Refusal, StorageFullError, UnavailableError
from kvstore.node.hosting import Appends, failure, open_node
from kvstore.node.peer_messages import PeerMessage
from kvstore.node.service import OnReply, PeerInfo, ServerStatus
from kvstore.server import open_files, process_memory
from kvstore.server.collector import Collector
from kvstore.server.latencies import Latencies
from kvstore.server.long_turns import LONG_NS, LongTurns
from kvstore.server.peers import Identity, Peers
from kvstore.server.settings import Settings
from kvstore.server.time_spent import TimeSpent
from kvstore.state.keyspace import free
from kvstore.state.long_reads import MAX_AT_ONCE, LongReads
from kvstore.state.machine import Batch
from kvstore.state.queries import Queries
from kvstore.state.rows import Overlay
from kvstore.state.sql import Table
from kvstore.storage.data_dir import DataDir
from kvstore.store import LogRow, Reply, SlotReply

TIMED = 8
"""One request of this many is timed: often enough for percentiles, and nearly free."""
QUICK_SLOTS = 16
QUICK_BYTES = 65_536
QUICK_US = 3_000
"""Records of at most this many slots and bytes are written on the event loop's own thread, as long as an fsync takes no
longer than this many microseconds."""
TURN_MS = 10
"""After so long the host lets the event loop look for what else has come in, though the node has more to do."""
FEW = 1_000
"""With more requests than this at once a node is busy."""
APPLY_US = 5_000
"""After so many microseconds no further slot is applied and no further read is served in a turn."""
MAX_QUERIES = 256
"""So many queries of SQL may wait: a commit lets all of them begin at once."""
SWITCH_SECONDS = 0.0005
"""How soon the disk's thread gets the interpreter back after an fsync; Python's default of 5 ms would be most of
the time that a write takes."""

log = logs.get("server")


class Clients(Protocol):
    """The connections of this node's clients, as far as the host cares for them."""

    @property
    def address(self) -> str:
        """Where clients connect."""
        ...

    @property
    def count(self) -> int:
        """The number of connections."""
        ...

    def flush(self) -> None:
        """Write out the replies that a turn brought; called at the end of each."""
        ...


class Host:
    """Implements :class:`kvstore.node.service.Service`.

    Everything but writing to the disk happens on the event loop's thread.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: DataDir,
        clients: Clients,
        long_turns: LongTurns,
        on_failure: Callable[[int], None],
        new_threads: Callable[[str, int], Executor],
    ) -> None:
        self.settings = settings
        self._clients = clients
        self._flush = clients.flush
        self.peer_address = address_text(settings.peer_listen)
        self._data_dir = data_dir
        self._on_failure = on_failure
        self._failed = False
        self.failed_with = 0
        """The exit status of a node that can do nothing any more, and answers nobody; 0 while it can."""
        self._stopped = False
        """Whether there are no more turns: it failed, or is being closed."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._unforeseen)
        sys.setswitchinterval(SWITCH_SECONDS)
        self._disk = new_threads("log", 1)
        self._state_disk = new_threads("state", 1)
        self._queries = Queries(data_dir.state_path)
        self._append: Future[None] | None = None
        self._closing = False
        self._long_reads = LongReads(data_dir.state_path, new_threads("reads", MAX_AT_ONCE))
        self._fsync_us = 0
        self._turning = False
        self._woken = False
        self._ticked_at = -1
        self._timer: asyncio.TimerHandle | None = None
        self._started = clocks.now_us()
        self._latencies = Latencies(self._started)
        self._time_spent = TimeSpent(clocks.now_ns)
        self._long_turns = long_turns
        long_turns.processor = self._time_spent.processor
        self._tick_due = 0
        self._long_at_tick = 0
        self._collector = Collector()
        self._late_at = 0
        self._reads = self._writes = 0
        self._querying = 0
        self._patience = settings.request_timeout_ms
        self.node = open_node(
            settings.node_id,
            list(settings.peers),
            data_dir,
            timing=settings.timing,
            background=self._commit,
            is_late=self._is_late,
            read_later=self._read_later,
        )
        self._appends = Appends(self.node, _tell_of_disk, settings.timing.election[0])
        identity = Identity(_cluster(settings), settings.node_id, random.getrandbits(63))
        self.peers = Peers(identity, settings.peers, self._receive, self._resume)
        self.peers.clients_at = clients.address
        self._known: tuple[Role, str | None] = (self.node.role, None)

    async def start(self) -> None:
        """Listen for the other nodes, and begin to take part. Raises OSError if the address cannot be used."""
        self.peer_address = address_text(await self.peers.start(self.settings.peer_listen))
        if self.settings.node_id == next(iter(self.settings.peers)):
            # Of nodes that start together one has to be first; a leader that is already at work is not disturbed.
            self.node.campaign()
        self._tick()

    # -- turns --------------------------------------------------------------------------------------------------------

    def _receive(self, sender: str, message: PeerMessage) -> None:
        if not self._failed:
            began = self._time_spent.now()
            self.node.receive(sender, message)
            took = self._time_spent.spent("consensus", began)
            if took > LONG_NS:
                self._long_turns.took("message", took, type(message).__name__)
            # A vote that arrives after a quorum's votes changes nothing.
            if type(message) is not Accepted or self.node.has_effects:
                self._wake()

    def _resume(self, peer: str) -> None:
        if not self._failed:
            self.node.resume(peer)
            self._wake()

    def _wake(self) -> None:
        """Something came in: turn the node as soon as everything else that is ready has come in too."""
        if not self._woken:
            self._woken = True
            if not self._turning:
                self._loop.call_soon(self._turn)

    def _tick(self) -> None:
        interval = self.node.tick_interval
        now = time.monotonic_ns()
        if self._tick_due and self._long_at_tick == self._long_turns.count:  # or it is named already
            self._long_turns.took("elsewhere", now - self._tick_due, "between turns")
        self._tick_due = now + interval * 1_000_000
        self._long_at_tick = self._long_turns.count
        self._timer = self._loop.call_later(interval / 1_000, self._tick)
        open_files.look()
        now = clocks.now()
        self._appends.tick(now)
        self._collector.look(now, self.node.waiting > FEW)
        if now - self._ticked_at > interval >> 1:  # otherwise a turn has just done so
            self._turn()

    def _turn(self) -> None:
        if self._stopped:
            return
        node = self.node
        self._turning = True
        self._time_spent.begin("log" if self._append else "idle")
        self._woken = True
        began = clocks.now()
        # A request that was waiting for the answer of another comes in with the next turn.
        while self._woken and (now := clocks.now()) - began < TURN_MS:
            self._woken = False
            if now != self._ticked_at or self.settings.timing.lease:
                # After everything has come in: a lease may serve only reads that arrived before the clock was read.
                self._ticked_at = now
                node.tick(now, clocks.wall())
            turn = node.turn()
            if turn.messages:
                self.peers.send(turn.messages)
            self._time_spent.mark("consensus")
            # A leader's clients wait for what is chosen, everybody else for this node's vote.
            answers_first = node.leads and self._is_quick(turn.records)
            if turn.records and not answers_first:
                self._write(turn.records)
                self._time_spent.mark("log")
            if answers_first or not self._woken:
                self._late_at = clocks.now_us() + APPLY_US
                node.apply()
                self._woken |= node.has_more
                self._time_spent.mark("apply")
                self._flush()
                self._time_spent.mark("replies")
            if turn.records and answers_first:
                self._write(turn.records)
                self._time_spent.mark("log")
        self._time_spent.end()
        self._turning = False
        if self._woken:
            self._loop.call_soon(self._turn)
        if self._time_spent.turn_took > LONG_NS:
            self._long_turns.took(
                self._time_spent.longest_phase,
                self._time_spent.turn_took,
                f"{node.last_done}, slot {node.applied_upto}, {self._time_spent.parts}",
                self._time_spent.turn_processor,
            )
        known = (node.role, node.leader)
        if known != self._known:
            self._tell_role(known)

    def _is_late(self) -> bool:
        return clocks.now_us() > self._late_at

    def _tell_role(self, known: tuple[Role, str | None]) -> None:
        (role_before, leader_before), self._known = self._known, known
        role, leader = known
        if Role.LEADER in (role, role_before) or leader != leader_before:  # not every step of an election
            log.info("role", role=role.value, leader=leader or "none", ballot=str(self.node.ballot))

    def _write(self, records: list[Record]) -> None:
        """Store records on the disk's thread, or here and now if they are few and the disk is quick.

        Handing work to a thread and back costs about as much as a quick fsync, and nothing much can be done meanwhile.
        """
        if self._is_quick(records):
            began = clocks.now_us()
            self._appends.began(self._ticked_at)
            try:
                self.node.append(records)
            except StorageFullError as error:
                self._appends.ended(error, clocks.now())
                self._woken = True
            else:
                self._appends.ended(None, clocks.now())
            self._fsync_us += (clocks.now_us() - began - self._fsync_us) >> 3
            self._woken |= self.node.has_effects
        else:
            self._fsync_us -= self._fsync_us >> 8
            self._appends.began(self._ticked_at)
            self._append = self._disk.submit(self.node.append, records)
            self._append.add_done_callback(self._written)

    def _is_quick(self, records: list[Record]) -> bool:
        if self._fsync_us >= QUICK_US or len(records) > QUICK_SLOTS or sum(map(_slots, records)) > QUICK_SLOTS:
            return False
        return sum(map(_bytes, records)) <= QUICK_BYTES

    def _written(self, future: Future[None]) -> None:
        """Runs on the disk's thread: passes the outcome to the loop's thread."""
        self._loop.call_soon_threadsafe(self._stored, future)

    def _stored(self, future: Future[None]) -> None:
        if self._failed or self._append is not future:
            return
        self._time_spent.begin("log")
        self._append = None
        self._appends.ended(future.exception(), clocks.now())
        self._turn()

    def _commit(self, batch: Batch) -> None:
        """Write the state on a separate thread, so that the log does not wait for it."""
        future = self._state_disk.submit(self.node.write_state, batch)
        future.add_done_callback(partial(self._wrote_state, batch))

    def _wrote_state(self, batch: Batch, future: Future[int]) -> None:
        """Runs on the state's thread: passes the outcome to the loop's thread."""
        self._loop.call_soon_threadsafe(self._committed, batch, future)

    def _committed(self, batch: Batch, future: Future[int]) -> None:
        if self._failed:
            return
        error = future.exception()
        if error is None:
            discarded = self.node.committed(batch, future.result())
            if not self._stopped:
                self._state_disk.submit(_free, discarded, not self.node.has_uncommitted)
        elif isinstance(error, StorageFullError):
            self.node.committed(batch, error)
            log.limited("disk_full", "state", level="error", reason=str(error))
        else:
            raise error
        self._wake()  # somebody may wait for the next commit

    # -- the end ------------------------------------------------------------------------------------------------------

    def fail(self, status: int, why: str) -> None:
        """End without another turn and without a commit, since the node may know what is not on its disk."""
        if self._failed:
            return
        self._failed = self._stopped = True
        self.failed_with = status
        log.error("cannot_go_on", reason=why)
        self._on_failure(status)

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback raised an error that nobody caught, possibly half-way through a turn."""
        if self._failed:
            return
        error = context.get("exception")
        match error:
            case OSError() if open_files.is_shortage(error):
                open_files.tell(error)
            case BaseException():
                why = failure(error)
                if why.trace:
                    log.error("bug", trace=why.trace)
                self.fail(why.status, why.reason)
            case _:
                log.warning("event_loop", reason=str(context.get("message")))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and no other node relies on this one as its leader."""
        node = self.node
        return self._failed or not (self._append or node.has_pending or (node.leads and not node.is_alone))

    def hand_over(self) -> None:
        """Ask another node to lead, if this one does."""
        if not self._failed:
            self.node.hand_over()
            self._wake()

    async def close(self) -> None:
        """Stop, after committing everything unless the node failed. Waits for the disk.

        Raises what is wrong when the disk does not take what is under way.
        """
        self._closing = True
        if self._timer:
            self._timer.cancel()
        self._stopped = True  # what the threads report below must not give them more to do
        await self.peers.close()
        self._queries.close()
        self._long_reads.close()
        self._disk.shutdown()
        self._state_disk.shutdown()
        await asyncio.sleep(0)  # lets the reports of the threads come in
        if self._append is not None:
            self._stored(self._append)
        if not self._failed:
            self._failed = True
            self.node.close()

    # -- the service --------------------------------------------------------------------------------------------------

    def execute(
        self,
        command: Command,
        done: OnReply,
        *,
        session: str = "",
        sequence: int = 0,
        acknowledged: int = 0,
        size: int = 0,
        since: int = 0,
    ) -> None:
        self._writes += 1
        if not self._writes % TIMED:
            done = self._timed(done)
        self.node.execute(
            command,
            done,
            self._ticked_at + self._patience,
            session=session,
            sequence=sequence,
            acknowledged=acknowledged,
            size=size,
            since=since,
        )
        self._wake()

    def query(self, command: Query, done: OnReply) -> None:
        self._reads += 1
        if not self._reads % TIMED:
            done = self._timed(done)
        self.node.query(command, done, self._ticked_at + self._patience)
        self._wake()

    def _timed(self, done: OnReply) -> OnReply:
        return partial(self._done, done, clocks.now_us())

    def _done(self, done: OnReply, began: int, outcome: Reply | Refusal) -> None:
        now = clocks.now_us()
        self._latencies.record(now - began, now)
        done(outcome)

    def look(self, query: Query, done: OnReply) -> None:
        self._reads += 1
        self.node.look(query, done, self._ticked_at + self._patience)
        self._wake()

    def _read_later(self, query: Query, now: int, deadline: int, done: Callable[[Result | Exception], None]) -> None:
        """Let a thread execute a read; its outcome comes back to the loop's thread."""
        self._long_reads.start(query, now, deadline, partial(self._read, done))

    def _read(self, done: Callable[[Result | Exception], None], outcome: Result | Exception) -> None:
        """Runs on any thread: passes the outcome to the loop's thread."""
        self._loop.call_soon_threadsafe(self._answer_read, done, outcome)

    def _answer_read(self, done: Callable[[Result | Exception], None], outcome: Result | Exception) -> None:
        if not self._failed:
            done(outcome)
            self._flush()

    def propose_at(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None]) -> None:
        self._writes += 1
        self.node.propose_at(slot, json, done, clocks.now() + self._patience)
        self._wake()

    def log(self, first: int, last: int | None, most_bytes: int) -> Iterator[LogRow]:
        return self.node.log(first, last, most_bytes)

    def sql(self, query: str, done: Callable[[Table | KvstoreError], None]) -> None:
        """Query what is committed, so that neither the loop nor the state waits; if need be it is committed first."""
        if self._querying >= MAX_QUERIES:
            done(UnavailableError(f"more than {MAX_QUERIES} queries are waiting: send them more slowly"))
            return
        self._querying += 1
        told = partial(self._end_query, done)
        self.node.when_committed(partial(self._query, query, told), clocks.now() + self._patience)
        self._wake()

    def _end_query(self, done: Callable[[Table | KvstoreError], None], outcome: Table | KvstoreError) -> None:
        self._querying -= 1
        done(outcome)

    def _query(
        self, query: str, done: Callable[[Table | KvstoreError], None], outcome: UnavailableError | None
    ) -> None:
        if outcome is None:
            self._queries.start(query, self._patience / 1_000, partial(self._queried, done))
        else:
            done(outcome)

    def _queried(self, done: Callable[[Table | KvstoreError], None], outcome: Table | KvstoreError) -> None:
        """Runs on any thread, as above."""
        self._loop.call_soon_threadsafe(self._answer, done, outcome)

    def _answer(self, done: Callable[[Table | KvstoreError], None], outcome: Table | KvstoreError) -> None:
        if not self._failed:
            done(outcome)
            self._flush()

    def applied_upto(self) -> int:
        return self.node.applied_upto

    def executed_upto(self, session: str) -> int:
        return self.node.executed_upto(session)

    def changed(self) -> int:
        return self.node.changed

    def is_behind(self) -> bool:
        return self.node.commits_are_behind

    def about_size(self) -> int:
        return self.node.about_size

    def expiring(self) -> tuple[int, int]:
        return self.node.expiring()

    def clock(self) -> int:
        return clocks.wall()

    def status(self) -> ServerStatus:
        p50, p99 = self._latencies.percentiles(50, 99, now=clocks.now_us())
        return ServerStatus(
            status=self.node.status(str(self._data_dir.path)),
            client_address=self._clients.address,
            peer_address=self.peer_address,
            uptime_ms=(clocks.now_us() - self._started) // 1_000,
            clients=self._clients.count,
            reads=self._reads,
            writes=self._writes,
            p50_us=p50,
            p99_us=p99,
            memory_bytes=process_memory.resident_bytes(),
            cpu_ms=time.process_time_ns() // 1_000_000,
            time_us=self._time_spent.microseconds(),
            long_turns=self._long_turns.count,
            longest_turn_ms=self._long_turns.longest_ms,
            longest_turn=self._long_turns.longest,
            peers=[
                PeerInfo(
                    peer,
                    address_text(address),
                    self.peers.is_connected(peer),
                    self.node.heard_chosen(peer),
                    self.peers.clients_of(peer),
                )
                for peer, address in self.peers.addresses.items()
            ],
        )


def _free(discarded: list[Overlay], is_all: bool) -> None:
    """Runs on the state's thread. ``is_all``: nothing waits for a commit, so that memory may be returned."""
    free(discarded)
    if is_all:
        process_memory.give_back()


def _tell_of_disk(event: str, why: str) -> None:
    if event == "disk_has_room":
        log.info(event, reason=why)
    else:
        log.error(event, reason=why)


def _slots(record: Record) -> int:
    return len(record.run.values) if isinstance(record, Stored) else 1


def _bytes(record: Record) -> int:
    return record.run.size if isinstance(record, Stored) else 0


def _cluster(settings: Settings) -> str:
    """What all nodes of a cluster must agree on: a node that knows of no leases would break those of the others."""
    lease = f" with a read lease of {settings.timing.lease} ms" if settings.timing.lease else ""
    return f"{settings.cluster_name}/{','.join(sorted(settings.peers))}{lease}"
