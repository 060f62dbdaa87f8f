"""What a request may cost is known before it is proposed: it is refused then, and nothing enters the log."""

from __future__ import annotations

import time

import pytest

from kvstore import commands
from kvstore.commands import Command, Copy, Get, Set, SetRange, Txn, Value
from kvstore.errors import CommandError, Refusal, StorageFullError
from kvstore.resp import connection, kept, transaction
from kvstore.resp.spec import InMulti, OnClient, OnServer, Spec
from kvstore.resp.table import TABLE
from kvstore.store import Reply
from tests.unit.resp_client import Client, packed
from tests.unit.test_node import new_node, run

BIG = Value(b"x" * 1_000_000)


def test_what_costs_too_much_is_not_proposed() -> None:
    node = new_node("n1")
    heard: list[Reply | Refusal] = []
    run(node, 0)
    node.execute(Set(b"big", BIG), heard.append, 9_000, size=1_000_000)
    run(node, 10)
    slots = node.applied_upto
    for command in (
        Txn([Set(b"w", BIG), *[Get(b"big")] * 100], partial=True),
        Txn([SetRange(b"s%d" % number, 1_048_575, b"x") for number in range(16_384)], partial=True),
    ):
        with pytest.raises(CommandError, match="nothing was proposed"):
            node.execute(command, heard.append, 9_000, size=30_000)
    run(node, 20)
    assert node.applied_upto == slots
    assert node.waiting == 0


def test_a_proposed_text_costs_what_the_command_in_it_costs() -> None:
    node = new_node("n1")
    node._proposals._free_bytes = lambda: 20_000_000
    heard: list[object] = []
    run(node, 0)
    node.execute(Set(b"big", BIG), heard.append, 9_000, size=1_000_000)
    run(node, 10)
    slot = node.applied_upto + 1
    growth = '"txn { ' + "; ".join(f"setrange s{number} 1048575 x" for number in range(100)) + ' }"'
    for json, reason in (
        (growth, "nothing was proposed"),
        ('"del ' + "k " * 10_000 + '"', "too long to read"),
        ('" ' + "; " * 10_000 + '"', "too long to read"),
    ):
        with pytest.raises(CommandError, match=reason):
            node.propose_at(slot, json.encode(), heard.append, 9_000)
    with pytest.raises(StorageFullError):
        for number in range(400):
            node.propose_at(slot, b'"copy big copy%d"' % number, heard.append, 9_000)
    assert node.waiting < 20
    for json in (
        '["' + "k " * 10_000 + '"]',
        "[" + "1," * 10_000 + "1]",
        '"' + "x" * 1_000_000 + '"',
        '"' + "é" * 8_000 + '"',
    ):
        slot += 1
        node._proposals._free_bytes = None
        node.propose_at(slot, json.encode(), heard.append, 9_000)


def test_the_reserve_of_the_disk_counts_what_is_changed() -> None:
    """A request of a few bytes may write a megabyte."""
    node = new_node("n1")
    node._proposals._free_bytes = lambda: 20_000_000
    heard: list[Reply | Refusal] = []
    run(node, 0)
    node.execute(Set(b"big", BIG), heard.append, 9_000, size=1_000_000)
    run(node, 10)
    with pytest.raises(StorageFullError):
        for number in range(400):
            node.execute(Copy(b"big", b"copy%d" % number), heard.append, 9_000, size=20)
            run(node, 11 + number)
    assert len(heard) < 12


@pytest.mark.parametrize(
    ("name", "sequence", "acknowledged", "since"),
    [("node:n1.1", 1, 1, 0), ("s" * 201, 1, 1, 0), ("s", 2**62 + 1, 1, 0), ("s", 1, 2**62 + 1, 0), ("s", 1, 1, 2**63)],
)
def test_a_session_that_no_client_may_use_is_refused(name: str, sequence: int, acknowledged: int, since: int) -> None:
    node = new_node("n1")
    heard: list[Reply | Refusal] = []
    with pytest.raises(CommandError):
        node.execute(
            Set(b"k", BIG), heard.append, 9, session=name, sequence=sequence, acknowledged=acknowledged, since=since
        )
    assert node.waiting == 0


def test_a_transaction_that_only_reads_is_no_entry_though_keys_are_watched() -> None:
    client = Client()
    client.ask("SET a 1")
    slots = client.node.state.applied_upto
    assert client.ask("WATCH a a", "MULTI", "GET a", "EXEC").endswith(b"*1\r\n$1\r\n1\r\n")
    assert client.node.state.applied_upto == slots
    client.ask("WATCH a")
    Client(client.node).ask("SET a 2")
    assert client.ask("MULTI", "GET a", "EXEC").endswith(b"*-1\r\n")


def test_watching_large_values_reads_none_of_them() -> None:
    client = Client()
    for number in range(80):
        client.ask(f"SET k{number} {'x' * 1_000_000}")
    keys = " ".join(f"k{number}" for number in range(80))
    assert client.ask(f"WATCH {keys}") == b"+OK\r\n"
    assert client.ask(f"MGET {keys}").startswith(b"-ERR the result would have more than 67,108,864 bytes")


TALK = [spec for spec in TABLE.values() if isinstance(spec.performer, OnClient | OnServer)]
"""What is performed at once, without the store: for what it costs nobody waits but the event loop."""


