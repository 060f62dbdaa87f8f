"""SQL queries in processes of their own, and what they may not do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from kvstore.errors import KvstoreError
from kvstore.state import queries
from kvstore.state.queries import Queries
from kvstore.state.sql import MAX_QUERY_BYTES, Table
from kvstore.storage.database import Schema, connect

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
ONE_CALL = "SELECT instr(hex(zeroblob(10000000)), hex(zeroblob(5000000)) || '1')"
"""A single call of a function, which SQLite looks at no deadline in. It takes hours."""
SCHEMA = Schema(migrations=(lambda database: None,))

Ask = Callable[[str, float], "Table | KvstoreError"]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Queries]:
    connect(tmp_path / "some.db", SCHEMA, synchronous="OFF").close()
    running = Queries(tmp_path / "some.db")
    yield running
    running.close()


@pytest.fixture
def ask(running: Queries) -> Ask:
    def ask(query: str, seconds: float = 30) -> Table | KvstoreError:
        answer: Future[Table | KvstoreError] = Future()
        running.start(query, seconds, answer.set_result)
        return answer.result(20)

    return ask


def children() -> list[str]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    return [child for task in tasks.glob("*/children") for child in task.read_text().split()]


def test_an_answer(ask: Ask) -> None:
    assert ask("SELECT 1 AS one, 'x' AS x, NULL AS none, x'00ff' AS blob, 1.5 AS half", 30) == (
        ["one", "x", "none", "blob", "half"],
        [(1, "x", None, b"\x00\xff", 1.5)],
    )


def test_all_values_survive(ask: Ask) -> None:
    assert ask(f"SELECT {-(2**63)}, {2**63 - 1}, 9e999, '', char(0x1f600)", 30) == (
        [str(-(2**63)), str(2**63 - 1), "9e999", "''", "char(0x1f600)"],
        [(-(2**63), 2**63 - 1, float("inf"), "", "\U0001f600")],
    )


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("CREATE TABLE t (x)", "only queries that read"),
        ("ATTACH 'other.db' AS other", "only queries that read"),
        ("PRAGMA journal_mode = DELETE", "only queries that read"),
        ("PRAGMA hard_heap_limit = 0", "only queries that read"),
        ("VACUUM INTO 'other.db'", "only queries that read"),
        ("EXPLAIN INSERT INTO sqlite_schema VALUES (1)", "only queries that read"),
        ("SELECT fts3_tokenizer('simple')", "only queries that read"),
        ("SELECT Fts3_Tokenizer('simple')", "only queries that read"),
        ("SELECT load_extension('x')", "SQL: "),
        ("SELECT * FROM pragma_database_list", "only queries that read"),
        ("SELECT * FROM dbstat", "SQL: "),
        ("SELECT * FROM sqlite_dbpage", "SQL: "),
        ("nonsense", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT zeroblob(100000000)", "too big"),
        ("SELECT CAST(x'ff' AS TEXT)", "UTF-8"),
        ("SELECT '\ud800'", "SQL: "),
        ("SELECT " + "1" * MAX_QUERY_BYTES, "at most 1,048,576 are allowed: shorten it"),
        ("SELECT " + "(" * 5_000 + "1" + ")" * 5_000, "SQL: "),
        (ENDLESS.format("x"), "more than 10,000 rows"),
        (f"SELECT {', '.join('x' * 50)} FROM ({ENDLESS.format('x')})", "more than 100,000 cells"),
        (ENDLESS.format("zeroblob(1000000)"), "bytes, which is the most"),
        (f"SELECT count(*) FROM ({ENDLESS.format('hex(randomblob(1000000)) AS y')} ORDER BY y)", "memory"),
    ],
)
def test_what_is_refused(ask: Ask, query: str, why: str) -> None:
    answer = ask(query, 30)
    assert isinstance(answer, KvstoreError)
    assert why in str(answer)
    assert ask("SELECT 1", 30) == (["1"], [(1,)])


@pytest.mark.parametrize("query", [ENDLESS.format("count(*)"), ONE_CALL])
def test_a_query_without_end_is_given_up(ask: Ask, query: str) -> None:
    began = time.monotonic()
    for _ in range(queries.MAX_AT_ONCE + 1):
        answer = ask(query, 0.5)
        assert isinstance(answer, KvstoreError)
        assert "given up after 0.5 s" in str(answer)
    assert ask("SELECT 1", 30) == (["1"], [(1,)])
    assert time.monotonic() - began < 8


def test_time_spent_in_line_counts(running: Queries) -> None:
    answers: list[Future[Table | KvstoreError]] = []
    for _ in range(2 * queries.MAX_AT_ONCE):
        answers.append(Future())
        running.start(ONE_CALL, 1, answers[-1].set_result)
    began = time.monotonic()
    assert all("given up" in str(answer.result(20)) for answer in answers)
    assert time.monotonic() - began < 4


def test_a_process_is_used_again_and_none_is_left(tmp_path: Path) -> None:
    connect(tmp_path / "some.db", SCHEMA, synchronous="OFF").close()
    before = children()
    running = Queries(tmp_path / "some.db")
    assert children() == before, "started by the first query"
    for _ in range(3):
        answer: Future[Table | KvstoreError] = Future()
        running.start("SELECT 1", 30, answer.set_result)
        answer.result(20)
    assert len(children()) == len(before) + 1
    running.start("SELECT 1", 30, answer.set_result)
    running.close()
    assert children() == before


def test_a_large_one_leaves_no_memory_behind(running: Queries, ask: Ask) -> None:
    ask("SELECT 1", 30)
    first = children()
    answer = ask(ENDLESS.format("zeroblob(31000000)") + " LIMIT 1", 30)
    assert not isinstance(answer, KvstoreError)
    assert children() != first
    assert ask("SELECT 1", 30) == (["1"], [(1,)])


def test_closing_waits_for_no_query(tmp_path: Path) -> None:
    connect(tmp_path / "some.db", SCHEMA, synchronous="OFF").close()
    running = Queries(tmp_path / "some.db")
    answers: list[Table | KvstoreError] = []
    for _ in range(queries.MAX_AT_ONCE + 1):
        running.start(ONE_CALL, 60, answers.append)
    time.sleep(0.5)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 2
    assert all(isinstance(answer, KvstoreError) for answer in answers)


def test_what_comes_after_the_end_is_answered(tmp_path: Path) -> None:
    """A query that waited for a commit is started by it, and the last commit may end after this."""
    running = Queries(tmp_path / "some.db")
    running.close()
    heard: list[Table | KvstoreError] = []
    running.start("SELECT 1", 5, heard.append)
    assert [str(outcome) for outcome in heard] == ["the query was given up: the node is ending"]


def test_a_process_without_its_node_ends(tmp_path: Path) -> None:
    """One whose node was killed while it waited for an answer."""
    connect(tmp_path / "some.db", SCHEMA, synchronous="OFF").close()
    process = queries._Process(tmp_path / "some.db")
    with pytest.raises(TimeoutError):
        process.ask(ONE_CALL, time.monotonic() + 0.5)
    assert process._process.wait(10) != 0
    process.close()


def test_the_names_of_columns_count_too(ask: Ask) -> None:
    name = "a" * 400_000
    outcome = ask(f'WITH t AS (SELECT 1 AS "{name}") SELECT {", ".join(["t.*"] * 100)} FROM t')
    assert isinstance(outcome, KvstoreError)
    assert "names have more than" in str(outcome)
