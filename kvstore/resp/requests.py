"""Commands about data, on their way to the store and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvstore.commands import (
    Command,
    Condition,
    Failed,
    Get,
    Outcomes,
    Result,
    Simple,
    SimpleResult,
    Txn,
    is_read_only,
)
from kvstore.errors import Refusal
from kvstore.limits import check
from kvstore.node.service import Service
from kvstore.resp.encoding import Error, NullArray, OnAnswer, RespValue
from kvstore.resp.errors import failure, refusal
from kvstore.resp.hub import Hub
from kvstore.resp.spec import Compiled, OnData, OnWalk, rendered
from kvstore.store import Reply


class Requests:
    """Compiles requests, hands them to the service, and makes replies of the results."""

    def __init__(self, service: Service, hub: Hub) -> None:
        self._service = service
        self._cursors = hub.cursors

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
        """Execute one request. ``locally``: a read looks at what this node has applied, however old."""
        compiled = self.compile(performer, request)
        is_single = len(compiled.commands) == 1
        command: Command = compiled.commands[0] if is_single else Txn(list(compiled.commands), partial=True)

        def results(result: Result) -> Sequence[SimpleResult]:
            return result.results if isinstance(result, Outcomes) else [result]  # type: ignore[list-item]

        if locally and is_read_only(command):
            answer(rendered(compiled, results(self._service.look(command))))
            return

        def done(outcome: Reply | Refusal) -> None:
            answer(rendered(compiled, results(outcome.result)) if isinstance(outcome, Reply) else refusal(outcome))

        self.send(command, done, size=sum(map(len, request)))

    def transact(
        self,
        parts: Sequence[Compiled | RespValue],
        conditions: list[Condition],
        size: int,
        answer: OnAnswer,
        *,
        locally: bool,
    ) -> None:
        """Execute several requests as one slot; what needs no store has its reply in its place already."""
        commands: list[Simple] = [command for part in parts if isinstance(part, Compiled) for command in part.commands]
        if not commands and not conditions:
            answer([part for part in parts if not isinstance(part, Compiled)])
            return
        # With nothing to execute, whether the watched keys stayed has to be found out all the same.
        command = Txn(commands or [Get(conditions[0].key)], conditions, partial=True)
        check(command)

        def done(outcome: Reply | Refusal) -> None:
            if not isinstance(outcome, Reply):
                answer(refusal(outcome))
            elif isinstance(outcome.result, Outcomes):
                answer(_replies(parts, outcome.result) if outcome.result.succeeded else NullArray())
            elif isinstance(outcome.result, Failed):
                answer(failure(outcome.result))
            else:
                answer(Error(f"ERR the transaction gave {type(outcome.result).__name__}"))

        if conditions:
            self._service.execute(command, done, size=size)
        elif locally and is_read_only(command):
            done(Reply(self._service.look(command)))
        else:
            self.send(command, done, size=size)

    def send(self, command: Command, done: Callable[[Reply | Refusal], None], *, size: int) -> None:
        """A read to a quorum, a write to the log."""
        if is_read_only(command):
            self._service.query(command, done)
        else:
            self._service.execute(command, done, size=size)


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
