"""The Redis face beside Redis: the requests that are easily answered otherwise, with what Redis 7.0 answers to them."""

from __future__ import annotations

import pytest

from tests.unit.resp_client import Client

NOT_INTEGER = b"-ERR value is not an integer or out of range\r\n"
SYNTAX = b"-ERR syntax error\r\n"
TOO_LARGE = b"-ERR string exceeds maximum allowed size"


def answer(*requests: str) -> bytes:
    """What a new client of an empty store hears to the last of these requests."""
    client = Client()
    for request in requests[:-1]:
        client.ask(request)
    return client.ask(requests[-1])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("SET a b NX NX", b"+OK\r\n"),
        ("SET a b XX XX", b"$-1\r\n"),
        ("SET a b XX NX", SYNTAX),
        ("SET a b NX IFEQ c", SYNTAX),
        ("SET a b IFEQ c XX", SYNTAX),
        ("SET a b IFEQ c IFEQ d", SYNTAX),
        ("SET a b IFEQ", SYNTAX),
        ("SET a b KEEPTTL KEEPTTL", b"+OK\r\n"),
        ("SET a b EX 10 EX 10", b"+OK\r\n"),
        ("SET a b EX 10 PX 10", SYNTAX),
        ("SET a b EX 10 KEEPTTL", SYNTAX),
        ("SET a b EX 0 FOO", SYNTAX),
        ("SET a b EX x NX XX", SYNTAX),
        ("SET a b EX x", NOT_INTEGER),
        ("SET a b EX 010", NOT_INTEGER),
        ("SET a b EX -0", NOT_INTEGER),
        ("SET a b EX +10", NOT_INTEGER),
        ("SET a b EX 0", b"-ERR invalid expire time in 'set' command\r\n"),
        ("GETEX t PERSIST PERSIST", b"$2\r\n10\r\n"),
        ("GETEX t EX 10 EX 20", b"$2\r\n10\r\n"),
        ("GETEX t EX 10 PERSIST", SYNTAX),
        ("GETEX t EX", SYNTAX),
        ("INCR one", b":2\r\n"),
        ("INCR padded", NOT_INTEGER),
        ("INCR negative_zero", NOT_INTEGER),
        ("INCR beyond", NOT_INTEGER),
        ("INCR before", NOT_INTEGER),
        ("INCRBY one 01", NOT_INTEGER),
        ("SETRANGE t 9223372036854775807 x", TOO_LARGE),
        ("SETRANGE t 2000000 ", b":2\r\n"),
        ("GETRANGE t -1 -5", b"$0\r\n\r\n"),
        ("GETRANGE t -100 -50", b"$1\r\n1\r\n"),
        ("GETRANGE t 0 -100", b"$1\r\n1\r\n"),
        ("GETRANGE t 1 -100", b"$0\r\n\r\n"),
        ("GETRANGE nothing 0 -100", b"$0\r\n\r\n"),
        ("EXPIRE t 10 XX LT", b":0\r\n"),
        ("EXPIRE brief 10 LT XX", b":1\r\n"),
        ("EXPIRE brief 200 XX LT", b":0\r\n"),
        ("EXPIRE t 10 GT LT", b"-ERR GT and LT options at the same time are not compatible\r\n"),
        ("EXPIRE t -9223372036854775808", b"-ERR invalid expire time in 'expire' command\r\n"),
        ("PEXPIRE t -9223372036854775808", b":1\r\n"),
        ("EXPIREAT t -9000000000000000", b":1\r\n"),
        ("COPY t t", b"-ERR source and destination objects are the same\r\n"),
        ("COPY t t REPLACE", b"-ERR source and destination objects are the same\r\n"),
        ("KEYS ", b"*0\r\n"),
        ("SCAN 0 MATCH  COUNT 100", b"*2\r\n$1\r\n0\r\n*0\r\n"),
    ],
)
def test_arguments_are_taken_as_redis_takes_them(request_: str, expected: bytes) -> None:
    client = Client()
    client.ask(
        "MSET t 10 one 1 padded 01 negative_zero -0 beyond 9223372036854775808 before -9223372036854775809",
        "SET brief x EX 100",
    )
    assert client.ask(request_).startswith(expected)


def test_times_are_rounded_to_the_nearest_second() -> None:
    assert answer("SET a 1", "PEXPIREAT a 4000000000499", "EXPIRETIME a") == b":4000000000\r\n"
    assert answer("SET a 1", "PEXPIREAT a 4000000000500", "EXPIRETIME a") == b":4000000001\r\n"


@pytest.mark.parametrize(
    "gone", ["EXPIREAT t -5", "PEXPIRE t -9223372036854775808", "PEXPIREAT t -9223372036854775808"]
)
def test_a_time_however_long_ago_removes_the_key(gone: str) -> None:
    assert answer("SET t 1", gone, "EXISTS t") == b":0\r\n"


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (["MULTI", "MULTI", "SET a 1", "EXEC"], b"*1\r\n+OK\r\n"),
        (["MULTI", "WATCH a", "SET a 1", "EXEC"], b"*1\r\n+OK\r\n"),
        (["MULTI", "SET a 1 FOO", "SET b 2", "EXEC"], b"*2\r\n" + SYNTAX + b"+OK\r\n"),
        (["MULTI", "INCRBY a x", "SET b 2", "EXEC"], b"*2\r\n" + NOT_INTEGER + b"+OK\r\n"),
        (["MULTI", "SCAN x", "EXEC"], b"*1\r\n-ERR invalid cursor\r\n"),
        (["MULTI", "HELLO 4", "PING", "EXEC"], b"*2\r\n-NOPROTO unsupported protocol version\r\n+PONG\r\n"),
        (
            ["MULTI", "SET a 1 FOO", "NOSUCH", "EXEC"],
            b"-EXECABORT Transaction discarded because of previous errors.\r\n",
        ),
        (["EXEC a"], b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n"),
        (["MULTI", "EXEC a", "EXEC"], b"-ERR EXEC without MULTI\r\n"),
        (["WATCH a a", "SET b 1", "MULTI", "EXEC"], b"*0\r\n"),
        (["WATCH a", "MULTI", "PING", "EXEC"], b"*1\r\n+PONG\r\n"),
        (["WATCH a", "SET a 1", "MULTI", "PING", "EXEC"], b"*-1\r\n"),
        (["WATCH a", "SET a 1", "EXEC", "MULTI", "PING", "EXEC"], b"*-1\r\n"),
        (["WATCH a", "SET a 1", "MULTI", "NOSUCH", "EXEC", "MULTI", "PING", "EXEC"], b"*1\r\n+PONG\r\n"),
    ],
)
def test_transactions_end_as_in_redis(requests: list[str], expected: bytes) -> None:
    assert answer(*requests) == expected
