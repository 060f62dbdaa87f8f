"""One replica of the log, and the only door to it: inputs go in, effects come out. No I/O and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from consensus.ballot import NEVER, Ballot, beginning
from consensus.heartbeats import Heartbeats
from consensus.invariants import require
from consensus.leader import Phase1, Phase2
from consensus.log import NO_END
from consensus.messages import (
    Accept,
    Accepted,
    Alive,
    Chosen,
    Fetch,
    Heartbeat,
    Learn,
    Message,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    Promised,
    ReadIndex,
    ReadIndexReply,
    Record,
    Reject,
    Run,
    Stored,
    TakeOver,
    WithBallot,
    is_stop,
)
from consensus.reads import Reader
from consensus.replica_state import ReplicaState
from consensus.replica_state import Role as Role

SLOT_WINDOW = 65_536
"""How far past ``chosen_upto`` a slot may be proposed by name: a new leader has to fill every gap below it."""
MAX_HELD_BYTES = 64 * 1_048_576
"""A follower with more bytes of values than this in memory, which wait for its disk or for a slot before them, accepts
no further ones. It fetches them later, once they are chosen."""


class Effects(NamedTuple):
    """What the host has to do, once a turn.

    Make ``records`` durable in order, and then call ``persisted(upto)``. Send ``messages`` (receiver, message) now.
    Apply ``chosen``, which are in slot order and without a gap; after that all reads numbered up to ``reads`` may be
    served (0: none new), whose leader was told the time of day ``wall`` after they had arrived. ``fetches`` (node,
    first, last) ask for chosen slots that have left memory: call ``supply``.
    """

    records: list[Record]
    upto: int
    messages: list[tuple[str, Message]]
    chosen: list[Run]
    reads: int
    fetches: list[tuple[str, int, int]]
    wall: int


class Replica(ReplicaState):
    """A proposer, acceptor and learner in one, driven by messages, ticks and requests.

    It starts from what the host's log store holds: ``promised``, ``chosen_upto`` and the accepted runs above it. Time
    is in ms from any origin and comes in by ``tick`` alone. The docstring of the package says what a host has to do.
    """

    # -- inputs ------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        """A message from another node. It may be late, repeated or out of order."""
        if not self.takes_part:
            return
        if isinstance(message, Fetch):
            self._on_fetch(sender, message)
            return
        if self.ended_at:
            return
        if isinstance(message, Learn):
            self._on_learn(message)
            return
        if not isinstance(message, ReadIndex) and message.ballot.epoch != self.epoch:
            self._on_other_epoch(sender, message)
            return
        if sender not in self.configuration.everyone:
            return
        match message:
            case Accept():
                self._on_accept(sender, message)
            case Accepted():
                self._on_accepted(sender, message)
            case Chosen():
                self._on_chosen(sender, message)
            case Heartbeat():
                self._on_heartbeat(sender, message)
            case Alive():
                self._on_alive(sender, message)
            case ReadIndex():
                if self.role is Role.LEADER:
                    self._heartbeats.wait(Reader(sender, message.incarnation), message.read)
            case ReadIndexReply():
                is_current = sender == self.leader and message.ballot == self.ballot
                if is_current and message.incarnation == self._queue.incarnation:
                    self._queue.answer(message.read, message.index, message.wall)
            case PreVote():
                self._on_pre_vote(sender, message)
            case PreVoteReply():
                self._on_pre_vote_reply(sender, message)
            case Prepare():
                self._on_prepare(sender, message)
            case Promise():
                self._on_promise(sender, message)
            case Reject():
                self._on_reject(sender, message)
            case TakeOver():
                self._on_take_over(sender, message)

    def _on_other_epoch(self, sender: str, message: WithBallot) -> None:
        """A message of another configuration: nothing in it counts, and who is behind gets to know."""
        if message.ballot.epoch < self.epoch:
            if isinstance(message, PreVote | Prepare | Accept | Heartbeat):
                self._reject(sender, message.ballot)
            return
        chosen_upto = self.chosen_upto
        match message:
            case PreVote() | Prepare():
                chosen_upto = message.first - 1
            case Accept() | Chosen() | Heartbeat() | Alive() | Reject():
                chosen_upto = message.chosen_upto
        self._hear_of_later(sender, chosen_upto)

    def _call(self) -> None:
        """Nobody leads this configuration yet: tell its nodes of it, since those that may lead may not know of it.

        The leader of the one before said so once, when it was over; that may have been lost.
        """
        self._next_call = self._now + self._timing.resend
        self._broadcast(Reject(beginning(self.epoch - 1), self._acceptor.promised, self.chosen_upto))

    def _hear_of_later(self, sender: str, chosen_upto: int) -> None:
        """A node knows of a later configuration, and all slots up to this one as chosen: it can tell what they hold."""
        self._learner.hear_of(chosen_upto)
        if chosen_upto > self.chosen_upto:
            self._catch_up.teacher = sender

    def tick(self, now: int, wall: int = 0) -> None:
        """Time passes. Call this every few milliseconds in a cluster, and before the other inputs of a turn.

        ``wall`` is the time of day. It decides nothing here: a leader hands it to those whose reads it confirms.
        """
        self._now = max(self._now, now)
        self._wall = wall
        self._support.tick(self._now)
        if not self.takes_part or self.ended_at:
            return
        if self.role is Role.LEADER:
            self._lead_on()
        elif self._journal.is_full:
            pass  # it could neither promise nor prepare
        elif not self.may_lead:
            pass
        elif self._now >= self._election.deadline and self._support.allows(self._now):
            self._ask()
        elif self.role is not Role.FOLLOWER and self._now >= self._next_resend:
            self._canvass()
        if self.epoch and self.leader is None and self._now >= self._next_call:
            self._call()
        self._catch_up.tick(self._now)
        if self._phase2 and self._heartbeats.holds_lease(self._now):
            self._serve_by_lease(self._phase2)
        if self._queue.overdue(self._now):
            self._ask_read_index()

    def take_part(self) -> None:
        """From now on this node votes. Its time-out begins anew: nodes that have just met would all ask at once."""
        if not self.takes_part:
            self.takes_part = True
            if self._others:
                self._election.postpone(self._now)

    def stand_aside(self) -> None:
        """From now on this node neither votes nor leads, and what it was about to say is not said."""
        self.takes_part = False
        self._step_down(self._acceptor.promised)

    def campaign(self) -> None:
        """Requests wait: ask to lead soon, if no leader is known."""
        if self.role is Role.FOLLOWER:
            self._election.hurry(max(self._now, self._support.until))

    def hand_over(self) -> None:
        """On a leader: let the follower that lacks least lead instead, without a time-out in between.

        This is a suggestion. Nothing depends on whether it arrives, since that node runs phase 1 as any other would.
        """
        if self._phase2 is None or not self._others:
            return
        heir = self._heartbeats.heir(self._others, self.heard_chosen, self._now)
        if heir is not None:
            self._send(heir, TakeOver(self._phase2.ballot))

    def lead_now(self) -> None:
        """Run phase 1 at once, without asking: at the beginning of a configuration, when nobody leads yet."""
        if self.role is Role.FOLLOWER and self.leader is None and self.may_lead and self._support.allows(self._now):
            self._prepare()

    def propose_stop(self, value: bytes) -> int:
        """On a leader: end this configuration by a stop-sign, behind all that was proposed; returns its slot.

        Once it is chosen and delivered (``ended_at``) the host begins the next configuration with a new replica, which
        starts from what the log store holds, as after a restart.
        """
        phase2 = self._phase2
        require(phase2 is not None and not phase2.stop_slot, "only a leader proposes, and one stop-sign")
        require(is_stop(value), "a stop-sign is told by its first byte")
        assert phase2 is not None
        self._propose_runs(phase2, phase2.close())
        self._propose_runs(phase2, phase2.stop(value))
        return phase2.stop_slot

    def propose(self, values: Sequence[bytes]) -> list[tuple[int, int]]:
        """On a leader: propose values for the lowest free slots, in order; returns the ranges that they take.

        Not once it has proposed a stop-sign.
        """
        phase2 = self._phase2
        require(phase2 is not None and not phase2.stop_slot, "only a leader proposes, and nothing behind a stop-sign")
        assert phase2 is not None
        ranges: list[tuple[int, int]] = []
        done = 0
        while done < len(values):
            slot, room = phase2.lowest_free()
            if not phase2.continues(slot):
                self._propose_runs(phase2, phase2.close())
            taken = values[done : done + room]
            phase2.gather(slot, taken)
            ranges.append((slot, slot + len(taken) - 1))
            done += len(taken)
        return ranges

    def propose_at(self, slot: int, value: bytes) -> bool:
        """On a leader: propose a value for this slot; False if it is taken by a value that was chosen or proposed.

        The slot must be from 1 to ``chosen_upto + SLOT_WINDOW``.
        """
        phase2 = self._phase2
        require(phase2 is not None and not phase2.stop_slot, "only a leader proposes, and nothing behind a stop-sign")
        require(1 <= slot <= self.chosen_upto + SLOT_WINDOW, f"slot {slot} is outside the window")
        assert phase2 is not None
        self._propose_runs(phase2, phase2.close())
        if slot < self._log.start or self._log.at(slot) is not None:
            return False
        phase2.gather(slot, [value])
        self._propose_runs(phase2, phase2.close())
        return True

    def read(self) -> int:
        """A linearizable read arrives: it may be served once ``Effects.reads`` reaches the number returned."""
        return self._queue.arrive()

    def persisted(self, upto: int) -> None:
        """All records up to this number, which came as ``Effects.upto``, are durable."""
        self._journal.persisted(upto)
        self._release()

    def forget(self, upto: int) -> None:
        """Drop the slots up to ``upto`` from memory, as far as they have been delivered and are durable.

        A follower whose host keeps more than ``MAX_HELD_BYTES`` of them accepts nothing new.
        """
        self._log.forget(min(upto, self._learner.delivered, self.durable_upto))

    def supply(self, node: str, runs: list[Run]) -> None:
        """Answer a fetch of this node with chosen values from the host's log store."""
        self._send(node, Learn(runs, self.chosen_upto))

    def effects(self) -> Effects:
        """End the turn; returns everything that has come up to be done since the last call."""
        if self._phase2 and 0 < self._phase2.stop_slot <= self.chosen_upto:
            # Nobody else can know it before: what this leader acknowledged by now is all that this configuration will.
            self._broadcast(Chosen(self._phase2.ballot, *self._news.tell_all()))
        elif self._phase2:
            self._depart(self._phase2)
        if self._queue.close_turn():
            self._ask_read_index()
        if self._phase2 is None:
            self._fetch()
        elif self._heartbeats.reads_wait:
            self._beat(self._phase2)
        self._release()
        chosen = self._learner.deliver()
        if chosen and is_stop(chosen[-1].values[-1]):
            self._end(chosen[-1].last)
        effects = Effects(
            self._journal.take_records(),
            self._journal.recorded,
            self._messages,
            chosen,
            self._queue.served(self.chosen_upto),
            self._fetches,
            self._queue.wall,
        )
        self._messages, self._fetches = [], []
        return effects if self.takes_part else effects._replace(messages=[], fetches=[])

    def _end(self, slot: int) -> None:
        """This configuration is over: from now on this replica only teaches what it knows, and says what it must."""
        require(slot == self.chosen_upto and not self._learner.ahead, f"slots beyond the stop-sign {slot} are chosen")
        self.ended_at = slot
        self._step_down(self._acceptor.promised)

    # -- election: ask first, then phase 1 ---------------------------------------------------------------------------

    def _ask(self) -> None:
        self.role = Role.ASKING
        self._phase1 = None
        ballot = self._election.ask(self._acceptor.promised, self._now)
        self._canvass()
        if self._election.answered(self.node, ballot, True):
            self._prepare()

    def _canvass(self) -> None:
        """Send the PreVote or the Prepare; again and again, because messages may be lost."""
        self._next_resend = self._now + self._timing.resend
        if self.role is Role.ASKING and self._election.asked:
            for node in self._others:
                self._send(node, PreVote(self._election.asked, self.chosen_upto + 1))
        elif self._phase1:
            for node in self._others:
                if node not in self._phase1.promises:
                    self._journal.hold(node, self._phase1.prepare())

    def _on_pre_vote(self, sender: str, pre_vote: PreVote) -> None:
        # A candidate that lacks slots which have left memory here could not be given a full promise.
        granted = (
            self.role is not Role.LEADER
            and not self._election.supports_leader(self._now)
            and self._support.allows(self._now)
            and pre_vote.first >= self._log.start
        )
        self._send(sender, PreVoteReply(pre_vote.ballot, granted, self._acceptor.promised, self.chosen_upto))

    def _on_pre_vote_reply(self, sender: str, reply: PreVoteReply) -> None:
        self._election.see(reply.promised)
        self._learner.hear_of(reply.chosen_upto)
        if self.role is Role.ASKING and self._election.answered(sender, reply.ballot, reply.granted):
            self._prepare()

    def _prepare(self, released: Ballot = NEVER) -> None:
        """Phase 1a, under a ballot above all that this node ever promised, and durable before anyone hears of it."""
        require(self.may_lead, "only a voter of the present configuration asks to lead")
        ballot = self._election.next_ballot(self._acceptor.promised)
        require(ballot > self._acceptor.promised, f"ballot {ballot} was used before")
        require(self._support.allows(self._now, released), f"ballot {ballot} is used while another leader is supported")
        self.role = Role.PREPARING
        self._election.asked = None
        self._election.postpone(self._now)
        self._phase1 = Phase1(ballot, self.chosen_upto + 1, self.configuration, released)
        self._promise(ballot)
        self._journal.hold(self.node, Promise(ballot, self._phase1.first, self._log.runs(self._phase1.first, NO_END)))
        self._canvass()

    def _on_take_over(self, sender: str, message: TakeOver) -> None:
        released = message.ballot
        follows = self.may_lead and self.role is Role.FOLLOWER and (sender, released) == (self.leader, self.ballot)
        if follows and not self._journal.is_full and self._support.allows(self._now, released):
            self._prepare(released)

    def _on_prepare(self, sender: str, prepare: Prepare) -> None:
        if prepare.ballot < self._acceptor.promised or prepare.first < self._log.start:
            self._reject(sender, prepare.ballot)
            return
        if prepare.ballot > self._acceptor.promised:
            if self._journal.is_full:
                return
            if not self._support.allows(self._now, prepare.released):
                return  # without a Reject, so that the candidate goes on asking, and gets its promise later
            self._step_down(prepare.ballot)
            self._promise(prepare.ballot)
            self._election.postpone(self._now)
        self._journal.hold(sender, Promise(prepare.ballot, prepare.first, self._log.runs(prepare.first, NO_END)))

    def _on_promise(self, sender: str, promise: Promise) -> None:
        phase1 = self._phase1
        if phase1 is None or promise.ballot != phase1.ballot:
            return
        require(promise.first == phase1.first, f"{sender} promised from slot {promise.first}, not {phase1.first}")
        if phase1.promised(sender, promise):
            self._take_over(phase1)

    def _take_over(self, phase1: Phase1) -> None:
        """Phase 1 is won: propose again, under this ballot, whatever may have been chosen under an earlier one."""
        values = phase1.adopt()
        recovered_upto = phase1.first + len(values) - 1
        self.role = Role.LEADER
        self._phase1 = None
        self._phase2 = phase2 = Phase2(phase1.ballot, phase1.first, recovered_upto, self.configuration, self._log)
        if values and is_stop(values[-1]):
            phase2.stop_slot = recovered_upto
        self._heartbeats = Heartbeats(self.node, self.configuration, phase1.ballot, self._timing, self._now)
        self._election.heard(self.node, phase1.ballot, self._now)
        self._propose_runs(phase2, phase2.runs(phase1.first, values))
        self._queue.reopen()
        self._ask_read_index()
        self._lead_on()

    def _step_down(self, ballot: Ballot) -> None:
        """Stop leading or asking to lead, because of this higher ballot or for want of a quorum."""
        self._election.see(ballot)
        if self.role is Role.FOLLOWER:
            return
        if self._phase2:
            self._note_opened(self._phase2.ballot, self._phase2.first_proposal or 0)
        self.role = Role.FOLLOWER
        self._phase1 = None
        self._phase2 = None
        self._election.lost(self._now)

    def _follow(self, leader: str, ballot: Ballot) -> None:
        """A leader has spoken whose ballot is not below this node's promise: follow it."""
        require(
            leader == self.node or self._phase2 is None or ballot != self._phase2.ballot,
            f"{leader} leads under the ballot {ballot} of this node",
        )
        self._step_down(ballot)
        known = self._election.leader, self._election.leader_ballot
        self._election.heard(leader, ballot, self._now)
        if known != (leader, ballot):
            self._queue.reopen()
            self._ask_read_index()

    def _on_reject(self, sender: str, reject: Reject) -> None:
        self._election.see(reject.promised)
        self._learner.hear_of(reject.chosen_upto)
        if reject.promised.epoch > self.epoch:
            self._hear_of_later(sender, reject.chosen_upto)
        current = self._phase1 or self._phase2
        if current is None or current.ballot != reject.ballot:
            return
        # A late copy of the Prepare that made this node leader may be refused for its first slot: it goes on leading.
        if self._phase1 or reject.promised > reject.ballot:
            self._step_down(reject.promised)

    def _reject(self, sender: str, ballot: Ballot) -> None:
        self._send(sender, Reject(ballot, self._acceptor.promised, self.chosen_upto))

    # -- phase 2 -----------------------------------------------------------------------------------------------------

    def _propose_runs(self, phase2: Phase2, runs: Iterable[Run]) -> None:
        """Phase 2a. This node is the first acceptor, and what it records is its own vote."""
        for run in runs:
            self._store_accepted(run)
            phase2.enqueue(run)

    def _depart(self, phase2: Phase2) -> None:
        if phase2.ripe:
            self._propose_runs(phase2, phase2.close())
        sent = False
        for run in phase2.departures(self._now):
            self._broadcast(self._accept_message(run))
            self._journal.hold(self.node, Accepted(run.ballot, run.first, run.last))
            sent = True
        news = self._news.due(self._now, sent)
        if news is not None:
            self._broadcast(Chosen(phase2.ballot, *news))

    def _accept_message(self, run: Run) -> Accept:
        return Accept(run.ballot, run.first, run.values, self.chosen_upto, self.first_proposal or 0)

    def _on_accept(self, sender: str, accept: Accept) -> None:
        if accept.ballot < self._acceptor.promised:
            self._reject(sender, accept.ballot)
            return
        self._follow(sender, accept.ballot)
        self._note_opened(accept.ballot, accept.opened)
        run = Run(accept.first, accept.ballot, accept.values)
        if self._journal.is_full or (run.last > self._log.last and self._log.bytes > MAX_HELD_BYTES):
            self._learner.hear_of(accept.chosen_upto)
            return
        if run.last >= self._log.start:
            self._store_accepted(run.clip(self._log.start, run.last))
        if accept.ballot > self._acceptor.promised:
            # All these slots are chosen and have left memory, so nothing was stored that would imply the promise.
            self._promise(accept.ballot)
        self._journal.hold(sender, Accepted(run.ballot, run.first, run.last))
        self._learner.hear(accept.ballot, accept.chosen_upto)

    def _store_accepted(self, run: Run) -> None:
        self._learner.require_unchanged(run)
        if self._acceptor.accept(run):
            self._journal.record(Stored(run, self.chosen_upto))

    def _on_accepted(self, sender: str, accepted: Accepted) -> None:
        if self._phase2 is None or accepted.ballot != self._phase2.ballot:
            return
        self._heartbeats.heard(sender, self._now)
        run = self._phase2.accepted(sender, accepted.first, accepted.last)
        if run is not None:
            self._learner.choose(run.first, run.last)

    # -- a leader's beat ---------------------------------------------------------------------------------------------

    def _lead_on(self) -> None:
        phase2 = self._phase2
        assert phase2 is not None
        if self._heartbeats.lost_quorum(self._now):
            self._step_down(phase2.ballot)  # another may lead by now, and those who wait are to be told
            return
        for run, votes in phase2.overdue(self._now, self._timing.resend):
            for node in self._audience:
                if node not in votes:
                    self._send(node, self._accept_message(run))
        if self._heartbeats.is_due(self._now):
            self._beat(phase2)

    def _beat(self, phase2: Phase2) -> None:
        """A heartbeat, which is also a round for the reads that wait."""
        number = self._heartbeats.begin(self._read_index(phase2), self._now)
        self._broadcast(Heartbeat(phase2.ballot, number, *self._news.tell_all()))
        self._confirm_reads()

    def _on_heartbeat(self, sender: str, beat: Heartbeat) -> None:
        if beat.ballot < self._acceptor.promised:
            self._reject(sender, beat.ballot)
            return
        self._follow(sender, beat.ballot)
        self._support.renew(beat.ballot)
        self._send(sender, Alive(beat.ballot, beat.round, self.chosen_upto))
        self._learner.hear(beat.ballot, beat.chosen_upto, beat.chosen)

    def _on_alive(self, sender: str, alive: Alive) -> None:
        if self._phase2 is None or alive.ballot != self._phase2.ballot:
            return
        self.heard_chosen[sender] = alive.chosen_upto
        self._heartbeats.answered(sender, alive.round, self._now)
        self._confirm_reads()

    def _on_chosen(self, sender: str, chosen: Chosen) -> None:
        if chosen.ballot >= self._acceptor.promised:
            self._follow(sender, chosen.ballot)
            self._learner.hear(chosen.ballot, chosen.chosen_upto, chosen.chosen)

    # -- reads -------------------------------------------------------------------------------------------------------

    def _ask_read_index(self) -> None:
        """For the reads of this node that no leader has answered yet, if there are any; a leader asks itself."""
        question = self._queue.ask(self._now)
        if question and self.leader:
            self._send(self.leader, question)

    def _confirm_reads(self) -> None:
        for node, reply in self._heartbeats.confirmed(self._wall):
            self._reply_to_read(node, reply)

    def _serve_by_lease(self, phase2: Phase2) -> None:
        """Answer all reads that are here. The clock has just been read, so the lease held after each of them arrived.

        A read that comes later in this turn must not be answered so: it may come after a long pause of the process.
        """
        if self._queue.close_turn():
            self._ask_read_index()
        for node, reply in self._heartbeats.answer_by_lease(self._read_index(phase2), self._wall):
            self._reply_to_read(node, reply)

    def _reply_to_read(self, node: str, reply: ReadIndexReply) -> None:
        self._send(node, reply)
        if node != self.node:
            self._news.urgent_upto = max(self._news.urgent_upto, reply.index)  # they wait for it

    def _read_index(self, phase2: Phase2) -> int:
        """The highest slot that can have been acknowledged by now, by this leader or under an earlier ballot."""
        return max(self.chosen_upto, phase2.recovered_upto)

    # -- catching up -------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        if self._log.bytes > MAX_HELD_BYTES and self.durable_upto < self.chosen_upto:
            return  # what has been learned must reach the disk first
        fetch = self._catch_up.ask(self._election.leader, self._now)
        if fetch:
            self._send(*fetch)

    def _on_fetch(self, sender: str, fetch: Fetch) -> None:
        on_disk = self._catch_up.on_disk(fetch)
        if on_disk:
            self._fetches.append((sender, *on_disk))
            return
        learn = self._catch_up.teach(fetch)
        if learn:
            self._send(sender, learn)

    def _on_learn(self, learn: Learn) -> None:
        # A leader learns from its own quorums only: it has proposed again all that was chosen before its ballot.
        if self.role is Role.LEADER or self._journal.is_full:
            return
        self._learner.hear_of(learn.chosen_upto)
        for run in learn.runs:
            if run.ballot.epoch != self.epoch:  # it is behind the stop-sign, where another configuration begins
                break
            self._learner.require_unchanged(run)
            for first, last in self._learner.unchosen(run.first, run.last):
                part = run.clip(first, last)
                if part.ballot > self._acceptor.promised:
                    self._step_down(part.ballot)
                self._acceptor.store(part)
                self._journal.record(Stored(part, self.chosen_upto))
                self._learner.choose(first, last)
        self._catch_up.answered()

    # -- sending -----------------------------------------------------------------------------------------------------

    def _promise(self, ballot: Ballot) -> None:
        self._acceptor.promise(ballot)
        self._journal.record(Promised(ballot))

    def _send(self, receiver: str, message: Message) -> None:
        """Messages of a node to itself do not pass through the host."""
        if receiver == self.node:
            self.receive(receiver, message)
        else:
            self._messages.append((receiver, message))

    def _broadcast(self, message: Message) -> None:
        self._messages.extend((node, message) for node in self._audience)

    def _release(self) -> None:
        for receiver, message in self._journal.release():
            self._send(receiver, message)
