"""Results, log rows, status and query rows as lines of text: table, json, csv or plain.

``table`` is for people: aligned, with long cells cut and control characters escaped. ``plain`` is for shell pipes: one
line for each row, cells separated by tabs, with backslashes, tabs and newlines escaped. ``json`` and ``csv`` hold
everything. All functions give lines without their newline, and rows are streamed, so that a long log needs no memory.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final, assert_never

import msgspec

from kvstore.commands import (
    Command,
    Delete,
    Done,
    Early,
    Exists,
    Expired,
    Failed,
    Forgotten,
    Found,
    Integer,
    Keys,
    Missing,
    NotACommand,
    NotMet,
    Outcomes,
    Result,
    Row,
    Rows,
    Simple,
    Ttl,
    Txn,
    Unkept,
    Value,
)
from kvstore.store import LogRow, Reply, Status
from kvstore.values import to_json

OUTPUTS: Final = ("table", "json", "csv", "plain")
CELL_WIDTH = 100
"""Longer cells of a table are cut to this many characters."""
MIN_WIDTH = 6
"""A column is not made narrower than this, however narrow the terminal is."""
WIDTH_SAMPLE = 1_000
"""The widths of a table's columns are taken from this many rows, so that a longer table can be streamed."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_MARGIN = re.compile(r"^ *|(?<=\S)  +")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


# -- text -----------------------------------------------------------------------------------------------------------


def visible(data: bytes | str) -> str:
    """Text for one line of a terminal: what is not UTF-8, controls and direction marks are shown as escapes."""
    text = _decode(data) if isinstance(data, bytes) else data
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return _SHORT.get(character) or (f"\\x{ord(character):02x}" if character < "\x80" else f"\\u{ord(character):04x}")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def quoted(key: bytes) -> str:
    """A key within a sentence."""
    return f"'{visible(key)}'"


def counted(number: int, thing: str) -> str:
    """``1 line``, ``2,000 lines``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def wrapped(lines: Iterable[str], width: int) -> Iterator[str]:
    """Lines broken between words where they are wider than this, 0 for no bound.

    What is broken goes on below the text after the last wide space, as in a list of names and what they mean.
    """
    for line in lines:
        if not 0 < width < _width(line):
            yield line
            continue
        margin = max(match.end() for match in _MARGIN.finditer(line))
        indent = " " * (margin if margin <= width // 2 else 0)
        yield from textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)


def provenance(reply: Reply) -> str:
    """How a write was chosen: ``slot 7, ballot 1.n1, phase 1 skipped``; "" for a read, which takes no slot."""
    if not reply.slot:
        return ""
    where = f"slot {reply.slot}, ballot {reply.ballot}"
    if reply.phase1_skipped is None:  # this node has missed what the leader said about it
        return where
    return f"{where}, {'phase 1 skipped' if reply.phase1_skipped else 'phase 1 run'}"


# -- results --------------------------------------------------------------------------------------------------------


def result_lines(command: Command, reply: Reply, output: str, width: int = 0) -> Iterator[str]:
    """A command's result; ``output`` is one of OUTPUTS, or "" for sentences; ``width`` as for ``table_lines``."""
    result = reply.result
    if isinstance(result, Rows):
        yield from scan_lines(result.rows, output, width)
    elif output == "json":
        yield _json(result_fields(command, reply))
    elif output == "csv":
        fields = result_fields(command, reply)
        yield from table_lines(list(fields), [list(fields.values())], "csv")
    else:
        yield from _sentences(command, result)


def result_fields(command: Command, reply: Reply) -> dict[str, object]:
    """The result as named values, for json and csv."""
    fields = _fields(command, reply.result)
    if reply.slot:
        fields |= {"slot": reply.slot, "ballot": str(reply.ballot), "phase1_skipped": reply.phase1_skipped}
    return fields


