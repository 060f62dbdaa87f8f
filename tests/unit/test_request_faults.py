"""A fault of ours in one request costs that request an error and a line of the log; the node goes on."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import pytest

from consensus.invariants import InvariantViolation
from kvstore.commands import Get, SimpleResult, Walk
from kvstore.node import faults
from kvstore.node import node as nodes
from kvstore.resp import errors, hub
from kvstore.resp.shares import Shares
from kvstore.resp.spec import Compiled, OnClient, OnData, OnNode, OnServer, OnTransaction, OnWalk
from kvstore.resp.table import TABLE
from kvstore.server.main import ClientProtocol
from kvstore.server.readers import Readers
from tests.unit.resp_client import Client, Node, packed
from tests.unit.test_node import new_node, run

ARGUMENTS = {"client": "client list", "config": "config get x", "hello": "hello", "reset": "reset", "quit": "quit"}


def fault(*_: object, **__: object) -> NoReturn:
    raise ZeroDivisionError("planted")


def broken(*_: object, **__: object) -> NoReturn:
    raise InvariantViolation("planted")


def render(results: Sequence[SimpleResult]) -> NoReturn:
    fault()


def request(name: str) -> str:
    return ARGUMENTS.get(name) or " ".join([name] + ["1"] * (abs(TABLE[name.encode()].arity) - 1))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults.log, "_told", {})


PERFORMED = [name.decode() for name, spec in TABLE.items() if not isinstance(spec.performer, OnTransaction)]
"""All commands but those that the client's transaction performs."""


