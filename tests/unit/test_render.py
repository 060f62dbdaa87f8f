"""Results and rows as table, json, csv and plain."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.loading.summary import Summary, summary_lines
from cli.render import (
    CELL_WIDTH,
    WIDTH_SAMPLE,
    log_lines,
    provenance,
    result_lines,
    scan_lines,
    status_lines,
    table_lines,
    trouble,
    visible,
    wrapped,
)
from consensus.ballot import Ballot
from kvstore.commands import (
    Command,
    Delete,
    Done,
    Exists,
    Expired,
    Failed,
    Found,
    Get,
    Incr,
    Integer,
    Missing,
    NotACommand,
    NotMet,
    Outcomes,
    Result,
    Row,
    Rows,
    Scan,
    Set,
    Ttl,
    Txn,
    Value,
)
from kvstore.language.parser import parse
from kvstore.store import LogRow, Reply, Status

BALLOT = Ballot(3, "n1")
TXN = Txn([Get(b"a"), Incr(b"n")], otherwise=[Get(b"none")])


def lines(command: Command, result: Result, output: str, slot: int = 0) -> list[str]:
    reply = Reply(result, slot, BALLOT, True) if slot else Reply(result)
    return list(result_lines(command, reply, output))


@pytest.mark.parametrize(
    ("command", "result", "plain", "as_json", "exits_with_trouble"),
    [
        (Set(b"a", Value(b"1")), Done(), ["OK"], {"result": "done"}, False),
        (Set(b"a", Value(b"1")), NotMet("why"), ["(not done: why)"], {"result": "not_met", "reason": "why"}, True),
        (
            Get(b"a"),
            Found(Value(b"1.50"), 7, 5, 2),
            ["1.50"],
            {"result": "found", "value": 1.5, "slot": 7, "created": 5, "version": 2},
            False,
        ),
        (Get(b"a"), Missing(), ["(no such key: 'a')"], {"result": "missing"}, True),
        (Incr(b"a"), Integer(5), ["5"], {"result": "integer", "number": 5}, False),
        (Incr(b"a"), Failed("why"), ["(failed: why)"], {"result": "failed", "reason": "why"}, True),
        (Ttl(b"a"), Integer(1500), ["1500"], {"result": "integer", "milliseconds": 1500}, False),
        (Exists([b"a", b"b"]), Integer(2), ["2"], {"result": "integer", "number": 2}, False),
        (Exists([b"a", b"b"]), Integer(1), ["1"], {"result": "integer", "number": 1}, True),
        (Delete([b"a", b"a"]), Integer(1), ["1"], {"result": "integer", "number": 1}, False),
        (Delete([b"a", b"b"]), Integer(1), ["1"], {"result": "integer", "number": 1}, True),
        (
            TXN,
            Outcomes(True, [Found(Value(b"x\ny"), 1, 1, 1), Integer(2)]),
            ["1. x\\ny", "2. 2"],
            {
                "result": "outcomes",
                "succeeded": True,
                "results": [
                    {"result": "found", "value": "x\ny", "slot": 1, "created": 1, "version": 1},
                    {"result": "integer", "number": 2},
                ],
            },
            False,
        ),
        (
            TXN,
            Outcomes(False, [Missing()]),
            ["1. (no such key: 'none')"],
            {"result": "outcomes", "succeeded": False, "results": [{"result": "missing"}]},
            True,
        ),
        (Get(b"a"), NotACommand(), None, {"result": "not_a_command"}, True),
        (Get(b"a"), Expired(), None, {"result": "expired"}, True),
    ],
)
def test_every_result_in_every_form(
    command: Command, result: Result, plain: list[str] | None, as_json: dict[str, object], exits_with_trouble: bool
) -> None:
    for output in ("", "table", "plain"):
        assert plain is None or lines(command, result, output) == plain
    [document] = lines(command, result, "json")
    assert json.loads(document) == as_json
    header, record = csv.reader(lines(command, result, "csv"))
    assert header == list(as_json)
    assert len(record) == len(header)
    assert bool(trouble(command, result)) == exits_with_trouble


def test_the_branch_of_a_transaction_is_told() -> None:
    txn = parse("txn { if value a = 1 then set b=2 else get c }")
    assert lines(txn, Outcomes(True, [Done()]), "") == ["conditions held: then", "1. OK"]
    assert lines(txn, Outcomes(False, [Missing()]), "")[0] == "conditions did not hold: else"


def test_a_write_says_where_it_is() -> None:
    assert provenance(Reply(Done(), 7, BALLOT, True)) == "slot 7, ballot 3.n1, phase 1 skipped"
    assert provenance(Reply(Done(), 7, BALLOT, False)) == "slot 7, ballot 3.n1, phase 1 run"
    assert provenance(Reply(Missing())) == ""
    [document] = lines(Set(b"a", Value(b"1")), Done(), "json", slot=7)
    assert json.loads(document) == {"result": "done", "slot": 7, "ballot": "3.n1", "phase1_skipped": True}


ROWS = [Row(b"a", Value(b"1"), 4, 2, 3, 0), Row(b"b\xff\t\\", Value(b'"1"', True), 5, 5, 1, 1_700_000_000_123)]


def test_a_scan_as_table() -> None:
    assert lines(Scan(), Rows(ROWS), "") == [
        "key       value  slot  created  version  expires",
        "--------  -----  ----  -------  -------  ------------------------",
        "a         1         4        2        3",
        'b\\xff\\t\\  "1"       5        5        1  2023-11-14 22:13:20.123Z',
    ]


def test_a_scan_for_programs() -> None:
    assert list(scan_lines(ROWS, "plain")) == ["a\t1", 'b\\xff\\t\\\\\t"1"']
    documents = json.loads("\n".join(scan_lines(ROWS, "json")))
    assert [document["value"] for document in documents] == [1, "1"]
    assert documents[1]["expires"] == 1_700_000_000_123
    assert next(iter(scan_lines(ROWS, "csv"))) == "key,value,slot,created,version,expires"


@pytest.mark.parametrize("output", ["", "table", "json", "csv", "plain"])
def test_no_rows(output: str) -> None:
    found = lines(Scan(), Rows([]), output)
    if output == "json":
        assert json.loads("\n".join(found)) == []
    else:
        assert len(found) == {"": 2, "table": 2, "csv": 1, "plain": 0}[output]


LOG = [
    LogRow(1, BALLOT, "chosen", "set x=1", "s", 1, 99, '["done"]'),
    LogRow(2, BALLOT, "chosen", "", "", 0, 0, None),
    LogRow(3, BALLOT, "accepted", "incr x", "s", 2, 100, '["integer",2]'),
]


def test_the_log() -> None:
    assert list(log_lines(LOG, "table")) == [
        "slot  ballot  status    value    result",
        "----  ------  --------  -------  ------",
        "   1  3.n1    chosen    set x=1  OK",
        "   2  3.n1    chosen    (no-op)",
        "   3  3.n1    accepted  incr x   2",
    ]
    documents = json.loads("\n".join(log_lines(LOG, "json")))
    assert documents[0] == {
        "slot": 1,
        "ballot": "3.n1",
        "status": "chosen",
        "value": "set x=1",
        "result": {"result": "done"},
        "session": "s",
        "sequence": 1,
        "stamp": 99,
    }
    assert (documents[1]["value"], documents[1]["result"]) == (None, None)


def test_the_log_is_streamed() -> None:
    """The first line must come without reading all rows, or a log of a million slots would not fit."""
    taken = 0

    def rows() -> Iterator[LogRow]:
        nonlocal taken
        for _ in range(10 * WIDTH_SAMPLE):
            taken += 1
            yield LOG[0]

    for output in ("table", "json", "csv", "plain"):
        taken = 0
        next(log_lines(rows(), output))
        assert taken <= WIDTH_SAMPLE


def test_status() -> None:
    status = Status("n1", ["n1"], "leader", None, BALLOT, BALLOT, 9, 8, 12, [(10, 11), (13, 13)], 5, 100, 200, None)
    table = dict(line.split(maxsplit=1) for line in status_lines(status, "table"))
    assert (table["gaps"], table["leader"], table["ballot"]) == ("10-11 13", "-", "3.n1")
    [document] = status_lines(status, "json")
    assert json.loads(document)["gaps"] == [[10, 11], [13, 13]]
    assert dict(csv.reader(status_lines(status, "plain"), delimiter="\t"))["applied_upto"] == "8"
    assert len(list(status_lines(status, "csv"))) == 2


CELL = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(st.characters(codec="utf-8")), st.binary())


@given(st.lists(st.tuples(CELL, CELL), max_size=6))
def test_any_cell_in_every_form(rows: list[tuple[object, object]]) -> None:
    columns = ["a", "b"]
    documents = json.loads("\n".join(table_lines(columns, rows, "json")))
    texts = [
        [cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell for cell in row] for row in rows
    ]
    assert documents == [dict(zip(columns, row, strict=True)) for row in texts]
    lines = (line + "\n" for line in table_lines(columns, rows, "csv"))
    back = list(csv.reader(io.StringIO("".join(lines), newline="")))
    assert back == [columns, *[["" if cell is None else str(cell) for cell in row] for row in texts]]
    for output in ("table", "plain"):
        for line in table_lines(columns, rows, output):
            assert not any(unicodedata.category(character) == "Cc" for character in line.replace("\t", ""))
    plain = list(table_lines(columns, rows, "plain"))
    assert len(plain) == len(rows)
    assert all(line.count("\t") == 1 for line in plain)


def test_no_column_is_lost_to_another_of_its_name() -> None:
    assert list(table_lines(["a", "a", "a_2"], [[1, 2, 3]], "json")) == ['[{"a":1,"a_2":2,"a_2_2":3}]']


def test_tables_cut_long_cells_and_count_wide_characters() -> None:
    table = list(table_lines(["k", "v"], [["東京", 1], ["e\u0301", None], ["x" * 1_000_000, 2]], "table"))
    assert max(map(len, table)) == CELL_WIDTH + len("  v")
    assert table[2].index("1") == CELL_WIDTH  # two characters that take four columns, two spaces
    assert table[4].startswith("x" * (CELL_WIDTH - 1) + "…")


@given(
    st.integers(40, 120),
    st.lists(st.tuples(st.text(max_size=150), st.integers(), st.text("a東 ", max_size=90)), min_size=1, max_size=4),
)
def test_a_table_fits_the_terminal_and_says_what_it_cut(width: int, rows: list[tuple[str, int, str]]) -> None:
    whole = list(table_lines(["key", "slot", "value"], rows, "table"))
    table = list(table_lines(["key", "slot", "value"], rows, "table", width))
    if any(line.startswith("(cut") for line in table):
        assert all(columns_of(line) <= width for line in table)
    else:
        assert table == whole


def columns_of(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


def test_lines_break_between_words() -> None:
    assert list(wrapped(["  name  one two three", "short"], 16)) == ["  name  one two", "        three", "short"]
    assert list(wrapped(["x" * 20], 0)) == ["x" * 20]


def test_a_terminal_takes_no_orders_from_a_value() -> None:
    assert visible(b"\x1b[2J\x9b\x07\r\n\t\x7f") == "\\x1b[2J\\x9b\\x07\\r\\n\\t\\x7f"
    assert visible("a\u202eb\u2028") == "a\\u202eb\\u2028"
    assert visible("naïve 東京 👍") == "naïve 東京 👍"


def test_the_summary_of_a_load() -> None:
    summary = Summary("f.kv", "commands", "stopped", 2000, 1, 3, 0, 10, 11, 2040, 7, 2006)
    summary.finish(0.5)
    [sentence] = summary_lines([summary], "")
    assert sentence == (
        "f.kv: 2,000 commands executed in 0.50 s, 4,000/s, slots 7 to 2006, 10 lines done before, "
        "3 conditions not met, 1 bad line; stopped after line 2040"
    )
    [document] = summary_lines([summary, summary], "json")
    assert json.loads(document)["commands"] == 4000
    assert json.loads(document)["files"][0]["resumed_at_line"] == 11
