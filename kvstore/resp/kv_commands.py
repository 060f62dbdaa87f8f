"""The commands that Redis does not have: the log, slots by name, SQL, and any command of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import get_args

import msgspec
from msgspec.structs import replace

from kvstore.commands import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Exists,
    Keys,
    Names,
    Outcomes,
    Read,
    Result,
    Row,
    Rows,
    Value,
    is_read_only,
)
from kvstore.errors import KvstoreError, Refusal
from kvstore.limits import MAX_COMMAND_BYTES, check, check_session_size, shown_session
from kvstore.node.service import ServerStatus, Service
from kvstore.resp.encoding import OK, Array, Bulk, OnAnswer, RespValue
from kvstore.resp.errors import RequestError, problem, refusal
from kvstore.resp.kept import about_size
from kvstore.resp.packed_commands import unpack
from kvstore.resp.parser import MAX_REQUEST_BYTES
from kvstore.resp.spec import NEITHER, READS, WRITES, Effect, InMulti, OnNode, Spec, answering, integer, one_value
from kvstore.state.cost import MAX_RESULT_BYTES
from kvstore.state.entries import UNREADABLE
from kvstore.state.sessions import result_bytes
from kvstore.state.sql import MAX_QUERY_BYTES, MAX_ROWS, Table
from kvstore.store import LogRow, Reply, SlotReply
from kvstore.values import least_json_bytes, shown_text

MAX_LOG_ROWS = 1_000
MAX_LOG_BYTES = 1_048_576
"""So much of the log is shown at once, and one row more; whoever wants more asks for what follows."""
LOG_ROWS = 100
LOG_BYTES = 131_072
LOG_VALUE_BYTES = 2 * 1_048_576
"""So many slots of the log are looked at at a time, or bytes of their texts, or bytes of what they hold: a value that
is too long to be shown is read too."""
_LONG = (Rows, Keys, Outcomes)
_MARK = b"\xc1 what is many \xc1"
"""No MessagePack has the byte C1."""
_TRUE = b"\xc3"
"""How the MessagePack of a Set ends that gives the value from before."""
_encode = msgspec.msgpack.Encoder().encode


def _log(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    first = integer(arguments[1], 1)
    last = integer(arguments[2], 1) if len(arguments) > 2 else None
    answer(Array(_log_rows(service, first, last), 0))


def _log_rows(service: Service, first: int, last: int | None) -> Iterator[RespValue]:
    """The rows as they are when they are made, which is done in portions: each looks at some slots anew."""
    left, size = MAX_LOG_ROWS, 0
    while left and size <= MAX_LOG_BYTES and (last is None or first <= last):
        rows: list[LogRow] = []
        least, until = size + LOG_BYTES // 4, min(size + LOG_BYTES, MAX_LOG_BYTES)
        for row in islice(service.log(first, last, LOG_VALUE_BYTES), min(left, LOG_ROWS)):
            rows.append(row)
            size += len(row.value) + len(row.result or "")
            if size > until:
                break
        for row in rows:
            where: list[RespValue] = [row.slot, str(row.ballot), row.status]
            yield [*where, row.value, shown_session(row.session), row.sequence, row.stamp, row.result]
        if not rows:
            return
        size = max(size, least)  # a portion whose texts are short may have taken as long
        left -= len(rows)
        first = rows[-1].slot + 1


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
        if least_json_bytes(Value(value)) > MAX_VALUE_BYTES:
            raise RequestError(f"ERR the value would have over {MAX_VALUE_BYTES:,} bytes as JSON") from None
        return msgspec.json.encode(shown_text(value))
    return value


def _name_of(session: bytes) -> str:
    """The name of a session. Raises CommandError when it is too long for one, before text is made of it."""
    check_session_size(len(session))
    return shown_text(session)


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
        size = about_size(rows, _bytes_of_row, len(columns))
        return Array(chain([list[RespValue](columns)], ([_cell(value) for value in row] for row in rows)), size)

    if len(arguments[1]) > MAX_QUERY_BYTES:
        raise RequestError(
            f"ERR the query has {len(arguments[1]):,} bytes, at most {MAX_QUERY_BYTES:,} are allowed: shorten it"
        )
    service.sql(arguments[1].decode(errors="replace"), answering(answer, made))


def _cell(value: object) -> RespValue:
    return value if isinstance(value, bytes | str | int | float | None) else str(value)


def _execute(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    if len(arguments) > 6:
        raise RequestError("ERR wrong number of arguments for 'kv.execute' command")
    _, session, sequence, acknowledged, packed, *since = arguments
    name = _name_of(session)
    if len(packed) > MAX_COMMAND_BYTES:  # before its values are read as JSON, which takes long
        raise RequestError(
            f"ERR the command has {len(packed):,} bytes in all, at most {MAX_COMMAND_BYTES:,} are allowed: split it"
        )
    try:
        command = unpack(packed)
    except UNREADABLE as error:  # which may repeat what was sent, of any length
        raise RequestError(f"ERR this node cannot read the command: {str(error)[:200]}") from error
    check(command)

    def made(outcome: Reply | Refusal) -> RespValue:
        if not isinstance(outcome, Reply):
            return refusal(outcome)
        return (
            Bulk(_packed(outcome), _about_bytes(outcome.result))
            if isinstance(outcome.result, _LONG)
            else _encode(outcome)
        )

    done = answering(answer, made)
    if is_read_only(command):
        service.query(command, done)
        return
    service.execute(
        command,
        done,
        session=name,
        sequence=integer(sequence, 0),
        acknowledged=integer(acknowledged, 0),
        size=len(packed),
        since=integer(since[0], 0) if since else 0,
    )


def _about_bytes(result: Result) -> int:
    match result:
        case Rows(rows):
            return about_size(rows, _bytes_of_pair)
        case Keys(keys):
            return about_size(keys, len)
        case _:
            return result_bytes(result)


def _bytes_of_row(row: tuple[object, ...]) -> int:
    return sum([len(cell) for cell in row if isinstance(cell, str | bytes)])


def _bytes_of_pair(pair: Row) -> int:
    return len(pair.key) + len(pair.value.data)


def _packed(reply: Reply) -> Iterator[bytes]:
    """The parts of a reply's MessagePack: item by item what its result has many of."""
    match reply.result:
        case Rows(rows):
            many: Sequence[object] = rows
            name = "rows"
        case Keys(keys):
            many, name = keys, "keys"
        case Outcomes(results=results):
            many, name = results, "results"
        case _:
            yield _encode(reply)
            return
    marked = replace(reply, result=replace(reply.result, **{name: msgspec.Raw(_MARK)}))
    before, _, behind = _encode(marked).partition(_MARK)
    count = len(many)
    yield before + (b"\xdc" + count.to_bytes(2) if count < 65_536 else b"\xdd" + count.to_bytes(4))
    yield from map(_encode, many)
    yield behind


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
    name = _name_of(arguments[1])
    _after_reading(service, answer, lambda: answer(service.executed_upto(name)))


