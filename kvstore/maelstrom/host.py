"""The node on standard input and output: what course graders and Maelstrom drive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from consensus.election import Timing
from consensus.messages import Record
from kvstore import clocks, exit_status, logs
from kvstore.commands import MAX_VALUE_BYTES, Cas, Command, Failed, Get, Missing, NotMet, Outcomes, Result, Set
from kvstore.errors import CommandError, KvstoreError, Refusal, UnavailableError, UnknownOutcomeError
from kvstore.limits import check
from kvstore.maelstrom import wire
from kvstore.maelstrom.pipes import Pipes, StandardStreams
from kvstore.maelstrom.wire import ErrorReply, UnreadableLineError
from kvstore.node.client_order import ClientOrder, PendingReply
from kvstore.node.faults import failed
from kvstore.node.hosting import BUG, Appends, failure, new_event_loop, open_node
from kvstore.node.node import Node
from kvstore.node.peer_messages import PeerMessage
from kvstore.node.snapshot_disk import BEGINS_ANEW, SnapshotDisk
from kvstore.state.identity import Owner
from kvstore.state.snapshots import Snapshot
from kvstore.storage.data_dir import RESERVE_BYTES, DataDir
from kvstore.storage.log_tail import WHOLE, Keep
from kvstore.store import Reply, SlotReply
from kvstore.values import from_json

PATIENCE = 3_000
"""How long a request may take, in ms: graders wait 5 s, start-up included."""
FLUSH_SECONDS = 1.0
"""How long a node that failed tries to write the replies that it owes."""

_encode_peer = msgspec.json.Encoder().encode
_decode_peer = msgspec.json.Decoder(PeerMessage).decode

ReplyBody = tuple[str, list[wire.ReplyField]]
"""A reply's type and payload."""
T = TypeVar("T")
OnReplyBody = Callable[[ReplyBody], None]


def run(data_dir: Path | None) -> int:
    """Serve until the end of input; returns the exit status."""
    logs.configure("human", "error", "")
    host = PipeHost(data_dir)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(host.serve())
    return host.status


