"""Loading files: what a line is, and that each is executed once whatever happens to the load."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cli.interrupts import Interrupts
from cli.loading import formats as load_formats
from cli.loading.foresight import Foresight, Shape
from cli.loading.formats import READERS, Content, Lines, format_of
from cli.loading.load import Load, LoadOptions, run
from cli.loading.progress import progress_text
from cli.loading.source import Source
from cli.loading.summary import summary_lines
from cli.target import Target
from kvstore.commands import Command, Entry, Failed, Found, Get, Set, Txn, Value
from kvstore.decimal_text import INTEGER, decimal_of
from kvstore.errors import CommandError, UnavailableError, UnknownOutcomeError
from kvstore.handles.embedded import EmbeddedStore
from kvstore.language.canonical import format as canonical
from kvstore.language.parser import parse
from kvstore.state import entries, sessions
from kvstore.state.machine import StateMachine
from kvstore.store import LogRow, Reply, Status
from tests.examples import examples
from tests.unit.strategies import colliding_commands


class MemoryStore:
    """The state machine without log and disk; ``break_after`` commands, the batch under way breaks off."""

    def __init__(self, break_after: int = -1) -> None:
        self.state = StateMachine(None)
        self.slot = 0
        self.batches: list[int] = []
        self.break_after = break_after

    def execute(self, command: Command) -> Reply:
        assert isinstance(command, Get)
        return Reply(self.state.query(command, 0))

    def begin(self) -> int:
        return self.slot

    def execute_batch(
        self, commands: Sequence[Command], *, session: str, first_sequence: int, since: int = 0
    ) -> list[Reply]:
        self.batches.append(len(commands))
        replies = []
        for sequence, command in enumerate(commands, first_sequence):
            if self.break_after == 0:
                self.break_after = -1
                raise UnknownOutcomeError("broke off")
            self.break_after -= 1
            self.slot += 1
            entry = entries.encode(Entry(session, sequence, first_sequence, 1, command, since))
            result = self.state.apply(self.slot, [entry])[0].result
            assert result is not None
            replies.append(Reply(result, self.slot))
        return replies

    def value(self, key: bytes) -> bytes | None:
        result = self.execute(Get(key)).result
        return result.value.data if isinstance(result, Found) else None

    def executed_upto(self, session: str) -> int:
        return self.state.executed_upto(session)

    def log(self, first: int = 1, last: int | None = None) -> Iterator[LogRow]:
        raise NotImplementedError

    def status(self) -> Status:
        raise NotImplementedError

    def sql(self, query: str) -> tuple[list[str], list[tuple[object, ...]]]:
        raise NotImplementedError

    def keys(self, prefix: bytes, limit: int) -> list[bytes]:
        raise NotImplementedError

    def tick(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.state.close()


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    memory = MemoryStore()
    yield memory
    memory.close()


def load(
    store: MemoryStore | None, path: Path | str, keep_going: bool = False, again: bool = False
) -> tuple[int, Load]:
    options = LoadOptions(Target(Path("unused")), keep_going=keep_going, again=again, dry_run=store is None)
    with Interrupts() as interrupts:
        source = Source(str(path), "", interrupts)
        try:
            one = Load(source, store, options, "", interrupts)
            return one.run(), one
        finally:
            source.close()


def written(tmp_path: Path, content: str | bytes, name: str = "file.kv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class Dribble:
    """A file that gives its bytes in chunks of given sizes."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        self._file = io.BytesIO(data)
        self._sizes = list(sizes)

    def read1(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._sizes.pop(0)) if self._sizes else size)


# -- lines and formats ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200).map(lambda data: data.replace(b"a", b"\n")), st.lists(st.integers(1, 9), max_size=50))
def test_lines_do_not_depend_on_chunks(data: bytes, sizes: list[int]) -> None:
    data = b"-" + data  # so that no chunk begins with a byte order mark
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert list(Lines(Dribble(data, sizes))) == expected


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert list(Lines(Dribble(b"\xef\xbb\xbfset a 1\nset b 2", []))) == [b"set a 1", b"set b 2"]


