"""SQL queries on threads of their own, and what they may not do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from kvstore.errors import KvstoreError
from kvstore.state import sql as queries
from kvstore.state.sql import Queries, Table
from kvstore.storage.database import Schema, connect

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
SCHEMA = Schema(migrations=(lambda database: None,))

Ask = Callable[[str, float], "Table | KvstoreError"]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    connect(tmp_path / "some.db", SCHEMA, synchronous="OFF").close()
    running = Queries(tmp_path / "some.db", SCHEMA)

    def ask(query: str, seconds: float = 30) -> Table | KvstoreError:
        answer: Future[Table | KvstoreError] = Future()
        running.start(query, seconds, answer.set_result)
        return answer.result(20)

    yield ask
    running.close()


def test_an_answer(ask: Ask) -> None:
    assert ask("SELECT 1 AS one, 'x' AS x", 30) == (["one", "x"], [(1, "x")])


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("CREATE TABLE t (x)", "only queries that read"),
        ("ATTACH 'other.db' AS other", "only queries that read"),
        ("PRAGMA journal_mode = DELETE", "only queries that read"),
        ("nonsense", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT zeroblob(100000000)", "too big"),
        (ENDLESS.format("x"), "more than 10,000 rows"),
        (ENDLESS.format("zeroblob(1000000)"), "bytes, which is the most"),
    ],
)
def test_what_is_refused(ask: Ask, query: str, why: str) -> None:
    answer = ask(query, 30)
    assert isinstance(answer, KvstoreError)
    assert why in str(answer)


def test_a_query_without_end_is_given_up(ask: Ask) -> None:
    began = time.monotonic()
    answer = ask(ENDLESS.format("count(*)"), 0.2)
    assert isinstance(answer, KvstoreError)
    assert "given up after 0.2 s" in str(answer)
    assert time.monotonic() - began < 5


def test_closing_waits_for_no_query(tmp_path: Path) -> None:
    connect(tmp_path / "some.db", SCHEMA, synchronous="OFF").close()
    running = Queries(tmp_path / "some.db", SCHEMA)
    answers: list[Table | KvstoreError] = []
    for _ in range(queries.MAX_AT_ONCE + 1):
        running.start(ENDLESS.format("count(*)"), 60, answers.append)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 5
    assert all(isinstance(answer, KvstoreError) for answer in answers)
