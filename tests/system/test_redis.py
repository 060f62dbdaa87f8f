"""A real cluster as Redis clients use it: redis-py in all its ways, through every node."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from tests.system.servers import HOST, Servers, running

# What redis-py would rather have its users call differently must work all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with running(tmp_path_factory.mktemp("redis")) as servers:
        yield servers


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(servers: Servers, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with servers.client("n2", protocol=request.param, decode_responses=True) as client:
        client.flushall()
        yield client


def test_strings(client: redis.Redis) -> None:
    assert client.set("a", "1") is True
    assert client.get("a") == "1"
    assert client.set("a", "2", nx=True) is None
    assert client.set("a", "2", xx=True, get=True) == "1"
    assert client.getset("a", "3") == "2"
    assert client.setnx("b", "x") is True
    assert client.mget("a", "nothing", "b") == ["3", None, "x"]
    assert client.mset({"c": "1", "d": "2"}) is True
    assert not client.msetnx({"d": "5", "e": "6"})
    assert client.incr("a", 5) == 8
    assert client.decr("a") == 7
    assert float(client.incrbyfloat("a", 0.5)) == 7.5
    assert client.append("b", "yz") == 3
    assert client.strlen("b") == 3
    assert client.getrange("b", -2, -1) == "yz"
    assert client.setrange("b", 1, "!") == 3
    assert client.getdel("b") == "x!z"
    assert client.get("b") is None
    assert client.lcs("c", "d") == ""
    assert client.setex("t", 100, "v") is True
    assert 99 <= client.ttl("t") <= 100
    assert client.psetex("t", 5_000, "v") is True
    assert 4_000 < client.pttl("t") <= 5_000
    assert client.getex("t", persist=True) == "v"
    assert client.ttl("t") == -1
    assert client.ttl("nothing") == -2


def test_values_are_bytes(servers: Servers) -> None:
    with servers.client("n3") as client:
        every = bytes(range(256))
        client.set(every, every * 100)
        assert client.get(every) == every * 100


def test_keys(client: redis.Redis) -> None:
    client.mset({f"user:{number}": number for number in range(30)})
    assert client.dbsize() == 30
    assert sorted(client.keys("user:1?")) == [f"user:{number}" for number in range(10, 20)]
    assert len(set(client.scan_iter("user:*", count=7))) == 30
    assert list(client.scan_iter(_type="list")) == []
    assert str(client.randomkey()).startswith("user:")
    assert client.exists("user:1", "user:2", "nobody") == 2
    assert client.touch("user:1") == 1
    assert client.type("user:1") == "string"
    assert client.type("nobody") == "none"
    assert client.rename("user:1", "one") is True
    assert not client.renamenx("one", "user:2")
    assert client.copy("one", "other")
    assert not client.copy("one", "other")
    assert client.copy("one", "other", replace=True)
    assert client.expire("one", 100)
    assert not client.expire("one", 50, gt=True)
    assert client.expire("one", 50, lt=True)
    assert client.expiretime("one") == (client.pexpiretime("one") + 500) // 1_000
    assert client.pexpireat("one", 1)
    assert client.get("one") is None
    assert client.unlink("other", "user:2") == 2
    assert client.delete("nobody") == 0
    with pytest.raises(redis.ResponseError, match="no such key"):
        client.rename("nobody", "x")


def test_errors_have_the_words_that_clients_look_at(client: redis.Redis) -> None:
    client.set("text", "abc")
    for call, words in [
        (lambda: client.incr("text"), "value is not an integer or out of range"),
        (lambda: client.incrbyfloat("text", 1), "value is not a valid float"),
        (lambda: client.execute_command("GET"), "wrong number of arguments for 'get' command"),
        (lambda: client.execute_command("SET", "a", "b", "NX", "XX"), "syntax error"),
        (lambda: client.execute_command("NOSUCH", "x"), "unknown command 'NOSUCH'"),
        (lambda: client.execute_command("SET", "a", "b", "EX", "0"), "invalid expire time in 'set' command"),
        (lambda: client.execute_command("SCAN", "12345"), "invalid cursor"),
        (lambda: client.execute_command("EXEC"), "EXEC without MULTI"),
        (lambda: client.execute_command("SELECT", "1"), "DB index is out of range"),
        (lambda: client.set("k" * 1_025, "v"), "the key has 1025 bytes"),
        (lambda: client.set("k", "v" * 1_048_577), "at most 1,048,576"),
    ]:
        with pytest.raises(redis.ResponseError, match=words):
            call()
    assert client.ping()


def test_a_transaction_is_one_slot(client: redis.Redis) -> None:
    with client.pipeline() as pipe:
        pipe.set("a", 1).incr("a").get("a").incr("text").ping()
        assert pipe.execute() == [True, 2, "2", 1, True]
    first = client.execute_command("KV.STATUS")
    fields = first if isinstance(first, dict) else dict(zip(first[::2], first[1::2], strict=True))
    applied_upto = int(fields["applied_upto"])
    rows = client.execute_command("KV.LOG", max(1, applied_upto - 9), applied_upto)
    assert rows[-1][0] == applied_upto
    *_, last = (row for row in rows if row[2] == "chosen" and row[3])  # a new leader may have filled a slot
    assert last[3].startswith("txn PARTIAL { set a=1; incr a; get a; incr text")


def test_a_failed_command_leaves_the_others_of_its_transaction(client: redis.Redis) -> None:
    client.set("text", "abc")
    with client.pipeline() as pipe:
        pipe.set("a", 1).incr("text").set("b", 2)
        results = pipe.execute(raise_on_error=False)
    assert results[0] is True
    assert isinstance(results[1], redis.ResponseError)
    assert results[2] is True
    assert client.mget("a", "b") == ["1", "2"]


def test_a_transaction_with_an_error_in_it_is_not_executed(client: redis.Redis) -> None:
    client.execute_command("MULTI")
    with pytest.raises(redis.ResponseError):
        client.execute_command("SET", "a")
    client.execute_command("SET", "a", "1")
    with pytest.raises(redis.exceptions.ExecAbortError):
        client.execute_command("EXEC")
    assert client.get("a") is None


def test_watch_loops_lose_no_update(servers: Servers) -> None:
    """The pattern of redis-py's documentation, by several clients at once and through different nodes."""
    with servers.client("n1") as client:
        client.set("counter", 0)

    def add(number: int) -> None:
        with servers.client(servers.names[number % 3]) as client:
            for _ in range(10):

                def increment(pipe: redis.client.Pipeline) -> None:
                    value = int(pipe.get("counter"))
                    pipe.multi()
                    pipe.set("counter", value + 1)

                client.transaction(increment, "counter")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(4)))
    with servers.client("n2") as client:
        assert client.get("counter") == b"40"