def test_an_over_long_line_is_cut_reported_and_the_next_one_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_formats, "MAX_LINE_BYTES", 20)
    data = b"set a 1\nset b " + b"x" * 100 + b"\nset c 3\n"
    items = list(READERS["commands"](Lines(Dribble(data, [10] * 20)), 0))
    assert [line for line, _ in items] == [1, 2, 3]
    assert isinstance(items[1][1], CommandError)
    assert "longer than 20 bytes" in items[1][1].message
    assert items[2][1] == Set(b"c", Value(b"3"))


def contents(data: str | bytes, format: str, skip: int = 0) -> list[tuple[int, Content]]:
    raw = data if isinstance(data, bytes) else data.encode()
    return list(READERS[format](Lines(Dribble(raw, [])), skip))


def shown(items: list[tuple[int, Content]]) -> list[tuple[int, object]]:
    return [(line, item.message if isinstance(item, CommandError) else item) for line, item in items]


def test_commands_pass_over_blank_lines_and_comments_and_keep_the_files_line_numbers() -> None:
    items = contents("# first\n\n  set a 1\r\n   # second\nset b 'x y'\n", "commands")
    assert items == [(3, Set(b"a", Value(b"1"))), (5, Set(b"b", Value(b"x y")))]


def test_a_sign_behind_a_command_is_no_part_of_it() -> None:
    """As at the prompt: it would go into the last word in silence."""
    (first, wrong), (second, kept), (_, transaction) = load_formats.read_commands(
        [b"set a=1;", b'set a="1;"', b"txn { set a 1; }"], 0
    )
    assert (first, second) == (1, 2)
    assert isinstance(wrong, CommandError) and "leave out the ;" in str(wrong)
    assert kept == Set(b"a", Value(b"1;"))
    assert isinstance(transaction, Txn)


def test_jsonl_keeps_types() -> None:
    items = contents('{"value": "1", "key": "a"}\n\n{"key": "b", "value": {"n": 1.50}}\n', "jsonl")
    assert items == [(1, Set(b"a", Value(b'"1"', True))), (3, Set(b"b", Value(b'{"n": 1.50}', True)))]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"key": "a"}', "missing required field `value`"),
        ('{"key": 1, "value": 2}', "expected `str`, got `int`"),
        ('{"key": "a", "value": 1, "ttl": 2}', "unknown field `ttl`"),
        ("[1]", "expected `object`"),
        ("set a 1", "not a JSON object"),
        ('{"key": "a", "value": nope}', "not a JSON object"),
        ('{"key": "", "value": 1}', "1 to 1,024"),
        ('{"key": "a", "value": "\\ud800"}', ""),
    ],
)
def test_jsonl_says_what_is_wrong(line: str, told: str) -> None:
    [(number, error)] = contents("\n" + line, "jsonl")
    assert number == 2
    assert isinstance(error, CommandError)
    assert told in error.message


# A carriage return alone ends a record for the csv module; everything else is kept.
FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=9)


@given(st.lists(st.tuples(FIELD, FIELD), max_size=8), st.booleans())
def test_csv_gives_back_what_a_csv_writer_wrote(rows: list[tuple[str, str]], swap: bool) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["value", "key"] if swap else ["key", "value"])
    writer.writerows([(value, key) if swap else (key, value) for key, value in rows])
    items = [item for _, item in contents(text.getvalue(), "csv")]
    assert items == [Set(key.encode(), Value(value.encode())) for key, value in rows]


def test_one_bad_csv_record_does_not_end_the_others() -> None:
    data = b'key,value\na,1\n\xff,2\nb\n"c\nd",3\ne,1,2\n"f" x,1\ng,"7\n"\n'
    assert shown(contents(data, "csv")) == [
        (2, Set(b"a", Value(b"1"))),
        (3, "byte 1 of the line, 0xff, is not UTF-8: write bytes as \\xNN in a file of commands"),
        (4, "expected 2 fields, key and value, got 1: quote a field that needs it"),
        (5, Set(b"c\nd", Value(b"3"))),
        (7, "expected 2 fields, key and value, got 3: quote a field that needs it"),
        (8, "not a record: ',' expected after '\"'"),
        (9, Set(b"g", Value(b"7\n"))),
    ]