def _fields(command: Command | None, result: Result) -> dict[str, object]:
    match result:
        case Done():
            return {"result": "done"}
        case Found(value, slot, created, version):
            return {"result": "found", "value": value, "slot": slot, "created": created, "version": version}
        case Missing():
            return {"result": "missing"}
        case NotMet(reason):
            return {"result": "not_met", "reason": reason}
        case Failed(reason):
            return {"result": "failed", "reason": reason}
        case Integer(number):
            name = "milliseconds" if isinstance(command, Ttl) else "number"
            return {"result": "integer", name: number}
        case Rows(rows):
            return {"result": "rows", "rows": [_scan_row(row) for row in rows]}
        case Keys(keys, after):
            return {"result": "keys", "keys": keys, **({"after": after} if after else {})}
        case Outcomes(succeeded, results):
            inner = [_fields(part, each) for part, each in _branch(command, succeeded, results)]
            return {"result": "outcomes", "succeeded": succeeded, "results": inner}
        case NotACommand():
            return {"result": "not_a_command"}
        case Expired():
            return {"result": "expired"}
        case Unkept():
            return {"result": "unkept"}
        case Forgotten():
            return {"result": "forgotten"}
        case Early():
            return {"result": "early"}


def _sentences(command: Command | None, result: Result) -> Iterator[str]:
    match result:
        case Done():
            yield "OK"
        case Found(value):
            yield visible(value.data)
        case Integer(number):
            yield str(number)
        case Rows(rows):
            yield from scan_lines(rows, "plain")
        case Keys(keys):
            yield from map(visible, keys)
        case Outcomes(succeeded, results):
            if isinstance(command, Txn) and command.conditions:
                yield "conditions held: then" if succeeded else "conditions did not hold: else"
            width = len(str(len(results)))
            for number, (part, each) in enumerate(_branch(command, succeeded, results), 1):
                lines = list(_sentences(part, each)) or ["(nothing)"]
                yield f"{number:>{width}}. {lines[0]}"
                for line in lines[1:]:
                    yield f"{'':>{width}}  {line}"
        case Missing() | NotMet() | Failed() | NotACommand() | Expired() | Unkept() | Forgotten() | Early():
            yield f"({trouble(command, result)})"
        case _:
            assert_never(result)


def trouble(command: Command | None, result: Result) -> str:
    """What to tell a person if the command did not do what it is for, else ""."""
    match result:
        case Missing():
            key = getattr(command, "key", None)
            return f"no such key: {quoted(key)}" if isinstance(key, bytes) else "no such key"
        case NotMet(reason):
            return f"not done: {reason}"
        case Failed(reason):
            return f"failed: {reason}"
        case NotACommand():
            return "not a command: kept in the log, executed as nothing"
        case Expired():
            return "executed before; its result is no longer recorded"
        case Unkept():
            return "executed before; its result was too large to be recorded"
        case Forgotten():
            return "not executed: the store no longer knows whether it was executed before"
        case Early():
            return "not executed here: a request before it in its session had not been executed"
        case Outcomes(succeeded) if not succeeded:
            return "the transaction's conditions did not hold"
        case Integer(number) if isinstance(command, Exists) and number < len(command.keys):
            return f"{len(command.keys) - number} of {len(command.keys)} keys do not exist"
        case Integer(number) if isinstance(command, Delete) and number < len(set(command.keys)):
            return f"{len(set(command.keys)) - number} of {len(set(command.keys))} keys did not exist"
        case _:
            return ""


def _branch(
    command: Command | None, succeeded: bool, results: Sequence[Result]
) -> Iterator[tuple[Simple | None, Result]]:
    """The commands of a transaction that ran, each with its result; None in place of commands that are not known."""
    ran: Sequence[Simple | None] = []
    if isinstance(command, Txn):
        ran = command.then if succeeded else command.otherwise
    return zip(chain(ran, [None] * (len(results) - len(ran))), results, strict=True)


# -- rows of scans, the log, status, queries ------------------------------------------------------------------------


def scan_lines(rows: Iterable[Row], output: str, width: int = 0) -> Iterator[str]:
    """The rows of a scan; ``plain`` shows the keys and values only."""
    if output == "plain":
        return table_lines(["key", "value"], ((row.key, row.value) for row in rows), output)
    if output in ("json", "csv"):
        columns = ["key", "value", "slot", "created", "version", "expires"]
        return table_lines(columns, (list(_scan_row(row).values()) for row in rows), output)
    cells = ((row.key, row.value, row.slot, row.created, row.version, _instant(row.expires)) for row in rows)
    return table_lines(["key", "value", "slot", "created", "version", "expires"], cells, output, width)


