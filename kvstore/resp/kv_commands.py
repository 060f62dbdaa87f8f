"""The commands that Redis does not have: the log, slots by name, SQL, and any command of the store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import msgspec

from kvstore.commands import MAX_VALUE_BYTES, Command, Exists, is_read_only
from kvstore.errors import KvstoreError, Refusal
from kvstore.limits import check
from kvstore.node.service import ServerStatus, Service
from kvstore.resp.encoding import OK, OnAnswer, RespValue
from kvstore.resp.errors import RequestError, problem, refusal
from kvstore.resp.spec import NEITHER, READS, WRITES, Effect, InMulti, OnNode, Spec, answering, integer
from kvstore.state.entries import UNREADABLE
from kvstore.state.sql import MAX_BYTES, MAX_ROWS, Table
from kvstore.store import Reply, SlotReply

_decode = msgspec.msgpack.Decoder(Command).decode
_encode = msgspec.msgpack.Encoder().encode


def _log(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    first = integer(arguments[1], 1)
    last = integer(arguments[2], 1) if len(arguments) > 2 else None
    rows: list[RespValue] = []
    size = 0
    for row in islice(service.log(first, last), MAX_ROWS):
        where: list[RespValue] = [row.slot, str(row.ballot), row.status]
        rows.append([*where, row.value, row.session, row.sequence, row.stamp, row.result])
        size += len(row.value)
        if size > MAX_BYTES:
            break
    answer(rows)


def _propose(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    slot, value = integer(arguments[1]), arguments[2]
    if len(value) > MAX_VALUE_BYTES:
        raise RequestError(f"ERR the value has {len(value):,} bytes, at most {MAX_VALUE_BYTES:,} are allowed")

    def made(outcome: SlotReply | Refusal) -> RespValue:
        if isinstance(outcome, SlotReply):
            return [outcome.slot, outcome.json, int(outcome.phase1_skipped)]
        return refusal(outcome)

    service.propose_at(slot, _as_json(value), answering(answer, made))


def _as_json(value: bytes) -> bytes:
    """JSON stays as it is; any other text becomes a JSON string."""
    try:
        value.decode()  # the next line does not check the text inside strings
        msgspec.json.decode(value, type=msgspec.Raw)
    except UNREADABLE:
        return msgspec.json.encode(value.decode(errors="backslashreplace"))
    return value


def _status(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    answer(status_map(service.status()))


def status_map(status: ServerStatus) -> dict[str, RespValue]:
    """The fields of both structs in one map. Fields that are neither numbers nor text are JSON."""
    fields: dict[str, RespValue] = {}
    for part in (status.status, status):
        for name in part.__struct_fields__:
            value = getattr(part, name)
            if name == "status":
                continue
            if name in ("ballot", "promised"):
                value = str(value)
            is_plain = isinstance(value, int | str | None)
            fields[name] = value if is_plain else msgspec.json.encode(value)
    return fields


def _sql(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    def made(outcome: Table | KvstoreError) -> RespValue:
        if isinstance(outcome, KvstoreError):
            return refusal(outcome)
        columns, rows = outcome
        return [list[RespValue](columns), *([_cell(value) for value in row] for row in rows)]

    service.sql(arguments[1].decode(errors="replace"), answering(answer, made))


def _cell(value: object) -> RespValue:
    return value if isinstance(value, bytes | str | int | float | None) else str(value)


def _execute(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    if len(arguments) > 6:
        raise RequestError("ERR wrong number of arguments for 'kv.execute' command")
    _, session, sequence, acknowledged, packed, *since = arguments
    try:
        command = _decode(packed)
    except UNREADABLE as error:
        raise RequestError(f"ERR this node does not know the command: {error}") from error
    check(command)

    def made(outcome: Reply | Refusal) -> RespValue:
        return _encode(outcome) if isinstance(outcome, Reply) else refusal(outcome)

    done = answering(answer, made)
    if is_read_only(command):
        service.query(command, done)
        return
    service.execute(
        command,
        done,
        session=session.decode(errors="backslashreplace"),
        sequence=integer(sequence, 0),
        acknowledged=integer(acknowledged, 0),
        size=len(packed),
        since=integer(since[0], 0) if since else 0,
    )


def _after_reading(service: Service, answer: OnAnswer, proceed: Callable[[], None]) -> None:
    """Call ``proceed`` once a quorum has confirmed that every write acknowledged so far is applied here."""

    def done(outcome: Reply | Refusal) -> None:
        if not isinstance(outcome, Reply):
            answer(refusal(outcome))
            return
        try:
            proceed()
        except Exception as error:
            answer(problem("KV request", error))

    service.query(Exists([b"x"]), done)


def _session(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    name = arguments[1].decode(errors="backslashreplace")
    _after_reading(service, answer, lambda: answer(service.executed_upto(name)))


def _begin(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    answer(service.applied_upto())


def _serving(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    _after_reading(service, answer, lambda: answer(OK))


def _keys(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    answer(list[RespValue](service.keys(arguments[1], integer(arguments[2], 1, MAX_ROWS))))


def _spec(
    name: str,
    arity: int,
    effect: Effect,
    summary: str,
    run: Callable[[Service, list[bytes], OnAnswer], None],
    *,
    reads_if: Callable[[list[bytes]], bool] | None = None,
    confirms: bool = False,
    is_slow: bool = False,
) -> Spec:
    performer = OnNode(run, confirms)
    return Spec(
        *(name, arity, effect, (), "kvstore", summary, performer),
        reads_if=reads_if,
        is_slow=is_slow,
        in_multi=InMulti.REFUSED,
    )


def _has_no_session(arguments: list[bytes]) -> bool:
    """Clients name a session only for a command that changes something."""
    return arguments[1:2] == [b""]


def perform(performer: OnNode, service: Service, arguments: list[bytes], answer: OnAnswer, *, locally: bool) -> None:
    """Execute one request. ``locally``: it sees what this node has applied, however old."""
    if performer.confirms and not locally:
        _after_reading(service, answer, lambda: performer.run(service, arguments, answer))
    else:
        performer.run(service, arguments, answer)


KV_COMMANDS: list[Spec] = [
    _spec("kv.log", -2, READS, "KV.LOG from [to]: slots of this node's log.", _log, is_slow=True),
    _spec("kv.propose", 3, WRITES, "KV.PROPOSE slot value: propose a value for a slot by name.", _propose),
    _spec("kv.status", 1, READS, "KV.STATUS: the state of this node.", _status),
    _spec("kv.sql", 2, READS, "KV.SQL query: a read-only query.", _sql, confirms=True, is_slow=True),
    _spec(
        "kv.execute",
        -5,
        WRITES,
        "KV.EXECUTE session sequence acknowledged command [since].",
        _execute,
        reads_if=_has_no_session,
    ),
    _spec("kv.session", 2, READS, "KV.SESSION name: the sequence up to which a session was executed.", _session),
    _spec("kv.begin", 1, NEITHER, "KV.BEGIN: a slot before a session that begins now.", _begin),
    _spec("kv.keys", 3, READS, "KV.KEYS prefix limit: keys that this node has applied.", _keys, is_slow=True),
    _spec("kv.serving", 1, READS, "KV.SERVING: OK if this node can serve linearizable requests.", _serving),
]
