"""What the judge of client programs accepts, and what it calls a violation."""

from __future__ import annotations

from collections import Counter

import pytest

from consensus.simulation.violation import Violation
from kvstore.commands import Append, Command, Entry, Incr, Set, Txn, Value
from kvstore.simulated.oracle import Oracle
from kvstore.whole.promises import OWN, Ask, Promises
from kvstore.whole.replies import NodeError, ReplyReader, ReplyValue

KEY, COUNTER = OWN + b"list", OWN + b"count"
UNKNOWN, DOWN = NodeError("UNKNOWN it took too long"), NodeError("CLUSTERDOWN no quorum")


class Run:
    """Asks, answers, and a log; each of them in the order of the calls."""

    def __init__(self) -> None:
        counts: Counter[str] = Counter()
        self._oracle = Oracle(counts, 1)
        self.promises = Promises(counts, self._oracle)
        self._slot = 0

    def ask(self, ask: Ask, reply: ReplyValue, line: int = 1) -> Ask:
        self.call(ask, line)
        assert self.promises.answer(ask, reply) == ""
        return ask

    def call(self, ask: Ask, line: int = 1) -> Ask:
        self.promises.call(ask, line)
        return ask

    def log(self, *commands: Command) -> None:
        for command in commands:
            self._slot += 1
            entry = Entry("", 0, 0, 0, command)
            _, outcome = self._oracle.replay(self._slot, entry)
            self.promises.executed(self._slot, entry, outcome, self._oracle.model.cells)

    def broken(self) -> str:
        with pytest.raises(Violation) as found:
            self.promises.judge()
        return found.value.rule


def append(tag: bytes) -> Ask:
    return Ask(("APPEND", KEY, tag + b";"), "write", tag)


def read(kind: str = "read") -> Ask:
    return Ask(("GET", KEY), "local" if kind == "local" else "read", keys=(KEY,))


def increment() -> Ask:
    return Ask(("INCR", COUNTER), "count", keys=(COUNTER,))


A, B = Append(KEY, b"a;"), Append(KEY, b"b;")


def test_what_the_log_explains_is_no_violation() -> None:
    run = Run()
    run.ask(append(b"a"), 2)
    run.ask(append(b"b"), UNKNOWN)
    run.ask(read(), b"a;")
    run.ask(append(b"c"), DOWN)
    run.ask(read("local"), None, line=2)  # a node that is behind
    run.ask(read("local"), b"a;", line=2)
    run.ask(increment(), 1)
    run.ask(increment(), UNKNOWN)
    run.log(A, Incr(COUNTER), B, Incr(COUNTER))
    run.promises.judge()


def test_a_lost_write() -> None:
    run = Run()
    run.ask(append(b"a"), 2)
    assert run.broken() == "nothing acknowledged is lost"


def test_a_write_that_is_executed_twice() -> None:
    run = Run()
    run.call(append(b"a"))
    run.log(A, A)
    assert run.broken() == "what a client asks for once happens once"


@pytest.mark.parametrize("ask", [append(b"a"), Ask(("EXEC",), "write", b"a", never=True)])
def test_a_refused_write_that_is_executed(ask: Ask) -> None:
    run = Run()
    run.ask(ask, DOWN)
    run.log(A)
    assert run.broken() == "what was refused for certain does not happen"


def test_a_wrong_reply() -> None:
    run = Run()
    run.ask(append(b"a"), 4)
    run.log(A)
    assert run.broken() == "what is told is what happened"


def test_writes_of_one_connection_out_of_order() -> None:
    run = Run()
    first, second = run.call(append(b"a")), run.call(append(b"b"))
    run.promises.answer(first, 4)
    run.promises.answer(second, 2)
    run.log(B, A)
    assert run.broken() == "a write takes place after all that was answered before"


@pytest.mark.parametrize("line", [1, 2])
def test_a_stale_read(line: int) -> None:
    run = Run()
    run.ask(append(b"a"), 2)
    run.ask(read(), None, line=line)
    run.log(A)
    assert run.broken() == "a read shows no less than was seen before, and only what was chosen"


