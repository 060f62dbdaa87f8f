"""Bugs of what surrounds the core, which runs of the whole program must find: hosts, links, stores and faces."""

from __future__ import annotations

from tests.simulation.mutants.patching import Mutant, mutant

REPLICA = "consensus.replica:Replica."
HOST = "kvstore.server.host:Host."
PEERS = "kvstore.server.peers:Peers."
OUTBOUND = "kvstore.server.peers:OutboundConnection."
FRAMES = "kvstore.server.frames:"
LOG = "kvstore.storage.log_store:SqliteLog."
MAIN = "kvstore.server.main:"
WAL = "kvstore.storage.wal_check:"
STATE = "kvstore.state.machine:StateMachine."
COMMITS = "kvstore.state.commit_schedule:Commits."
PROPOSALS = "kvstore.node.proposals:Proposals."
CONNECTION = "kvstore.resp.connection:Connection."
REMOTE = "kvstore.handles.remote:RemoteStore."
LOAD = "cli.loading.load:Load."
PIPE_HOST = "kvstore.maelstrom.host:PipeHost."
PIPES = "kvstore.maelstrom.pipes:Pipes."

HOSTS = [
    mutant(
        "a vote leaves before its append is durable",
        (
            HOST + "_write",
            "    self._append = self._disk.submit(self.node.append, records)\n"
            "        self._append.add_done_callback(self._written)",
            "    self._disk.submit(self.node.append, records)\n"
            "        self._appends.ended(None, clocks.now())\n"
            "        self._woken = True",
        ),
    ),
    mutant(
        "an append that found no room counts",
        ("kvstore.node.hosting:Appends.ended", "self._node.storage_failed(error)", "self._node.persisted()"),
    ),
    mutant(
        "records that are few are not written",
        (HOST + "_write", "self.node.append(records)\n        except", "pass\n        except"),
    ),
    mutant(
        "a commit that found no room counts",
        (HOST + "_committed", "self.node.committed(batch, error)", "self.node.committed(batch, 0)"),
    ),
    mutant(
        "a node whose disk failed goes on",
        (HOST + "_unforeseen", "self.fail(why.status, why.reason)", "pass"),
    ),
    mutant(
        "the lease clock is the wall clock",
        (
            HOST + "__init__",
            "self._ticked_at = -1",
            "self._ticked_at = -1\n    self.apart = clocks.wall() - clocks.now()",
        ),
        (
            HOST + "_turn",
            "node.tick(now, clocks.wall())",
            "node.tick(clocks.wall() - self.apart, clocks.wall())",
        ),
    ),
    mutant(
        "a read shows what this node has applied, without a read index",
        (
            HOST + "query",
            "self.node.query(command, done, self._ticked_at + self._patience)",
            "self.node.look(command, done, self._ticked_at + self._patience)",
        ),
    ),
    mutant(
        "a drain does not wait for what is under way",
        (MAIN + "_drain", "(host.is_idle and clients.have_all)", "(host.node.is_alone or not host.node.leads)"),
    ),
    mutant(
        "a drain forgets the connections",
        (MAIN + "ClientListener.have_all", "for protocol in self._open)", "for protocol in ())"),
    ),
    mutant(
        "a drain ends connections at once",
        (MAIN + "ClientProtocol.close", "self._transport.close()", "self._transport.abort()"),
    ),
    mutant(
        "a leader that is told to end does not hand over",
        (MAIN + "_drain", "host.hand_over()", "pass"),
    ),
    mutant(
        "a draining node goes on reading",
        (MAIN + "ClientListener.stop", "protocol.stop_reading()", "pass"),
    ),
    mutant(
        "a directory is claimed before its log is there",
        (MAIN + "_serve", "host = Host(", "data_dir.claim(settings.cluster_name)\n    host = Host("),
    ),
]

