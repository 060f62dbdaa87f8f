"""What a command of the Redis protocol is: one row, from which everything about the command follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from kvstore.commands import MAX_VALUE_BYTES, Failed, Simple, SimpleResult
from kvstore.node.service import Service
from kvstore.resp.cursors import OwnCursors
from kvstore.resp.encoding import OnAnswer, RespValue, SimpleString
from kvstore.resp.errors import NOT_INTEGER, RequestError, failure, problem, quoted
from kvstore.resp.hub import Client

T = TypeVar("T")
Render: TypeAlias = Callable[[Sequence[SimpleResult]], RespValue]
"""Is called while slots are applied; what it raises is its own request's failure, see :func:`rendered`."""


MAX_ARGUMENTS = 256
"""As many words, its name included, may a request have, unless it names as many keys as its client likes: to look at a
million options takes a while, and much longer in some ways than in others."""
MAX_KEY_ARGUMENTS = 65_536
"""As many may it have if it does: more keys than that cost too much in any case."""
MAX_PATTERN_BYTES = 256
"""As many bytes may patterns have that are compared with the names of commands or settings, all of a request together:
longer ones take milliseconds."""
MAX_WORD_BYTES = 32
"""No name of a command, option or section is as long as this, and what is longer is none."""
MANY_VALUES = 8
"""A request that may be answered with more values than this begins only when all replies before it are on their way."""


class Compiled(NamedTuple):
    """A request as commands of the store, and the function that makes its reply from their results."""

    commands: list[Simple]
    render: Render


class Effect(Enum):
    """What a request does to the store, and so which requests of its client it may run beside."""

    READS = "reads"
    """It sees what earlier requests wrote: it waits for the writes before it, and writes behind it wait for it."""
    WRITES = "writes"
    NEITHER = "neither"
    """It runs beside reads and beside writes."""
    AS_QUEUED = "as queued"
    """EXEC: what the requests that MULTI queued do."""


READS, WRITES, NEITHER = Effect.READS, Effect.WRITES, Effect.NEITHER


class InMulti(Enum):
    """What happens to a request between MULTI and EXEC."""

    QUEUED = "queued"
    AT_ONCE = "performed at once"
    REFUSED = "refused"


class OnData(NamedTuple):
    """Performed by the store. ``compile`` raises RequestError when the arguments are wrong."""

    compile: Callable[[list[bytes]], Compiled]


class OnWalk(NamedTuple):
    """Performed by the store too; to compile it takes the positions of scans and what this node has applied."""

    compile: Callable[[list[bytes], OwnCursors, Service], Compiled]


class OnClient(NamedTuple):
    """Performed at once, on the client's own settings. ``run`` raises RequestError."""

    run: Callable[[Client, list[bytes]], RespValue]


class OnServer(NamedTuple):
    """Performed at once, by asking the node about itself. ``run`` raises RequestError."""

    run: Callable[[Client, Service, list[bytes]], RespValue]


class OnNode(NamedTuple):
    """Performed by the node, outside Redis' own commands. ``run`` raises RequestError and KvstoreError.

    ``confirms``: unless the client reads locally, a quorum is asked first whether this node is up to date.
    """

    run: Callable[[Service, list[bytes], OnAnswer], None]
    confirms: bool = False


class OnTransaction(Enum):
    """Performed by the client's transaction."""

    MULTI = "multi"
    EXEC = "exec"
    DISCARD = "discard"
    WATCH = "watch"
    UNWATCH = "unwatch"


Performer: TypeAlias = OnData | OnWalk | OnClient | OnServer | OnNode | OnTransaction


