"""Data directories that are lost, or come back from an older copy: nothing that was acknowledged is lost by them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.system.servers import Servers, eventually, running


def put(servers: Servers, name: str, key: str, value: str) -> None:
    with servers.client(name) as client:
        assert client.set(key, value)


def serves(servers: Servers, name: str) -> bool:
    try:
        with servers.client(name, socket_timeout=3, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.execute_command("KV.SERVING"))
    except redis.RedisError:
        return False


def says(servers: Servers, name: str, *words: str) -> None:
    eventually(lambda: all(word in servers.log(name) for word in words), f"{name} says {words}: {servers.log(name)}")


def test_an_empty_directory_under_an_old_name_has_no_vote(tmp_path: Path) -> None:
    """n3 was down while a write was acknowledged; then n2 is emptied, and comes back with n3 only."""
    with running(tmp_path) as servers:
        servers.kill("n3")
        servers.wait_until_serving("n1", "n2")
        put(servers, "n1", "key", "acknowledged")
        servers.kill("n1", "n2")
        shutil.rmtree(tmp_path / "n2")
        servers.start("n2", "n3")
        says(servers, "n3", "peer_refused", "n2 comes with another data directory", "docs/operations.md")
        says(servers, "n2", "peer_refuses", "n2 comes with another data directory")
        time.sleep(2)
        assert not serves(servers, "n2")
        assert not serves(servers, "n3")
        assert "n3 refuses this node" in servers.status("n2")["trouble"]
        servers.start("n1")
        servers.wait_until_serving("n1", "n3")
        with servers.client("n3") as client:
            assert client.get("key") == b"acknowledged"
        assert not serves(servers, "n2")


def test_two_of_three_that_were_emptied_cannot_overrule_the_third(tmp_path: Path) -> None:
    with running(tmp_path) as servers:
        put(servers, "n1", "key", "acknowledged")
        servers.kill()
        for name in ("n2", "n3"):
            (tmp_path / name).rename(tmp_path / f"{name}.away")
        servers.start("n2", "n3")
        time.sleep(2)
        servers.start("n1")
        says(servers, "n1", "n2 comes with another data directory", "n3 comes with another data directory")
        time.sleep(1)
        assert not any(serves(servers, name) for name in servers.names)
        servers.kill()
        for name in ("n2", "n3"):
            shutil.rmtree(tmp_path / name)
            (tmp_path / f"{name}.away").rename(tmp_path / name)
        servers.start()
        servers.wait_until_serving()
        with servers.client("n2") as client:
            assert client.get("key") == b"acknowledged"


def test_an_older_copy_of_a_directory_has_no_vote(tmp_path: Path) -> None:
    with running(tmp_path) as servers:
        assert servers.stop("n2") == 0
        shutil.copytree(tmp_path / "n2", tmp_path / "n2.copy")
        servers.start("n2")
        servers.wait_until_serving("n2")
        put(servers, "n2", "key", "acknowledged")
        assert servers.stop("n2") == 0
        shutil.rmtree(tmp_path / "n2")
        (tmp_path / "n2.copy").rename(tmp_path / "n2")
        servers.start("n2")
        says(servers, "n1", "the data directory of n2 is an older copy", "docs/operations.md")
        says(servers, "n2", "condemned", "is an older copy")
        assert "is an older copy" in servers.status("n2")["trouble"]
        assert not serves(servers, "n2")
        servers.kill("n1", "n2")  # what it was told it knows also when nobody is there who knows better
        servers.start("n2")
        says(servers, "n2", "condemned", "is an older copy")
        time.sleep(2)
        assert not serves(servers, "n2")
        assert not serves(servers, "n3")
        servers.start("n1")
        servers.wait_until_serving("n1", "n3")
        with servers.client("n3") as client:
            assert client.get("key") == b"acknowledged"


def test_a_cluster_begins_once_all_have_met_and_goes_on_with_a_majority(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    try:
        servers.start("n1", "n2")
        eventually(lambda: "has not met n3" in servers.status("n1").get("trouble", ""), "n1 waits for n3")
        assert not serves(servers, "n1")
        servers.start("n3")
        servers.wait_until_serving()
        servers.kill()
        servers.start("n2", "n3")
        servers.wait_until_serving("n2", "n3")
        put(servers, "n2", "key", "value")
    finally:
        servers.close()
