"""Node processes under faults: every key's history is linearizable, and no acknowledged write is lost.

KVSTORE_SEEDS=N runs N seeds instead of a few.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from consensus.simulation.linearizability import PENDING
from tests.system import register
from tests.system.register import Operation, Saw
from tests.system.router import Client, Router

SEEDS = int(os.environ.get("KVSTORE_SEEDS", "2"))
KEYS = ["x", "y", "z"]


def work(router: Router, client: Client, seed: int, stop: threading.Event) -> None:
    rng = random.Random(seed)
    number = seed * 100_000
    while not stop.is_set():
        node, key = rng.choice(router.names), rng.choice(KEYS)
        dice = rng.random()
        number += 1
        if dice < 0.5:
            client.operate(node, "read", key, patience=1)
        elif dice < 0.8:
            client.operate(node, "write", key, number, patience=1)
        else:
            seen = [op.result.value for op in client.history.get(key, []) if isinstance(op.result, Saw)]
            client.operate(node, "cas", key, next(filter(None, reversed(seen)), 0), number, patience=1)
        time.sleep(rng.uniform(0, 0.02))


def run_under(router: Router, seed: int, seconds: float, trouble: Callable[[Router, float], None]) -> list[Client]:
    """Four clients at work while ``trouble`` strikes; then everything is healed and the final values are read."""
    stop = threading.Event()
    clients = [Client(router, f"c{index}") for index in range(4)]
    threads = [
        threading.Thread(target=work, args=(router, client, seed * 10 + index, stop))
        for index, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    trouble(router, time.monotonic() + seconds)
    router.heal()
    router.start(*(name for name in router.names if name not in router.processes))
    time.sleep(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    last = Client(router, "last")
    for name in router.names:
        for key in KEYS:
            deadline = time.monotonic() + 10
            while True:
                before = len(last.history.get(key, []))
                last.operate(name, "read", key)
                read = last.history.get(key, [])[before:]
                if read and read[0].returned != PENDING:
                    break
                assert time.monotonic() < deadline, f"{name} does not serve after the faults stopped"
    return [*clients, last]


def check(clients: list[Client]) -> int:
    """Every key's history is linearizable; returns how many operations certainly happened."""
    certain = 0
    for key in KEYS:
        history: list[Operation] = [op for client in clients for op in client.history.get(key, [])]
        certain += sum(op.returned != PENDING for op in history)
        verdict = register.check(history)
        assert verdict.linearizable, f"{key}: after {verdict.longest} none of these can come next: {verdict.stuck}"
    return certain


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Router]:
    router = Router(request.param, 3, tmp_path)
    yield router
    router.close()
    unexpected = [line for line in router.errors if "Traceback" in line or "Error" in line]
    assert not unexpected, router.errors


def bad_network(router: Router, until: float) -> None:
    router.loss, router.duplication, router.delay = 0.05, 0.1, (0.0, 0.03)
    while time.monotonic() < until:
        time.sleep(0.05)


def partitions(router: Router, until: float) -> None:
    """Two-way, one-way and partial cuts in turn."""
    while time.monotonic() < until:
        a, b, c = router.random.sample(router.names, 3)
        router.partition(
            *router.random.choice(
                [
                    [(a, b), (b, a), (a, c), (c, a)],
                    [(a, b), (a, c)],
                    [(b, a), (c, a)],
                    [(a, b), (b, a)],
                ]
            )
        )
        time.sleep(router.random.uniform(0.3, 1.0))
        router.heal()
        time.sleep(router.random.uniform(0.2, 0.8))


def kills(router: Router, until: float) -> None:
    """kill -9 of one node again and again, and once of all."""
    while time.monotonic() < until:
        victim = router.random.choice(router.names)
        router.kill(victim)
        time.sleep(router.random.uniform(0.0, 0.5))
        router.start(victim)
        time.sleep(router.random.uniform(0.2, 0.8))
    for name in router.names:
        router.kill(name)


def pauses(router: Router, until: float) -> None:
    """A node that stands still longer than the election time-out and then goes on as if nothing had happened."""
    while time.monotonic() < until:
        process = router.processes[router.random.choice(router.names)]
        process.pause()
        time.sleep(router.random.uniform(0.4, 1.0))
        process.resume()
        time.sleep(router.random.uniform(0.1, 0.6))


@pytest.mark.parametrize("trouble", [bad_network, partitions, kills, pauses])
@pytest.mark.parametrize("cluster", range(SEEDS), indirect=True)
def test_histories_under_faults_are_linearizable(cluster: Router, trouble: Callable[[Router, float], None]) -> None:
    seed = cluster.random.randrange(1_000)
    assert check(run_under(cluster, seed, 2, trouble)) > 50


@pytest.mark.parametrize("cluster", [0], indirect=True)
def test_a_proposal_by_name_reaches_any_node_and_every_log_agrees(cluster: Router) -> None:
    client = Client(cluster, "c1")
    for slot, name in enumerate(["n1", "n2", "n3", "n2"], 1):
        body = {"type": "multi_paxos_propose", "slot": slot, "value": f"set k{slot}={slot}"}
        reply = client.call(name, body, 10)
        assert reply is not None
        assert (reply["type"], reply["slot"], reply["chosen"]) == ("multi_paxos_propose_ok", slot, True)
        assert reply["value"] == f"set k{slot}={slot}"
        assert reply["phase1_skipped"] == (slot > 1)
    lost = client.call("n3", {"type": "multi_paxos_propose", "slot": 2, "value": "other"}, 10)
    assert lost is not None
    assert lost["value"] == "set k2=2"
    for name in cluster.names:
        read = client.call(name, {"type": "read", "key": "k4"}, 10)
        assert read is not None
        assert read["value"] == 4
        log = client.call(name, {"type": "multi_paxos_log"}, 10)
        assert log is not None
        assert [(row["slot"], row["value"], row["status"]) for row in log["log"]] == [
            (slot, f"set k{slot}={slot}", "chosen") for slot in range(1, 5)
        ]


@pytest.mark.parametrize("cluster", [0], indirect=True)
def test_without_a_quorum_the_error_says_what_is_known(cluster: Router) -> None:
    client = Client(cluster, "c1")
    written = client.call("n1", {"type": "write", "key": "x", "value": 1}, 10)
    assert written is not None
    assert written["type"] == "write_ok"
    cluster.partition(*[(a, b) for a in cluster.names for b in cluster.names if a != b])
    time.sleep(1.0)
    bodies = ({"type": "read", "key": "x"}, {"type": "write", "key": "x", "value": 2})
    with ThreadPoolExecutor() as both:
        for reply in both.map(lambda body: Client(cluster, f"for {body['type']}").call("n2", body, 10), bodies):
            assert reply is not None
            assert (reply["type"], reply["code"]) == ("error", 11)
    cluster.heal()
    read = client.call("n2", {"type": "read", "key": "x"}, 10)
    assert read is not None
    assert read["value"] == 1, "what was refused for certain did not happen"