def _scan_row(row: Row) -> dict[str, object]:
    return {
        "key": row.key,
        "value": row.value,
        "slot": row.slot,
        "created": row.created,
        "version": row.version,
        "expires": row.expires or None,
    }


def log_begins(asked: int, status: Status) -> str:
    """What to say where slots from ``asked`` on were wanted and the first are gone; "" where none are."""
    first = status.first_slot
    return "" if asked >= first else f"the log begins at slot {first} now: what slots before it did is in the state"


def log_lines(rows: Iterable[LogRow], output: str, width: int = 0) -> Iterator[str]:
    """The log, a row for each slot; json and csv also show session, sequence and stamp."""
    columns = ["slot", "ballot", "status", "value", "result"]
    if output in ("json", "csv"):
        full = [*columns, "session", "sequence", "stamp"]
        return table_lines(full, map(_full_log_row, rows), output)
    short = ((row.slot, str(row.ballot), row.status, row.value or "(no-op)", _recorded(row.result)) for row in rows)
    return table_lines(columns, short, output, width)


_decode_result: Final = msgspec.json.Decoder(Result).decode


def _full_log_row(row: LogRow) -> Sequence[object]:
    result = _fields(None, _decode_result(row.result)) if row.result else None
    value = row.value or None
    return (row.slot, str(row.ballot), row.status, value, result, row.session, row.sequence, row.stamp)


def _recorded(result: str | None) -> str | None:
    """The recorded result of a slot in a few words, None if it is not recorded."""
    return "; ".join(_sentences(None, _decode_result(result))) if result else None


def status_lines(status: Status, output: str, width: int = 0) -> Iterator[str]:
    """A node's status, one field a line."""
    fields: dict[str, object] = {
        "node": status.node_id,
        "nodes": status.nodes,
        "role": status.role,
        "leader": status.leader,
        "ballot": str(status.ballot),
        "promised": str(status.promised),
        "chosen_upto": status.chosen_upto,
        "applied_upto": status.applied_upto,
        "first_slot": status.first_slot,
        "last_slot": status.last_slot,
        "gaps": status.gaps,
        "keys": status.keys,
        "log_bytes": status.log_bytes,
        "state_bytes": status.state_bytes,
        "data_dir": status.data_dir,
        "writes_refused": status.writes_refused,
        "trouble": status.trouble,
    }
    if output == "json":
        yield _json(fields)
        return
    fields["nodes"] = " ".join(status.nodes)
    fields["gaps"] = " ".join(f"{first}-{last}" if last > first else str(first) for first, last in status.gaps)
    if output == "csv":
        yield from table_lines(list(fields), [list(fields.values())], output)
    elif output == "plain":
        yield from table_lines(["field", "value"], fields.items(), output)
    else:
        names = max(map(len, fields))
        lines = (
            f"{name:<{names}}  {'-' if value in (None, '') else visible(str(value))}" for name, value in fields.items()
        )
        yield from wrapped(lines, width)


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[object]], output: str, width: int = 0) -> Iterator[str]:
    """Rows of cells, which are None, numbers, str, bytes or Value. As json, an array with one object a line.

    ``width``: the columns of the terminal, 0 for no bound. A table's cells are cut to fit, and a last line says so.
    """
    match output:
        case "json":
            return _json_rows(columns, rows)
        case "csv":
            return _csv_rows(columns, rows)
        case "plain":
            return ("\t".join(_plain_cell(cell) for cell in row) for row in rows)
        case _:
            return _table_rows(columns, rows, width)


def _instant(milliseconds: int) -> str:
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")


def _text(cell: object) -> str:
    match cell:
        case None:
            return ""
        case Value(data):
            return _decode(data)
        case bytes():
            return _decode(cell)
        case bool():
            return "true" if cell else "false"
        case list() | dict():
            return _json(cell)
        case _:
            return str(cell)


def _plain_cell(cell: object) -> str:
    data = cell.data if isinstance(cell, Value) else cell
    if isinstance(data, bytes):
        # Escaped before decoding, which turns what is not UTF-8 into escapes that must not be escaped again.
        return visible(data.replace(b"\\", b"\\\\"))
    return visible(_text(data).replace("\\", "\\\\"))


# -- json -----------------------------------------------------------------------------------------------------------