LINKS = [
    mutant(
        "a gap on a full link is not told",
        (PEERS + "send", "link.gap = True\n            continue", "continue"),
    ),
    mutant(
        "after a gap on a link the next message goes before what was lost",
        (
            PEERS + "send",
            "resumed[node] = link\n",
            "resumed[node] = link\n            others.setdefault(node, []).extend(data)\n",
        ),
    ),
    mutant(
        "a new connection is not taken for a gap",
        (PEERS + "_dial", "self._resume(node)", "pass"),
    ),
    mutant(
        "values that waited for a link leave in reverse order",
        (OUTBOUND + "_send_queue", "self._queue.popleft()", "self._queue.pop()"),
    ),
    mutant(
        "small values overtake those that wait for the link",
        (OUTBOUND + "send", "if not self._queue and not self._is_paused and", "if"),
    ),
    mutant(
        "what waits for a link is not sent when it takes more",
        (OUTBOUND + "resume_writing", "self._is_paused = False\n    self._send_queue()", "pass"),
    ),
    mutant(
        "two messages of a turn share an encoding",
        (PEERS + "send", "encoded.get(id(message))", "encoded.get(hash(type(message)))"),
        (PEERS + "send", "encoded[id(message)] =", "encoded[hash(type(message))] ="),
    ),
    mutant(
        "a node that has left is still taken for connected",
        (PEERS + "leave", "del self._accepted[link.hello.sender]", "pass"),
    ),
    mutant(
        "a silent connection is kept",
        (
            "kvstore.server.peers:PeerConnection._keep_alive",
            "if self._loop.time() - self._heard_at > SILENCE_SECONDS:",
            "if False:",
        ),
    ),
    mutant(
        "a node that could not be reached once is not dialled again",
        (
            PEERS + "_dial",
            "link = await self._connect(node)",
            "link = await self._connect(node)\n        if link is None and wait > 0.3:\n            return",
        ),
    ),
]

CUTS = [
    mutant(
        "a frame is cut at a buffer's end",
        (FRAMES + "FrameReader.feed", "self._pieces = [data[start:]]", "self._pieces = []"),
    ),
    mutant(
        "a large frame's pieces are kept for the next one",
        (FRAMES + "FrameReader.feed", "self._body, self._body_bytes = [], 0", "pass"),
    ),
    mutant(
        "the first piece of a large frame is taken for all of it",
        (FRAMES + "pieces", "[_MORE] * (len(parts) - 1) + [_LAST]", "[_LAST] * len(parts)"),
    ),
    mutant(
        "a frame with nothing behind its length is taken for a message",
        (FRAMES + "FrameReader.feed", "elif length:", "else:"),
    ),
    mutant(
        "frames of nodes are bounded as those of strangers",
        (
            "kvstore.server.peers:InboundConnection.received",
            "self._reader.limit = MAX_FRAME_BYTES",
            "pass",
        ),
    ),
]

STORES = [
    mutant(
        "an append that failed with EIO counts",
        (LOG + "append", "self._failure = error\n            raise", "return"),
    ),
    mutant(
        "an append that failed is taken for one that found no room",
        (LOG + "append", "self._failure = error\n            raise", "raise StorageFullError(str(error))"),
    ),
    mutant(
        "the log's fsync is left out",
        (LOG + "__init__", 'synchronous="FULL"', 'synchronous="OFF"'),
    ),
    mutant(
        "what a killed process had not synced is not synced before the node speaks",
        (WAL + "sync_wal", "files().sync(", "str("),
    ),
    mutant(
        "the WAL is not synced after it was copied",
        (LOG + "_open", "if had_wal:", "if False:"),
    ),
    mutant(
        "the wal-index is not synced before the WAL goes",
        (LOG + "_empty_wal", "files().sync_open(index, _index_handles[key])", "pass"),
    ),
    mutant(
        "a torn tail of the WAL is taken for rot",
        (WAL + "_Scan.damage", "return what if self._later_commit(frame) else None", "return what"),
    ),
    mutant(
        "what an earlier generation left in the WAL is taken for a commit that was torn",
        (WAL + "_Scan._never_written", "return blank or 0 < ", "return blank or 0 > "),
    ),
    mutant(
        "a WAL that is missing is damage, though the database has all of it",
        (WAL + "_acknowledged", "count if count > in_database else 0", "count"),
    ),
    mutant(
        "a promise without slots is not read back",
        (
            LOG + "_verify",
            "self.promised = max(self.promised, Ballot(number, node))",
            "self.promised = max(self.promised, Ballot(number, node) if last else self.promised)",
        ),
    ),
    mutant(
        "all that was accepted is taken for chosen after a restart",
        (LOG + "_verify", "max(self.chosen_upto, chosen_upto)", "max(self.chosen_upto, last)"),
    ),
    mutant(
        "overlapping rows of the log are read in the order of their slots",
        (LOG + "_part", "sorted(rows)", "rows"),
    ),
    mutant(
        "a row that begins before the slots that are read is not found",
        (LOG + "_part", "(first - MAX_ROW_SLOTS, last, first)", "(first, last, first)"),
    ),
    mutant(
        "a batch of records is not one transaction",
        (LOG + "append", "if len(rows) > 1:", "if False:"),
    ),
    mutant(
        "an append that found no room uses up its numbers",
        (
            LOG + "append",
            "with self._lock:",
            "self._next_id, self.last = identity, highest\n    with self._lock:",
        ),
    ),
    mutant(
        "a state commit is ahead of the log",
        (COMMITS + "_commit", "if self._under_way or self._state.applied_upto > self._durable_upto():", "if False:"),
    ),
    mutant(
        "applied_upto is committed in another transaction than what was applied",
        (
            STATE + "_write",
            "new = batch.changes.write(self._writer)",
            "self._writer.execute('UPDATE progress SET applied_upto = ?', (batch.upto,))\n"
            "    self._writer.commit()\n"
            "    new = batch.changes.write(self._writer)",
        ),
    ),
    mutant(
        "a commit claims what was applied while it was written",
        (STATE + "_write", "(batch.upto, batch.clock,", "(self.applied_upto, batch.clock,"),
    ),
    mutant(
        "a commit that found no room is not written again",
        (COMMITS + "ended", "self._state.rolled_back(batch)", "self._state._failed = None"),
    ),
    mutant(
        "sessions are not committed with the state",
        ("kvstore.state.sessions:Sessions.take", "for name in self._dirty", "for name in ()"),
    ),
    mutant(
        "the clock of the log is not committed",
        (STATE + "_write", "(batch.upto, batch.clock,", "(batch.upto, 0,"),
    ),
]

