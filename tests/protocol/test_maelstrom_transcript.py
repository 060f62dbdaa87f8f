"""What Maelstrom sends and expects, against real processes: nodes from n0 on, an init of each, ids in every message,
clients with names of their own, errors, and nodes that are killed and started again.

Maelstrom itself needs a Java machine and is not part of these tests; its protocol:
https://github.com/jepsen-io/maelstrom/blob/main/doc/protocol.md
"""

from __future__ import annotations

import json
import queue
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.system.router import Process

NAMES = ["n0", "n1", "n2"]
PATIENCE = 30
"""In seconds: far more than any reply takes."""
Message = dict[str, Any]


class UnknownError(Exception):
    """A request timed out."""


class Maelstrom:
    """Starts the nodes, and passes on what they say: to each other at once, to clients into a queue each.

    It adds an ``id`` to every message, as Maelstrom does.
    """

    def __init__(self, directory: Path) -> None:
        self.nodes: dict[str, Process] = {}
        self.printed: defaultdict[str, list[Message]] = defaultdict(list)
        """What each node has said since it was started last."""
        self._directory = directory
        self._lock = threading.RLock()
        self._inboxes: defaultdict[str, queue.Queue[Message]] = defaultdict(queue.Queue)
        self._ids = self._clients = 0
        self._numbers: defaultdict[str, int] = defaultdict(int)

    def start(self, name: str) -> None:
        """Start a process, not yet initialised."""
        self.printed[name] = []
        process = Process(name, self._directory / name, self._route)
        with self._lock:
            self.nodes[name] = process

    def init(self, name: str) -> Message:
        """Initialise a node, and wait for its reply, which is returned."""
        return self.ask(self.new_client(), name, type="init", node_id=name, node_ids=NAMES)

    def kill(self, name: str) -> None:
        with self._lock:
            process = self.nodes.pop(name)
        process.stop(signal.SIGKILL)

    def close(self) -> None:
        with self._lock:
            processes, self.nodes = list(self.nodes.values()), {}
        for process in processes:
            process.stop(signal.SIGKILL)

    def new_client(self) -> str:
        """c0, c1 and so on: a name is never used again."""
        self._clients += 1
        return f"c{self._clients - 1}"

    def tell(self, client: str, node: str, **body: object) -> int:
        """Send a request; returns its number. Each client counts from 1."""
        self._numbers[client] += 1
        self._send({"src": client, "dest": node, "body": {**body, "msg_id": self._numbers[client]}})
        return self._numbers[client]

    def hear(self, client: str) -> Message:
        return self._inboxes[client].get(timeout=PATIENCE)

    def heard_nothing(self, client: str) -> bool:
        return self._inboxes[client].empty()

    def ask(self, client: str, node: str, **body: object) -> Message:
        """A request and its reply, whose envelope is checked."""
        number = self.tell(client, node, **body)
        reply = self.hear(client)
        assert (reply["src"], reply["dest"]) == (node, client)
        assert reply["body"]["in_reply_to"] == number
        assert isinstance(reply["body"]["msg_id"], int)
        return reply

    def body(self, client: str, node: str, **body: object) -> Message:
        """What a reply says, without its numbers and the text of an error. What certainly did not happen is repeated.

        Raises UnknownError if nobody knows: on a machine that stands still for seconds a request may time out.
        """
        while (reply := self.ask(client, node, **body)["body"]).get("code") == 11:
            time.sleep(0.01)
        if reply.get("code") == 0:
            raise UnknownError
        return {name: value for name, value in reply.items() if name not in ("in_reply_to", "msg_id", "text")}

    def served(self, node: str, **body: object) -> Message:
        """The reply to a request that is made again, by another client each time, while there is no leader."""
        while True:
            with suppress(UnknownError):
                return self.body(self.new_client(), node, **body)

    def _send(self, message: Message) -> None:
        with self._lock:
            self._ids += 1
            node = self.nodes.get(message["dest"])
            if node is not None:
                node.send(json.dumps({"id": self._ids, **message}))

    def _route(self, sender: str, line: str) -> None:
        message = json.loads(line)
        self.printed[sender].append(message)
        if message["dest"] in NAMES:
            self._send(message)
        else:
            self._inboxes[message["dest"]].put(message)


@pytest.fixture
def maelstrom(tmp_path: Path) -> Iterator[Maelstrom]:
    cluster = Maelstrom(tmp_path)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def ready(maelstrom: Maelstrom) -> Maelstrom:
    """A cluster that serves."""
    for name in NAMES:
        maelstrom.start(name)
    for name in NAMES:
        maelstrom.init(name)
    for name in NAMES:
        assert maelstrom.served(name, type="read", key="nobody")["code"] == 20
    return maelstrom


def test_each_node_says_init_ok_before_anything_else(maelstrom: Maelstrom) -> None:
    """Those that were initialised first speak to the others at once, which know nothing of anybody yet."""
    for name in NAMES:
        maelstrom.start(name)
    for number, name in enumerate(NAMES):
        assert maelstrom.init(name)["body"] == {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}
        first = maelstrom.printed[name][0]
        assert (first["src"], first["dest"], first["body"]["type"]) == (name, f"c{number}", "init_ok")
    assert maelstrom.served("n2", type="write", key=0, value=1) == {"type": "write_ok"}


def once_known(speak: Callable[[int], None]) -> None:
    """Have a conversation about keys from this number on; another one about others if a request of it timed out."""
    for first in count(0, 10):
        with suppress(UnknownError):
            speak(first)
            return


def test_lin_kv(ready: Maelstrom) -> None:
    """Each client has a node of its own."""
    once_known(lambda key: speak_lin_kv(ready, key, key + 1))