def test_a_local_read_that_goes_back() -> None:
    run = Run()
    run.ask(append(b"a"), 2)
    run.ask(read("local"), b"a;", line=2)
    run.ask(read("local"), None, line=2)
    run.log(A)
    assert run.broken() == "a read shows no less than was seen before, and only what was chosen"


def test_a_local_read_of_what_was_not_chosen() -> None:
    run = Run()
    run.ask(read("local"), b"b;")
    run.log(A)
    assert run.broken() == "a read shows no less than was seen before, and only what was chosen"


def test_a_counter_that_counts_too_often() -> None:
    run = Run()
    run.ask(increment(), 2)
    run.log(Incr(COUNTER), Incr(COUNTER))
    assert run.broken() == "a counter counts no request twice"


def test_a_counter_that_says_the_same_twice() -> None:
    run = Run()
    run.ask(increment(), 1)
    run.ask(increment(), 1)
    run.log(Incr(COUNTER), Incr(COUNTER))
    assert run.broken() == "a counter counts every acknowledged request once"


def test_a_transaction_that_saw_a_change_go_by() -> None:
    run = Run()
    run.ask(Ask(("EXEC",), "write", b"a", shows={KEY: None}), [b"OK"])
    run.log(B, Txn([Set(KEY, Value(b"1:a"))]))
    assert run.broken() == "a transaction whose watched keys have changed does nothing"


def test_a_session_out_of_order() -> None:
    run = Run()
    for number, tag in enumerate((b"a", b"b"), 1):
        run.call(Ask(("KV.EXECUTE",), "write", tag, session=("s", number)))
    run.log(B, A)
    assert run.broken() == "a client's requests are executed in the order of their sequences"


def test_a_session_that_was_executed_less_far_than_is_told() -> None:
    run = Run()
    run.call(Ask(("KV.EXECUTE",), "write", b"a", session=("s", 1)))
    run.promises.told_upto.append(("s", 1))
    assert run.broken() == "a session was executed as far as a node says"


@pytest.mark.parametrize(
    ("ask", "reply"),
    [
        (Ask(("PING", b"x"), expected=(b"x",)), b"y"),
        (Ask(("PING", b"x"), expected=(b"x",)), NodeError("x")),
        (Ask(("MULTI",), expected=(b"OK",)), UNKNOWN),
        (append(b"a"), NodeError("ERR something else")),
        (Ask(("AUTH", "x"), expected=(NodeError("WRONGPASS"),)), NodeError("ERR no")),
    ],
)
def test_a_reply_that_nobody_foresaw(ask: Ask, reply: ReplyValue) -> None:
    promises = Run().promises
    promises.call(ask, 1)
    assert "is answered" in promises.answer(ask, reply)


def test_replies_of_version_3_are_read_as_those_of_version_2() -> None:
    reader = ReplyReader()
    reader.feed(b"_\r\n%1\r\n$1\r\na\r\n*2\r\n:1\r\n_\r\n~1\r\n+x\r\n%1\r\n")
    assert [reader.take() for _ in range(4)] == [(None,), ([b"a", [1, None]],), ([b"x"],), None]


def test_a_transaction_after_a_watch_that_was_refused() -> None:
    run = Run()
    run.ask(Ask(("WATCH", KEY), "watch", keys=(KEY,)), DOWN)
    aborted = Ask(("EXEC",), "write", b"a")
    run.ask(aborted, NodeError("EXECABORT because of a WATCH"))
    run.ask(Ask(("EXEC",), "read", keys=(KEY,)), [])
    run.ask(Ask(("WATCH", KEY), "watch", keys=(KEY,)), DOWN)
    run.ask(Ask(("UNWATCH",)), b"OK")
    run.ask(Ask(("EXEC",), "read", keys=(KEY,)), [])
    run.ask(Ask(("WATCH", KEY), "watch", keys=(KEY,)), DOWN)
    run.ask(Ask(("WATCH", KEY), "watch", keys=(KEY,)), b"OK")
    executed = run.call(Ask(("EXEC",), "write", b"b"))
    assert "a WATCH that was refused" in run.promises.answer(executed, [b"OK"])
    assert aborted.refused