REQUESTS = [
    mutant(
        "requests are sent again in reverse order after a gap",
        (PROPOSALS + "send_all_again", "self._proposals()", "self._proposals()[::-1]"),
    ),
    mutant(
        "a Forward of an earlier ballot is taken",
        (PROPOSALS + "on_forward", " or forward.ballot != self._replica.ballot", ""),
    ),
    mutant(
        "a leader takes a Forward though those before it may be missing",
        (
            PROPOSALS + "on_forward",
            "if sender in self._begun:",
            "if sender in self._begun or self._replica.memory_bytes <= MAX_MEMORY:",
        ),
    ),
    mutant(
        "what a leader left out is not sent again",
        (
            PROPOSALS + "on_left_out",  # it would be sent again for want of an answer, about as soon
            "if message.ballot == self._replica.ballot:",
            "for proposal in self._proposals():\n        proposal.sent_at = NO_END\n    if False:",
        ),
    ),
    mutant(
        "never proposed is said of what was handed on",
        (PROPOSALS + "send", "proposal.tried, proposal.unsent = True, False", "proposal.unsent = False"),
    ),
    mutant(
        "of two callers with the same request only the last one hears",
        (PROPOSALS + "_repeat", "waiting.others.append(waiting.done)", "pass"),
    ),
    mutant(
        "a Fetch is answered from the disk beyond what is chosen",
        (
            "consensus.catchup:CatchUp.on_disk",
            "return fetch.first, min(last, self._log.start - 1)",
            "return fetch.first, min(fetch.last, fetch.first + MAX_ACCEPT_SLOTS - 1)",
        ),
    ),
    mutant(
        "a follower that hears a leader helps to depose it",
        (REPLICA + "_on_pre_vote", "and not self._election.supports_leader(self._now)", ""),
    ),
    mutant(
        "a leader without a quorum goes on",
        (REPLICA + "_lead_on", "if self._heartbeats.lost_quorum(self._now):", "if False:"),
    ),
    mutant(
        "what is learned is not promised",
        ("consensus.acceptor:Acceptor.store", "self.promised = max(self.promised, run.ballot)", "pass"),
    ),
]

FACES = [
    mutant(
        "replies leave in the order in which they come",
        (
            "kvstore.node.client_order:ClientOrder.next_answer",
            "value = self.unsent[0].value",
            "self.unsent = type(self.unsent)(sorted(self.unsent, key=lambda reply: reply.value is None))\n"
            "        value = self.unsent[0].value",
        ),
    ),
    mutant(
        "only the first connection's replies leave at the end of a turn",
        ("kvstore.resp.hub:Hub.flush", "enumerate(connections, 1)", "enumerate(connections[:1], 1)"),
    ),
    mutant(
        "a client that had too many requests under way is not read from again",
        (CONNECTION + "_read_on", "self._pause(False)", "pass"),
    ),
    mutant(
        "a client that was not read from, since a turn was over, never is again",
        ("kvstore.server.readers:Readers._read_again", "reader.hold(False)", "pass"),
    ),
    mutant(
        "a client that takes its replies again is not read from again",
        (
            CONNECTION + "writable",
            "self._move(TAKES_AGAIN)\n    self._ask_again()\n    self._tell_held()\n    self._go_on()",
            "pass",
        ),
    ),
    mutant(
        "an argument whose last byte is missing is taken",
        ("kvstore.resp.parser:Parser.next", "if end + 2 > size:", "if end + 1 > size:"),
        ("kvstore.resp.parser:Parser.next", "if data[end] != _CR or data[end + 1] != _LF:", "if data[end] != _CR:"),
    ),
    mutant(
        "arguments that have come before the others are forgotten",
        ("kvstore.resp.parser:Parser._keep", "arguments, missing, taken", "[], missing, taken"),
    ),
    mutant(
        "a request that arrives in pieces begins anew with each",
        ("kvstore.resp.parser:Parser.feed", "self._part += data", "self._part = bytearray(data)"),
    ),
    mutant(
        "requests without data are performed in one turn, however many there are",
        (CONNECTION + "_look_at_clock", "if clocks.seconds() > self._turn_ends:", "if False:"),
    ),
]

