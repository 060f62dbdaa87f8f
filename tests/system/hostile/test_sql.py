"""Queries that never end: they take nothing from anybody else, neither at once nor when the node is to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import redis

from tests.system.servers import HOST, Servers, running

ENDLESS = "SELECT instr(hex(zeroblob(10000000)), hex(zeroblob(5000000)) || '1')"
COMMAND = [sys.executable, "-m", "cli"]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Servers]:
    with running(tmp_path, 1, ["--request-timeout", "2"]) as servers:
        yield servers


def ask(servers: Servers, heard: list[str]) -> None:
    with servers.client("n1") as client:
        try:
            client.execute_command("KV.SQL", ENDLESS)
        except redis.RedisError as error:
            heard.append(str(error))


def test_queries_without_end(server: Servers) -> None:
    heard: list[str] = []
    askers = [Thread(target=ask, args=(server, heard)) for _ in range(4)]
    for asker in askers:
        asker.start()
    worst = 0.0
    with server.client("n1") as client:
        while any(asker.is_alive() for asker in askers):
            began = time.monotonic()
            client.set("k", "v")
            worst = max(worst, time.monotonic() - began)
        assert len(heard) == 4
        assert all("given up after 2 s" in text for text in heard)
        assert worst < 1
        assert client.execute_command("KV.SQL", "SELECT 1") == [[b"1"], [1]]


def test_a_node_ends_in_spite_of_them(server: Servers) -> None:
    heard: list[str] = []
    asker = Thread(target=ask, args=(server, heard))
    asker.start()
    time.sleep(1)
    began = time.monotonic()
    assert server.stop("n1") == 0
    assert time.monotonic() - began < 10
    asker.join()


@pytest.mark.parametrize("where", ["embedded", "connected"])
def test_ctrl_c_ends_a_query(tmp_path: Path, where: str) -> None:
    with running(tmp_path, 1, ["--request-timeout", "60"]) as servers:
        at = ["--data-dir", str(tmp_path / "n1")]
        if where == "connected":
            at = ["--connect", f"{HOST}:{servers.ports['n1']}"]
        process = subprocess.Popen([*COMMAND, "sql", ENDLESS, *at], cwd=ROOT, stderr=subprocess.PIPE)
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=5)
        assert process.returncode in (-signal.SIGINT, 130)
        assert said == b""
        began = time.monotonic()
        assert servers.stop("n1") == 0
        assert time.monotonic() - began < 10