class PipeHost:
    """Carries lines between the pipes and one node, and the node's records to its disk.

    The log stays whole, unless ``keep`` says otherwise: clients may ask for it, or for any of its slots, at any time.
    """

    def __init__(
        self,
        data_dir: Path | None,
        streams: StandardStreams | None = None,
        new_thread: Callable[[str], Executor] = lambda name: ThreadPoolExecutor(1, name),
        keep: Keep = WHOLE,
    ) -> None:
        self.status = 0
        self._streams = streams or StandardStreams()
        self._new_thread = new_thread
        self._keep = keep
        self._path = data_dir
        self._data_dir: DataDir | None = None
        self._node: Node | None = None
        self._init: wire.InitRequest | None = None
        self._orders: dict[str, ClientOrder[wire.WireMessage, tuple[wire.WireMessage, ReplyBody]]] = {}
        self._sent = 0
        self._disk: Executor | None = None
        self._appends: Appends | None = None
        self._snapshots: SnapshotDisk | None = None
        self._moved = False
        self._closing = False
        self._timer: asyncio.Handle | None = None

    async def serve(self) -> None:
        """Until the input ends, or the node cannot go on."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._fail_unforeseen)
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._pipes = Pipes(
            self._loop,
            on_lines=self._on_lines,
            on_end=self._finish,
            on_failure=lambda why: self._fail(exit_status.BROKEN, why),
            streams=self._streams,
        )
        try:
            await self._ended
        finally:
            if self._timer:
                self._timer.cancel()
            await self._flush()
            self._close()

    def _fail(self, status: int, why: str) -> None:
        """End without another turn of the node and without a commit, since it may know what is not on its disk."""
        if self._failed.done():
            return
        self._failed.set_result(None)
        self.status = status
        self._streams.report(f"cannot go on: {why}")
        # At once, so that nothing else that is ready in this turn of the loop calls the node.
        self._pipes.stop()
        if self._timer:
            self._timer.cancel()
        self._end()

    def _fail_unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback raised an error that nobody caught, possibly half-way through a turn."""
        error = context.get("exception")
        match error:
            case OSError():
                self._fail(exit_status.BROKEN, str(error))
            case BaseException():
                why = failure(error)
                if why.trace:
                    self._streams.report(why.trace)
                self._fail(why.status, why.reason)
            case _:
                self._streams.report(str(context["message"]))
                self._fail(exit_status.BROKEN, BUG)

    async def _flush(self) -> None:
        """Write the replies that are owed, however slowly they are read, but only for a short time after a failure."""
        flushed = self._loop.create_task(self._pipes.close())
        await asyncio.wait([flushed, self._failed], return_when=asyncio.FIRST_COMPLETED)
        if not flushed.done():
            await asyncio.wait([flushed], timeout=FLUSH_SECONDS)
        if not flushed.done():
            flushed.cancel()
            self._streams.report("some replies could not be written")

    # -- input --------------------------------------------------------------------------------------------------------

    def _on_lines(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """The lines of one read, with their numbers: one turn of the node."""
        self._advance()
        for number, line in lines:
            try:
                message = wire.parse_message(line)
            except UnreadableLineError as error:
                self._streams.report(f"line {number} skipped: {error}")
                continue
            if self._is_from_peer(message):
                self._receive(number, message)
            else:
                self._request(message)
        self._turn()

    def _is_from_peer(self, message: wire.WireMessage) -> bool:
        if self._init is None:
            # Nodes that were initialised earlier speak already. They repeat themselves, so that nothing is lost; to
            # answer would spend the msg_id that belongs to init_ok.
            return message.kind in wire.PEER_TYPES
        return message.src != self._init.node_id and message.src in self._init.node_ids

    def _receive(self, number: int, message: wire.WireMessage) -> None:
        if self._node is None:
            return
        try:
            self._hear(self._node, message.src, _decode_peer(message.body))
        except (msgspec.DecodeError, RecursionError) as error:
            self._streams.report(f"line {number} skipped: not a message of a node: {error}")

    def _hear(self, node: Node, sender: str, message: PeerMessage) -> None:
        """Another node says something."""
        node.receive(sender, message)

    def _request(self, message: wire.WireMessage) -> None:
        # A node alone answers everybody in one order, so that what it prints depends on what it read only.
        alone = self._node is None or self._node.is_alone
        name = "" if alone else message.src
        if name not in self._orders:
            self._orders[name] = self._new_order(name)
        self._orders[name].add(message)

    def _new_order(self, name: str) -> ClientOrder[wire.WireMessage, tuple[wire.WireMessage, ReplyBody]]:
        def start(message: wire.WireMessage) -> bool:
            reply = PendingReply[tuple[wire.WireMessage, ReplyBody]]()
            if not order.begin(reply, message.kind in ("read", "multi_paxos_log", "init")):
                return False
            self._moved = True

            def answered(answer: ReplyBody) -> None:
                self._moved = True
                order.answer(reply, (message, answer))
                while (ready := order.next_answer()) is not None:
                    self._send(ready)
                order.advance()
                if order.is_idle:  # any number of clients may come and go
                    self._orders.pop(name, None)

            try:
                self._serve_request(message, answered)
            except ErrorReply as error:
                answered(_error(error.code, error.text))
            except UnavailableError as error:
                answered(_error(wire.UNAVAILABLE, str(error)))
            except CommandError as error:
                answered(_error(wire.MALFORMED, str(error)))
            except (KvstoreError, OSError):
                raise  # the disk
            except Exception as error:
                if message.kind == "init":
                    raise  # there is no node to go on with
                answered(_refusal(failed(message.kind, error)))
            return True

        order: ClientOrder[wire.WireMessage, tuple[wire.WireMessage, ReplyBody]] = ClientOrder(start)
        return order

    def _send(self, reply: tuple[wire.WireMessage, ReplyBody]) -> None:
        message, (kind, fields) = reply
        src = self._init.node_id if self._init else message.dest
        self._pipes.write(wire.encode_reply(src, message.src, kind, message.msg_id, fields, self._sent))
        self._sent += 1

    # -- requests -----------------------------------------------------------------------------------------------------

    def _serve_request(self, message: wire.WireMessage, answered: OnReplyBody) -> None:
        request = wire.parse_request(message)
        if isinstance(request, wire.InitRequest):
            self._initialise(request, answered)
            return
        node = self._node
        if node is None:
            raise ErrorReply(wire.UNAVAILABLE, "the node is not initialised: send init first")
        if self._closing:
            raise ErrorReply(wire.UNAVAILABLE, "the node is shutting down")
        deadline = clocks.now() + PATIENCE
        match request:
            case wire.EchoRequest():
                answered(("echo_ok", [("echo", bytes(request.echo))]))
            case wire.LogRequest():
                answered(("multi_paxos_log_ok", [wire.log_field(node.slot_rows())]))
            case wire.ProposeAtRequest():
                slot, json = wire.parse_slot(request.slot), bytes(request.value)
                if len(json) > MAX_VALUE_BYTES:
                    raise ErrorReply(
                        wire.MALFORMED, f"value has {len(json)} bytes of JSON, at most {MAX_VALUE_BYTES} are allowed"
                    )
                node.propose_at(slot, json, _answering(answered, _slot_reply), deadline)
            case wire.ReadRequest():
                key = wire.parse_key(request.key)
                node.query(Get(key), _answering(answered, _read_reply), deadline)
            case wire.WriteRequest():
                self._execute(Set(wire.parse_key(request.key), from_json(bytes(request.value))), "write_ok", answered)
            case wire.CasRequest():
                old, new = from_json(bytes(request.old)), from_json(bytes(request.new))
                cas = Cas(wire.parse_key(request.key), old, new, request.create_if_not_exists)
                self._execute(cas, "cas_ok", answered)
            case wire.TxnRequest():
                self._transact(request, answered)

    def _execute(self, command: Command, ok: str, answered: OnReplyBody) -> None:
        assert self._node is not None
        check(command)

        def made(outcome: Reply | Refusal) -> ReplyBody:
            return _write_reply(outcome.result, ok, []) if isinstance(outcome, Reply) else _refusal(outcome)

        self._node.execute(command, _answering(answered, made), clocks.now() + PATIENCE, size=MAX_VALUE_BYTES)

    def _transact(self, request: wire.TxnRequest, answered: OnReplyBody) -> None:
        assert self._node is not None
        if not request.txn:
            answered(("txn_ok", [("txn", b"[]")]))
            return
        command = wire.parse_txn(request)
        check(command)

        def made(outcome: Reply | Refusal) -> ReplyBody:
            if not isinstance(outcome, Reply):
                return _refusal(outcome)
            if isinstance(outcome.result, Outcomes):
                return ("txn_ok", [wire.txn_field(request, outcome.result.results)])
            return _write_reply(outcome.result, "txn_ok", [])

        self._node.execute(command, _answering(answered, made), clocks.now() + PATIENCE, size=MAX_VALUE_BYTES)

    def _initialise(self, request: wire.InitRequest, answered: OnReplyBody) -> None:
        if self._init is None:
            self._init = request
            try:
                self._node = self._open(request)
            except KvstoreError as error:
                self.status = exit_status.UNAVAILABLE
                self._streams.report(f"cannot start: {error}")
                self._end()
                raise ErrorReply(wire.UNAVAILABLE, str(error)) from error
            self._timer = self._loop.call_soon(self._tick)  # after the reply: a node says init_ok before anything else
        elif request != self._init:
            raise ErrorReply(
                wire.MALFORMED, f"init: this node is {self._init.node_id} of {self._init.node_ids} already"
            )
        elif self._node is None:
            raise ErrorReply(wire.UNAVAILABLE, "the node could not start")
        answered(("init_ok", []))

    def _open(self, init: wire.InitRequest) -> Node:
        if self._path is not None and self._data_dir is None:
            self._data_dir = DataDir.open(self._path, "kvstore node")
            self._disk = self._new_thread("log")
        node = open_node(
            init.node_id,
            init.node_ids,
            self._data_dir,
            snapshots=self._open_snapshots if self._data_dir else None,
            keep=self._keep,
        )
        self._appends = Appends(node, lambda event, why: self._streams.report(why), Timing().election[0])
        return node

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _open_snapshots(self, directory: str) -> SnapshotDisk:
        assert self._data_dir is not None
        assert self._init is not None
        owner, thread = Owner(directory, self._init.node_id), self._new_thread("snapshots")
        self._snapshots = SnapshotDisk(self._data_dir.state_path, owner, thread, RESERVE_BYTES, self._adopted)
        return self._snapshots

    def _adopted(self, snapshot: Snapshot, is_right: bool) -> None:
        """All of a snapshot has come."""
        if self._node is None or self._closing or self._failed.done():
            return
        self._node.adopted(snapshot, is_right)
        if self._node.snapshot is not None:
            self._node.refuse_requests(BEGINS_ANEW)
            self._turn()

    def _begin_anew(self, snapshot: Snapshot) -> None:
        """Open the node with this snapshot in the place of its state. Nothing may be under way."""
        assert self._node is not None
        assert self._init is not None
        assert self._snapshots is not None
        self._snapshots.close()
        self._node.install(snapshot)
        self._node = self._open(self._init)

    # -- turns --------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        assert self._node is not None
        self._timer = self._loop.call_later(self._node.tick_interval / 1_000, self._tick)
        self._advance()
        if self._appends is not None:
            self._appends.tick(clocks.now())
        self._turn()

    @property
    def _is_writing(self) -> bool:
        return self._appends is not None and self._appends.under_way

    def _advance(self) -> None:
        """Tell the node the time, except at the end: by then it has been told a later time, so that it gives up."""
        if self._node is not None and not self._closing:
            self._node.tick(clocks.now(), clocks.wall())

    def _turn(self) -> None:
        """Turn the node until nothing changes: what a turn completes makes room for further proposals and requests."""
        node = self._node
        if node is None:
            return
        moved = True
        while moved:
            self._moved = False
            applied_upto = node.applied_upto
            turn = node.turn()
            self._say(node, turn.messages)
            node.apply()
            moved = self._moved or node.applied_upto > applied_upto or node.has_more
            if turn.records and self._disk is None:
                node.append(turn.records)
                node.persisted()
                moved = True
            elif turn.records:
                self._disk_write(node, turn.records)
        if self._closing and not (self._is_writing or node.has_pending):
            self._end()
        elif node.snapshot is not None and not self._is_writing and not self._closing:
            self._begin_anew(node.snapshot)

    def _say(self, node: Node, messages: Sequence[tuple[str, PeerMessage]]) -> None:
        """To other nodes, at the end of a turn."""
        for receiver, message in messages:
            if not self._pipes.is_full:  # nodes repeat messages, endlessly if nobody reads them
                self._pipes.write(wire.encode_peer(node.node_id, receiver, _encode_peer(message)))

    def _disk_write(self, node: Node, records: list[Record]) -> None:
        assert self._disk is not None
        assert self._appends is not None
        appends = self._appends
        appends.began(clocks.now())
        written = asyncio.wrap_future(self._disk.submit(node.append, records), loop=self._loop)

        def done(future: asyncio.Future[None]) -> None:
            if self._failed.done():
                return
            self._advance()
            appends.ended(future.exception(), clocks.now())
            self._turn()

        written.add_done_callback(done)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """The input has ended: finish the requests that need no other node, give up the rest, answer everybody."""
        node = self._node
        if node is None or self._failed.done():
            self._end()
        elif self._is_writing or (node.is_alone and node.has_pending):
            self._loop.call_later(0.005, self._finish)
        elif not self._closing:
            self._closing = True
            node.tick(clocks.now() + PATIENCE, clocks.wall())
            self._turn()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _close(self) -> None:
        if self._snapshots:
            self._snapshots.close()
        if self._disk:
            self._disk.shutdown()
        if self._node and not self._failed.done():
            self._node.close()
        if self._data_dir:
            self._data_dir.close()


def _answering(answered: OnReplyBody, make: Callable[[T], ReplyBody]) -> Callable[[T], None]:
    """A callback for an outcome, which answers with what ``make`` makes of it, or that making it failed."""

    def done(outcome: T) -> None:
        try:
            body = make(outcome)
        except Exception as error:
            body = _refusal(failed("reply", error))
        answered(body)

    return done


def _slot_reply(outcome: SlotReply | Refusal) -> ReplyBody:
    if not isinstance(outcome, SlotReply):
        return _refusal(outcome)
    fields: list[wire.ReplyField] = [
        ("slot", outcome.slot),
        ("phase1_skipped", outcome.phase1_skipped),
        ("chosen", True),
        ("value", outcome.json),
    ]
    return ("multi_paxos_propose_ok", fields)


def _read_reply(outcome: Reply | Refusal) -> ReplyBody:
    if not isinstance(outcome, Reply):
        return _refusal(outcome)
    return _write_reply(outcome.result, "read_ok", [("value", wire.value_json(outcome.result))])


def _write_reply(result: Result, ok: str, fields: list[wire.ReplyField]) -> ReplyBody:
    match result:
        case Missing():
            return _error(wire.KEY_MISSING, "key does not exist")
        case NotMet() | Failed():
            return _error(wire.PRECONDITION_FAILED, result.reason)
    return (ok, fields)


def _refusal(error: Refusal) -> ReplyBody:
    if isinstance(error, CommandError):
        return _error(wire.MALFORMED, str(error))
    return _error(wire.TIMEOUT if isinstance(error, UnknownOutcomeError) else wire.UNAVAILABLE, str(error))


def _error(code: int, text: str) -> ReplyBody:
    return ("error", [("code", code), ("text", text)])