CLIENTS = [
    mutant(
        "a second WATCH replaces the first's slot",
        (
            "kvstore.resp.transaction:Transaction._note_watched",
            "watched.slots.setdefault(key, result.number)",
            "watched.slots[key] = result.number",
        ),
    ),
    mutant(
        "EXEC does not wait for the keys that WATCH asks about",
        ("kvstore.resp.transaction:Transaction.effect", "if self._asking:", "if False:"),
    ),
    mutant(
        "what was watched is watched again by the next transaction",
        (
            "kvstore.resp.transaction:Transaction._close",
            "self._queue, self._watched = None, _Watched()",
            "self._queue = None",
        ),
    ),
    mutant(
        "EXEC forgets what was watched",
        ("kvstore.resp.transaction:Transaction._execute", "in watched.slots.items()", "in ()"),
    ),
    mutant(
        "a transaction is executed though a WATCH before it was refused",
        ("kvstore.resp.transaction:Transaction._execute", "if watched.refused:", "if False:"),
    ),
    mutant(
        "a transaction in which a request was wrong is executed without it",
        ("kvstore.resp.transaction:Transaction.break_off", "self._queue, self._broken = [], True", "pass"),
    ),
    mutant(
        "a session read without a read index",
        (
            "kvstore.resp.kv_commands:_session",
            "_after_reading(service, answer, lambda: ",
            "(lambda told: told())(lambda: ",
        ),
    ),
    mutant(  # each of the two keeps what the other one lets through from doing harm
        "a request behind a refused one is taken and executed, and its session goes on at the last instead of the gap",
        (PROPOSALS + "_admit_in_order", "if 0 < first < sequence:", "if False:"),
        ("kvstore.state.sessions:Session.is_early", "return sequence >", "return False and sequence >"),
    ),
    mutant(
        "reads of a pipeline overtake its writes",
        (
            "kvstore.node.client_order:ClientOrder.begin",
            "alone or self._runs_alone or (reads is not None and reads is not self._reads)",
            "alone or self._runs_alone",
        ),
    ),
    mutant(
        "writes of a pipeline overtake its reads",
        (
            "kvstore.node.client_order:ClientOrder.begin",
            "(reads is not None and reads is not self._reads)",
            "(reads and reads is not self._reads)",
        ),
    ),
    mutant(
        "a request is started before those that wait",
        (CONNECTION + "_read_requests", "if order.waiting or len(order.unsent)", "if len(order.unsent)"),
    ),
    mutant(
        "after a protocol error the error is told before what came before it is answered",
        (
            CONNECTION + "_start_any",
            'last.reply(Error(f"ERR Protocol error: {self._wrong}"))',
            'self._out.append(encode(Error(f"ERR Protocol error: {self._wrong}"), 2))\n'
            "        self.answered(last, b'')",
        ),
    ),
    mutant(
        "a node's own session is the same after a restart",
        (PROPOSALS + "_begin_session", "{self._rng.getrandbits(64):016x}", "0"),
    ),
    mutant(
        "a node's own session acknowledges what it has not been told yet",
        (
            PROPOSALS + "acknowledge",
            "(sequence for session, sequence in self._commands if session == self._session)",
            "()",
        ),
    ),
    mutant(
        "a connection whose turn it is again does not go on",
        (CONNECTION + "carry_on", "self._resume()", "pass"),
    ),
    mutant(
        "room that was kept for a client and not taken is never free again",
        ("kvstore.resp.room:Room.was_served", "self._taken -= unused", "pass"),
    ),
    mutant(
        "what was kept for a client that is gone still counts",
        ("kvstore.resp.kept:Kept.forget", "self._hub.hold(-before)", "pass"),
    ),
    mutant(
        "callers of a request that is answered still count as waiting",
        (PROPOSALS + "_tell", "self._repeats -= len(proposal.others)", "pass"),
    ),
]

