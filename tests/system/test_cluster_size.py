"""A cluster has one to seven nodes; a larger one is refused by whatever starts it, before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.node.hosting import open_node
from kvstore.storage.data_dir import DataDir
from tests.unit.test_settings import given

NAMES = [f"n{number}" for number in range(1, 9)]
"""Eight: one too many. The bound is not imported, so that this notices when it changes."""


def refused(*arguments: str) -> str:
    """What is said to wrong usage; a command that is not refused ends with the time limit."""
    done = subprocess.run([sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    return done.stderr


def members(names: list[str]) -> str:
    return ",".join(f"{name}=127.0.0.1:{7_401 + index}" for index, name in enumerate(names))


def test_serve_refuses_eight_nodes_and_writes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    error = refused("serve", "--node-id", "n1", "--data-dir", str(data), "--initial-cluster", members(NAMES))
    assert "--initial-cluster: 8 nodes are named, at most 7 are allowed: leave some out" in error
    assert not data.exists()


def test_serve_takes_seven() -> None:
    assert len(given(initial_cluster=members(NAMES[:7])).peers) == 7


def test_cluster_refuses_eight_nodes_and_writes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    error = refused("cluster", "--nodes", "8", "--data-dir", str(data))
    assert "--nodes must be at most 7, not 8: start a smaller cluster" in error
    assert not data.exists()


@pytest.mark.parametrize(("count", "answer"), [(7, "init_ok"), (8, "error")])
def test_a_node_on_standard_input_is_told_so_when_it_is_initialised(tmp_path: Path, count: int, answer: str) -> None:
    data = tmp_path / "data"
    init = {"type": "init", "msg_id": 1, "node_id": "n1", "node_ids": NAMES[:count]}
    line = json.dumps({"src": "c0", "dest": "n1", "body": init}).encode() + b"\n"
    command = [sys.executable, "-m", "cli", "node", "--data-dir", str(data)]
    done = subprocess.run(command, input=line, capture_output=True, timeout=20)
    body = json.loads(done.stdout.splitlines()[0])["body"]
    assert body["type"] == answer
    if answer == "error":
        assert body["code"] == 12
        assert body["text"] == "init: node_ids must name 1 to 7 nodes, not 8: initialise a smaller cluster"
        assert not data.exists()
    assert done.returncode == 0


def test_no_store_is_opened_for_eight_nodes(tmp_path: Path) -> None:
    with DataDir.open(tmp_path / "data", "test") as data_dir, pytest.raises(ValueError, match="1 to 7 nodes, not 8"):
        open_node("n1", NAMES, data_dir)
    assert not (tmp_path / "data" / "log.db").exists()