def speak_lin_kv(ready: Maelstrom, key: int, other: int) -> None:
    clients = [ready.new_client() for _ in NAMES]
    spoken = [
        (0, {"type": "read", "key": key}, {"type": "error", "code": 20}),
        (1, {"type": "write", "key": key, "value": 3}, {"type": "write_ok"}),
        (2, {"type": "read", "key": key}, {"type": "read_ok", "value": 3}),
        (0, {"type": "cas", "key": key, "from": 3, "to": 4}, {"type": "cas_ok"}),
        (1, {"type": "cas", "key": key, "from": 3, "to": 1}, {"type": "error", "code": 22}),
        (2, {"type": "cas", "key": other, "from": 0, "to": 2}, {"type": "error", "code": 20}),
        (0, {"type": "read", "key": other}, {"type": "error", "code": 20}),
        (1, {"type": "read", "key": key}, {"type": "read_ok", "value": 4}),
    ]
    for index, request, expected in spoken:
        assert ready.body(clients[index], NAMES[index], **request) == expected


def test_transactions_of_list_append_and_of_rw_register(ready: Maelstrom) -> None:
    once_known(lambda key: speak_transactions(ready, key, key + 1))


def speak_transactions(ready: Maelstrom, key: int, register: int) -> None:
    client, other = ready.new_client(), ready.new_client()
    txn = [["r", key, None], ["append", key, 1], ["append", key, 2], ["r", key, None]]
    done = [["r", key, None], ["append", key, 1], ["append", key, 2], ["r", key, [1, 2]]]
    assert ready.body(client, "n0", type="txn", txn=txn) == {"type": "txn_ok", "txn": done}
    txn = [["w", register, 5], ["r", register, None], ["w", register, 6]]
    done = [["w", register, 5], ["r", register, 5], ["w", register, 6]]
    assert ready.body(other, "n1", type="txn", txn=txn) == {"type": "txn_ok", "txn": done}
    assert ready.body(other, "n2", type="txn", txn=[["r", register, None], ["r", key, None]]) == {
        "type": "txn_ok",
        "txn": [["r", register, 6], ["r", key, [1, 2]]],
    }


def test_errors_have_the_codes_of_maelstrom(ready: Maelstrom) -> None:
    client = ready.new_client()
    assert ready.body(client, "n0", type="topology", topology={}) == {"type": "error", "code": 10}
    assert ready.body(client, "n0", type="read") == {"type": "error", "code": 12}
    assert ready.body(client, "n0", type="cas", key=0, to=1) == {"type": "error", "code": 12}
    again = {"type": "init", "node_id": "n1", "node_ids": NAMES}
    assert ready.body(client, "n0", **again) == {"type": "error", "code": 12}
    assert ready.body(client, "n0", type="echo", echo="still there") == {"type": "echo_ok", "echo": "still there"}


def test_a_node_that_is_not_initialised_serves_nobody(maelstrom: Maelstrom) -> None:
    maelstrom.start("n0")
    assert maelstrom.ask(maelstrom.new_client(), "n0", type="read", key=0)["body"]["code"] == 11


def test_a_node_that_is_killed_and_started_again_knows_what_it_said(ready: Maelstrom) -> None:
    """It is initialised by another client, and counts its messages from 0 again."""
    client = ready.new_client()
    for number, node in enumerate(NAMES, 1):
        ready.kill(node)
        survivor = NAMES[number % 3]
        assert ready.served(survivor, type="write", key=0, value=number) == {"type": "write_ok"}
        ready.start(node)
        assert ready.init(node)["body"] == {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}
        assert ready.served(node, type="read", key=0) == {"type": "read_ok", "value": number}
    for node in NAMES:
        ready.kill(node)
    for node in NAMES:
        ready.start(node)
    for node in NAMES:
        ready.init(node)
    assert ready.served("n0", type="read", key=0) == {"type": "read_ok", "value": 3}
    assert ready.heard_nothing(client)


def test_who_times_out_goes_on_under_another_name_and_hears_nothing_of_the_old_one(ready: Maelstrom) -> None:
    ready.kill("n1")
    ready.kill("n2")
    lost, patient = ready.new_client(), ready.new_client()
    ready.tell(lost, "n0", type="write", key=7, value=1)  # nobody waits for its answer
    assert ready.ask(patient, "n0", type="write", key=7, value=2)["body"]["code"] in (0, 11)
    for name in ("n1", "n2"):
        ready.start(name)
        ready.init(name)
    successor = ready.new_client()
    assert ready.served("n0", type="write", key=8, value=0) == {"type": "write_ok"}
    ready.ask(successor, "n0", type="read", key=7)
    assert ready.hear(lost)["body"]["in_reply_to"] == 1
    for client in (lost, patient, successor):
        assert ready.heard_nothing(client), "each request has one answer"


def test_many_clients_with_the_same_numbers_get_their_own_answers(ready: Maelstrom) -> None:
    clients = [ready.new_client() for _ in range(30)]
    for index, client in enumerate(clients):
        ready.tell(client, NAMES[index % 3], type="write", key=100 + index, value=index)
        ready.tell(client, NAMES[index % 3], type="read", key=100 + index)
    for index, client in enumerate(clients):
        written, read = ready.hear(client)["body"], ready.hear(client)["body"]
        assert (written["in_reply_to"], read["in_reply_to"]) == (1, 2)
        if written.get("code") not in (0, 11) and read.get("code") not in (0, 11):
            assert (written["type"], read["type"], read.get("value")) == ("write_ok", "read_ok", index)