def _begin(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    answer(service.applied_upto())


def _serving(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    _after_reading(service, answer, lambda: answer(OK))


def _keys(service: Service, arguments: list[bytes], answer: OnAnswer) -> None:
    def made(outcome: Reply | Refusal) -> RespValue:
        if not isinstance(outcome, Reply):
            return refusal(outcome)
        return list(outcome.result.keys) if isinstance(outcome.result, Keys) else []

    prefix = arguments[1]
    if len(prefix) > MAX_KEY_BYTES:
        raise RequestError(f"ERR the prefix has {len(prefix):,} bytes, at most {MAX_KEY_BYTES:,} are allowed")
    service.look(Names(prefix, integer(arguments[2], 1, MAX_ROWS)), answering(answer, made))


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
    most_bytes: int = MAX_VALUE_BYTES,
    values: Callable[[list[bytes]], int] | None = None,
) -> Spec:
    performer = OnNode(run, confirms)
    return Spec(
        *(name, arity, effect, (), "kvstore", summary, performer),
        reads_if=reads_if,
        is_slow=is_slow,
        in_multi=InMulti.REFUSED,
        most_bytes=most_bytes,
        values=values,
    )


_READ_HEADS = tuple(
    bytes([0xA0 + len(tag)]) + tag.encode() for tag in (str(kind.__struct_config__.tag) for kind in get_args(Read))
)


def _only_reads(arguments: list[bytes]) -> bool:
    """Whether a command is a single read, by its tag, and names no session, as it should."""
    return arguments[1:2] == [b""] and len(arguments) > 4 and arguments[4][1:16].startswith(_READ_HEADS)


def _values_of_packed(arguments: list[bytes]) -> int:
    """How many megabytes the result of a command may have, by its tag: those that loads consist of have none."""
    head = arguments[4][:6] if len(arguments) > 4 else b""
    if head[1:] in (b"\xa4incr", b"\xa4mset") or (head[1:5] == b"\xa3set" and arguments[4][-1:] != _TRUE):
        return 0
    is_plain = len(head) > 1 and 0x90 <= head[0] <= 0x9F and 0xA0 <= head[1] <= 0xBF and head[1:5] != b"\xa3txn"
    return 1 if is_plain else MAX_RESULT_BYTES // MAX_VALUE_BYTES


def perform(performer: OnNode, service: Service, arguments: list[bytes], answer: OnAnswer, *, locally: bool) -> None:
    """Execute one request. ``locally``: it sees what this node has applied, however old."""
    if performer.confirms and not locally:
        _after_reading(service, answer, lambda: performer.run(service, arguments, answer))
    else:
        performer.run(service, arguments, answer)


KV_COMMANDS: list[Spec] = [
    _spec("kv.log", -2, READS, "KV.LOG from [to]: slots of this node's log.", _log, is_slow=True),
    _spec("kv.propose", 3, WRITES, "KV.PROPOSE slot value: propose a value for a slot.", _propose, values=one_value),
    _spec("kv.status", 1, READS, "KV.STATUS: the state of this node.", _status),
    _spec("kv.sql", 2, READS, "KV.SQL query: a read-only query.", _sql, confirms=True, is_slow=True),
    _spec(
        "kv.execute",
        -5,
        WRITES,
        "KV.EXECUTE session sequence acknowledged command [since].",
        _execute,
        reads_if=_only_reads,
        most_bytes=MAX_REQUEST_BYTES,
        values=_values_of_packed,
    ),
    _spec("kv.session", 2, READS, "KV.SESSION name: the sequence up to which a session was executed.", _session),
    _spec("kv.begin", 1, NEITHER, "KV.BEGIN: a slot before a session that begins now.", _begin),
    _spec("kv.keys", 3, READS, "KV.KEYS prefix limit: keys that this node has applied.", _keys, is_slow=True),
    _spec("kv.serving", 1, READS, "KV.SERVING: OK if this node can serve linearizable requests.", _serving),
]
