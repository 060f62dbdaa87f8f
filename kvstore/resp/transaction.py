"""MULTI, EXEC and WATCH: requests that wait to become one slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.client import Reply as StoreReply
from kvstore.commands import MAX_TXN_COMMANDS, READ_ONLY, Condition, Found, Get, Outcomes, Txn
from kvstore.limits import MAX_COMMAND_BYTES, check
from kvstore.pending import Refusal
from kvstore.resp.clients import CLIENTS
from kvstore.resp.data import Data
from kvstore.resp.encoding import OK, Reply, Status
from kvstore.resp.errors import refusal
from kvstore.resp.own import OWN
from kvstore.resp.spec import Compiled, RequestError, Spec

if TYPE_CHECKING:
    from kvstore.resp.connection import Connection

Answer = Callable[[Reply], None]
_NOT_QUEUED = ("quit", "reset")


class Transaction:
    """What a client has queued, and the keys that it watches with the slots that last changed them."""

    def __init__(self) -> None:
        self._queue: list[tuple[Spec, list[bytes], Compiled | None]] | None = None
        self._broken = False
        self._bytes = 0
        self._watched: dict[bytes, int] = {}

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
        commands = [command for _, _, compiled in self._queue or () if compiled for command in compiled.commands]
        return not self._watched and all(isinstance(command, READ_ONLY) for command in commands)

    def takes(self, spec: Spec) -> bool:
        """Whether a request is queued rather than done."""
        return self._queue is not None and spec.name not in _NOT_QUEUED

    def break_off(self) -> None:
        """A request could not be queued: EXEC will refuse."""
        self._broken = self._queue is not None

    def perform(self, spec: Spec, request: list[bytes], connection: Connection, data: Data, answer: Answer) -> None:
        """MULTI, EXEC, DISCARD, WATCH, UNWATCH, or any other request to be queued."""
        match spec.name:
            case "multi":
                if self._queue is not None:
                    raise RequestError("ERR MULTI calls can not be nested")
                self._queue, self._broken, self._bytes = [], False, 0
                answer(OK)
            case "discard":
                self._close("DISCARD")
                answer(OK)
            case "exec":
                self._execute(connection, data, answer)
            case "watch":
                if self._queue is not None:
                    raise RequestError("ERR WATCH inside MULTI is not allowed")
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
        compiled = None if spec.name in CLIENTS or spec.name == "unwatch" else data.compile(spec, request)
        if self._broken:
            return  # EXEC will refuse: nothing needs to be kept
        self._bytes += sum(map(len, request))
        if len(self._queue) >= MAX_TXN_COMMANDS or self._bytes > MAX_COMMAND_BYTES:
            self._queue.clear()
            raise RequestError(
                f"ERR a transaction has at most {MAX_TXN_COMMANDS:,} commands and {MAX_COMMAND_BYTES:,} bytes: split it"
            )
        self._queue.append((spec, request, compiled))

    def _close(self, name: str) -> tuple[list[tuple[Spec, list[bytes], Compiled | None]], dict[bytes, int]]:
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
        for spec, request, compiled in queue:
            if compiled is not None:
                parts.append(compiled)
            elif spec.name == "unwatch":
                parts.append(OK)
            else:
                parts.append(CLIENTS[spec.name][1](connection, request))
        if watched and not any(isinstance(part, Compiled) for part in parts):
            # Nothing to execute, but whether the keys stayed has to be found out all the same.
            parts = [Compiled([Get(next(iter(watched)))], lambda results: None)]
        conditions = [Condition("slot", key, "=", number=slot) for key, slot in watched.items()]
        size = sum(len(argument) for _, request, _ in queue for argument in request)
        data.transact(parts, conditions, size, answer)

    def _watch(self, keys: list[bytes], connection: Connection, answer: Answer) -> None:
        """Remember which slots last changed the keys: EXEC compares when it is applied."""
        command = Txn([Get(key) for key in keys])
        check(command)

        def done(outcome: StoreReply | Refusal) -> None:
            if not isinstance(outcome, StoreReply):
                answer(refusal(outcome))
                return
            assert isinstance(outcome.result, Outcomes)
            for key, result in zip(keys, outcome.result.results, strict=True):
                # A key that is watched already keeps the slot it had then.
                self._watched.setdefault(key, result.slot if isinstance(result, Found) else 0)
            answer(OK)

        connection.service.query(command, done)