@pytest.mark.parametrize("header", ["", "key\n", "k,value\n", "key,value,ttl\n", "key,key\n"])
def test_a_table_must_have_a_header(header: str) -> None:
    [(line, error)] = contents(header + "a,1\n" if header else "", "csv")
    assert line == 1
    assert isinstance(error, CommandError)
    assert "must name exactly the columns key and value" in error.message


LINE = st.sampled_from(
    ["set a 1", "", "# c", "nonsense", "{}", '{"key":"k","value":1}', "a,b", 'x,"y', "\xe9", "key,value"]
)


@given(st.lists(LINE, max_size=12), st.sampled_from(["commands", "jsonl", "csv", "tsv"]), st.integers(0, 12))
def test_ordinals_do_not_depend_on_what_is_skipped(lines: list[str], format: str, skip: int) -> None:
    data = "\n".join([*(["key,value"] if format == "csv" else ["key\tvalue"] if format == "tsv" else []), *lines])
    whole, rest = contents(data.encode("latin-1"), format), contents(data.encode("latin-1"), format, skip)
    assert [line for line, _ in whole] == [line for line, _ in rest]
    assert shown(whole)[skip:] == shown(rest)[skip:]
    assert all(item is None for _, item in rest[:skip])


def test_the_format_follows_from_the_name() -> None:
    names = ["a.kv", "a.jsonl", "b.NDJSON.GZ", "c.csv.gz", "d.tsv", "-", "csv"]
    assert [format_of(name) for name in names] == ["commands", "jsonl", "jsonl", "csv", "tsv", "commands", "commands"]


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_stops_at_a_bad_line_with_everything_before_it_executed(
    tmp_path: Path, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "set a 1\n\nset b 2\nset  c\nset d 4\n")
    status, one = load(store, path)
    assert status == 1
    assert (one.summary.state, one.summary.commands, one.summary.last_line) == ("stopped", 2, 3)
    assert (store.value(b"b"), store.value(b"d")) == (b"2", None)
    assert capsys.readouterr().err.startswith(f"kvstore: {path}:4:")


def test_keep_going_reports_bad_lines_and_executes_the_rest(
    tmp_path: Path, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "set a x\nbad\nincr a\nget none\nset a 1 NX\nset d 4\n")
    status, one = load(store, path, keep_going=True)
    assert status == 1
    summary = one.summary
    assert (summary.commands, summary.bad_lines, summary.missing, summary.not_met) == (4, 2, 1, 1)
    assert store.value(b"d") == b"4"
    errors = capsys.readouterr().err.splitlines()
    assert [error.removeprefix(f"kvstore: {path}:")[:1] for error in errors] == ["2", "3"]


