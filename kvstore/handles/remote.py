"""A store on a cluster, reached over the Redis protocol: the same interface as an embedded one."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.retry import Retry

from consensus.ballot import Ballot
from kvstore import clocks
from kvstore.addresses import Address, address_text
from kvstore.commands import Command, Forgotten, is_read_only
from kvstore.errors import CommandError, KvstoreError, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.limits import check
from kvstore.store import LogRow, Reply, Status

Fields = dict[str, str | int | None]
PATIENCE = 10.0
"""How long a request is tried, at one node after the other, in seconds."""
CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 2.0
"""A node that owes an answer for this long is asked whether it is alive, if there are other nodes to turn to."""
PAUSE_SECONDS = 0.05
TELL_SECONDS = 0.8
"""Somebody who waits for this long is told for whom."""
COMPLETION_SECONDS = 1.0
"""How long somebody who presses Tab is kept waiting."""
PIPELINED_BYTES = 262_144
"""At most this much is sent before replies are read: more could fill both directions while both sides wait."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Reply).decode


def as_status(fields: Fields) -> Status:
    """The part of a node's fields that every store has."""
    return Status(
        node_id=str(fields["node_id"]),
        nodes=json.loads(str(fields["nodes"])),
        role=str(fields["role"]),
        leader=None if fields["leader"] is None else str(fields["leader"]),
        ballot=_ballot(str(fields["ballot"])),
        promised=_ballot(str(fields["promised"])),
        chosen_upto=int(fields["chosen_upto"] or 0),
        applied_upto=int(fields["applied_upto"] or 0),
        last_slot=int(fields["last_slot"] or 0),
        gaps=[(first, last) for first, last in json.loads(str(fields["gaps"]))],
        keys=int(fields["keys"] or 0),
        log_bytes=int(fields["log_bytes"] or 0),
        first_slot=int(fields.get("first_slot") or 1),
        state_bytes=int(fields["state_bytes"] or 0),
        data_dir=str(fields["data_dir"]),
        writes_refused=str(fields["writes_refused"]),
        trouble=str(fields.get("trouble", "")),
    )