def _json(item: object) -> str:
    return msgspec.json.encode(_jsonable(item)).decode()


def _jsonable(item: object) -> object:
    """Bytes as text, and values as their own JSON: msgspec would write bytes as base64, and values as lists."""
    match item:
        case bytes():
            return _decode(item)
        case Value():
            return msgspec.Raw(to_json(item))
        case dict():
            return {key: _jsonable(each) for key, each in item.items()}
        case list():
            return [_jsonable(each) for each in item]
        case _:
            return item


def _json_rows(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    names = _distinct(columns)
    previous = "["
    for row in rows:
        if previous != "[":
            yield previous + ","
        previous = ("[" if previous == "[" else " ") + _json(dict(zip(names, row, strict=True)))
    yield previous + "]"


def _distinct(columns: Sequence[str]) -> list[str]:
    """The names of columns made distinct: a query may give two columns one name, and an object must hold both."""
    names: list[str] = []
    for column in columns:
        name, number = column, 2
        while name in names:
            name, number = f"{column}_{number}", number + 1
        names.append(name)
    return names


# -- csv and table --------------------------------------------------------------------------------------------------


def _csv_rows(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    buffer = io.StringIO()
    # The writer quotes the characters of its line terminator, and both of these have to be quoted.
    writer = csv.writer(buffer, lineterminator="\r\n")
    for row in chain([columns], rows):
        writer.writerow([_text(cell) for cell in row])
        yield buffer.getvalue()[:-2]
        buffer.seek(0)
        buffer.truncate()


def _table_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], width: int) -> Iterator[str]:
    stream = iter(rows)
    sample = list(islice(stream, WIDTH_SAMPLE))
    shown = [[_table_cell(cell) for cell in row] for row in sample]
    widths = [max(map(_width, column)) for column in zip(columns, *shown, strict=True)]
    if width:
        widths = _narrowed(widths, width - 2 * (len(columns) - 1))
    # Numbers are aligned on the right. A column is numeric if all its cells in the sample are.
    numeric = [
        any(cell is not None for cell in column)
        and all(cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in column)
        for column in zip(*sample, strict=True)
    ] or [False] * len(columns)
    is_cut = False
    yield _aligned([_cut(name, bound) for name, bound in zip(columns, widths, strict=True)], widths, numeric)
    yield "  ".join("-" * bound for bound in widths)
    for cells in chain(shown, ([_table_cell(cell) for cell in row] for row in stream)):
        if width:
            fitting = [_cut(cell, bound) for cell, bound in zip(cells, widths, strict=True)]
            is_cut |= fitting != cells or any(cell.endswith("…") for cell in cells)
            cells = fitting
        yield _aligned(cells, widths, numeric)
    if is_cut:
        yield from wrapped(["(cut to fit: with output json, --output json in a shell, nothing is)"], width)


def _narrowed(widths: Sequence[int], room: int) -> list[int]:
    """The columns' widths, the widest of them made smaller until all fit, but none to less than MIN_WIDTH."""
    low, high = MIN_WIDTH, max(widths, default=0)
    while low < high:
        bound = (low + high + 1) // 2
        if sum(min(width, bound) for width in widths) <= room:
            low = bound
        else:
            high = bound - 1
    return [min(width, max(low, MIN_WIDTH)) for width in widths]


def _cut(text: str, width: int) -> str:
    """Text that takes at most this many columns, with a sign if something is missing."""
    if _width(text) <= width:
        return text
    end = taken = 0
    while end < len(text) and taken + _width(text[end]) <= width - 1:
        taken += _width(text[end])
        end += 1
    return text[:end] + "…"


def _table_cell(cell: object) -> str:
    text = _text(cell)
    if len(text) > CELL_WIDTH:
        text = text[: CELL_WIDTH - 1] + "…"
    return visible(text)


def _aligned(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    parts = []
    for cell, width, right in zip(cells, widths, numeric, strict=True):
        padding = " " * (width - _width(cell))
        parts.append(padding + cell if right else cell + padding)
    return "  ".join(parts).rstrip()


def _width(text: str) -> int:
    """How many columns a text takes on a terminal: wide East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    none = sum(unicodedata.combining(character) != 0 for character in text)
    return len(text) + wide - none