@examples(300)
@given(st.lists(colliding_commands.map(canonical), max_size=20))
@example(["set a text", "incrbyfloat a 1", "set b 1"])
@example(["push a 1", "setrange a 0 x", "set b 1"])
@example(["push a 1", "setrange a 0 ''", "set b 1"])
@example(["set a 007", "incr a", "set b 1"])
@example(["incr a", "mset a=text", "incr a", "set b 1"])
@example(["incr a", "set b text", "rename b a", "incr a", "set b 1"])
@example(["incr a", "set b text", "copy b a REPLACE", "incr a", "set b 1"])
@example(["push a 1", "getdel a", "incr a", "push a 1", "set b 1"])
@example(["incr a", "setrange a 0 x", "incr a", "set b 1"])
@example(["incr a", "incrbyfloat a 0.5", "incr a", "set b 1"])
@example(["push a 1", "clear", "incr a", "push a 1", "set b 1"])
@example(["set a text", "txn { if exists b then clear }", "incr a", "set b 1"])
@example(["set a 7", "incr a 5", "cas a 12 text", "incr a 5", "set b 1"])
@example(["set a text", "set a 3 NX", "incr a 5", "set b 1"])
@example(["set a 7", "txn { if exists a then set a text else delete b a }", "incr a 5", "set b 1"])
def test_nothing_after_a_command_that_fails_is_executed(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    """The loader executes batches; what is left must be as if it had executed line by line."""
    reference = MemoryStore()
    expected = 0
    for sequence, (_, command) in enumerate(contents("\n".join(lines), "commands"), 1):
        assert command is not None and not isinstance(command, CommandError)
        expected += 1
        if isinstance(reference.execute_batch([command], session="s", first_sequence=sequence)[0].result, Failed):
            break
    loaded = MemoryStore()
    load(loaded, written(tmp_path_factory.mktemp("load"), "\n".join(lines)))
    assert loaded.slot == expected
    assert [loaded.value(key) for key in (b"a", b"b")] == [reference.value(key) for key in (b"a", b"b")]
    reference.close()
    loaded.close()


def fits(shape: Shape, value: Value | None) -> bool:
    """Whether a key of this shape may hold a value, or, with None, nothing."""
    if shape.kind == "other" or value is None:
        return True
    if shape.kind == "list":
        return value.json and isinstance(json.loads(value.data), list) and len(value.data) <= shape.bound
    if value.json or shape.kind == "nothing":
        return False
    if shape.kind == "text":
        return len(value.data) <= shape.bound
    number = decimal_of(value.data)
    is_of_kind = shape.kind == "number" or INTEGER.fullmatch(value.data)
    return bool(is_of_kind) and number is not None and abs(number) <= shape.bound


@examples(300)
@given(st.lists(st.lists(colliding_commands, max_size=6), max_size=6))
def test_what_is_foreseen_is_what_happens(batches: list[list[Command]]) -> None:
    """A command that fails was not called certain, and after each batch keys hold what is remembered of them."""
    store = MemoryStore()
    foresight = Foresight(store)
    for batch in batches:
        waiting: list[Command] = []
        for command in batch:
            is_certain = foresight.is_certain(command)
            waiting.append(command)
            if is_certain:
                continue
            results = [reply.result for reply in store.execute_batch(waiting, session="", first_sequence=1)]
            assert not any(isinstance(result, Failed) for result in results[:-1])
            waiting.clear()
            foresight.executed()
        results = [reply.result for reply in store.execute_batch(waiting, session="", first_sequence=1)]
        assert not any(isinstance(result, Failed) for result in results)
        foresight.executed()
        for key, shape in foresight.shapes.items():
            result = store.execute(Get(key)).result
            assert fits(shape, result.value if isinstance(result, Found) else None)
    store.close()


CERTAIN = ["incr c{} 1", "append t{} x", "setrange t{} 3 x", "push l{} 1", "incrbyfloat f{} 0.5", "expire c{} 9"]


def test_counters_and_lists_share_batches(tmp_path: Path, store: MemoryStore) -> None:
    lines = [command.format(number % 20) for number in range(450) for command in CERTAIN]
    status, _ = load(store, written(tmp_path, "\n".join(lines)))
    assert status == 0
    assert store.batches == [1000, 1000, 700]


def test_what_a_batch_changed_is_known_again_after_it(tmp_path: Path, store: MemoryStore) -> None:
    changed = [f"cas c{number} 0 1 CREATE" for number in range(20)]  # whether they take effect is not foreseen
    lines = [*changed, *("set x 1" for _ in range(980)), *(f"incr c{number % 20}" for number in range(500))]
    assert load(store, written(tmp_path, "\n".join(lines)))[0] == 0
    assert store.batches == [1000, 500]


def test_a_command_that_failed_stops_the_load_again_until_it_is_accepted(
    tmp_path: Path, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "set a x\nincr a\nset b 1\n")
    for _ in range(2):
        status, one = load(store, path)
        assert (status, one.summary.bad_lines, one.summary.last_line) == (1, 1, 2)
        assert store.value(b"b") is None
    assert "--keep-going" in capsys.readouterr().err
    assert load(store, path, keep_going=True)[0] == 0
    assert store.value(b"b") == b"1"


def test_a_dry_run_reports_every_line_and_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "set a 1\nbad\nset b 2\nworse\n")
    assert run([str(path)], LoadOptions(Target(tmp_path / "data"), dry_run=True), "") == 1
    output = capsys.readouterr()
    assert "2 commands valid" in output.out
    assert [line.split(":")[2] for line in output.err.splitlines()] == ["2", "4"]
    assert not (tmp_path / "data").exists()


