"""The formats that ``kvstore load`` reads: how a file divides into lines, and which command each line means.

A *line* here is what is executed once: one line of commands or jsonl, or one record of csv or tsv, which may span
several lines of the file. Lines have ordinals from 1 on. Blank lines and comments have none, but bad lines do: the
ordinals are the sequences under which a file's commands are executed, so they must not depend on what is valid.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import msgspec

from kvstore.commands import MAX_VALUE_BYTES, Command, Set, Value
from kvstore.errors import CommandError
from kvstore.language.parser import check_end, parse
from kvstore.limits import check
from kvstore.values import MAX_NESTING, from_json

CHUNK_BYTES: Final = 262_144
MAX_LINE_BYTES: Final = 16 * 1_048_576
"""Enough for the longest value with every byte escaped. It bounds the memory that a file without newlines takes."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""Some editors put it at the beginning of a file; it is not part of the first key."""

Content = Command | CommandError | None
Item = tuple[int, Content]
"""The line of the file where the item begins; and its command, what is wrong with it, or None if it was skipped."""


class File(Protocol):
    def read1(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, waiting only until there are some; b"" at the end of the file."""
        ...


class Lines:
    """The lines of a file without their newlines. A longer line is cut to MAX_LINE_BYTES + 1 bytes.

    ``bytes`` is the length of the lines that were given out. ``drained`` is true while the last of them is the last one
    that could be had without reading more of the file: then the loader of a slow stream executes what it has.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self.bytes = 0
        self.drained = False

    def __iter__(self) -> Iterator[bytes]:
        chunk = tail = self._file.read1(CHUNK_BYTES)
        while chunk and tail != BYTE_ORDER_MARK and BYTE_ORDER_MARK.startswith(tail):  # a pipe may give it in parts
            chunk = self._file.read1(CHUNK_BYTES)
            tail += chunk
        tail = tail.removeprefix(BYTE_ORDER_MARK)
        while chunk:
            if b"\n" in chunk:
                *lines, last, tail = tail.split(b"\n")
                for line in lines:
                    self.bytes += len(line) + 1
                    yield line
                self.bytes += len(last) + 1
                self.drained = True
                yield last
                self.drained = False
            elif len(tail) > MAX_LINE_BYTES:
                yield tail[: MAX_LINE_BYTES + 1]
                tail = self._rest_of_line()
            chunk = self._file.read1(CHUNK_BYTES)
            tail += chunk
        if tail:
            self.bytes += len(tail)
            yield tail

    def _rest_of_line(self) -> bytes:
        """Skip to the next newline, and return what follows it in its chunk."""
        while chunk := self._file.read1(CHUNK_BYTES):
            _, newline, rest = chunk.partition(b"\n")
            if newline:
                return rest
        return b""


def _text(line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise CommandError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise CommandError(
            f"byte {error.start + 1} of the line, 0x{line[error.start]:02x}, is not UTF-8: "
            "write bytes as \\xNN in a file of commands"
        ) from None


def read_commands(lines: Iterable[bytes], skip: int) -> Iterator[Item]:
    """One command a line. Blank lines and lines that begin with # are passed over."""
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped[:1] == b"#":
            continue
        if skip:
            skip -= 1
            yield number, None
            continue
        yield number, _made(_from_command, line)


def _from_command(line: bytes) -> Command:
    text = _text(line[:-1] if line[-1:] == b"\r" else line)
    if line.strip()[-1:] == b";":
        check_end(text)
    return parse(text)


def _made(make: Callable[[bytes], Command], line: bytes) -> Command | CommandError:
    """What a line means, or what is wrong with it: a bad one must not end the others."""
    try:
        return make(line)
    except CommandError as error:
        return error
    except MemoryError:
        return CommandError(f"memory ran out while this line of {len(line):,} bytes was read: it may be too long")


SPACES: Final = 8
"""An object with at most this much white space around its parts has no room for a field that is given twice."""
_FRAME: Final = len('{"key":"","value":}')


class _Object(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    value: msgspec.Raw


_decode_object = msgspec.json.Decoder(_Object).decode


def read_jsonl(lines: Iterable[bytes], skip: int) -> Iterator[Item]:
    """One object a line, {"key": "...", "value": ...}. The value may be any JSON, and keeps its type."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if skip:
            skip -= 1
            yield number, None
            continue
        yield number, _made(_from_object, line)


def _from_object(line: bytes) -> Command:
    _text(line)
    try:
        item = _decode_object(line)
    except msgspec.ValidationError as error:
        raise CommandError(
            f'expected {{"key": "...", "value": ...}}: {str(error)[:1].lower()}{str(error)[1:]}'
        ) from None
    except msgspec.DecodeError as error:
        raise CommandError(f"not a JSON object: {error}") from None
    except RecursionError:
        raise CommandError(f"the value is JSON nested more than {MAX_NESTING} levels deep") from None
    key, value = item.key.encode("utf-8"), bytes(item.value)
    command = Set(key, from_json(value))
    check(command)
    if len(line) - len(key) - len(value) > _FRAME + SPACES:
        _refuse_repeated(line)
    return command


def _refuse_repeated(line: bytes) -> None:
    """Parsers differ in which of two fields of one name they take. The last value is known to be a good one."""
    names: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        names[:] = [name for name, _ in pairs]  # the outermost object comes last

    try:
        json.loads(line, object_pairs_hook=note, parse_int=str)
    except RecursionError:  # in an earlier value
        raise CommandError(f"the value is JSON nested more than {MAX_NESTING} levels deep") from None
    for name in ("key", "value"):
        if names.count(name) > 1:
            raise CommandError(f'"{name}" is given twice: leave one of them out')


class _Texts:
    """Lines as the csv module takes them. Not a generator, which would end at the first line that is not UTF-8."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self.number = 0

    def __iter__(self) -> _Texts:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        return _text(line) + "\n"


def _read_table(lines: Iterable[bytes], skip: int, delimiter: str) -> Iterator[Item]:
    # A field may be as long as a value. The limit also ends the search for a quote that is never closed.
    csv.field_size_limit(MAX_VALUE_BYTES)
    texts = _Texts(lines)
    records = _records(texts, csv.reader(texts, delimiter=delimiter, strict=True))
    line, header = next(records, (1, []))
    if isinstance(header, CommandError) or sorted(header) != ["key", "value"]:
        found = header if isinstance(header, CommandError) else ", ".join(header) or "nothing"
        yield line, CommandError(f"the first record must name exactly the columns key and value, not: {found}")
        return
    key, value = header.index("key"), header.index("value")
    for line, record in records:
        if skip:
            skip -= 1
            yield line, None
        elif isinstance(record, CommandError):
            yield line, record
        elif len(record) != 2:
            yield (
                line,
                CommandError(f"expected 2 fields, key and value, got {len(record)}: quote a field that needs it"),
            )
        else:
            yield line, _checked(Set(record[key].encode(), Value(record[value].encode())))


def _records(texts: _Texts, rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | CommandError]]:
    """The records that are not blank, each with the line where it begins. A bad record does not end the others."""
    while True:
        line = texts.number + 1
        try:
            record = next(rows)
        except StopIteration:
            return
        except CommandError as error:
            yield line, error
        except csv.Error as error:
            yield line, CommandError(f"not a record: {error}")
        except MemoryError:
            yield line, CommandError("memory ran out while this record was read: it may be too long")
        else:
            if record:
                yield line, record


def _checked(command: Set) -> Command | CommandError:
    try:
        check(command)
    except CommandError as error:
        return error
    return command


def read_csv(lines: Iterable[bytes], skip: int) -> Iterator[Item]:
    """Comma-separated records (RFC 4180) under a header that names the columns key and value."""
    return _read_table(lines, skip, ",")


def read_tsv(lines: Iterable[bytes], skip: int) -> Iterator[Item]:
    """The same, separated by tabs."""
    return _read_table(lines, skip, "\t")


READERS: Final[dict[str, Callable[[Iterable[bytes], int], Iterator[Item]]]] = {
    "commands": read_commands,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
}
"""The reader of each format. Its second argument is how many lines to pass over because they were executed before."""


def format_of(name: str) -> str:
    """The format by a file's name: .jsonl, .ndjson, .csv, .tsv, also with .gz. Any other file holds commands."""
    _, dot, suffix = name.lower().removesuffix(".gz").rpartition(".")
    return {"jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv", "tsv": "tsv"}.get(dot and suffix, "commands")