@pytest.mark.parametrize("spec", [s for s in TALK if s.in_multi is InMulti.QUEUED], ids=lambda spec: spec.name)
def test_requests_without_the_store_in_a_transaction_are_few(spec: Spec) -> None:
    """EXEC performs all of them in one turn: 16,000 times HELLO took 2.4 seconds, and INFO sixteen."""
    client = Client()
    client.ask("MULTI")
    words = [spec.name, "1", "x", "x", "x"][: max(abs(spec.arity), 2 if spec.subcommands else 1)]
    if spec.subcommands:
        words[1] = "HELP"
    told = client.ask(*[" ".join(words)] * 4)
    assert told.startswith(b"+QUEUED\r\n" * 3 + b"-ERR a transaction has at most 3 requests such as"), told
    assert client.ask("EXEC").startswith(b"-EXECABORT")


@pytest.mark.parametrize("spec", TABLE.values(), ids=lambda spec: spec.name)
def test_only_keys_may_be_many(spec: Spec) -> None:
    """CONFIG GET with 16,000 patterns took 24 seconds in one turn, and SET with a million options forty."""
    number = 66_000 if spec.keys[1] < 0 else 300
    asked = [next(iter(spec.subcommands))] if spec.subcommands else []
    told = Client().ask(" ".join([spec.name, *asked, *["NX"] * number]))
    assert b"arguments for" in told, told


def test_patterns_for_names_are_short() -> None:
    pattern = "[^b]" * 65
    for request in (f"CONFIG GET {pattern}", f"COMMAND LIST FILTERBY PATTERN {pattern}"):
        assert Client().ask(request) == b"-ERR the patterns have 260 bytes, at most 256 are allowed\r\n"


def test_slow_requests_in_a_transaction_are_few() -> None:
    client = Client()
    client.ask("MULTI")
    assert b"-ERR a transaction has at most 16 of LCS" in client.ask(*["LCS a b IDX"] * 17)
    assert client.ask("EXEC").startswith(b"-EXECABORT")


@pytest.mark.parametrize(
    "requests",
    [
        ["MULTI", "MGET " + "k " * 16_000 + "k", "EXEC"],
        ["EXISTS " + "k " * 60_000 + "k"],
        ["WATCH " + "k " * 16_000 + "k"],
        ["MSET" + " k 1" * 32_000],
    ],
    ids=lambda requests: requests[-1].split()[0],
)
@pytest.mark.parametrize("before", ["SET a 1", "GET a"])
def test_a_large_request_that_waits_is_weighed_once(
    requests: list[str], before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was weighed anew for each answer before it: EXEC of a large MGET behind 240 SETs took 410 ms of a turn."""
    weighed: list[int] = []

    def bytes_of(request: list[bytes]) -> int:
        weighed.append(len(request))
        return kept.bytes_of(request)

    client = Client()
    monkeypatch.setattr(connection, "bytes_of", bytes_of)
    client.connection._expected = 0  # so that all before it are under way
    client.connection.received(packed(before) * 240)
    client.connection.received(b"".join(map(packed, requests)))
    assert len(client.node.waiting) == 240
    began = time.process_time()
    client.turn()
    assert time.process_time() - began < 2  # it took fifteen seconds when not compiled
    assert weighed.count(requests[-1].count(" ") + 1) <= 1 or len(requests) > 1


def test_a_transaction_is_weighed_as_it_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def is_read_only(command: Command) -> bool:
        nonlocal looked
        looked += 1
        return commands.is_read_only(command)

    monkeypatch.setattr(transaction, "is_read_only", is_read_only)
    client = Client()
    client.connection._expected = 0
    client.connection.received(packed("SET a 1") * 240)
    client.connection.received(packed("MULTI") + packed("MGET " + "k " * 99 + "k") + packed("EXEC"))
    client.turn()
    assert looked <= 200 and client.said.endswith(b"*100\r\n" + b"$-1\r\n" * 100)


def test_what_is_queued_counts_as_what_is_made_of_it() -> None:
    """MGET of 65,535 keys of a byte took 6 MB and counted for 66 KB, and only EXEC refused it."""
    client = Client()
    client.ask("MULTI")
    assert client.ask("MGET" + " k" * 16_000) == b"+QUEUED\r\n"
    assert client.connection.held > 1_500_000
    assert client.ask("MGET" + " k" * 385).startswith(b"-ERR a transaction has at most 16,384 commands")
    assert client.connection.held == 0 and client.ask("EXEC").startswith(b"-EXECABORT")
    client.ask("MULTI")
    assert client.ask("MGET" + " k" * 16_384) == b"+QUEUED\r\n"
    assert client.ask("EXEC").startswith(b"*1\r\n*16384\r\n")
    for request in ("EXISTS" + " k" * 60_000, "MSET" + " k 1" * 30_000):
        client.ask("MULTI")
        assert client.ask(request, request) == b"+QUEUED\r\n" * 2
        assert client.connection.held > 12_000_000
        assert client.ask(request).startswith(b"-ERR a transaction has at most 131,072 arguments in all")
        assert client.ask("EXEC").startswith(b"-EXECABORT")


def test_whether_a_transaction_writes_is_forgotten_with_it() -> None:
    client = Client()
    for ends in ("DISCARD", "RESET", "EXEC"):
        client.ask("MULTI", "SET a 1", ends)
        slots = client.node.state.applied_upto
        assert client.ask("MULTI", "GET a", "EXEC").startswith(b"+OK\r\n+QUEUED\r\n*1\r\n")
        assert client.node.state.applied_upto == slots, "it only reads"