def test_a_wrong_name_is_found_before_anything_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "set a 1\n")
    assert run([str(path), str(tmp_path / "none")], LoadOptions(Target(tmp_path / "data")), "") == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_damaged_gzip_is_not_executed_in_part(
    tmp_path: Path, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = gzip.compress("".join(f"set k{number} {number * 7919 % 1009}\n" for number in range(1000)).encode())
    flipped = packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:]  # a bit of its checksum
    for damaged in (packed[: len(packed) // 2], packed[:-1], flipped):
        status, one = load(store, written(tmp_path, damaged, "cut.kv.gz"))
        assert (status, one.summary.commands, store.slot) == (1, 0, 0)
        assert "nothing was executed" in capsys.readouterr().err
    assert load(store, written(tmp_path, packed, "all.kv.gz"))[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        f"txn PARTIAL {{ {'get big;' * 20} set b 1 }}",
        f"txn {{ {'get big;' * 20} set b 1 }}",
        f"delete {' '.join(f'key{number}' for number in range(2_000))}",
        f"mset {' '.join(f'{number}=' for number in range(400_000))}",
    ],
    ids=["partial", "whole", "delete", "mset"],
)
def test_what_may_cost_too_much_is_never_called_certain(text: str, store: MemoryStore) -> None:
    """What it costs depends on values that other clients may have written."""
    assert not Foresight(store).is_certain(parse(text))
    assert Foresight(store).is_certain(parse("txn { set a 1; get a; delete b c }"))


@pytest.mark.parametrize("line", ['{"key":"a","key":"b","value":1}', '{"key":"","value":1,"value":2}'])
def test_a_field_given_twice_is_a_bad_line(tmp_path: Path, store: MemoryStore, line: str) -> None:
    assert load(store, written(tmp_path, line + "\n", "a.jsonl"))[0] == 1
    assert store.slot == 0


def test_a_number_that_python_may_not_read_is_a_bad_line(tmp_path: Path, store: MemoryStore) -> None:
    line = '{"key": "a"' + 99 * " " + ', "value": [' + "1" * 5_000 + "]}\n"
    assert load(store, written(tmp_path, line, "a.jsonl"))[0] == 1
    assert store.slot == 0


def test_white_space_and_inner_objects_are_no_repetition(tmp_path: Path, store: MemoryStore) -> None:
    text = '{  "key" :    "a" ,   "value" : {"key": 1, "value": {"key": 2}}  }\n'
    assert load(store, written(tmp_path, text, "a.jsonl"))[0] == 0


@pytest.mark.parametrize("parts", [[b"\xef", b"\xbb", b"\xbfset a 1\n"], [b"\xef\xbb\xbf", b"set a 1\n"]])
def test_a_byte_order_mark_may_come_in_parts(parts: list[bytes]) -> None:
    class Pipe:
        def read1(self, size: int, /) -> bytes:
            return parts.pop(0) if parts else b""

    assert list(Lines(Pipe())) == [b"set a 1"]


def test_a_gap_left_in_a_batch_is_loaded_by_the_next_load(tmp_path: Path, store: MemoryStore) -> None:
    """A node refused one request of a pipeline and took those behind it."""
    path = written(tmp_path, "".join(f"set k{number} 1\n" for number in range(1, 11)))
    real = store.execute_batch

    def refuse_one(commands: Sequence[Command], *, session: str, first_sequence: int, since: int) -> list[Reply]:
        real(commands[:4], session=session, first_sequence=first_sequence, since=since)
        for sequence in range(6, 11):
            store.slot += 1
            entry = entries.encode(Entry(session, sequence, first_sequence, 1, commands[sequence - first_sequence]))
            store.state.apply(store.slot, [entry])
        raise UnavailableError("too much is waiting")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "execute_batch", refuse_one)
        status, one = load(store, path)
    assert (status, one.summary.commands) == (3, 4)
    assert load(store, path)[0] == 0
    assert [store.value(b"k%d" % number) for number in range(1, 11)] == [b"1"] * 10


