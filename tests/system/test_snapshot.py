"""A follower that is behind the start of all others' logs gets their state, and the log from there."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import pytest

from tests.system.servers import Servers, eventually, running

SMALL_LOG = ("--keep-slots", "100", "--keep-mib", "1")
KEYS = 500


def put(servers: Servers, name: str, first: int, last: int) -> None:
    """Values whose numbers are the slots' order; each is acknowledged."""
    with servers.client(name) as client:
        for begin in range(first, last, 1_000):
            pipe = client.pipeline(transaction=False)
            for number in range(begin, min(begin + 1_000, last)):
                pipe.set(f"k{number % KEYS}", f"{number} ".ljust(100, "."))
            assert all(pipe.execute())


def holds(servers: Servers, name: str, last: int) -> bool:
    with servers.client(name) as client:
        client.execute_command("READONLY")
        values = client.mget([f"k{number % KEYS}" for number in range(last - KEYS, last)])
    return [value and int(value.split()[0]) for value in values] == list(range(last - KEYS, last))


def log_begins(servers: Servers, name: str) -> int:
    with servers.client(name) as client:
        rows = client.execute_command("KV.LOG", 1)
    return int(rows[0][0])


def outgrow(servers: Servers, number: int) -> int:
    """Put values until the logs of n1 and n2 begin behind all that was there before; returns the next number."""
    before = int(servers.status("n1")["last_slot"])
    while min(log_begins(servers, name) for name in ("n1", "n2")) <= before:
        put(servers, "n1", number, number + 5_000)
        number += 5_000
    return number


def test_a_follower_gets_the_state_in_place_of_slots_that_are_gone(tmp_path: Path) -> None:
    with running(tmp_path, arguments=SMALL_LOG) as servers:
        put(servers, "n1", 0, 1_000)
        servers.kill("n3")
        number = outgrow(servers, 1_000)
        servers.start("n3")
        servers.wait_until_serving("n3")
        assert "snapshot_installed" in servers.log("n3")
        eventually(lambda: holds(servers, "n3", number), "n3 has all values")
        put(servers, "n3", number, number + 1_000)
        eventually(lambda: all(holds(servers, name, number + 1_000) for name in servers.names), "all have all values")


def test_kills_at_any_moment_of_a_transfer(tmp_path: Path) -> None:
    rng = random.Random(5)
    with running(tmp_path, arguments=SMALL_LOG) as servers:
        number = 1_000
        put(servers, "n1", 0, number)
        for _ in range(6):
            servers.kill("n3")
            number = outgrow(servers, number)
            servers.start("n3")
            for _ in range(3):
                time.sleep(rng.uniform(0, 1))
                servers.kill("n3")
                servers.start("n3")
            servers.wait_until_serving()
            eventually(partial(holds, servers, "n3", number), "n3 has all values")
        assert "snapshot_installed" in servers.log("n3")


@pytest.mark.parametrize("how", ["lost", "damaged", "an older copy"])
def test_a_state_that_its_log_cannot_bring_back_comes_from_another_node(tmp_path: Path, how: str) -> None:
    with running(tmp_path, arguments=SMALL_LOG) as servers:
        put(servers, "n1", 0, 1_000)
        servers.stop("n2")
        state = (servers.root / "n2") / "state.db"
        older = state.read_bytes()
        servers.start("n2")
        number = outgrow(servers, 1_000)
        servers.stop("n2")
        match how:
            case "lost":
                state.unlink()
            case "damaged":
                content = bytearray(state.read_bytes())
                content[4_096:] = b"\xff" * (len(content) - 4_096)
                state.write_bytes(content)
            case _:
                state.write_bytes(older)
        servers.start("n2")
        servers.wait_until_serving("n2")
        assert "state_lost" in servers.log("n2") and "snapshot_installed" in servers.log("n2")
        eventually(lambda: holds(servers, "n2", number), "n2 has all values")


def test_a_node_alone_whose_state_is_lost_beside_a_cut_log_says_so_and_does_not_start(tmp_path: Path) -> None:
    with running(tmp_path, count=1, arguments=SMALL_LOG) as servers:
        put(servers, "n1", 0, 5_000)
        while log_begins(servers, "n1") == 1:
            put(servers, "n1", 0, 5_000)
        servers.stop("n1")
        ((servers.root / "n1") / "state.db").unlink()
        servers.start("n1")
        assert servers.wait("n1") == 3
        said = servers.log("n1")
        assert "log.db begins at slot" in said and "restore the data directory from a backup" in said