HANDLES = [
    mutant(
        "a store sends a request again under another sequence",
        (
            REMOTE + "_try",
            "self._attempt(requests[len(replies) :], replies)",
            "again = [[*r[:2], r[2] + 1, *r[3:]] for r in requests[len(replies) :]] if writes and tried else None\n"
            "            self._attempt(again or requests[len(replies) :], replies)",
        ),
    ),
    mutant(
        "a store takes the refusal of the last node for the last word",
        (
            REMOTE + "_try",
            "may_have_happened |= isinstance(error, UnknownOutcomeError)",
            "may_have_happened = isinstance(error, UnknownOutcomeError)",
        ),
    ),
    mutant(
        "a store says of what was sent and not answered that it never happened",
        (REMOTE + "_try", "may_have_happened |= sent", "pass"),
    ),
    mutant(
        "a store goes on with a connection that owes it replies",
        (REMOTE + "_try", "self._drop()\n        self._at =", "self._at ="),
    ),
]

LOADS = [
    mutant(
        "a load goes on one line too late",
        (
            LOAD + "_find_session",
            "self._done = self._store.executed_upto(self._session)",
            "self._done = self._store.executed_upto(self._session)\n    self._done += self._done > 0",
        ),
    ),
    mutant(
        "a load goes on one line too early, under a sequence that is new",
        (LOAD + "_load", "if ordinal > self._done:", "if ordinal >= self._done > 0 or not self._done:"),
        (LOAD + "_add", "self._first = ordinal", "self._first = max(ordinal, self._done + 1)"),
    ),
    mutant(
        "what was executed of a batch that broke off is counted twice",
        (LOAD + "_count_executed", "self.summary.commands += executed", "self.summary.commands += 2 * executed"),
    ),
    mutant(
        "a load sends its next batch although one was refused",
        (LOAD + "_execute_batch", "self._fail(status_of(error), self._why_stopped(error))", "return"),
    ),
    mutant(
        "a load that is started again does not see the session of the last one",
        (LOAD + "_find_session", "self._done = self._store.executed_upto(self._session)", "self._done = 0"),
    ),
]

ON_PIPES = [
    mutant(
        "of a line that comes in pieces the beginning is lost",
        (PIPES + "_feed", "self._partial += rest", "self._partial[:] = rest"),
    ),
    mutant(
        "a piece of a line is taken for a whole one",
        (PIPES + "_feed", '*complete, rest = data.split(b"\\n")', 'complete, rest = data.split(b"\\n"), b""'),
    ),
    mutant(
        "a last line without its newline is not read",
        (PIPES + "_read", "if self._partial or self._skipping:", "if self._skipping:"),
    ),
    mutant(
        "what is owed at the end of input is not written",
        (PIPES + "close", "while self._output:", "while False:"),
    ),
    mutant(
        "what is under way at the end of input gets no answer",
        (PIPE_HOST + "_turn", "if self._closing and not (self._is_writing or node.has_pending):", "if self._closing:"),
        (PIPE_HOST + "_finish", "node.tick(clocks.now() + PATIENCE, clocks.wall())", "pass"),
    ),
    mutant(
        "what a pipe did not take is lost",
        (
            PIPES + "_drain",
            "sent += self._streams.write(self._output[sent : sent + select.PIPE_BUF])",
            "self._streams.write(self._output[sent : sent + select.PIPE_BUF])\n            sent += select.PIPE_BUF",
        ),
    ),
    mutant(
        "what was begun to be written to a pipe is written again",
        (PIPES + "_drain", "del self._output[:sent]", "del self._output[: sent if sent == len(self._output) else 0]"),
    ),
    mutant(
        "a node on pipes speaks before its append is durable",
        (
            PIPE_HOST + "_disk_write",
            "written.add_done_callback(done)",
            "appends.ended(None, clocks.now())",
        ),
    ),
    mutant(
        "a message of another node is taken for a client's",
        (
            PIPE_HOST + "_is_from_peer",
            "message.src in self._init.node_ids",
            "message.src in self._init.node_ids[:-1]",
        ),
    ),
    mutant(
        "two requests are answered with one msg_id",
        (PIPE_HOST + "_send", "self._sent += 1", "self._sent = (self._sent + 1) % 20"),
    ),
]

WHOLE: list[Mutant] = [
    *CLIENTS,
    *HOSTS,
    *LINKS,
    *CUTS,
    *STORES,
    *REQUESTS,
    *FACES,
    *HANDLES,
    *LOADS,
    *ON_PIPES,
]
