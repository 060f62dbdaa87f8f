"""One client's connection: its requests come in, and its replies go out in the same order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from kvstore import clocks
from kvstore.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES, Done, Found, Get, Missing, Set, Value
from kvstore.errors import Refusal
from kvstore.node.client_order import ClientOrder, PendingReply
from kvstore.node.faults import failed
from kvstore.node.service import Service
from kvstore.resp.encoding import NULL, OK_BYTES, Array, Bulk, Error, RespValue, encode
from kvstore.resp.errors import RequestError, WrongPasswordError, problem, quoted, refusal
from kvstore.resp.guesses import DELAY_SECONDS
from kvstore.resp.hub import GONE, Client, Hub
from kvstore.resp.kept import Kept, about_size, bytes_of
from kvstore.resp.kv_commands import perform
from kvstore.resp.long_reply import LongReply
from kvstore.resp.parser import Parser, ProtocolError
from kvstore.resp.requests import Reading, Requests
from kvstore.resp.room import LARGE_BYTES, MAX_LARGE_BYTES_EACH
from kvstore.resp.shares import SECONDS_PER_READ, SHARE_SECONDS
from kvstore.resp.spec import NEITHER, READS, Effect, InMulti, OnClient, OnData, OnNode, OnServer, OnWalk, Spec, word
from kvstore.resp.states import (
    ALL_SENT,
    BLOCKED,
    ENDED,
    FEW_PENDING,
    FULL,
    KILL,
    KILLED,
    LEAVE,
    LEAVING,
    LOST,
    MANY_PENDING,
    NEXT_TURN,
    OFF,
    ON,
    OPEN,
    READING,
    SHARE_USED,
    STOPPED_TAKING,
    TAKES_AGAIN,
    ConnectionEvent,
    ModeEvent,
    after,
    mode_after,
)
from kvstore.resp.table import find
from kvstore.resp.transaction import Transaction
from kvstore.store import Reply

MAX_BACKLOG = 256
LOW_BACKLOG = 64
"""A client with ``MAX_BACKLOG`` unanswered requests is not read from until ``LOW_BACKLOG`` are left."""
MAX_UNSENT = 8 * 1_048_576
"""About how many bytes the replies to the requests under way may have, and as many those that wait to be sent, so that
a slow reader of large values cannot fill the memory. A reply's length is not known before it is there; until then it is
taken to be as long as the longest of late."""
MAX_ASKED_AGAIN = 8
"""So many reads that were put off are asked for again at once."""
MAX_VALUES = 64
"""The replies to the requests under way may have so many values, of up to a megabyte each, plain GETs apart: a client
whose replies were short of late may ask for large ones next."""
SMALL_READ_BYTES = 2_048
"""A read with more bytes than this runs alone, and is counted until it is answered; smaller ones are bounded by their
number."""
PARKED_BYTES = 4_096
"""Replies that wait for one before them are counted from so many bytes on."""
MANY_ITEMS = 65_536
"""A list of more values than this is not looked at value by value."""
FEW_ITEMS = 16
"""A list of so many values, all short or long strings, is encoded at once."""
MAX_JOINED = 1_048_576
"""Replies with more bytes than this are not joined to be sent."""
SECONDS_PER_BYTE = 1e-7
"""About how long plain requests take, for which nobody looks at the clock: their number is bounded already."""
_ON_STORE = (OnData, OnWalk)
_LONG = (list, Array, Bulk)
_RUBBISH = [b""]
"""Stands for what could not be understood, in line with the requests before it."""
_HTTP = (b"POST", b"HOST:")
"""What a browser sends before anything that a page can choose. In the body of a request a page could give commands to a
node that only its reader can reach."""


def _nothing() -> None: ...


def _none() -> int:
    return 0


ReplyBytes: TypeAlias = bytes | list[bytes]
"""A reply as it is sent; a long one in pieces, since to join them would take long."""


class PipelinedReply(PendingReply[ReplyBytes]):
    """The reply to one request of a connection. ``silent``: the client does not want to hear it.

    ``is_made``: what it says is known, though it may not be encoded yet. ``values``: how many it may have.
    """

    __slots__ = ("connection", "is_made", "key", "silent", "values")

    def __init__(self, connection: Connection) -> None:
        self.value = None
        self.connection = connection
        self.silent = False
        self.is_made = False
        self.values = 0
        self.key = b""  # of a plain GET

    def stored(self, outcome: Reply | Refusal) -> None:
        """The outcome of a plain SET."""
        if type(outcome) is Reply and type(outcome.result) is Done:
            self.connection.answered(self, OK_BYTES)
        else:
            self._failed(outcome)

    def found(self, outcome: Reply | Refusal) -> None:
        """The outcome of a plain GET."""
        if self.connection.takes_slowly and self.connection.puts_off_get(self):
            return
        self.found_at_last(outcome)

    def found_at_last(self, outcome: Reply | Refusal) -> None:
        """The same, when it is not to be put off."""
        if type(outcome) is Reply and type(outcome.result) is Found:
            data = outcome.result.value.data
            self.connection.answered(self, b"$%d\r\n%b\r\n" % (len(data), data))
        elif type(outcome) is Reply and type(outcome.result) is Missing:
            self.connection.answered(self, NULL[self.connection.client.version])
        else:
            self._failed(outcome)

    def _failed(self, outcome: Reply | Refusal) -> None:
        if isinstance(outcome, Reply):
            self.reply(Error(f"ERR the command gave {type(outcome.result).__name__}"))
        else:
            self.reply(refusal(outcome))

    def reply(self, reply: RespValue) -> None:
        """Any reply. What is called after it, because something failed later, is not sent."""
        if self.is_made or self.value is not None:
            return
        self.is_made = True
        version = self.connection.client.version
        if isinstance(reply, _LONG) and not self.silent and _may_be_long(reply):
            self.connection.encode_long(self, reply, version)
            return
        try:
            data = b"" if self.silent else encode(reply, version)
        except Exception as error:
            data = encode(problem("reply", error), version)
        self.connection.answered(self, data)


class LargeReply(PipelinedReply):
    """The reply to a large request, which gives its room to others then. ``size``: how many bytes it takes.

    ``began``: when, by ``clocks.seconds``.
    """

    __slots__ = ("began", "reads", "size")

    def __init__(self, connection: Connection, size: int, reads: bool) -> None:
        super().__init__(connection)
        self.size = size
        self.reads = reads
        self.began = clocks.seconds()

    def reply(self, reply: RespValue) -> None:
        if not self.is_made and self.size:
            self.connection.give_room(self)
        super().reply(reply)


class Connection:
    """One client's side of the Redis protocol: its requests from bytes, its replies to bytes.

    ``write`` takes bytes; ``close`` ends the connection once they are sent, and ``abort`` at once; ``pause`` stops and
    resumes reading from the client; ``untaken`` says how many bytes were written and not sent. ``peer`` and ``local``
    are the two ends' addresses. Its states are in :mod:`kvstore.resp.states`.
    """

    def __init__(
        self,
        service: Service,
        hub: Hub,
        *,
        write: Callable[[bytes], None],
        close: Callable[[], None],
        pause: Callable[[bool], None],
        abort: Callable[[], None] = _nothing,
        untaken: Callable[[], int] = _none,
        peer: str = "",
        local: str = "",
    ) -> None:
        self.service = service
        self.hub = hub
        self.client = Client(hub, self, peer, local)
        self._write = write
        self._close = close
        self._pause = pause
        self._abort = abort
        self._untaken = untaken
        self.held = 0
        self._kept = Kept(hub)
        self._parser = Parser(trusted=self.client.authenticated)
        self._order: ClientOrder[list[bytes], ReplyBytes] = ClientOrder(self._start_waiting)
        self._state = READING
        self._mode = ON
        self._transaction = Transaction()
        self._requests = Requests(service, hub, self._puts_off)
        self.takes_slowly = False
        """Whether the client does not take its replies, or reads were put off because of that."""
        self._is_stopped = False  # the transport takes no more
        self._put_off: deque[Reading] = deque()
        self._asked_again = 0  # of those that were put off
        self._is_asking = False
        self._performing: PipelinedReply | None = None
        self._is_delayed = False
        self._is_plain = self._finds_plain()
        self._unread: list[bytes] = []  # what the parser was not given yet
        self._out: list[bytes] = []
        self._unsent = 0
        self._expected = MAX_VALUE_BYTES
        self._asked_for_flush = False
        self._shares = hub.shares
        self._turn_ends = 0.0  # by clocks.seconds()
        self._is_heavy = False  # there was a request that was not a plain one
        self._large_bytes = 0
        self._values = 0  # that the replies to what is under way may have
        self._changes = 0  # bytes that its last write changed, if these are many more than its request had
        self._wrong = ""
        self._weighed: list[bytes] = _RUBBISH  # the request that has to wait, of which it is known
        self._weight = 0  # how many bytes it has

    def _move(self, event: ConnectionEvent) -> None:
        """Follow the table of states; stop reading from the client when the state is no longer READING."""
        was, self._state = self._state, after(self._state, event)
        if was is READING and self._state is not READING and self._state in OPEN:
            self._pause(True)

    # -- the host's side ----------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take bytes from the client, and start the requests in them."""
        if self._state not in OPEN:
            self._shares.put_off(len(data))  # it is thrown away, which takes as long
            return
        self.client.heard_at = now = clocks.seconds()
        shares = self._shares
        if (self._state is READING and shares.is_over) or self._unread:
            shares.put_off(len(data))
            self._unread.append(data)  # even to look for the requests in it takes time: a thousand others may do so too
            self._yield()
            self._tell_held()
            return
        self._parser.feed(data)
        self._turn_ends = now + shares.share_seconds
        self._is_heavy = False
        self._read_requests()
        if self._order.waiting:
            if self._kept.is_full(self._order.waiting) and self._state is READING:
                self._move(MANY_PENDING)
            self._tell_held()
        elif self._parser.has_rest or self.held or self._state is not READING:
            self._tell_held()
        if self._out:
            self.flush()
        if not self._is_heavy:
            shares.spent += SECONDS_PER_READ + len(data) * SECONDS_PER_BYTE
            return
        took = clocks.seconds() - now
        shares.spent += SECONDS_PER_READ + took
        if took > SHARE_SECONDS:
            shares.note(self, took)

    def count_held(self) -> None:
        """Count what is in memory for the client, with the replies that it may take in a moment."""
        self._tell_held(self._untaken())

    def _tell_held(self, untaken: int = 0) -> None:
        """Count what is in memory because the client has not sent the rest, or waits, or does not take its replies."""
        if self._state is BLOCKED and not untaken:
            untaken = self._untaken()
        beside = self._parser.unfinished + sum(map(len, self._unread)) + self._transaction.held + untaken
        self.held = self._kept.tell(beside, self._order.waiting)

    def flush(self) -> None:
        """Send the replies that are ready."""
        self._asked_for_flush = False
        if self._state is ENDED:
            return
        if self._out:
            pieces, self._out = self._out, []
            size, self._unsent = self._unsent, 0
            if size > MAX_JOINED:
                for piece in pieces:
                    self._write(piece)
            else:
                self._write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            self.hub.written += size
            if self._state is BLOCKED or self.held:
                self._tell_held()
        if self._state is KILLED or (self._state is LEAVING and not self._order.unsent):
            self._move(ALL_SENT)
            self._close()

    def writable(self, wanted: bool) -> None:
        """Told by the transport: whether the client takes its replies quickly enough.

        While it does not, no further request is started.
        """
        self._is_stopped = not wanted
        if not wanted:
            self.takes_slowly = True
            self._move(STOPPED_TAKING)
            return
        self._move(TAKES_AGAIN)
        self._ask_again()
        self._tell_held()
        self._go_on()
        if self._out:
            self.flush()

    @property
    def last_command(self) -> str:
        """The name of the last command that the client sent, apart from plain SET and GET."""
        return self.client.last_command

    @property
    def is_answered(self) -> bool:
        """Whether every request that was read is answered, and the replies are on their way."""
        return self._order.is_idle and not self._out and (self._state is READING or self._state not in OPEN)

    def carry_on(self) -> None:
        """It is this client's turn again, or there may be room for its request."""
        try:
            self._move(NEXT_TURN)
            self._resume()
            if self._out:
                self.flush()
        except Exception as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """What nobody foresaw has failed, and costs this client its connection. Raises a broken invariant again."""
        failed("connection", error)
        self.kill(at_once=True)

    def lost(self) -> None:
        """The client went away. Its requests are finished all the same, but nobody hears of it."""
        self._move(LOST)
        self._forget()
        # Nothing may keep it in memory until the collector looks for circles, which is rarely.
        self.client.connection = GONE
        self._order.close()

    def _forget(self) -> None:
        """Drop what is kept for the client."""
        self.hub.leave(self.client.number)
        self._order.forget()
        self._requests.forget()
        self._unread, self._out = [], []
        self._put_off.clear()
        self._parser, self._transaction = Parser(), Transaction()
        self._weighed = _RUBBISH
        self._kept.forget()
        self.held = 0

    # -- requests -----------------------------------------------------------------------------------------------------

    def _read_requests(self) -> None:
        order = self._order
        reading = READING
        if self._unread:
            self._parser.feed(self._unread[0] if len(self._unread) == 1 else b"".join(self._unread))
            self._unread = []
        while self._state is reading:
            try:
                request = self._parser.next()
            except Exception as error:  # what came before it is answered first
                self._wrong = str(error if isinstance(error, ProtocolError) else problem("parser", error).text)
                if order.waiting or not self._start(_RUBBISH):
                    order.waiting.append(_RUBBISH)
                    self._move(MANY_PENDING)  # nothing more is read
                return
            if request is None:
                if not self._parser.is_interrupted:
                    return
                self._look_at_clock()
                continue
            if not request:
                self._look_at_clock()
                continue
            self.hub.commands += 1
            if order.waiting or len(order.unsent) * self._expected > MAX_UNSENT or not self._start(request):
                order.waiting.append(request)
                self._kept.waits(request)
            if len(order.unsent) + len(order.waiting) >= MAX_BACKLOG and self._state is reading:
                self._move(MANY_PENDING)

    def _look_at_clock(self) -> None:
        """After a request that is not a plain one: start nothing more in this turn if the share of it is used up."""
        self._is_heavy = True
        if clocks.seconds() > self._turn_ends:
            self._yield()

    def _yield(self) -> None:
        """Start nothing more in this turn."""
        if self._state is READING or self._state is FULL:
            self._move(SHARE_USED)
            self._shares.wait(self)

    def _start_waiting(self, request: list[bytes]) -> bool:
        """Start a request that waited; returns False when it has to wait longer."""
        if self._state is not READING and self._state is not FULL:
            return False
        return len(self._order.unsent) * self._expected <= MAX_UNSENT and self._start(request)

    def _start(self, request: list[bytes]) -> bool:
        """Start a request; returns False when it has to wait for those before it."""
        name = request[0]
        if not self._is_plain:
            return not self._is_delayed and self._start_any(request)
        if name == b"SET" and len(request) == 3:
            key, value = request[1], request[2]
            if 0 < len(key) <= MAX_KEY_BYTES and len(value) <= LARGE_BYTES:
                reply = PipelinedReply(self)
                if not self._order.begin(reply, False):
                    return False
                self.client.last_command = "set"
                try:
                    self.service.execute(Set(key, Value(value)), reply.stored, size=len(key) + len(value))
                except Exception as refused:
                    reply.reply(problem("set", refused))
                    self._look_at_clock()  # it is answered at once, so that the number of such requests has no bound
                return True
            return self._start_any(request)
        if name != b"GET" or len(request) != 2 or self.client.reads_locally or not 0 < len(request[1]) <= MAX_KEY_BYTES:
            return self._start_any(request)
        reply = PipelinedReply(self)
        if not self._order.begin(reply, True):
            return False
        self.client.last_command = "get"
        reply.key = request[1]
        try:
            self.service.query(Get(request[1]), reply.found)
        except Exception as error:
            reply.reply(problem("get", error))
            self._look_at_clock()
        return True

    def _has_room(self, size: int) -> bool:
        """Whether a large request may run now. If not, nothing more is read, and the client carries on when it may."""
        if not self._large_bytes or self._large_bytes + size <= MAX_LARGE_BYTES_EACH:
            if self._shares.room.has(size, self):
                return True
            self._shares.room.wait(size, self)
        if self._state is READING:
            self._move(MANY_PENDING)
        return False

    def give_room(self, reply: LargeReply) -> None:
        """A large request was answered."""
        if reply.reads:
            self._kept.reads -= reply.size
            if self._state is not ENDED:
                self._tell_held()
        else:
            self._large_bytes -= reply.size
            self._shares.room.give(reply.size, reply.began)

    def _take_room(self, size: int, reads: bool) -> None:
        if reads:
            self._kept.reads += size
            self._tell_held()
        else:
            self._large_bytes += size
            self._shares.room.take(size, self)

    def _start_any(self, request: list[bytes]) -> bool:
        if request is _RUBBISH:
            last = PipelinedReply(self)
            if not self._order.begin(last, None):  # behind one that runs alone
                return False
            last.reply(Error(f"ERR Protocol error: {self._wrong}"))
            self._move(LEAVE)
            return True
        spec = find(request[0])
        effect = NEITHER if spec is None else self._effect(spec, request)
        alone = (
            spec is not None
            and (spec.is_slow or spec.keys[1] < 0 or effect is not spec.effect)
            and self._may_answer_much(spec, request)
        )
        if alone and self._order.unsent:
            return False
        values = 0
        if spec is not None and not alone and not self._transaction.is_open and spec.values is not None:
            values = spec.values(request)
        elif effect is not NEITHER and not alone and spec is not None and spec.effect is Effect.AS_QUEUED:
            values = self._transaction.values_in_reply
        if values and self._values and self._values + values > MAX_VALUES:
            return False
        size, is_large = 0, False
        reads = None if effect is NEITHER else effect is READS
        if reads is not None:
            queued = spec is not None and spec.effect is Effect.AS_QUEUED
            if queued:
                size = self._transaction.held
            elif request is self._weighed:  # it has had to wait, and is asked about at every answer before it
                size = self._weight
            else:
                size = bytes_of(request)
            is_large = size > (SMALL_READ_BYTES if reads else LARGE_BYTES)
            if reads:
                if is_large and self._order.unsent:
                    return self._has_to_wait(request, size)
            # It is taken to change as much as the one before it.
            elif (is_large or self._changes) and not self._has_room(max(size, self._changes)):
                return self._has_to_wait(request, size)
        reply: PipelinedReply
        writing: LargeReply | None = None
        if reads is False:
            reply = writing = LargeReply(self, size if is_large else 0, False)
        else:
            reply = LargeReply(self, size, True) if is_large else PipelinedReply(self)
        if not self._order.begin(reply, reads, alone and effect is READS):
            return self._has_to_wait(request, size)
        reply.values = values
        self._values += values
        if is_large:
            self._take_room(size, reads is True)
        changed = self.service.changed() if writing is not None else 0
        if self._mode is not ON:
            reply.silent = True
            self._mode = mode_after(self._mode, ModeEvent.REQUEST_BEGINS)
        self._performing = reply
        self._weighed = _RUBBISH
        try:
            self._perform(spec, request, reply)
        except Exception as error:
            self._transaction.break_off()
            refused = problem("unknown" if spec is None else spec.name, error)
            if isinstance(error, WrongPasswordError) and self.hub.later is not None:
                self._delay(reply, refused, self.hub.later)
            else:
                reply.reply(refused)
        if writing is not None:
            self._changes = self._count_changes(writing, self.service.changed() - changed)
        self._performing = None
        self._is_plain = self._finds_plain()
        self._look_at_clock()
        return True

    def _has_to_wait(self, request: list[bytes], size: int) -> bool:
        if size:
            self._weighed, self._weight = request, size
        return False

    def _count_changes(self, reply: LargeReply, changed: int) -> int:
        """A write was taken that changes so many bytes: take room for those that its request does not have."""
        more = changed - reply.size
        if more <= LARGE_BYTES:
            return 0
        if not reply.is_made:
            reply.size += more
            self._take_room(more, False)
        return more

    def _delay(
        self, reply: PipelinedReply, refused: RespValue, later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        """Reply to a wrong password after a while, in which this client gets nothing else done."""
        self._is_delayed = True
        later(DELAY_SECONDS, partial(self._after_delay, reply, refused))

    def _after_delay(self, reply: PipelinedReply, refused: RespValue) -> None:
        self._is_delayed = False
        self._is_plain = self._finds_plain()
        reply.reply(refused)
        self.flush()

    def _finds_plain(self) -> bool:
        """Whether SET and GET may take their fast path. Only requests that ``_start_any`` performs change this."""
        return self.client.authenticated and not self._is_delayed and self._mode is ON and not self._transaction.is_open

    def _may_answer_much(self, spec: Spec, request: list[bytes]) -> bool:
        if spec.effect is Effect.AS_QUEUED:
            return self._transaction.may_answer_much
        return spec.may_answer_much(request) and not self._transaction.is_open

    def _effect(self, spec: Spec, request: list[bytes]) -> Effect:
        effect = spec.effect_of(request)
        if effect is Effect.AS_QUEUED:
            return self._transaction.effect
        return NEITHER if self._transaction.is_open else effect

    def _perform(self, spec: Spec | None, request: list[bytes], reply: PipelinedReply) -> None:
        if spec is None:
            if word(request[0]) in _HTTP:
                self.kill()
                return
            raise RequestError(_unknown(request))
        client = self.client
        client.last_command = spec.full_name(request)
        if wrong := spec.complaint(request):
            raise RequestError(self._transaction.refuse(wrong) if spec.effect is Effect.AS_QUEUED else f"ERR {wrong}")
        if not client.authenticated and not spec.needs_no_password:
            raise RequestError("NOAUTH Authentication required.")
        if self._transaction.is_open and spec.in_multi is not InMulti.AT_ONCE:
            reply.reply(self._transaction.queue(spec, request, self._requests))
            self._tell_held()
            return
        performer = spec.performer
        if isinstance(performer, _ON_STORE):
            self._requests.perform(performer, request, reply.reply, locally=client.reads_locally)
        elif isinstance(performer, OnClient):
            try:
                reply.reply(performer.run(client, request))
            finally:  # HELLO may have let the client in and be wrong all the same
                self._parser.trusted = client.authenticated
        elif isinstance(performer, OnServer):
            reply.reply(performer.run(client, self.service, request))
        elif isinstance(performer, OnNode):
            perform(performer, self.service, request, reply.reply, locally=client.reads_locally)
        else:
            self._transaction.perform(performer, request, client, self.service, self._requests, reply.reply)
            self._tell_held()

    # -- replies ------------------------------------------------------------------------------------------------------

    def encode_long(self, reply: PipelinedReply, value: list[RespValue] | Array | Bulk, version: int) -> None:
        """Encode a reply that may have much in it, over several turns if need be."""

        size = _bytes_in(value) if isinstance(value, list) else value.size
        self._kept.parked += size
        done = partial(self._encoded, reply, size)
        LongReply(value, version, self.client.last_command, self._shares, self._is_open, done).carry_on()
        if self._kept.parked > PARKED_BYTES and self._state is not ENDED:
            self._tell_held()

    def _is_open(self) -> bool:
        return self._state is not ENDED

    def _encoded(self, reply: PipelinedReply, size: int, pieces: list[bytes]) -> None:
        self._kept.parked -= size
        if self._state is ENDED:
            pieces = []
        self.answered(reply, pieces if len(pieces) > 2 else b"".join(pieces))

    def answered(self, reply: PipelinedReply, data: ReplyBytes) -> None:
        """A reply is there: send those that are next in order, and perhaps start more requests."""
        order = self._order
        size = _size(data)
        # Also of a reply that has to wait for one before it: there may be many of those.
        self._expected = size if size > self._expected else self._expected - (self._expected >> 4)
        if reply.values:
            self._values -= reply.values
            reply.values = 0
        order.answer(reply, data)
        ready = order.next_answer()
        if ready is None:
            self._kept.parked += size
            if self._kept.parked > PARKED_BYTES and self._state is not ENDED:
                self._tell_held()
        else:
            self._put_out(ready, size)
            while (ready := order.next_answer()) is not None:
                size = _size(ready)
                self._kept.parked -= size
                self._put_out(ready, size)
        if self._unsent > MAX_UNSENT:
            self.flush()
        elif not self._asked_for_flush:
            self._ask_for_flush()
        if self._put_off:
            self._ask_again()
        if order.waiting or self._state is FULL:
            self._go_on()

    def puts_off_get(self, reply: PipelinedReply) -> bool:
        """Whether the outcome of a plain GET is to be forgotten, and asked for again later."""
        if not self._is_to_wait():
            return False
        self._put_off.append(Reading(self.service, Get(reply.key), reply.found_at_last, self._puts_off))
        return True

    def _puts_off(self, reading: Reading) -> bool:
        """The same for any read. Those behind one that is put off are too: they must not see less than it will."""
        if reading.is_again:
            self._asked_again -= 1
            return False
        if not self._is_to_wait():
            return False
        self._put_off.append(reading)
        return True

    def _is_to_wait(self) -> bool:
        if self._state is ENDED or self._state is KILLED:
            return False
        if self._put_off or self._asked_again:
            return True
        return self._is_stopped and self._unsent + self._untaken() > MAX_UNSENT

    def _ask_again(self) -> None:
        """Ask for some of what was put off, if the client takes replies."""
        if self._is_asking:  # one that is refused is answered at once
            return
        self._is_asking = True
        while self._put_off and not self._is_stopped and self._asked_again < MAX_ASKED_AGAIN:
            self._asked_again += 1
            self._put_off.popleft().ask_again()
        self._is_asking = False
        self.takes_slowly = self._is_stopped or bool(self._put_off) or self._asked_again > 0

    def _put_out(self, ready: ReplyBytes, size: int) -> None:
        if isinstance(ready, list):
            self._out += ready
        elif size:
            self._out.append(ready)
        self._unsent += size

    def _ask_for_flush(self) -> None:
        if not self._asked_for_flush and self._state is not ENDED:
            self._asked_for_flush = True
            self.hub.wants_flush(self)

    def _go_on(self) -> None:
        """The same as ``_resume``, in a later turn if this one is over: hundreds of clients may be told so at once."""
        if not self._shares.is_over:
            self._resume()
        elif not self._order.is_advancing and (self._order.waiting or len(self._order.unsent) <= LOW_BACKLOG):
            self._yield()

    def _resume(self) -> None:
        """Start the requests that waited, and read on once few are left."""
        order, shares = self._order, self._shares
        if order.is_advancing:
            return
        began = clocks.seconds()
        self._is_heavy = False
        self._turn_ends = began + shares.share_seconds
        order.advance()
        if self._state is FULL and not order.waiting and len(order.unsent) <= LOW_BACKLOG:
            self._move(FEW_PENDING)
            self._read_requests()  # those that have arrived already, which may be too many again
            self._read_on()
        shares.spent += clocks.seconds() - began

    def _read_on(self) -> None:
        if self._state is READING:
            self._pause(False)

    # -- what commands about the connection do to it ------------------------------------------------------------------

    def set_reply_mode(self, mode: bytes) -> None:
        """CLIENT REPLY. With ON the command itself is answered."""
        self._mode = mode_after(self._mode, ModeEvent(mode))
        if self._performing is not None:
            self._performing.silent = mode != b"ON"

    def leave(self) -> None:
        """Start no further request; end once those under way are answered."""
        self._move(LEAVE)

    def kill(self, *, at_once: bool = False) -> None:
        """End without answering what is under way; ``at_once``: nor sending the replies that are ready."""
        was = self._state
        self._move(KILL)
        ready = self._out
        self._forget()
        if was is BLOCKED or at_once:  # it would not take them
            if was is not ENDED:
                self._move(ALL_SENT)
            self._abort()
            return
        self._out = ready
        self._ask_for_flush()

    def reset(self) -> None:
        """Forget the transaction and answer requests again."""
        self._transaction = Transaction()
        if self._mode is OFF and self._performing is not None:
            self._performing.silent = False
        self._mode = mode_after(self._mode, ModeEvent.RESETS)

    def transaction_counts(self) -> tuple[int, int]:
        """How many requests MULTI has queued (-1 outside a transaction), and how many keys are watched."""
        return self._transaction.length, self._transaction.watching


def _may_be_long(reply: list[RespValue] | Array | Bulk) -> bool:
    """Whether a reply of one of these types may take long to encode."""
    return not isinstance(reply, list) or len(reply) > FEW_ITEMS or any(isinstance(item, _LONG) for item in reply)


def _bytes_in(reply: list[RespValue]) -> int:
    """About how many bytes of values and keys it refers to."""
    if len(reply) > MANY_ITEMS:  # all are alike: keys, values
        return about_size(reply, _bytes_of_item)
    size = 0
    for item in reply:
        size += _bytes_of_item(item)
    return size


def _bytes_of_item(item: RespValue) -> int:
    if isinstance(item, bytes):
        return len(item)
    return _bytes_in(item) if isinstance(item, list) else 0


def _size(data: ReplyBytes) -> int:
    return len(data) if isinstance(data, bytes) else sum(map(len, data))


def _unknown(request: list[bytes]) -> str:
    name, given = quoted(request[0]), ""
    for argument in request[1:]:
        if len(given) >= 128:
            break
        given += f"'{argument[: 128 - len(given)].decode(errors='replace')}' "
    return f"ERR unknown command '{name}', with args beginning with: {given}"