def test_watch_sees_a_change_and_unwatch_forgets_it(client: redis.Redis, servers: Servers) -> None:
    client.set("w", 1)
    with client.pipeline() as pipe, servers.client("n1") as other:
        pipe.watch("w")
        other.set("w", 2)
        pipe.multi()
        pipe.set("w", 3)
        with pytest.raises(redis.WatchError):
            pipe.execute()
        pipe.watch("w")
        other.set("w", 4)
        pipe.unwatch()
        pipe.multi()
        pipe.set("w", 5)
        assert pipe.execute() == [True]
    assert client.get("w") == "5"


def test_a_lock_can_be_taken_and_given_back_without_scripts(client: redis.Redis) -> None:
    lock = client.lock("lock", timeout=60)
    assert lock.acquire(blocking=False)
    assert not client.lock("lock", timeout=60).acquire(blocking=False)
    with pytest.raises(redis.ResponseError, match="unknown command 'EVALSHA'"):
        lock.release()
    token = client.get("lock")
    assert client.execute_command("SET", "lock", "-", "IFEQ", "another's token", "PXAT", 1) is None
    assert client.get("lock") == token
    assert client.execute_command("SET", "lock", "-", "IFEQ", token, "PXAT", 1)
    assert client.get("lock") is None


def test_pipelines_keep_their_order(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(1_000):
            pipe.set("k", number)
            pipe.get("k")
        results = pipe.execute()
    assert results[1::2] == [str(number) for number in range(1_000)]


def test_scanning_while_others_write_meets_what_was_there(servers: Servers) -> None:
    with servers.client("n1") as client:
        client.flushall()
        client.mset({f"stays:{number}": 1 for number in range(500)})
        ended = threading.Event()

        def write() -> None:
            with servers.client("n2") as writer:
                number = 0
                while not ended.is_set():
                    number += 1
                    writer.set(f"other:{number % 100}", number)
                    writer.delete(f"other:{(number + 50) % 100}")

        with ThreadPoolExecutor(1) as thread:
            writing = thread.submit(write)
            met = list(client.scan_iter("stays:*", count=20))
            ended.set()
            writing.result()
    assert sorted(met) == sorted(f"stays:{number}".encode() for number in range(500))


def test_asyncio_with_retries_and_health_checks(servers: Servers) -> None:
    async def use() -> None:
        client = redis.asyncio.Redis(
            host=HOST,
            port=servers.ports["n3"],
            health_check_interval=1,
            retry=Retry(ExponentialBackoff(cap=1, base=0.01), 3),
            retry_on_error=[redis.ConnectionError],
        )
        async with client:
            await client.set("async", 0)
            await asyncio.gather(*(client.incr("async") for _ in range(50)))
            assert await client.get("async") == b"50"
            async with client.pipeline(transaction=True) as pipe:
                assert await pipe.set("x", 1).get("x").execute() == [True, b"1"]

    asyncio.run(use())


def test_what_clients_ask_about_the_server(client: redis.Redis) -> None:
    assert client.client_id() > 0
    assert client.client_setname("me")
    assert client.client_getname() == "me"
    assert any(one["name"] == "me" for one in client.client_list())
    assert client.info()["redis_version"]
    assert client.info("replication")["role"] in ("master", "slave")
    assert client.config_get("save") == {"save": ""}
    assert client.command_count() > 70
    assert "get" in client.command()
    assert client.command_getkeys("MSET", "a", 1, "b", 2) == ["a", "b"]
    assert client.role()[0] in ("master", "slave", b"master", b"slave")
    assert client.wait(1, 100) == 1
    assert client.time()[0] > 1_600_000_000
    assert client.echo("hello") == "hello"


def test_another_client_can_be_killed(client: redis.Redis, servers: Servers) -> None:
    with servers.client("n2", single_connection_client=True, retry=Retry(ExponentialBackoff(), 0)) as victim:
        number = victim.client_id()
        assert client.client_kill_filter(_id=str(number)) == 1
        with pytest.raises(redis.ConnectionError):
            victim.get("x")


def test_local_reads_are_chosen_by_the_connection(servers: Servers) -> None:
    with servers.client("n3", single_connection_client=True) as client:
        client.set("local", 1)
        client.readonly()
        assert client.get("local") == b"1"
        client.readwrite()
        assert client.get("local") == b"1"


def test_commands_typed_on_a_line(servers: Servers) -> None:
    with socket.create_connection((HOST, servers.ports["n1"])) as connection:
        connection.sendall(b'set typed "a b"\r\nget typed\r\n*1\r\n$4\r\nPING\r\nquit\r\n')
        said = b""
        while part := connection.recv(1_000):
            said += part
    assert said == b"+OK\r\n$3\r\na b\r\n+PONG\r\n+OK\r\n"


def test_rubbish_ends_that_connection_and_harms_no_other(servers: Servers) -> None:
    with servers.client("n1") as good:
        for rubbish in (b"*1\r\n:5\r\n", b"*2000000000\r\n", b"*1\r\n$99999999999\r\n", b'"open\r\n', b"*1\r\nx"):
            with socket.create_connection((HOST, servers.ports["n1"]), timeout=5) as connection:
                connection.sendall(rubbish)
                said = b""
                while part := connection.recv(1_000):
                    said += part
            assert said.startswith(b"-ERR Protocol error"), rubbish
        assert good.ping()


def test_the_log_slots_by_name_and_sql(client: redis.Redis) -> None:
    client.set("q", 5)
    assert client.execute_command("KV.SQL", "SELECT key, value FROM kv")[0] == ["key", "value"]
    assert client.execute_command("KV.SQL", "SELECT value FROM kv WHERE key = 'q'")[1] == ["5"]
    with pytest.raises(redis.ResponseError, match="only queries that read"):
        client.execute_command("KV.SQL", "DELETE FROM kv")
    fields = client.execute_command("KV.STATUS")
    fields = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    slot = fields["last_slot"] + 1
    assert client.execute_command("KV.PROPOSE", slot, "set named 1") == [slot, '"set named 1"', 1]
    assert client.execute_command("KV.PROPOSE", slot, '{"other": true}')[:2] == [slot, '"set named 1"']
    for value, json in [
        ("[" * 200 + "]" * 200, "[" * 200 + "]" * 200),
        (b'"\xff"', '"\\"\\\\xff\\""'),
        ("[1,", '"[1,"'),
    ]:
        slot += 1
        assert client.execute_command("KV.PROPOSE", slot, value)[:2] == [slot, json]
    assert client.get("named") == "1"


def test_sql_on_any_node_sees_what_was_acknowledged(servers: Servers) -> None:
    with servers.client(servers.leader()) as writing:
        for number, name in enumerate(servers.names * 3):
            writing.set("seen", number)
            with servers.client(name) as client:
                assert client.execute_command("KV.SQL", "SELECT value FROM kv WHERE key = 'seen'")[1] == [
                    b"%d" % number
                ]


def test_a_query_without_end_holds_up_nobody(servers: Servers) -> None:
    name = servers.leader()
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    refused: list[str] = []

    def ask() -> None:
        with servers.client(name) as asking:
            try:
                asking.execute_command("KV.SQL", endless)
            except redis.ResponseError as error:
                refused.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    with servers.client(name) as client:
        slowest, number = 0.0, 0
        while asking.is_alive():
            number += 1
            began = time.monotonic()
            assert client.set("beside", number)
            assert client.execute_command("KV.SQL", "SELECT value FROM kv WHERE key = 'beside'")[1] == [b"%d" % number]
            slowest = max(slowest, time.monotonic() - began)
    asking.join()
    assert slowest < 2
    assert len(refused) == 1
    assert "given up" in refused[0]
    assert servers.leader() == name


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    with _one_node(tmp_path) as servers:
        with servers.client("n1") as client, pytest.raises(redis.AuthenticationError):
            client.get("x")
        with servers.client("n1", password="wrong") as client, pytest.raises(redis.AuthenticationError):
            client.get("x")
        with servers.client("n1", password="s3cret") as client:
            assert client.set("x", 1)


def _one_node(root: Path) -> _Started:
    return _Started(Servers(root, 1, ["--password-file", str(root / "password")]))


class _Started:
    """Started without asking whether it serves, which needs the password."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def __enter__(self) -> Servers:
        self._servers.start()
        while "serving" not in self._servers.log("n1"):
            assert self._servers.is_running("n1"), self._servers.log("n1")
        return self._servers

    def __exit__(self, *_: object) -> None:
        self._servers.close()


def test_every_node_says_which_role_it_has_and_where_clients_find_the_others(servers: Servers) -> None:
    leader = servers.leader()
    ports = {servers.ports[name] for name in servers.names}
    with servers.client(leader) as client:
        role, _, followers = client.execute_command("ROLE")
        assert role == b"master"
        assert {int(port) for _, port, _ in followers} == ports - {servers.ports[leader]}
        info = client.info("replication")
        assert {info["slave0"]["port"], info["slave1"]["port"]} == ports - {servers.ports[leader]}
        assert client.execute_command("HELLO")[b"role"] == b"master"
    for name in servers.names:
        if name != leader:
            with servers.client(name) as client:
                assert client.execute_command("ROLE")[1:3] == [HOST.encode(), servers.ports[leader]]
                assert client.info("replication")["master_port"] == servers.ports[leader]
                assert client.execute_command("HELLO")[b"role"] == b"replica"


def test_info_tells_how_many_keys_expire(client: redis.Redis) -> None:
    before = client.info("keyspace").get("db0", {"expires": 0})["expires"]
    client.set("expires", 1, ex=100)
    keyspace = client.info("keyspace")["db0"]
    assert keyspace["expires"] == before + 1 and keyspace["avg_ttl"] > 0
    client.delete("expires")


def test_a_key_is_gone_when_its_time_is_over_on_whichever_node(servers: Servers) -> None:
    with servers.client("n1") as one, servers.client("n2") as other:
        for number in range(50):
            key = f"lock{number}"
            one.set(key, 1, px=1)
            time.sleep(0.02)  # one clock, since it is one machine
            assert other.get(key) is None and one.exists(key) == 0 and other.ttl(key) == -2
            with one.pipeline() as pipeline:
                pipeline.watch(key)
                pipeline.multi()
                pipeline.ping()
                assert pipeline.execute() == [True]
