"""The bugs, grouped by the rules of Multi-Paxos or of the store that they break."""

from __future__ import annotations

from tests.simulation.mutants.patching import Mutant, mutant

REPLICA = "consensus.replica:Replica."
HEARTBEATS = "consensus.heartbeats:Heartbeats."

DURABILITY = [
    mutant(
        "a Promise is sent before it is durable",
        (REPLICA + "_on_prepare", "self._journal.hold(sender, Promise(", "self._send(sender, Promise("),
    ),
    mutant(
        "an Accepted is sent before it is durable",
        (REPLICA + "_on_accept", "self._journal.hold(sender, Accepted(", "self._send(sender, Accepted("),
    ),
    mutant(
        "a leader counts its own vote before it is durable",
        (REPLICA + "_depart", "self._journal.hold(self.node, Accepted(", "self.receive(self.node, Accepted("),
    ),
    mutant(
        "messages that speak for records leave as soon as the records exist",
        ("consensus.journal:Journal.release", "self._held[0][0] <= self._durable", "self._held[0][0] <= self.recorded"),
    ),
    mutant(
        "a candidate's ballot is not durable, so that it is used again after a restart",
        (REPLICA + "_prepare", "self._promise(ballot)", "self._acceptor.promise(ballot)"),
    ),
    mutant(
        "the promise is forgotten in a restart",
        (REPLICA + "__init__", "Acceptor(self._log, promised)", "Acceptor(self._log)"),
    ),
    mutant(
        "an Accept for slots that have left memory is answered without a promise",
        (REPLICA + "_on_accept", "if accept.ballot > self._acceptor.promised:", "if False:"),
    ),
    mutant(
        "the state is committed ahead of the durable log",
        (
            "kvstore.state.commit_schedule:Commits._commit",
            "if self._under_way or self._state.applied_upto > self._durable_upto():",
            "if False:",
        ),
    ),
]

ACCEPTORS = [
    mutant(
        "a ballot below the promise is accepted",
        (REPLICA + "_on_accept", "if accept.ballot < self._acceptor.promised:", "if False:"),
        ("consensus.acceptor:Acceptor.accept", "require(run.ballot >= self.promised, ", "require(True, "),
    ),
    mutant(
        "accepting does not raise the promise",
        ("consensus.acceptor:Acceptor.accept", "self.promised = run.ballot", "pass"),
        (REPLICA + "_on_accept", "if accept.ballot > self._acceptor.promised:", "if False:"),
    ),
    mutant(
        "a lower ballot is promised after a higher one",
        (REPLICA + "_on_prepare", "prepare.ballot < self._acceptor.promised or", ""),
    ),
    mutant(
        "a promise leaves out what the acceptor knows as chosen",
        (
            REPLICA + "_on_prepare",
            "self._log.runs(prepare.first, NO_END)",
            "self._log.runs(max(prepare.first, self.chosen_upto + 1), NO_END)",
        ),
    ),
    mutant(
        "slots that have left memory are promised as if they were empty",
        (REPLICA + "_on_prepare", "or prepare.first < self._log.start", ""),
        (REPLICA + "_on_pre_vote", "and pre_vote.first >= self._log.start", ""),
    ),
]

PHASE_1 = [
    mutant(
        "the first value reported is adopted, not that of the highest ballot",
        (
            "consensus.leader:Phase1.adopt",
            "sorted((run for runs in self.promises.values() for run in runs), key=lambda run: run.ballot)",
            "[run for runs in reversed(list(self.promises.values())) for run in runs]",
        ),
    ),
    mutant(
        "a candidate forgets its own accepted values",
        (REPLICA + "_prepare", "self._log.runs(self._phase1.first, NO_END)", "[]"),
    ),
    mutant(
        "values beyond a gap are taken for lost, and no-ops proposed over them",
        (
            "consensus.leader:Phase1.adopt",
            "    values[run.first - self.first : run.last - self.first + 1] = run.values",
            "    if run.first > self.first and values[run.first - self.first - 1] == NO_OP:\n"
            "            break\n"
            "        values[run.first - self.first : run.last - self.first + 1] = run.values",
        ),
    ),
    mutant(
        "one promise of the quorum is not looked at",
        (
            "consensus.leader:Phase1.adopt",
            "for runs in self.promises.values()",
            "for runs in list(self.promises.values())[1:] or [[]]",
        ),
    ),
    mutant(
        "one node's promise is counted twice",
        (
            "consensus.leader:Phase1.promised",
            "return self._configuration.is_quorum(self.promises)",
            "self.heard = getattr(self, 'heard', 0) + 1\n    return self.heard >= self._configuration.quorum",
        ),
    ),
    mutant(
        "phase 1 begins after the last accepted slot, not after the last chosen one",
        (
            REPLICA + "_prepare",
            "Phase1(ballot, self.chosen_upto + 1, self.configuration, released)",
            "Phase1(ballot, self._log.last + 1, self.configuration, released)",
        ),
    ),
    mutant(
        "recovered values are taken as chosen without phase 2",
        (
            REPLICA + "_take_over",
            "    self._queue.reopen()",
            "    self._learner.choose(phase1.first, max(recovered_upto, self.chosen_upto))\n    self._queue.reopen()",
        ),
    ),
]