class Spec(NamedTuple):
    """The row of one command.

    ``arity`` counts the name, and is negative for a minimum. ``traits``: the flags that COMMAND INFO shows beside those
    that follow from the rest of the row. ``keys``: where the keys are, as first, last and step (0 = none).
    ``reads_if``: of a command that WRITES, whether a request with these arguments only reads. ``is_slow``: it may take
    long, and so runs with none of its client's earlier requests. Reads that were started together are executed in one
    turn of the event loop; this way other clients get their turn in between, and a leader sends its heartbeats.
    ``subcommands``: the arity of each, both names included, and its description. ``most_bytes``: as many may an
    argument have. ``not_in_multi``: subcommands that MULTI refuses though it takes the others.
    ``values``: how many values, of up to a megabyte each, the reply to a request may have; none where it is not given.
    """

    name: str
    arity: int
    effect: Effect
    traits: tuple[str, ...]
    group: str
    summary: str
    performer: Performer
    keys: tuple[int, int, int] = (0, 0, 0)
    reads_if: Callable[[list[bytes]], bool] | None = None
    is_slow: bool = False
    in_multi: InMulti = InMulti.QUEUED
    subcommands: dict[str, tuple[int, str]] | None = None
    most_bytes: int = MAX_VALUE_BYTES
    not_in_multi: tuple[str, ...] = ()
    values: Callable[[list[bytes]], int] | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """As COMMAND INFO shows them: a command on data says whether it reads or writes."""
        if not isinstance(self.performer, OnData | OnWalk | OnNode):
            return self.traits
        return ("write" if self.effect is WRITES else "readonly", *self.traits)

    def full_name(self, request: list[bytes]) -> str:
        """The name, of a command with subcommands with that of the one that is asked for."""
        if self.subcommands is None or len(request) < 2:
            return self.name
        asked = quoted(request[1]).upper()
        return f"{self.name}|{asked.lower()}" if asked in self.subcommands else self.name

    @property
    def needs_no_password(self) -> bool:
        return "no_auth" in self.traits

    def effect_of(self, request: list[bytes]) -> Effect:
        """What this request does to the store."""
        if self.reads_if is not None and self.reads_if(request):
            return READS
        return self.effect

    def may_answer_much(self, request: list[bytes]) -> bool:
        """Whether one reply may be as large as those of many requests."""
        if isinstance(self.performer, OnData) and self.effect is READS and self.keys[1] < 0:
            return len(request) > MANY_VALUES + 1
        if isinstance(self.performer, OnNode) and self.reads_if is not None:
            return self.reads_if(request)  # KV.EXECUTE: a scan, it may be
        return self.is_slow

    def takes(self, count: int) -> bool:
        """Whether a request may have this many arguments, the name included."""
        return _takes(self.arity, count)

    def complaint(self, request: list[bytes]) -> str:
        """What is wrong with the number or the size of arguments or the subcommand, "" if nothing."""
        if not self.takes(len(request)):
            return f"wrong number of arguments for '{self.name}' command"
        if len(request) > MAX_ARGUMENTS:
            most = MAX_KEY_ARGUMENTS if self.keys[1] < 0 else MAX_ARGUMENTS
            if len(request) > most:
                return f"too many arguments for '{self.name}' command: at most {most - 1:,} are allowed"
        most_bytes = self.most_bytes
        for argument in request:
            if len(argument) > most_bytes:  # to compare, copy or quote one of many megabytes takes long
                return f"an argument of '{self.name}' has {len(argument):,} bytes, at most {most_bytes:,} are allowed"
        if self.subcommands is None or len(request) < 2:
            return ""
        asked = quoted(request[1])
        if asked.upper() not in self.subcommands:
            return f"unknown subcommand '{asked}'. Try {self.name.upper()} HELP."
        arity, _ = self.subcommands[asked.upper()]
        if not _takes(arity, len(request)):
            return f"wrong number of arguments for '{self.name}|{asked.lower()}' command"
        return ""

    def is_refused_in_multi(self, request: list[bytes]) -> bool:
        """Whether it cannot be a part of a transaction."""
        if self.in_multi is InMulti.REFUSED:
            return True
        return bool(self.not_in_multi) and len(request) > 1 and quoted(request[1]).upper() in self.not_in_multi

    def keys_of(self, arguments: list[bytes]) -> list[bytes]:
        """The keys that a request names."""
        first, last, step = self.keys
        if not first:
            return []
        return arguments[first : (last if last >= 0 else len(arguments) + last) + 1 : step]


def one_value(request: list[bytes]) -> int:
    """For the row of a command whose reply may have a value."""
    return 1


def word(text: bytes) -> bytes:
    """An option or the like in capital letters; what is too long to be one is cut, so that it takes no time."""
    return text[:MAX_WORD_BYTES].upper()


def check_patterns(patterns: Sequence[bytes]) -> None:
    """Raise RequestError when patterns for the names of settings or commands are too long."""
    size = sum(map(len, patterns))
    if size > MAX_PATTERN_BYTES:
        raise RequestError(f"ERR the patterns have {size:,} bytes, at most {MAX_PATTERN_BYTES} are allowed")


def _takes(arity: int, count: int) -> bool:
    return count == arity if arity > 0 else count >= -arity


def usage(name: str, subcommands: dict[str, tuple[int, str]]) -> RespValue:
    """What HELP says about a command with subcommands."""
    lines = [f"{name.upper()} <subcommand> [<argument> ...]. Subcommands are:"]
    lines += [f"{subcommand} {text}" for subcommand, (_, text) in subcommands.items()]
    return [SimpleString(line) for line in lines]


def rendered(compiled: Compiled, results: Sequence[SimpleResult]) -> RespValue:
    """The reply to a request; a fault while it is made is an error in its place. Raises a broken invariant only."""
    for result in results:
        if isinstance(result, Failed):
            return failure(result)
    try:
        return compiled.render(results)
    except Exception as error:
        return problem("reply", error)


def answering(answer: OnAnswer, make: Callable[[T], RespValue]) -> Callable[[T], None]:
    """A callback for an outcome, which answers with what ``make`` makes of it, or with the error that it raises."""
    return partial(_answer, answer, make)


def _answer(answer: OnAnswer, make: Callable[[T], RespValue], outcome: T) -> None:
    try:
        reply = make(outcome)
    except Exception as error:
        reply = problem("reply", error)
    answer(reply)


def integer(text: bytes, low: int = -(2**63), high: int = 2**63 - 1, error: str = NOT_INTEGER) -> int:
    """An argument as a whole number, in the one form that Redis takes: no ``+1``, no ``01``. Raises RequestError."""
    if len(text) <= 20:
        digits = text.removeprefix(b"-")
        if digits.isdigit() and (digits[:1] != b"0" or text == b"0") and low <= int(text) <= high:
            return int(text)
    raise RequestError(error)