# -- each line once ---------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(st.lists(st.integers(0, 1500), max_size=4))
def test_a_load_that_broke_off_executes_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int]
) -> None:
    lines = [f"incr n{number % 7}\n# {number}\n" if number % 3 else "no command\n" for number in range(2000)]
    path = written(tmp_path_factory.mktemp("load"), "".join(lines))
    store = MemoryStore()
    for after in breaks:
        store.break_after = after
        load(store, path, keep_going=True)
    store.break_after = -1
    load(store, path, keep_going=True)
    counted = [int(store.value(b"n%d" % key) or 0) for key in range(7)]
    assert counted == [sum(1 for number in range(2000) if number % 3 and number % 7 == key) for key in range(7)]
    store.close()


@pytest.mark.parametrize("looks", [0, 2])
def test_a_cluster_that_is_lost_stops_the_load_with_a_summary_and_says_how_to_go_on(
    tmp_path: Path, store: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    left = iter(range(looks))

    def executed_upto(session: str) -> int:
        if next(left, None) is None:
            raise UnavailableError("no quorum")
        return 0

    def execute_batch(commands: Sequence[Command], *, session: str, first_sequence: int, since: int = 0) -> list[Reply]:
        raise UnavailableError("no quorum")

    monkeypatch.setattr(store, "executed_upto", executed_upto)
    monkeypatch.setattr(store, "execute_batch", execute_batch)
    path = written(tmp_path, "set x 1\n")
    status, done = load(store, path)
    assert (status, done.summary.state, done.summary.commands) == (3, "stopped", 0)
    assert capsys.readouterr().err == f"kvstore: {path}: no quorum; start the load again to go on\n"


def test_says_where_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = MemoryStore(break_after=3)
    path = written(tmp_path, "# head\n" + "incr a\n" * 5)
    status, one = load(store, path)
    assert (status, one.summary.commands, one.summary.last_line) == (3, 3, 4)
    status, one = load(store, path)
    assert (status, one.summary.commands, one.summary.skipped, one.summary.resumed_at_line) == (0, 2, 3, 5)
    assert f"{path}: going on at line 5" in capsys.readouterr().err
    store.close()


def test_a_loaded_file_is_loaded_again_on_demand_only(tmp_path: Path, store: MemoryStore) -> None:
    path = written(tmp_path, "incr a\nincr a\n")
    assert load(store, path)[1].summary.state == "loaded"
    status, one = load(store, written(tmp_path, "incr a\nincr a\n", "copy.kv"))
    assert (status, one.summary.state, one.summary.skipped, store.value(b"a")) == (0, "loaded before", 2, b"2")
    store.break_after = 1
    load(store, path, again=True)
    assert store.value(b"a") == b"3"
    load(store, path)  # goes on with the second load, which broke off
    assert store.value(b"a") == b"4"
    assert load(store, path)[1].summary.state == "loaded before"
    load(store, path, again=True)
    assert store.value(b"a") == b"6"


def test_what_is_said_of_a_file_counts_its_lines_and_what_became_of_them(tmp_path: Path, store: MemoryStore) -> None:
    path = written(tmp_path, "set a x\nbad\nincr a\nget none\nset a 1 NX\nset d 4\n")
    said = [next(summary_lines([load(store, path, keep_going=True)[1].summary], "")) for _ in range(2)]
    first = re.sub(r"in [0-9.]+ s, [0-9,]+/s", "in T", said[0])
    assert first == (f"{path}: 4 commands executed in T, slots 1 to 5, 1 condition not met, 1 missing key, 2 bad lines")
    assert said[1] == f"{path}: already loaded (6 lines); --again loads it once more"


def test_a_file_that_changes_while_it_is_loaded_is_said_to_have_changed(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "incr a\n")
    execute = store.execute_batch

    def execute_and_write(commands: Sequence[Command], **options: Any) -> list[Reply]:
        path.write_bytes(b"incr b\n")
        os.utime(path, ns=(1, 1))
        return execute(commands, **options)

    monkeypatch.setattr(store, "execute_batch", execute_and_write)
    status, one = load(store, path)
    assert (status, one.summary.commands) == (1, 1)
    assert "was changed while it was loaded: check what was executed" in capsys.readouterr().err


def test_a_file_whose_session_was_dropped_is_refused_and_nothing_runs_twice(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    path = written(tmp_path, "incr a\nincr a\n")
    load(store, path)
    for number in range(4):
        load(store, written(tmp_path, f"incr b{number}\n", f"{number}.kv"))
    status, one = load(store, path)
    assert (status, one.summary.state, store.value(b"a")) == (1, "stopped", b"2")
    assert "no longer knows whether this file was loaded" in capsys.readouterr().err
    assert load(store, path, again=True)[0] == 0
    assert store.value(b"a") == b"4"


def test_the_same_bytes_in_another_format_are_another_load(tmp_path: Path, store: MemoryStore) -> None:
    load(store, written(tmp_path, "key,value\na,1\n", "f.csv"))
    with Interrupts() as interrupts:
        source = Source(str(tmp_path / "f.csv"), "commands", interrupts)
        one = Load(source, store, LoadOptions(Target(tmp_path)), "", interrupts)
        assert one.run() == 1
        source.close()


def test_a_slow_stream_is_executed_as_it_comes(tmp_path: Path, store: MemoryStore) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    executed = threading.Event()
    original = store.execute_batch

    def execute_batch(commands: Sequence[Command], *, session: str, first_sequence: int, since: int = 0) -> list[Reply]:
        replies = original(commands, session=session, first_sequence=first_sequence)
        executed.set()
        return replies

    store.execute_batch = execute_batch  # type: ignore[method-assign]
    seen: list[bool] = []

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(b"set a 1\nset b 2\nset c")
            seen.append(executed.wait(5))  # while the pipe is open and nothing more comes
            pipe.write(b" 3\n")

    writer = threading.Thread(target=write)
    writer.start()
    status, one = load(store, path)
    writer.join()
    assert seen == [True]
    assert (status, one.summary.commands, store.value(b"c")) == (0, 3, b"3")


def test_control_c_waits_for_the_batch_and_the_load_can_go_on(tmp_path: Path, store: MemoryStore) -> None:
    path = written(tmp_path, "incr a\n" * 5000)
    original = store.execute_batch

    def execute_batch(commands: Sequence[Command], *, session: str, first_sequence: int, since: int = 0) -> list[Reply]:
        if first_sequence == 1001:
            os.kill(os.getpid(), signal.SIGINT)
        return original(commands, session=session, first_sequence=first_sequence)

    store.execute_batch = execute_batch  # type: ignore[method-assign]
    status, one = load(store, path)
    assert (status, one.summary.state, one.summary.last_line) == (130, "interrupted", 2000)
    store.execute_batch = original  # type: ignore[method-assign]
    status, one = load(store, path)
    assert (status, one.summary.resumed_at_line, store.value(b"a")) == (0, 2001, b"5000")


def test_batches_are_bounded_in_bytes(tmp_path: Path, store: MemoryStore) -> None:
    load(store, written(tmp_path, "".join(f"set k{number} {'x' * 1_000_000}\n" for number in range(12))))
    assert sum(store.batches) == 12
    assert max(store.batches) <= 6


def test_a_real_store_keeps_what_was_loaded(tmp_path: Path) -> None:
    path = written(tmp_path, "set a 1\nincr a\nset b 'x y'\n")
    assert run([str(path)], LoadOptions(Target(tmp_path / "data")), "json") == 0
    with EmbeddedStore.open(tmp_path / "data", "test") as store:
        assert store.execute(Get(b"a")).result == Found(Value(b"2"), 2, 1, 2)
    assert run([str(path)], LoadOptions(Target(tmp_path / "data")), "json") == 0
    with EmbeddedStore.open(tmp_path / "data", "test") as store:
        assert store.status().last_slot == 3


def test_the_progress_line() -> None:
    text = progress_text("f.kv", 6_000_000, 12_000_000, 0, 90_000, 3.0)
    assert text == "f.kv  [############------------]  50%  6.0 of 12.0 MB  30,000 commands/s  0:03 left"
    # What was skipped says nothing about the speed: 2 MB took 4 s, so 4 MB take 8.
    assert progress_text("f.kv", 8_000_000, 12_000_000, 6_000_000, 1, 4.0).endswith("0:08 left")
    assert progress_text("f.kv", 0, 0, 0, 5, 1.0) == "f.kv  0.0 MB  5 commands  5 commands/s"


@pytest.mark.parametrize("before", ["", " " * 50, '"value": 1, ', "itself"])
@pytest.mark.parametrize("deep", [500, *range(940, 1_000, 3), 100_000])
def test_a_value_that_is_nested_deeply_is_one_bad_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: MemoryStore, deep: int, before: str
) -> None:
    value = "[" * deep + "]" * deep
    first, last = (f'"value": {value}, ', "1") if before == "itself" else (before, value)
    lines = ['{"key": "a", "value": 1}', f'{{"key": "b", {first}"value": {last}}}']
    path = tmp_path / "deep.jsonl"
    path.write_text("\n".join([*lines, '{"key": "c", "value": 3}']) + "\n")
    status, done = load(store, path, keep_going=True)
    assert (status, done.summary.commands, done.summary.bad_lines) == (1, 2, 1)
    told = capsys.readouterr().err
    assert f"{path}:2: the value is" in told or (before == "itself" and f'{path}:2: "value" is given twice' in told)


@pytest.mark.parametrize("kind", ["commands", "jsonl", "csv"])
def test_a_line_for_which_there_is_no_memory_is_one_bad_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: MemoryStore, kind: str
) -> None:
    def text(line: bytes) -> str:
        if line.startswith((b"set b", b"b", b'{"key": "d"')):
            raise MemoryError
        return line.rstrip(b"\n").decode()

    monkeypatch.setattr(load_formats, "_text", text)
    path = tmp_path / f"file.{kind}"
    path.write_text(
        {
            "commands": "set a 1\nset b 2\nset c 3\n",
            "jsonl": "".join(f'{{"key": "{key}", "value": 1}}\n' for key in "adc"),
            "csv": "key,value\na,1\nb,2\nc,3\n",
        }[kind]
    )
    status, done = load(store, path, keep_going=True)
    assert (status, done.summary.commands, done.summary.bad_lines) == (1, 2, 1)


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_line_that_costs_too_much_when_its_turn_comes_is_a_bad_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep_going: bool
) -> None:
    """What the keys hold decides it, and they were written by others."""
    dear = "txn { " + "; ".join(["append big x"] * 70) + " }"
    path = written(tmp_path, f"incr n\nincr n\n{dear}\nincr n\n{dear}\nincr n\n")
    with EmbeddedStore.open(tmp_path / "store", "test") as real:
        real.execute(Set(b"big", Value(b"x" * 1_000_000)))
        status, one = load(real, path, keep_going=keep_going)
        assert status == 1
        assert real.execute(Get(b"n")).result.value.data == (b"4" if keep_going else b"2")  # type: ignore[union-attr]
        assert (one.summary.commands, one.summary.bad_lines) == ((4, 2) if keep_going else (2, 1))
        told = capsys.readouterr().err
        assert f"{path}:3: " in told and "units of work" in told
        assert (f"{path}:5: " in told) is keep_going


def test_what_another_load_has_done_meanwhile_is_not_counted(tmp_path: Path, store: MemoryStore) -> None:
    path = written(tmp_path, "".join(f"set k{number} 1\n" for number in range(1, 4)))

    def lose(commands: Sequence[Command], *, session: str, first_sequence: int, since: int) -> list[Reply]:
        raise UnavailableError("no quorum")

    looks = iter([0, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "execute_batch", lose)
        patch.setattr(store, "executed_upto", lambda session: next(looks, 9))
        status, one = load(store, path)
    assert (status, one.summary.commands, one.summary.last_line) == (3, 3, 3)