QUORUMS = [
    mutant(
        "half of the nodes are enough",
        ("consensus.membership:Configuration.__init__", "len(self.nodes) // 2 + 1", "max(len(self.nodes) // 2, 1)"),
    ),
    mutant(
        "half of the nodes are enough in clusters of an even size",
        ("consensus.membership:Configuration.__init__", "len(self.nodes) // 2 + 1", "(len(self.nodes) + 1) // 2"),
    ),
    mutant(
        "one node's vote is counted twice",
        (
            "consensus.leader:Phase2.accepted",
            "if not self._configuration.is_quorum(flight.votes):",
            "flight.heard = getattr(flight, 'heard', 0) + 1\n    if flight.heard < self._configuration.quorum:",
        ),
    ),
    mutant(
        "votes of an older ballot are counted",
        (
            REPLICA + "_on_accepted",
            "if self._phase2 is None or accepted.ballot != self._phase2.ballot:",
            "if self._phase2 is None:",
        ),
    ),
]

LEARNING = [
    mutant(
        "a watermark makes a value of an older ballot the chosen one",
        ("consensus.learner:Learner.hear", "if run.ballot == ballot:", "if run.ballot <= ballot:"),
    ),
    mutant(
        "a follower takes what it accepted as chosen",
        (
            REPLICA + "_on_accept",
            "self._learner.hear(accept.ballot, accept.chosen_upto)",
            "self._learner.choose(run.first, run.last)",
        ),
    ),
    mutant(
        "slots beyond a gap are applied before the gap is filled",
        ("consensus.learner:Learner.choose", "if first <= self.chosen_upto + 1:", "if True:"),
    ),
    mutant(
        "a node teaches everything it has accepted, chosen or not",
        (
            "consensus.catchup:CatchUp.teach",
            "self._learner.chosen(fetch.first, fetch.last)",
            "[(fetch.first, self._log.last)]",
        ),
    ),
    mutant(
        "a leader proposes a second value for a slot that is taken",
        (
            REPLICA + "propose_at",
            "if slot < self._log.start or self._log.at(slot) is not None:",
            "if slot < self._log.start:",
        ),
    ),
    mutant(
        "a deposed leader goes on as if nothing had happened",
        (REPLICA + "_step_down", "if self.role is Role.FOLLOWER:", "if self.role in (Role.FOLLOWER, Role.LEADER):"),
    ),
]

READS = [
    mutant(
        "a leader serves reads without asking a quorum",
        (
            "consensus.reads:ReadRounds.confirmed",
            "upto = self._configuration.reached_by_quorum(self._answered)",
            "upto = self.round",
        ),
    ),
    mutant(
        "a read is confirmed by a round that began before it arrived",
        (
            "consensus.reads:ReadRounds.wait",
            "self.waiting[reader] = max(self.waiting.get(reader, 0), number)",
            "(self._rounds[-1][2] if self._rounds else self.waiting)[reader] = number",
        ),
    ),
    mutant(
        "a leader, stale or not, answers a follower's read index at once",
        (
            REPLICA + "receive",
            "self._heartbeats.wait(Reader(sender, message.incarnation), message.read)",
            "self._send(sender, ReadIndexReply(self.ballot, message.incarnation, message.read, self.chosen_upto))",
        ),
    ),
    mutant(
        "an answer to reads of the process before a restart is taken for one to its own",
        (REPLICA + "receive", "and message.incarnation == self._queue.incarnation:", "and True:"),
    ),
    mutant(
        "a new leader serves reads before what it recovered is chosen",
        (REPLICA + "_read_index", "max(self.chosen_upto, phase2.recovered_upto)", "self.chosen_upto"),
    ),
    mutant(
        "a late answer confirms the newest round",
        (
            HEARTBEATS + "answered",
            "self._rounds.answered(sender, number)",
            "self._rounds.answered(sender, self._rounds.round)",
        ),
    ),
    mutant(
        "a follower confirms a leader that it has promised to depose",
        (REPLICA + "_on_heartbeat", "if beat.ballot < self._acceptor.promised:", "if False:"),
    ),
    mutant(
        "a follower serves its reads before it has applied the read index",
        (
            "consensus.reads:ReadQueue.served",
            "while self._indexed and self._indexed[0][1] <= chosen_upto:",
            "while self._indexed:",
        ),
    ),
]

