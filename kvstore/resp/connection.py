"""One client's connection: its requests in, its replies out in the same order, and what it has set for itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from kvstore.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES, Done, Found, Get, Missing, Set, Value
from kvstore.errors import KvstoreError, Refusal
from kvstore.node.service import Service
from kvstore.resp.encoding import NULL, OK_BYTES, Error, RespValue, encode
from kvstore.resp.errors import RequestError, refusal
from kvstore.resp.hub import Client, Hub
from kvstore.resp.kv_commands import perform
from kvstore.resp.parser import Parser, ProtocolError
from kvstore.resp.requests import Requests
from kvstore.resp.spec import NEITHER, READS, Effect, InMulti, OnClient, OnData, OnNode, OnServer, OnWalk, Spec
from kvstore.resp.table import find
from kvstore.resp.transaction import Transaction
from kvstore.store import Reply

MAX_BACKLOG = 256
LOW_BACKLOG = 64
"""A client that sends so many requests without taking their answers is not read from until few are left."""
MAX_UNSENT = 8 * 1_048_576
"""About how many bytes the replies to the requests under way may have, and as many those that wait to be sent: a slow
reader of large values cannot fill the memory. How long a reply is shows when it is there: the largest of late is what
the next ones are taken for."""
_HTTP = (b"post", b"host:")
"""What a browser sends before anything that a page can choose. In the body of a request a page could give commands to a
node that only its reader can reach."""


class Place:
    """Where a request's reply goes: in the line of its connection, whenever it comes."""

    __slots__ = ("connection", "data", "silent")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.data: bytes | None = None
        self.silent = False

    def stored(self, outcome: Reply | Refusal) -> None:
        """The outcome of a plain SET."""
        if type(outcome) is Reply and type(outcome.result) is Done:
            self.data = OK_BYTES
            self.connection.answered()
        else:
            self._failed(outcome)

    def found(self, outcome: Reply | Refusal) -> None:
        """The outcome of a plain GET."""
        if type(outcome) is Reply and type(outcome.result) is Found:
            data = outcome.result.value.data
            self.data = b"$%d\r\n%b\r\n" % (len(data), data)
            self.connection.answered()
        elif type(outcome) is Reply and type(outcome.result) is Missing:
            self.data = NULL[self.connection.client.version]
            self.connection.answered()
        else:
            self._failed(outcome)

    def _failed(self, outcome: Reply | Refusal) -> None:
        if isinstance(outcome, Reply):
            self.reply(Error(f"ERR the command gave {type(outcome.result).__name__}"))
        else:
            self.reply(refusal(outcome))

    def reply(self, reply: RespValue) -> None:
        """The reply, once."""
        self.data = encode(reply, self.connection.client.version)
        self.connection.answered()