class _Refused(Exception):
    """A node did not execute the request, or does not know; another may be asked. ``lasting``: not this one."""

    def __init__(self, error: KvstoreError, *, lasting: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.lasting = lasting


class RemoteStore:
    """See :class:`kvstore.store.Store` for what the methods promise. Fails over to the next address by itself.

    A write that may have happened is sent again under the same session and sequence, so that it happens once.
    """

    def __init__(
        self,
        nodes: Sequence[Address],
        *,
        password: str | None = None,
        patience: float = PATIENCE,
        on_wait: Callable[[str], None] | None = None,
        connection: Callable[..., Connection] = Connection,
    ) -> None:
        """``on_wait`` is told, on another thread, whom a request is waiting for when that takes long.

        ``connection`` makes connections, with the options of redis-py's.
        """
        self._nodes = list(nodes)
        self._at = 0
        self._password = password
        self._patience = patience
        self._on_wait = on_wait
        self._make_connection = connection
        self._connection: Connection | None = None
        self._session = ""
        self._sequence = self._since = 0
        self._asked_before = False
        """Whether the last requests had been sent before, to a node that did not answer all of them."""

    @property
    def node(self) -> Address:
        """The node that is asked now."""
        return self._nodes[self._at]

    # -- the interface of a store -------------------------------------------------------------------------------------

    def execute(self, command: Command) -> Reply:
        check(command)
        if is_read_only(command):
            return _unpack(cast(bytes, self._ask("KV.EXECUTE", b"", 0, 0, _pack(command))))
        reply = self._execute(command)
        if isinstance(reply.result, Forgotten) and not self._asked_before:
            # The session was not used for long, and this request never: it can begin another one.
            self._session = ""
            reply = self._execute(command)
        if isinstance(reply.result, Forgotten):
            self._session = ""
            raise UnknownOutcomeError("the store has dropped the session of this request: it may have happened")
        return reply

    def _execute(self, command: Command) -> Reply:
        if not self._session:
            self._since = self.begin()
            self._session, self._sequence = self._new_session(), 0
        self._sequence += 1
        # One at a time, so that everything before this one has been answered.
        return self._run([command], self._session, self._sequence, self._since)[0]

    def _new_session(self) -> str:
        """A name that no other client has, though it be a copy of this process."""
        return f"client.{secrets.token_hex(12)}"

    def execute_batch(
        self, commands: Sequence[Command], *, session: str, first_sequence: int, since: int = 0
    ) -> list[Reply]:
        return self._run(commands, session, first_sequence, since)

    def begin(self) -> int:
        return int(cast(int, self._ask("KV.BEGIN")))

    def executed_upto(self, session: str) -> int:
        return int(cast(int, self._ask("KV.SESSION", session)))

    def log(self, first: int = 1, last: int | None = None) -> Iterator[LogRow]:
        while last is None or first <= last:
            rows = cast("list[list[bytes | int | None]]", self._ask("KV.LOG", first, *([] if last is None else [last])))
            for slot, ballot, status, value, session, sequence, stamp, result in rows:
                yield LogRow(
                    int(slot or 0),
                    _ballot(_text(ballot)),
                    "chosen" if status == b"chosen" else "accepted",
                    _text(value),
                    _text(session),
                    int(sequence or 0),
                    int(stamp or 0),
                    None if result is None else _text(result),
                )
                first = int(slot or 0) + 1
            if not rows:
                return

    def status(self) -> Status:
        return as_status(self.fields())

    def fields(self) -> Fields:
        """Everything that the node tells about itself, under the field names of ``ServerStatus`` and ``Status``."""
        flat = cast("list[bytes | int | None]", self._ask("KV.STATUS"))
        values = [_text(value) if isinstance(value, bytes) else value for value in flat]
        return {str(name): value for name, value in zip(values[::2], values[1::2], strict=True)}

    def is_serving(self) -> bool:
        """Whether this node, and no other, can serve linearizable requests now."""
        try:
            self._attempt([["KV.SERVING"]])
        except (_Refused, redis.RedisError, OSError):
            self._drop()
            return False
        return True

    def sql(self, query: str) -> tuple[list[str], list[tuple[object, ...]]]:
        columns, *rows = cast("list[list[object]]", self._ask("KV.SQL", query))
        return [_text(column) for column in columns], [tuple(_shown(value) for value in row) for row in rows]

    def keys(self, prefix: bytes, limit: int) -> list[bytes]:
        request: list[str | bytes | int] = ["KV.KEYS", prefix, limit]
        return cast("list[bytes]", self._persist([request], writes=False, patience=COMPLETION_SECONDS)[0])

    def tick(self) -> None:
        """The cluster's nodes let time pass by themselves."""

    def close(self) -> None:
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _run(self, commands: Sequence[Command], session: str, first: int, since: int) -> list[Reply]:
        """Execute writes, each exactly once. After a failure all unanswered ones are sent again, in order."""
        requests: list[list[str | bytes | int]] = [
            ["KV.EXECUTE", session, sequence, first, _pack(command), since]
            for sequence, command in enumerate(commands, first)
        ]
        return [_unpack(cast(bytes, reply)) for reply in self._persist(requests, writes=True)]

    def _ask(self, *request: str | bytes | int) -> object:
        """Send a request that may be sent to any node any number of times."""
        return self._persist([list(request)], writes=False)[0]

    def _persist(
        self, requests: list[list[str | bytes | int]], *, writes: bool, patience: float | None = None
    ) -> list[object]:
        if self._on_wait is None or patience is not None:  # pressing Tab must not print into the line
            return self._try(requests, writes=writes, patience=patience)
        told = threading.Timer(TELL_SECONDS, self._on_wait, [self._trying()])
        told.daemon = True
        told.start()
        try:
            return self._try(requests, writes=writes, patience=patience)
        finally:
            told.cancel()

    def _trying(self) -> str:
        nodes = ", ".join(map(address_text, self._nodes))
        each = ", each in turn" if len(self._nodes) > 1 else ""
        return f"no answer yet: trying {nodes}{each}, for about {self._patience:g} s; Ctrl-C gives up"

    def _try(
        self, requests: list[list[str | bytes | int]], *, writes: bool, patience: float | None = None
    ) -> list[object]:
        """Send requests to one node after the other until all are answered, or time is up."""
        deadline = clocks.seconds() + (self._patience if patience is None else patience)
        replies: list[object] = []
        may_have_happened = False
        tried = in_vain = 0
        while True:
            sent = False
            lasting = False
            node = self.node
            try:
                self._connect()
                self._asked_before = may_have_happened
                sent = True
                self._attempt(requests[len(replies) :], replies)
                return replies
            except _Refused as refused:
                error, lasting = refused.error, refused.lasting
                may_have_happened |= isinstance(error, UnknownOutcomeError)
            except redis.InvalidResponse:
                error, lasting = _not_kvstore(node), True
            except (redis.ConnectionError, redis.TimeoutError, OSError) as lost:
                error = UnavailableError(self._unanswered(lost))
                may_have_happened |= sent
            except BaseException:
                self._drop()  # its replies would be taken for those to later requests
                raise
            self._drop()
            self._at = (self._at + 1) % len(self._nodes)
            tried += 1
            in_vain = in_vain + 1 if lasting else 0
            # Each node gets its turn, even where one has used up the time.
            if in_vain >= len(self._nodes) or (clocks.seconds() >= deadline and tried >= len(self._nodes)):
                if writes and may_have_happened:
                    raise UnknownOutcomeError(f"{error}: the request may have happened, or may still happen")
                raise error if isinstance(error, UnavailableError) else UnavailableError(str(error))
            clocks.sleep(PAUSE_SECONDS)

    def _attempt(self, requests: list[list[str | bytes | int]], replies: list[object] | None = None) -> None:
        """Send requests to the current node, pipelined, and add the replies. Raises _Refused at the first refusal."""
        connection = self._connect()
        taken = [] if replies is None else replies
        packed: list[bytes] = []
        size = waiting = 0
        for request in requests:
            for part in connection.pack_command(*request):
                packed.append(part)
                size += len(part)
            waiting += 1
            if size >= PIPELINED_BYTES:
                connection.send_packed_command(packed)
                self._receive(connection, waiting, taken)
                packed, size, waiting = [], 0, 0
        if packed:
            connection.send_packed_command(packed)
            self._receive(connection, waiting, taken)

    def _receive(self, connection: Connection, count: int, replies: list[object]) -> None:
        for _ in range(count):
            self._await_answer(connection)
            try:
                replies.append(connection.read_response())
            except redis.ResponseError as error:
                raise _refusal(error, self.node) from error

    def _unanswered(self, lost: Exception) -> str:
        node = address_text(self.node)
        reason = getattr(lost.__context__, "strerror", None) or str(lost)
        if len(self._nodes) == 1:
            return f"{node} does not answer: {reason.lower()}"
        return f"none of {len(self._nodes)} nodes answers; the last one asked, {node}: {reason.lower()}"

    def _await_answer(self, connection: Connection) -> None:
        """Wait for a reply while the node is alive. A machine that froze keeps its connections, and never answers."""
        deadline = clocks.seconds() + self._patience
        while len(self._nodes) > 1 and not connection.can_read(SILENCE_SECONDS):
            if clocks.seconds() >= deadline:
                raise redis.TimeoutError("no answer in time")
            self._check_alive()

    def _check_alive(self) -> None:
        probe = self._new_connection(CONNECT_SECONDS)
        try:
            probe.connect()
            probe.send_command("PING")
            probe.read_response()
        finally:
            probe.disconnect()

    def _connect(self) -> Connection:
        if self._connection is None:
            connection = self._new_connection(self._patience)
            try:
                if len(self._nodes) > 1:
                    self._check_alive()
                connection.connect()
            except (redis.AuthenticationError, redis.ResponseError) as error:
                raise _refusal(error, self.node) from error
            self._connection = connection
        return self._connection

    def _new_connection(self, timeout: float) -> Connection:
        host, port = self.node
        return self._make_connection(
            host=host,
            port=port,
            password=self._password,
            socket_timeout=timeout,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None


def _refusal(error: redis.RedisError, node: Address) -> Exception:
    """What a node's error means: that another may be asked (_Refused), or an error for the caller."""
    text = str(error)
    code, _, rest = text.partition(" ")
    if isinstance(error, redis.exceptions.ClusterDownError):
        return _Refused(UnavailableError(text))
    if "without any password" in text:
        return KvstoreError(f"{address_text(node)} has no password, but one was given: unset KVSTORE_PASSWORD")
    if code == "WRONGPASS" or text.startswith(("invalid username-password", "too many wrong passwords")):
        why = f"refuses the password: {text}" if "too many" in text else "refuses the password, which is wrong"
        return KvstoreError(f"{address_text(node)} {why}; check KVSTORE_PASSWORD or KVSTORE_PASSWORD_FILE")
    if isinstance(error, redis.AuthenticationError) or code == "NOAUTH":
        return KvstoreError(
            f"{address_text(node)} asks for a password: {text}; set KVSTORE_PASSWORD or KVSTORE_PASSWORD_FILE"
        )
    if text.startswith("unknown command"):
        return _Refused(_not_kvstore(node), lasting=True)
    match code:
        case "MISCONF":
            return _Refused(StorageFullError(rest), lasting=True)
        case "UNKNOWN":
            return _Refused(UnknownOutcomeError(rest))
        case _:
            return CommandError(text)


def _not_kvstore(node: Address) -> UnavailableError:
    return UnavailableError(
        f"{address_text(node)} is not a kvstore node: something else listens there; check --connect"
    )


def _ballot(text: str) -> Ballot:
    number, _, node = text.partition(".")
    return Ballot(int(number), node)


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _shown(value: object) -> object:
    """A cell of a query's result: as text if its bytes are text."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
