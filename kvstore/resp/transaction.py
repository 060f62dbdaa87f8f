"""MULTI, EXEC and WATCH: requests that are queued and then executed as one slot."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, assert_never

from kvstore.commands import (
    MAX_TXN_COMMANDS,
    Condition,
    Exists,
    GetDelete,
    GetExpire,
    Integer,
    Outcomes,
    Set,
    Simple,
    Slots,
    is_read_only,
)
from kvstore.errors import Refusal
from kvstore.limits import MAX_COMMAND_BYTES, check
from kvstore.node.service import Service
from kvstore.resp.encoding import OK, Error, OnAnswer, RespValue, SimpleString
from kvstore.resp.errors import RequestError, problem, refusal
from kvstore.resp.hub import Client
from kvstore.resp.requests import Requests
from kvstore.resp.spec import (
    MANY_VALUES,
    NEITHER,
    READS,
    WRITES,
    Compiled,
    Effect,
    InMulti,
    OnClient,
    OnNode,
    OnServer,
    OnTransaction,
    Spec,
    answering,
)
from kvstore.store import Reply

QUEUED_OVERHEAD = 1_024
ARGUMENT_OVERHEAD = 100
WATCHED_OVERHEAD = 160
"""What a queued request, each of its arguments with what is made of it, and a watched key take in memory beside their
bytes, about."""
MAX_ARGUMENTS = 131_072
"""A transaction may have so many arguments in all: EXEC looks at all of them in one turn."""
MAX_TALK = 3
"""A transaction may have so many requests that the store has no part in: EXEC performs them all in one turn, and a list
of all clients, say, has thousands of lines."""
MAX_SLOW = 16
"""A transaction may have so many requests that can take long: their replies are all made at once."""
_QUEUED = SimpleString("QUEUED")


class _Queued(NamedTuple):
    """``meaning``: what the store or the client is to do, or an Error where the arguments are wrong."""

    request: list[bytes]
    meaning: Compiled | OnClient | OnServer | OnTransaction | Error


class _Watched:
    """Keys that are watched, each with the slot that last changed it; ``refused``: of some that is not known."""

    def __init__(self) -> None:
        self.slots: dict[bytes, int] = {}
        self.bytes = 0
        self.refused = False


class Transaction:
    """The requests that a client has queued, and the keys that it watches, each with the slot that last changed it."""

    def __init__(self) -> None:
        self._queue: list[_Queued] | None = None
        self._broken = False
        self._watched = _Watched()
        self._asking = 0  # WATCHes that are not answered yet
        self._begin_count()

    def _begin_count(self) -> None:
        """Of what is queued everything is counted as it comes: whoever has a large EXEC wait asks again and again."""
        self._size = self._slow = self._talk = 0
        self._arguments = self._commands = self._values = 0
        self._writes = False

    @property
    def is_open(self) -> bool:
        return self._queue is not None

    @property
    def length(self) -> int:
        """How many requests are queued, -1 outside a transaction."""
        return -1 if self._queue is None else len(self._queue)

    @property
    def size(self) -> int:
        """How many bytes the queued requests have."""
        return self._size

    @property
    def watching(self) -> int:
        return len(self._watched.slots)

    @property
    def held(self) -> int:
        """About how much memory it takes."""
        queued = 0
        if self._queue:
            queued = self._size + QUEUED_OVERHEAD * len(self._queue) + ARGUMENT_OVERHEAD * self._arguments
        return queued + self._watched.bytes

    @property
    def effect(self) -> Effect:
        """What EXEC would do to the store: READS when what is queued needs no slot."""
        if self._asking:
            return WRITES  # so that it waits for the keys that WATCH asks about
        return WRITES if self._writes else READS

    @property
    def values_in_reply(self) -> int:
        """How many values the reply to EXEC may have."""
        return self._values

    @property
    def may_answer_much(self) -> bool:
        """Whether the reply to EXEC may be as large as those of many requests."""
        return self._values > MANY_VALUES

    def break_off(self) -> None:
        """A request could not be queued: EXEC will refuse the transaction."""
        if self._queue is not None:
            self._queue, self._broken = [], True
            self._begin_count()

    def queue(self, spec: Spec, request: list[bytes], requests: Requests) -> RespValue:
        """Keep a request until EXEC, and return the reply to it. Raises RequestError and CommandError."""
        assert self._queue is not None
        if spec.is_refused_in_multi(request) or isinstance(spec.performer, OnNode):
            name = spec.full_name(request).replace("|", " ").upper()
            raise RequestError(f"ERR {name} is not allowed within MULTI")
        meaning: Compiled | OnClient | OnServer | OnTransaction | Error
        if isinstance(spec.performer, OnClient | OnServer | OnTransaction):
            meaning = spec.performer
            self._talk += 1
        else:
            try:
                meaning = requests.compile(spec.performer, request)
            except RequestError as error:  # EXEC tells of it: the other requests are executed all the same
                meaning = Error(str(error))
        if self._broken:
            return _QUEUED  # none of it will be executed, so there is nothing to keep
        self._size += sum(map(len, request))
        self._arguments += len(request)
        self._commands += len(meaning.commands) if isinstance(meaning, Compiled) else 1
        self._slow += spec.is_slow
        if self._talk > MAX_TALK:
            raise RequestError(
                f"ERR a transaction has at most {MAX_TALK} requests such as {spec.name.upper()}, in which the store has"
                " no part: send them outside of it"
            )
        if self._slow > MAX_SLOW:
            raise RequestError(
                f"ERR a transaction has at most {MAX_SLOW} of {spec.name.upper()} and its like: split it"
            )
        if self._commands > MAX_TXN_COMMANDS or self._size > MAX_COMMAND_BYTES:
            raise RequestError(
                f"ERR a transaction has at most {MAX_TXN_COMMANDS:,} commands and {MAX_COMMAND_BYTES:,} bytes: split it"
            )
        if self._arguments > MAX_ARGUMENTS:
            raise RequestError(f"ERR a transaction has at most {MAX_ARGUMENTS:,} arguments in all: split it")
        if isinstance(meaning, Compiled):
            for command in meaning.commands:
                self._writes = self._writes or not is_read_only(command)
                self._values += _gives_value(command)
        self._queue.append(_Queued(request, meaning))
        return _QUEUED

    def perform(
        self,
        command: OnTransaction,
        request: list[bytes],
        client: Client,
        service: Service,
        requests: Requests,
        answer: OnAnswer,
    ) -> None:
        """Perform MULTI, EXEC, DISCARD, WATCH or UNWATCH. Raises RequestError and KvstoreError."""
        match command:
            case OnTransaction.MULTI:
                if self._queue is not None:
                    answer(Error("ERR MULTI calls can not be nested"))
                    return
                self._queue, self._broken = [], False
                self._begin_count()
                answer(OK)
            case OnTransaction.DISCARD:
                self._close("DISCARD")
                answer(OK)
            case OnTransaction.EXEC:
                self._execute(client, service, requests, answer)
            case OnTransaction.WATCH:
                if self._queue is not None:
                    answer(Error("ERR WATCH inside MULTI is not allowed"))
                    return
                self._watch(request[1:], service, answer)
            case OnTransaction.UNWATCH:
                self._watched = _Watched()
                answer(OK)
            case _:
                assert_never(command)

    def refuse(self, reason: str) -> str:
        """Drop the transaction because EXEC itself was wrong; returns the text of the reply."""
        self._queue, self._watched = None, _Watched()
        return f"EXECABORT Transaction discarded because of: {reason}"

    def _close(self, name: str) -> tuple[list[_Queued], _Watched]:
        if self._queue is None:
            raise RequestError(f"ERR {name} without MULTI")
        queue, watched = self._queue, self._watched
        self._queue, self._watched = None, _Watched()
        return queue, watched

    def _execute(self, client: Client, service: Service, requests: Requests, answer: OnAnswer) -> None:
        queue, watched = self._close("EXEC")
        if self._broken:
            raise RequestError("EXECABORT Transaction discarded because of previous errors.")
        if watched.refused:  # a client that has sent WATCH, MULTI and EXEC together relies on it
            raise RequestError("EXECABORT Transaction discarded because a WATCH before it was refused.")
        parts: list[Compiled | RespValue] = []
        for request, meaning in queue:
            try:
                if isinstance(meaning, OnClient):
                    parts.append(meaning.run(client, request))
                elif isinstance(meaning, OnServer):
                    parts.append(meaning.run(client, service, request))
                elif isinstance(meaning, OnTransaction):  # UNWATCH: EXEC has forgotten the watched keys already
                    parts.append(OK)
                else:
                    parts.append(meaning)
            except Exception as error:
                parts.append(problem("exec", error))
        conditions = [Condition("slot", key, "=", number=slot) for key, slot in watched.slots.items()]
        requests.transact(parts, conditions, self._size, answer, locally=client.reads_locally)

    def _watch(self, keys: list[bytes], service: Service, answer: OnAnswer) -> None:
        """Remember which slots last changed the keys, which are compared when EXEC is applied."""
        watched = self._watched  # the next transaction has a set of its own, so a late answer adds nothing to it
        try:
            if len(watched.slots) + len(keys) > MAX_TXN_COMMANDS:
                raise RequestError(f"ERR at most {MAX_TXN_COMMANDS:,} keys can be watched: unwatch some")
            check(Exists(keys))  # before they are hashed
            keys = list(dict.fromkeys(keys))
            service.query(Slots(keys), answering(answer, partial(self._note_watched, keys, watched)))
        except Exception:
            watched.refused = True
            raise
        self._asking += 1
        watched.bytes += sum(map(len, keys)) + WATCHED_OVERHEAD * len(keys)

    def _note_watched(self, keys: list[bytes], watched: _Watched, outcome: Reply | Refusal) -> RespValue:
        self._asking -= 1
        if not isinstance(outcome, Reply):
            watched.refused = True
            return refusal(outcome)
        assert isinstance(outcome.result, Outcomes)
        for key, result in zip(keys, outcome.result.results, strict=True):
            # A key that was watched already keeps the earlier slot.
            assert isinstance(result, Integer)
            watched.slots.setdefault(key, result.number)
        return OK


def _gives_value(command: Simple) -> bool:
    return (
        is_read_only(command)
        or isinstance(command, GetDelete | GetExpire)
        or (isinstance(command, Set) and command.get)
    )


def _spec(
    command: OnTransaction,
    arity: int,
    traits: str,
    summary: str,
    effect: Effect = NEITHER,
    keys: tuple[int, int, int] = (0, 0, 0),
    in_multi: InMulti = InMulti.AT_ONCE,
) -> Spec:
    flags = tuple(traits.split())
    return Spec(command.value, arity, effect, flags, "transactions", summary, command, keys, in_multi=in_multi)


TRANSACTIONS: list[Spec] = [
    _spec(OnTransaction.MULTI, 1, "fast", "Begin a transaction."),
    _spec(OnTransaction.EXEC, 1, "", "Execute a transaction as one slot.", Effect.AS_QUEUED),
    _spec(OnTransaction.DISCARD, 1, "fast", "Forget a transaction."),
    _spec(
        OnTransaction.WATCH,
        -2,
        "fast",
        "Execute the next transaction only if these keys do not change.",
        READS,
        (1, -1, 1),
    ),
    _spec(OnTransaction.UNWATCH, 1, "fast", "Forget watched keys.", in_multi=InMulti.QUEUED),
]
