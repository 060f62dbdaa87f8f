"""Requests on data: compiled to commands of the store, executed, and their results made into replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from kvstore.commands import (
    Command,
    Condition,
    Failed,
    Get,
    Outcomes,
    Query,
    Simple,
    Txn,
    is_read_only,
)
from kvstore.errors import Refusal, UnavailableError
from kvstore.limits import check
from kvstore.node.service import Service
from kvstore.resp.cursors import OwnCursors
from kvstore.resp.encoding import Error, NullArray, OnAnswer, RespValue
from kvstore.resp.errors import failure, refusal
from kvstore.resp.hub import Hub
from kvstore.resp.spec import Compiled, OnData, OnWalk, answering, rendered
from kvstore.store import Reply


class Reading:
    """A read that is under way, which may have to be asked again.

    ``puts_off`` is told when there is an outcome, and says whether it is to be forgotten: the client takes no replies,
    and its values would wait in memory. Then ``ask`` is to be called once it does, which gives the outcome of then.
    """

    def __init__(
        self,
        service: Service,
        query: Query,
        done: Callable[[Reply | Refusal], None],
        puts_off: Callable[[Reading], bool],
    ) -> None:
        self._service = service
        self._query = query
        self._done = done
        self._puts_off = puts_off
        self.is_again = False

    def ask(self) -> None:
        """Raises UnavailableError when it is not taken."""
        self._service.query(self._query, self._heard)

    def ask_again(self) -> None:
        """The same, when it was put off."""
        self.is_again = True
        try:
            self.ask()
        except UnavailableError as error:
            self._heard(error)

    def _heard(self, outcome: Reply | Refusal) -> None:
        if not self._puts_off(self):
            self._done(outcome)


def _never(reading: Reading) -> bool:
    return False


class Requests:
    """Performs the requests on data of one connection. ``puts_off`` as in ``Reading``."""

    def __init__(self, service: Service, hub: Hub, puts_off: Callable[[Reading], bool] = _never) -> None:
        self._service = service
        self._puts_off = puts_off
        self._cursors = OwnCursors(hub.cursors)

    def forget(self) -> None:
        """The client is gone."""
        self._cursors.lose()
        self._puts_off = _never  # what refers to the connection would keep it in memory

    def compile(self, performer: OnData | OnWalk, request: list[bytes]) -> Compiled:
        """A request as commands of the store. Raises RequestError or CommandError."""
        if isinstance(performer, OnData):
            compiled = performer.compile(request)
        else:
            compiled = performer.compile(request, self._cursors, self._service)
        for command in compiled.commands:
            check(command)
        return compiled

    def perform(self, performer: OnData | OnWalk, request: list[bytes], answer: OnAnswer, *, locally: bool) -> None:
        """Execute one request. ``locally``: a read sees what this node has applied, however old.

        Raises RequestError and KvstoreError when the request is refused at once; ``answer`` is not called then.
        """
        compiled = self.compile(performer, request)
        is_single = len(compiled.commands) == 1
        command: Command = compiled.commands[0] if is_single else Txn(list(compiled.commands), partial=True)
        self.send(command, answering(answer, partial(_reply, compiled)), size=sum(map(len, request)), locally=locally)

    def transact(
        self,
        parts: Sequence[Compiled | RespValue],
        conditions: list[Condition],
        size: int,
        answer: OnAnswer,
        *,
        locally: bool,
    ) -> None:
        """Execute several requests as one slot. Parts that need no store are replies already.

        ``conditions``: what must hold when the slot is applied. Raises KvstoreError as ``perform`` does.
        """
        commands: list[Simple] = [command for part in parts if isinstance(part, Compiled) for command in part.commands]
        if not commands and not conditions:
            answer([part for part in parts if not isinstance(part, Compiled)])
            return
        # Even with nothing to execute, EXEC has to tell whether the watched keys have changed.
        command = Txn(commands or [Get(conditions[0].key)], conditions, partial=True)
        check(command)
        done = answering(answer, partial(_reply_to_all, parts))
        self.send(command, done, size=size, locally=locally and not conditions)

    def send(self, command: Command, done: Callable[[Reply | Refusal], None], *, size: int, locally: bool) -> None:
        """Put a write through the log; confirm a read with a quorum, unless it may see what is applied here."""
        if not is_read_only(command):
            self._service.execute(command, done, size=size)
        elif locally:
            self._service.look(command, done)
        else:
            Reading(self._service, command, done, self._puts_off).ask()


def _reply(compiled: Compiled, outcome: Reply | Refusal) -> RespValue:
    if not isinstance(outcome, Reply):
        return refusal(outcome)
    result = outcome.result
    return rendered(compiled, result.results if isinstance(result, Outcomes) else [result])  # type: ignore[list-item]


def _reply_to_all(parts: Sequence[Compiled | RespValue], outcome: Reply | Refusal) -> RespValue:
    if not isinstance(outcome, Reply):
        return refusal(outcome)
    if isinstance(outcome.result, Outcomes):
        return _replies(parts, outcome.result) if outcome.result.succeeded else NullArray()
    if isinstance(outcome.result, Failed):
        return failure(outcome.result)
    return Error(f"ERR the transaction gave {type(outcome.result).__name__}")


def _replies(parts: Sequence[Compiled | RespValue], outcomes: Outcomes) -> list[RespValue]:
    replies: list[RespValue] = []
    at = 0
    for part in parts:
        if isinstance(part, Compiled):
            end = at + len(part.commands)
            replies.append(rendered(part, outcomes.results[at:end]))
            at = end
        else:
            replies.append(part)
    return replies