LEASES = [
    mutant(
        "an acceptor promises another ballot while it supports a leader",
        (REPLICA + "_on_prepare", "if not self._support.allows(self._now, prepare.released):", "if False:"),
    ),
    mutant(
        "a restarted acceptor does not wait until what it may have supported is over",
        ("consensus.lease:Support.__init__", "self.until = now + lease", "self.until = now"),
    ),
    mutant(
        "support counts from a clock that was read before the heartbeat arrived",
        (
            REPLICA + "_on_heartbeat",
            "self._support.renew(beat.ballot)",
            "self._support.renew(beat.ballot)\n    self._support.tick(self._now)",
        ),
    ),
    mutant(
        "a lease counts from when its round was answered, not from when it began",
        (
            HEARTBEATS + "answered",
            "self._heard_at[sender] = now",
            "self._heard_at[sender] = now\n"
            "    begun = self._lease._begun\n"
            "    self._lease._begun = type(begun)((number, now) for number, _ in begun)",
        ),
    ),
    mutant(
        "a lease leaves no margin for the drift of clocks",
        ("consensus.lease:Lease.__init__", "int(lease * (1 - drift)) - 1", "lease"),
    ),
    mutant(
        "a leader that hands over goes on serving from its lease",
        (HEARTBEATS + "heir", "self._lease.give_up()", "pass"),
    ),
    mutant(
        "a leader serves from its lease before what it recovered is chosen",
        (
            REPLICA + "_serve_by_lease",
            "self._heartbeats.answer_by_lease(self._read_index(phase2), self._wall)",
            "self._heartbeats.answer_by_lease(self.chosen_upto, self._wall)",
        ),
    ),
]

EXECUTION = [
    mutant(
        "retries are executed twice",
        ("kvstore.state.machine:StateMachine.apply", "if recorded is None:", "if True:"),
    ),
    mutant(
        "a request is executed before those that it is to follow",
        (
            "kvstore.state.sessions:Session.is_early",
            "return sequence > self.last_sequence + 1 and",
            "return False and sequence > self.last_sequence + 1 and",
        ),
    ),
    mutant(
        "results are dropped before the client has acknowledged them",
        ("kvstore.state.sessions:Session.record", "lowest = sequence - MAX_RESULTS + 1", "lowest = sequence"),
    ),
    mutant(
        "sessions are not saved with the state",
        ("kvstore.state.sessions:Sessions.take", "for name in self._dirty", "for name in ()"),
        ("kvstore.state.sessions:Sessions.peek", "for name in self._dirty", "for name in ()"),
    ),
    mutant(
        "the session table is not consulted after a restart",
        ("kvstore.state.sessions:Sessions._load", "owner.stored[sequence] =", "_ ="),
    ),
    mutant(
        "applying looks at the wall clock",
        (
            "kvstore.node.node:Node.tick",
            "self._now, self._wall = now, wall",
            "self._now, self._wall = now, wall\n    self._state.wall = wall",
        ),
        (
            "kvstore.state.machine:StateMachine.apply",
            "self.clock = stamp\n",
            "self.clock = max(stamp, getattr(self, 'wall', 0))\n",
        ),
    ),
    mutant(
        "a reply is sent when a command is proposed",
        (
            "kvstore.node.proposals:Proposals._send_commands",
            "self._propose(requests)",
            "self._propose(requests)\n"
            "        for request in requests:\n"
            "            proposal = self._commands.pop((request.session, request.sequence))\n"
            "            done = __import__('kvstore.commands', fromlist=['Done']).Done()\n"
            "            proposal.done(Reply(done, self._replica.last_slot + 1))",
        ),
    ),
    mutant(
        "a command is answered when it has been handed to the leader",
        (
            "kvstore.node.proposals:Proposals._send_commands",
            "self._sends_anew = False",
            "self._sends_anew = False\n"
            "        for request in requests:\n"
            "            proposal = self._commands.pop((request.session, request.sequence))\n"
            "            done = __import__('kvstore.commands', fromlist=['Done']).Done()\n"
            "            proposal.done(Reply(done, self._replica.last_slot))",
        ),
    ),
    mutant(
        "nothing ever leaves memory",
        ("kvstore.node.node:Node._tidy", "self.replica.forget(applied_upto", "self.replica.forget(0 * applied_upto"),
    ),
    mutant(
        "a failed transaction keeps its first changes",
        ("kvstore.state.executor:_transact", "context.keys.end(keep=False)", "context.keys.end(keep=True)"),
    ),
    mutant(
        "a commit claims what was applied while it was written",
        ("kvstore.state.machine:StateMachine._write", "(batch.upto, batch.clock,", "(self.applied_upto, batch.clock,"),
    ),
    mutant(
        "what a commit under way is about to write is not looked at",
        ("kvstore.state.keyspace:Keyspace._below", "if key in self._in_flight:", "if False:"),
    ),
    mutant(
        "what a commit without room held is not written again",
        ("kvstore.state.machine:StateMachine.rolled_back", "self._keys.rolled_back()", "self._keys.committed(0)"),
    ),
    mutant(
        "what a commit without room held is missing in ranges until the node hears of it",
        ("kvstore.state.machine:StateMachine._wait_for_writer", "if self._failed is not None:", "if False:"),
    ),
    mutant(
        "results that a commit without room held are not written again",
        ("kvstore.state.machine:StateMachine.rolled_back", "self._sessions.rolled_back(batch.sessions)", "pass"),
    ),
    mutant(
        "an expired key is read until somebody writes it",
        ("kvstore.state.machine:StateMachine.apply", "keys.expire(stamp)", "pass"),
    ),
    mutant(
        "a read does not wait for the tick that a due key needs",
        ("kvstore.node.node:Node._serve_reads", "state.clock < as_of and due <= as_of", "False"),
    ),
    mutant(
        "a request sent again forgets that the first was handed on, and is called never proposed",
        ("kvstore.node.proposals:Proposals._repeat", "self._repeats += 1", "waiting.tried = False"),
    ),
    mutant(
        "a request refused is forgotten, so that those behind it are taken",
        ("kvstore.node.proposals:Proposals._admit_in_order", "self._break(session, sequence)", "pass"),
    ),
    mutant(
        "an earlier request that comes again stands for the one that was refused",
        ("kvstore.node.proposals:Proposals._admit_in_order", "if first and sequence == first:", "if first:"),
    ),
    mutant(
        "a request without a session has another sequence when it is sent again",
        (
            "kvstore.node.proposals:Proposals._propose",
            "request.sequence,",
            "request.sequence if request.session != self._session else self._replica.last_slot,",
        ),
    ),
]