class Connection:
    """What one client says and hears. ``write`` takes bytes; ``close`` ends the connection once they are sent;
    ``pause`` stops and resumes reading from the client. ``peer`` and ``local`` are the two ends' addresses.

    Writes are started together, pipelined. A request that reads is started when all writes before it are answered, and
    writes behind it wait for it, so that a client which sends without waiting sees what it wrote.
    """

    def __init__(
        self,
        service: Service,
        hub: Hub,
        *,
        write: Callable[[bytes], None],
        close: Callable[[], None],
        pause: Callable[[bool], None],
        peer: str = "",
        local: str = "",
    ) -> None:
        self.service = service
        self.hub = hub
        self.client = Client(hub, self, peer, local)
        self._write = write
        self._close = close
        self._pause = pause
        self._parser = Parser()
        self._places: deque[Place] = deque()
        self._unstarted: deque[list[bytes]] = deque()
        self._running = 0
        self._looking = False
        self._starting = False
        self._out: list[bytes] = []
        self._unsent = 0
        self._expected = MAX_VALUE_BYTES
        self._marked = False
        self._paused = False
        self._blocked = False
        self._leaving = False
        self._ended = False
        self._mute = False
        self._skip = 0
        self._transaction = Transaction()
        self._requests = Requests(service, hub)

    # -- the host's side ----------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes from the client: starts the requests in them."""
        if self._ended or self._leaving:
            return
        self.client.heard_at = time.monotonic()
        self._parser.feed(data)
        self._take()
        if self._out:
            self.flush()

    def flush(self) -> None:
        """Send the replies that are ready."""
        self._marked = False
        if self._ended:
            return
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out = []
            self._unsent = 0
            self._write(data)
        if self._leaving and not self._places:
            self._ended = True
            self._close()

    def writable(self, wanted: bool) -> None:
        """Whether the client takes its replies quickly enough; if not, no further request is started."""
        self._blocked = not wanted
        if wanted:
            self._go_on()
            if self._out:
                self.flush()
        else:
            self._stop_reading()

    def lost(self) -> None:
        """The client went away; what it asked for goes on, but nobody hears of it."""
        self._ended = True
        self.hub.leave(self.client.number)
        self._unstarted.clear()
        self._places.clear()
        self._out = []

    # -- requests -----------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        while not (self._paused or self._leaving):
            try:
                request = self._parser.next()
            except ProtocolError as error:
                self._place().reply(Error(f"ERR Protocol error: {error}"))
                self._leaving = True
                return
            if request is None:
                return
            self.hub.commands += 1
            if self._unstarted or self._is_full or not self._start(request):
                self._unstarted.append(request)
            if len(self._places) + len(self._unstarted) >= MAX_BACKLOG:
                self._stop_reading()

    def _start(self, request: list[bytes]) -> bool:
        """Start a request; False when it has to wait for those before it."""
        client, name = self.client, request[0]
        if self._transaction.is_open or not client.authenticated or self._mute or self._skip:
            return self._start_any(request)
        if name == b"SET" and len(request) == 3:
            key, value = request[1], request[2]
            if 0 < len(key) <= MAX_KEY_BYTES and len(value) <= MAX_VALUE_BYTES:
                if self._running and self._looking:
                    return False
                place = self._place(looks=False)
                try:
                    self.service.execute(Set(key, Value(value)), place.stored, size=len(key) + len(value))
                except KvstoreError as error:
                    place.reply(refusal(error))
                return True
        elif (
            name == b"GET"
            and len(request) == 2
            and not self.client.reads_locally
            and 0 < len(request[1]) <= MAX_KEY_BYTES
        ):
            if self._running and not self._looking:
                return False
            place = self._place(looks=True)
            self.service.query(Get(request[1]), place.found)
            return True
        return self._start_any(request)

    def _start_any(self, request: list[bytes]) -> bool:
        spec = find(request[0])
        effect = NEITHER if spec is None else self._effect(spec, request)
        if self._running:
            is_reading = effect is READS
            if (effect is not NEITHER and is_reading != self._looking) or (spec is not None and spec.is_slow):
                return False
        place = self._place(looks=self._looking if effect is NEITHER else effect is READS)
        place.silent = self._mute or self._skip == 1
        self._skip = max(self._skip - 1, 0)
        try:
            self._perform(spec, request, place)
        except RequestError as wrong:
            self._transaction.break_off()
            place.reply(Error(str(wrong)))
        except KvstoreError as error:
            self._transaction.break_off()
            place.reply(refusal(error))
        return True

    def _effect(self, spec: Spec, request: list[bytes]) -> Effect:
        effect = spec.effect_of(request)
        if effect is Effect.AS_QUEUED:
            return self._transaction.effect
        return NEITHER if self._transaction.is_open else effect

    def _perform(self, spec: Spec | None, request: list[bytes], place: Place) -> None:
        if spec is None:
            if request[0].lower() in _HTTP:
                self.kill()
                return
            raise RequestError(_unknown(request))
        client = self.client
        client.last_command = spec.name
        if wrong := spec.complaint(request):
            raise RequestError(self._transaction.refuse(wrong) if spec.effect is Effect.AS_QUEUED else f"ERR {wrong}")
        if not client.authenticated and not spec.needs_no_password:
            raise RequestError("NOAUTH Authentication required.")
        if self._transaction.is_open and spec.in_multi is not InMulti.AT_ONCE:
            place.reply(self._transaction.queue(spec, request, self._requests))
            return
        performer = spec.performer
        if isinstance(performer, OnData | OnWalk):
            self._requests.perform(performer, request, place.reply, locally=client.reads_locally)
        elif isinstance(performer, OnClient):
            place.reply(performer.run(client, request))
        elif isinstance(performer, OnServer):
            place.reply(performer.run(client, self.service, request))
        elif isinstance(performer, OnNode):
            perform(performer, self.service, request, place.reply, locally=client.reads_locally)
        else:
            self._transaction.perform(performer, request, client, self.service, self._requests, place.reply)

    def _place(self, *, looks: bool = True) -> Place:
        place = Place(self)
        self._places.append(place)
        self._running += 1
        self._looking = looks
        return place

    # -- replies ------------------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """A reply has come: those at the head of the line can be sent, and perhaps more requests be started."""
        self._running -= 1
        places = self._places
        while places and (data := places[0].data) is not None:
            size = len(data)
            self._expected = size if size > self._expected else self._expected - (self._expected >> 4)
            if not places.popleft().silent:
                self._out.append(data)
                self._unsent += size
        if self._unsent > MAX_UNSENT:
            self.flush()
        elif not self._marked and not self._ended:
            self._marked = True
            self.hub.wants_flush(self)
        if self._unstarted or self._paused:
            self._go_on()

    @property
    def _is_full(self) -> bool:
        return len(self._places) * self._expected > MAX_UNSENT

    def _go_on(self) -> None:
        """Start what waited, and read on once little is left."""
        if self._starting or self._ended or self._blocked:
            return
        self._starting = True  # a request that is answered at once must not start the next on top of its own stack
        while self._unstarted and not (self._leaving or self._blocked or self._is_full):
            request = self._unstarted.popleft()
            if not self._start(request):
                self._unstarted.appendleft(request)
                break
        if self._paused and not self._unstarted and len(self._places) <= LOW_BACKLOG:
            self._paused = False
            self._take()
            if not self._paused:
                self._pause(False)
        self._starting = False

    def _stop_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._pause(True)

    # -- what commands about the connection do to it ------------------------------------------------------------------

    def set_reply_mode(self, mode: bytes) -> None:
        """CLIENT REPLY: the command itself is answered when replies are turned on."""
        if mode == b"SKIP":
            self._skip = 1
        else:
            self._mute = mode == b"OFF"
        self._places[-1].silent = mode != b"ON"

    def leave(self) -> None:
        """End once everything is answered."""
        self._leaving = True

    def kill(self) -> None:
        """End now: somebody has this client killed."""
        self._leaving = True
        self._unstarted.clear()
        self._places.clear()
        if not self._marked:
            self._marked = True
            self.hub.wants_flush(self)

    def reset(self) -> None:
        """As if the client had just come."""
        self._transaction = Transaction()
        if self._mute:
            self._places[-1].silent = False
        self._mute, self._skip = False, 0

    def transaction_counts(self) -> tuple[int, int]:
        """How many requests MULTI has queued (-1 outside a transaction), and how many keys are watched."""
        return self._transaction.length, self._transaction.watching


def _unknown(request: list[bytes]) -> str:
    name, given = request[0][:128].decode(errors="replace"), ""
    for argument in request[1:]:
        if len(given) >= 128:
            break
        given += f"'{argument[: 128 - len(given)].decode(errors='replace')}' "
    return f"ERR unknown command '{name}', with args beginning with: {given}"
