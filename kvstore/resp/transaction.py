"""MULTI, EXEC and WATCH: requests that wait to become one slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kvstore.commands import MAX_TXN_COMMANDS, Condition, Found, Get, Outcomes, Txn, is_read_only
from kvstore.errors import Refusal
from kvstore.limits import MAX_COMMAND_BYTES, check
from kvstore.resp.connection_commands import CLIENTS
from kvstore.resp.encoding import OK, Error, Reply, Status
from kvstore.resp.errors import refusal
from kvstore.resp.kv_commands import OWN
from kvstore.resp.requests import Data
from kvstore.resp.spec import Compiled, RequestError, Spec
from kvstore.store import Reply as StoreReply

if TYPE_CHECKING:
    from kvstore.resp.connection import Connection

Answer = Callable[[Reply], None]
_NOT_QUEUED = ("quit", "reset")


class _Queued(NamedTuple):
    """``meaning``: an Error where the arguments are wrong, None for what is no request to the store."""

    spec: Spec
    request: list[bytes]
    meaning: Compiled | Error | None


class Transaction:
    """What a client has queued, and the keys that it watches with the slots that last changed them."""

    def __init__(self) -> None:
        self._queue: list[_Queued] | None = None
        self._broken = False
        self._watched: dict[bytes, int] = {}
        self._asking = 0  # WATCHes that are not answered yet
        self._size = 0

    @property
    def is_open(self) -> bool:
        return self._queue is not None

    @property
    def length(self) -> int:
        """How many requests are queued, -1 outside a transaction."""
        return -1 if self._queue is None else len(self._queue)

    @property
    def watching(self) -> int:
        return len(self._watched)

    @property
    def flag(self) -> str:
        """As CLIENT LIST shows it."""
        return "N" if self._queue is None else "x"

    @property
    def is_read_only(self) -> bool:
        """Whether what is queued needs no slot."""
        meanings = [queued.meaning for queued in self._queue or () if isinstance(queued.meaning, Compiled)]
        is_watching = self._watched or self._asking
        return not is_watching and all(is_read_only(one) for each in meanings for one in each.commands)

    def takes(self, spec: Spec) -> bool:
        """Whether a request is queued rather than done."""
        return self._queue is not None and spec.name not in _NOT_QUEUED

    def break_off(self) -> None:
        """A request could not be queued: EXEC will refuse."""
        if self._queue is not None:
            self._queue, self._broken = [], True

    def perform(self, spec: Spec, request: list[bytes], connection: Connection, data: Data, answer: Answer) -> None:
        """MULTI, EXEC, DISCARD, WATCH, UNWATCH, or any other request to be queued."""
        match spec.name:
            case "multi":
                if self._queue is not None:
                    answer(Error("ERR MULTI calls can not be nested"))
                    return
                self._queue, self._broken, self._size = [], False, 0
                answer(OK)
            case "discard":
                self._close("DISCARD")
                answer(OK)
            case "exec":
                self._execute(connection, data, answer)
            case "watch":
                if self._queue is not None:
                    answer(Error("ERR WATCH inside MULTI is not allowed"))
                    return
                if len(self._watched) + len(request) - 1 > MAX_TXN_COMMANDS:
                    raise RequestError(f"ERR at most {MAX_TXN_COMMANDS:,} keys can be watched")
                self._watch(request[1:], connection, answer)
            case "unwatch" if self._queue is None:
                self._watched = {}
                answer(OK)
            case _:
                self._enqueue(spec, request, data)
                answer(Status("QUEUED"))

    def _enqueue(self, spec: Spec, request: list[bytes], data: Data) -> None:
        assert self._queue is not None
        if spec.name in OWN:
            raise RequestError(f"ERR {spec.name.upper()} is not allowed within MULTI")
        meaning: Compiled | Error | None = None
        if spec.name not in CLIENTS and spec.name != "unwatch":
            try:
                meaning = data.compile(spec, request)
            except RequestError as error:  # told by EXEC, in its place: the other requests are executed all the same
                meaning = Error(str(error))
        if self._broken:
            return  # none of it will be executed, so there is nothing to keep
        self._size += sum(map(len, request))
        if len(self._queue) == MAX_TXN_COMMANDS or self._size > MAX_COMMAND_BYTES:
            raise RequestError(
                f"ERR a transaction has at most {MAX_TXN_COMMANDS:,} commands and {MAX_COMMAND_BYTES:,} bytes: split it"
            )
        self._queue.append(_Queued(spec, request, meaning))

    def refuse(self, reason: str) -> str:
        """EXEC itself was wrong: the transaction is gone. Returns what to answer."""
        self._queue, self._watched = None, {}
        return f"EXECABORT Transaction discarded because of: {reason}"

    def _close(self, name: str) -> tuple[list[_Queued], dict[bytes, int]]:
        if self._queue is None:
            raise RequestError(f"ERR {name} without MULTI")
        queue, watched = self._queue, self._watched
        self._queue, self._watched = None, {}
        return queue, watched

    def _execute(self, connection: Connection, data: Data, answer: Answer) -> None:
        queue, watched = self._close("EXEC")
        if self._broken:
            raise RequestError("EXECABORT Transaction discarded because of previous errors.")
        parts: list[Compiled | Reply] = []
        for spec, request, meaning in queue:
            if meaning is not None:
                parts.append(meaning)
            elif spec.name == "unwatch":
                parts.append(OK)
            else:
                try:
                    parts.append(CLIENTS[spec.name][1](connection, request))
                except RequestError as error:
                    parts.append(Error(str(error)))
        conditions = [Condition("slot", key, "=", number=slot) for key, slot in watched.items()]
        data.transact(parts, conditions, self._size, answer, locally=connection.reads_locally)

    def _watch(self, keys: list[bytes], connection: Connection, answer: Answer) -> None:
        """Remember which slots last changed the keys: EXEC compares when it is applied."""
        command = Txn([Get(key) for key in keys])
        check(command)
        if len(self._watched) + len(keys) > MAX_TXN_COMMANDS:
            raise RequestError(f"ERR at most {MAX_TXN_COMMANDS:,} keys can be watched: unwatch some")
        watched = self._watched  # what UNWATCH, EXEC or DISCARD have ended by then gets no keys any more
        self._asking += 1

        def done(outcome: StoreReply | Refusal) -> None:
            self._asking -= 1
            if not isinstance(outcome, StoreReply):
                answer(refusal(outcome))
                return
            assert isinstance(outcome.result, Outcomes)
            for key, result in zip(keys, outcome.result.results, strict=True):
                # A key that is watched already keeps the slot it had then.
                watched.setdefault(key, result.slot if isinstance(result, Found) else 0)
            answer(OK)

        connection.service.query(command, done)