BOUNDS = [
    mutant(
        "nobody remembers that a session was dropped",
        ("kvstore.state.sessions:Sessions._drop", "kind.forgotten = max(kind.forgotten, session.last_slot)", "pass"),
    ),
    mutant(
        "a session that may be one that was dropped is new",
        ("kvstore.state.sessions:Sessions.use", "if 0 <= since < kind.forgotten:", "if False:"),
    ),
    mutant(
        "sessions are dropped by their number only",
        ("kvstore.state.sessions:Sessions._settle", "while kind.weight > MAX_WEIGHT and", "while False and"),
    ),
    mutant(
        "after a restart sessions weigh nothing",
        ("kvstore.state.sessions:Sessions._load", "kind.weight += weight", "pass"),
    ),
    mutant(
        "which sessions were dropped is not saved with the state",
        ("kvstore.state.sessions:write_sessions", "list(changes.forgotten.items())", "[]"),
    ),
    mutant(
        "a result is recorded however large it is",
        ("kvstore.state.sessions:Session._bounded", "if size > MAX_RECORDED_BYTES or", "if False and"),
    ),
    mutant(
        "what a slot costs depends on what a replica has committed",
        (
            "kvstore.state.executor:_transact",
            "reason = cost.refused(txn, branch, context.keys, context.bounds)",
            "reason = cost.refused(txn, branch, context.keys, context.bounds) if context.keys.dirty_bytes else ''",
        ),
    ),
]

LIVENESS = [
    mutant(
        "a lost Accept is not sent again",
        ("consensus.leader:Phase2.overdue", "if now - flight.sent_at >= patience:", "if False:"),
    ),
    mutant(
        "a lost Fetch is not sent again",
        ("consensus.catchup:CatchUp.tick", "self._fetching = False", "pass"),
    ),
    mutant(
        "nobody asks to lead",
        (
            REPLICA + "tick",
            "elif self._now >= self._election.deadline and self._support.allows(self._now):",
            "elif False:",
        ),
    ),
    mutant(
        "a write that found no room on the disk is forgotten",
        ("kvstore.node.pending:RecordQueue.failed", "self._waiting = self._writing + self._waiting", "pass"),
    ),
]

ALL: list[Mutant] = [
    *DURABILITY,
    *ACCEPTORS,
    *PHASE_1,
    *QUORUMS,
    *LEARNING,
    *READS,
    *LEASES,
    *EXECUTION,
    *BOUNDS,
    *LIVENESS,
]
