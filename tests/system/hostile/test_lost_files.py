"""Files of a node that are gone after kill -9: it refuses to start, and never starts empty (case C2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.hostile.harness import healthy_clients, say
from tests.system.servers import eventually, running

WRITES = [("SET", f"k{number}", "v" * 100) for number in range(3_000)]


def without_wal(store: Path) -> None:
    (store / "log.db-wal").unlink()


def with_empty_wal(store: Path) -> None:
    (store / "log.db-wal").write_bytes(b"")


def with_half_a_header(store: Path) -> None:
    wal = store / "log.db-wal"
    wal.write_bytes(wal.read_bytes()[:31])


def without_log(store: Path) -> None:
    for path in store.glob("log.db*"):
        path.unlink()


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_node_that_lost_a_file_says_so(tmp_path: Path, nodes: int) -> None:
    with running(tmp_path, nodes) as servers:
        last = servers.names[-1]
        assert set(say(servers, servers.names[0], *WRITES, seconds=60)) == {b"OK"}
        eventually(lambda: int(servers.status(last).get("applied_upto", 0)) >= 3_000, "all is applied", 60)
        servers.kill(last)
        store = tmp_path / last
        copies = {path: path.read_bytes() for path in store.iterdir() if path.is_file()}
        for damage in (without_wal, with_empty_wal, with_half_a_header, without_log):
            damage(store)
            before = len(servers.log(last))
            servers.start(last)
            assert servers.wait_for_exit(last) not in (0, 1), (damage, servers.log(last)[-2_000:])
            said = servers.log(last)[before:]
            assert "log.db" in said, damage
            assert "Traceback" not in said, damage
            for path in store.iterdir():
                if path not in copies:
                    path.unlink()
            for path, content in copies.items():
                path.write_bytes(content)
        servers.start(last)
        servers.wait_until_serving()
        with healthy_clients(servers, 5.0):
            assert say(servers, last, ("GET", "k2999"))[0] == b"v" * 100