@pytest.mark.parametrize("name", PERFORMED)
@pytest.mark.parametrize("where", ["at once", "while its reply is made"])
def test_any_command_may_fail(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = TABLE[name.encode()]
    performer = spec.performer
    assert not isinstance(performer, OnTransaction)
    later = where != "at once"
    if isinstance(performer, OnData | OnWalk):
        kind = type(performer)
        performer = kind(lambda *_: Compiled([Get(b"k")], render)) if later else kind(fault)
    elif isinstance(performer, OnNode):
        performer = OnNode(fault, later)
    elif later:  # a value that no reply can be made of
        performer = type(performer)(lambda *_: object())  # type: ignore[arg-type, return-value]
    else:
        performer = OnClient(fault) if isinstance(performer, OnClient) else OnServer(fault)
    monkeypatch.setitem(TABLE, name.encode(), spec._replace(performer=performer, subcommands=None))
    client = Client()
    said = client.ask(request(name), "ping on" if name == "echo" else "echo on")
    assert said.startswith(b"-UNKNOWN this node could not finish the request (")
    assert said.endswith(b"$2\r\non\r\n")
    assert [record.getMessage() for record in caplog.records] == ["request_failed"]
    assert "planted" in str(vars(caplog.records[0])["fields"]) or later
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize("request_text", ["set k v", "SET k v", "GET k", "watch k", "info", "kv.status", "kv.log 1"])
def test_the_node_behind_it_may_fail(request_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("execute", "query", "status", "log"):
        monkeypatch.setattr(Node, method, fault)
    client = Client()
    assert client.ask(request_text, "echo on").startswith(b"-UNKNOWN this node could not finish")
    assert client.said.endswith(b"$2\r\non\r\n")


def test_within_a_transaction_one_reply_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TABLE[b"strlen"]
    monkeypatch.setitem(
        TABLE, b"strlen", spec._replace(performer=OnData(lambda arguments: Compiled([Get(arguments[1])], render)))
    )
    client = Client()
    client.ask("set k v", "multi", "get k", "strlen k", "get k")
    before, _, after = client.ask("exec").partition(b"-UNKNOWN")
    assert (before, after.endswith(b"\r\n$1\r\nv\r\n")) == (b"*3\r\n$1\r\nv\r\n", True)


def test_a_fault_of_a_subcommand_in_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.Client, "describe", fault)
    client = Client()
    client.ask("multi", "client info")
    assert client.ask("exec", "echo on").startswith(b"*1\r\n-UNKNOWN this node could not finish")
    assert client.said.endswith(b"$2\r\non\r\n")


def test_one_fault_is_logged_once_in_a_while(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(hub.Client, "describe", fault)
    Client().ask(*["client info"] * 100)
    assert len(caplog.records) == 1


def test_a_broken_invariant_ends_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "query", broken)
    client = Client()
    with pytest.raises(InvariantViolation):
        client.ask("strlen k")
    with pytest.raises(InvariantViolation):
        client.ask("GET k")


def test_a_read_may_fail_in_the_store() -> None:
    node = new_node("n1")
    run(node, 1_000)
    heard: list[object] = []
    node.query(Walk(b"", 0, b"*", -1), heard.append, 5_000)  # of a number that no client can name
    run(node, 1_001)
    node.query(Get(b"k"), heard.append, 5_000)
    run(node, 1_002)
    assert [type(outcome).__name__ for outcome in heard] == ["RequestFailedError", "Reply"]


def test_the_node_on_standard_input_goes_on() -> None:
    program = (
        "import sys; from kvstore.maelstrom import wire, host\n"
        "def fault(*_): raise ZeroDivisionError('planted')\n"
        "wire.value_json = wire.log_field = fault\n"
        "sys.exit(host.run(None))"
    )
    bodies: list[dict[str, object]] = [
        {"type": "init", "node_id": "n1", "node_ids": ["n1"]},
        {"type": "write", "key": "k", "value": 1},
        {"type": "read", "key": "k"},
        {"type": "multi_paxos_log"},
        {"type": "echo", "echo": "on"},
    ]
    lines = [
        json.dumps({"src": "c1", "dest": "n1", "body": {**body, "msg_id": number}})
        for number, body in enumerate(bodies, 1)
    ]
    done = subprocess.run(
        [sys.executable, "-c", program], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=30
    )
    replies = [json.loads(line)["body"] for line in done.stdout.splitlines()]
    assert [reply["type"] for reply in replies] == ["init_ok", "write_ok", "error", "error", "echo_ok"]
    assert "could not finish" in replies[2]["text"]
    assert "request_failed" in done.stderr
    assert done.returncode == 0


def test_the_names_that_these_tests_patch() -> None:
    assert errors.failed is faults.failed is nodes.failed


class FaultyConnection:
    """Fails whatever it is told."""

    def __init__(self) -> None:
        self.given_up: list[Exception] = []

    received = writable = fault

    def give_up(self, error: Exception) -> None:
        self.given_up.append(error)


def test_what_fails_outside_a_request_costs_its_client_the_connection_and_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = FaultyConnection()
    protocol = ClientProtocol(Node(), hub.Hub(), {}, Readers(Shares(), [].append))  # type: ignore[arg-type]
    protocol._connection = connection  # type: ignore[assignment]
    protocol.data_received(b"x")
    protocol.resume_writing()
    assert [type(error) for error in connection.given_up] == [ZeroDivisionError, ZeroDivisionError]
    client = Client()
    client.connection.give_up(ZeroDivisionError("planted"))
    assert client.closed and [record.getMessage() for record in caplog.records] == ["request_failed"]
    with pytest.raises(InvariantViolation):
        client.connection.give_up(InvariantViolation("planted"))


def test_whoever_fails_in_a_later_turn_leaves_the_others_theirs(caplog: pytest.LogCaptureFixture) -> None:
    loop: list[Callable[[], None]] = []
    shares = Shares(loop.append)
    failing, other = Client(hub=hub.Hub(shares=shares)), Client(hub=hub.Hub(shares=shares))
    shares.spent = 1.0
    for client in (failing, other):
        client.connection.received(packed("PING"))
    failing.connection._unread = [1]  # type: ignore[list-item]
    while loop:
        loop.pop(0)()
    assert failing.closed and not other.closed and other.said == b"+PONG\r\n"
    assert {record.getMessage() for record in caplog.records} == {"request_failed"}
