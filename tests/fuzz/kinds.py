"""What a client of the fuzzer may send: kinds of requests, nearly all valid, each drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple, TypeAlias

import msgspec

from kvstore.commands import Cas, Count, Delete, Exists, Get, Incr, Push, Scan, Set, SetMany, Simple, Txn, Value
from tests.fuzz.shapes import RAW, Request, anything
from tests.fuzz.values import key, number, size, value

Draw: TypeAlias = Callable[[Random], list[Request]]
"""The requests of one pipeline."""


class Kind(NamedTuple):
    draw: Draw
    weight: int


_pack = msgspec.msgpack.Encoder().encode
MIB = 1_048_576


def _position(random: Random) -> bytes:
    return b"%d" % random.choice([0, 1, -1, 2, random.randint(-100, 100), number(random)])


def _forward(random: Random) -> tuple[bytes, bytes]:
    """A range that does not end before its start."""
    low, high = sorted(random.choices(range(2_000), k=2))
    return (b"%d" % low, b"%d" % high)


def _lifetime(random: Random) -> Request:
    return random.choice([[], [b"EX", b"100"], [b"PX", b"%d" % random.randrange(1, 3_000)], [b"KEEPTTL"]])


def _on_data(random: Random) -> Request:
    """One command on data that takes little."""
    k, v, other = key(random), value(random), key(random)
    seconds = b"%d" % random.choice([-1, 1, 5, 1_000])
    start, stop = _forward(random)
    choices: list[Request] = [
        [b"SET", k, v, *_lifetime(random), *random.choice([[], [b"NX"], [b"XX"], [b"GET"], [b"IFEQ", v]])],
        *([[b"GET", k]] * 3),
        [b"SETNX", k, v],
        [b"SETEX", k, b"10", v],
        [b"PSETEX", k, b"%d" % random.randrange(1, 2_000), v],
        [b"GETSET", k, v],
        [b"GETDEL", k],
        [b"GETEX", k, *random.choice([[], [b"PERSIST"], [b"EX", b"20"]])],
        [b"MGET", *(key(random) for _ in range(random.randrange(1, 20)))],
        [b"MSET", *(part for _ in range(random.randrange(1, 20)) for part in (key(random), value(random, 4_096)))],
        [b"MSETNX", k, v, other, v],
        [random.choice([b"INCR", b"DECR"]), k],
        [random.choice([b"INCRBY", b"DECRBY"]), k, b"%d" % number(random)],
        [b"INCRBYFLOAT", k, random.choice([b"0.1", b"-3", b"1e300", b"0", b"17.25"])],
        [b"APPEND", k, value(random, 1_024)],
        [b"STRLEN", k],
        [random.choice([b"GETRANGE", b"SUBSTR"]), k, start, stop],
        [b"SETRANGE", k, b"%d" % size(random, 65_536), value(random, 1_024)],
        [random.choice([b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"]), k, other],
        [random.choice([b"TYPE", b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME", b"PERSIST"]), k],
        [b"EXPIRE", k, seconds, *random.choice([[], [b"NX"], [b"XX"], [b"GT"], [b"LT"]])],
        [b"PEXPIRE", k, b"%d" % random.randrange(-5, 3_000)],
        [b"PEXPIREAT", k, b"%d" % random.choice([1, 2**53 - 1, 9_000_000_000_000])],
        [b"EXPIREAT", k, b"%d" % random.choice([1, 9_000_000_000])],
        [random.choice([b"RENAME", b"RENAMENX"]), k, other],
        [b"COPY", k, other, *random.choice([[], [b"REPLACE"]])],
        [b"DBSIZE"],
    ]
    return random.choice(choices)


def _data(random: Random) -> list[Request]:
    return [_on_data(random) for _ in range(size(random, 128) + 1)]


def _walks(random: Random) -> list[Request]:
    pattern = random.choice([b"*", b"k*", b"k?", b"[a-k]*9", b"*" * 8 + b"x", key(random)[:100]])
    return [
        random.choice(
            [
                [b"SCAN", b"0", b"MATCH", pattern, b"COUNT", b"%d" % random.randrange(1, 1_000)],
                [b"KEYS", pattern],
                [b"RANDOMKEY"],
                [b"KV.KEYS", pattern.rstrip(b"*?"), b"%d" % random.randrange(1, 200)],
            ]
        )
        for _ in range(random.randrange(1, 5))
    ]


def _talk(random: Random) -> list[Request]:
    """Commands that touch no data."""
    choices: list[Request] = [
        [b"PING"],
        [b"PING", value(random)],
        [b"ECHO", value(random)],
        [b"HELLO", random.choice([b"2", b"3"])],
        [b"CLIENT", b"SETNAME", b"fuzz%d" % random.randrange(9)],
        [b"CLIENT", random.choice([b"LIST", b"INFO", b"ID", b"GETNAME", b"HELP"])],
        [random.choice([b"READONLY", b"READWRITE", b"RESET", b"TIME", b"ROLE", b"INFO", b"UNWATCH"])],
        [b"COMMAND", random.choice([b"COUNT", b"DOCS", b"LIST"])],
        [b"CONFIG", b"GET", random.choice([b"*", b"maxmemory", b"save"])],
        [b"SELECT", b"0"],
        [b"WAIT", b"0", b"10"],
        [b"KV.STATUS"],
        [b"KV.SERVING"],
        [b"KV.BEGIN"],
        [b"KV.SESSION", b"fuzz%d" % random.randrange(20)],
        [b"CLIENT", b"KILL", *random.choice([[b"ID", b"%d" % 2**50], [b"ADDR", b"192.0.2.1:1"], [b"192.0.2.1:1"]])],
    ]
    return [random.choice(choices) for _ in range(random.randrange(1, 40))]


def _anything(random: Random) -> list[Request]:
    return [anything(random) for _ in range(size(random, 64) + 1)]


def _silent(random: Random) -> list[Request]:
    """Requests that are not answered, and one behind them that is."""
    off, skip = [b"CLIENT", b"REPLY", b"OFF"], [b"CLIENT", b"REPLY", b"SKIP"]
    quiet = [_on_data(random) for _ in range(random.randrange(20))]
    return [[b"RESET"], off, *quiet, [b"CLIENT", b"REPLY", b"ON"], skip, _on_data(random), [b"PING"]]


def _transaction(random: Random) -> list[Request]:
    queued = [_on_data(random) for _ in range(size(random, 64))]
    watch = [[b"WATCH", *(key(random) for _ in range(random.randrange(1, 9)))]] if random.random() < 0.4 else []
    return [*watch, [b"MULTI"], *queued, random.choice([[b"EXEC"], [b"EXEC"], [b"EXEC"], [b"DISCARD"]])]


def _broken_transaction(random: Random) -> list[Request]:
    """With requests that cannot be queued, that are refused there, or that fail when they are executed."""
    wrong: list[Request] = [
        [b"MULTI"],
        [b"WATCH", key(random)],
        [b"UNWATCH"],
        [b"GET"],
        [b"NONSENSE", value(random, 1_024)],
        [b"KV.STATUS"],
        [b"INCR", b"large0"],
        [b"SETRANGE", key(random), b"%d" % 2**40, b"x"],
        [b"SET", b"", value(random, 1_024)],
        [b"SCAN", b"%d" % number(random)],
    ]
    queued = [random.choice([anything(random), _on_data(random), random.choice(wrong)]) for _ in range(20)]
    watched = [random.choice([[b"WATCH", key(random)], [b"UNWATCH"]]) for _ in range(random.randrange(3))]
    return [*watched, [b"MULTI"], *queued, [b"EXEC"], random.choice([[b"EXEC"], [b"DISCARD"], [b"MULTI"], [b"RESET"]])]


def _simple(random: Random) -> Simple:
    k, v = key(random), Value(value(random, 4_096))
    commands: list[Simple] = [
        Get(k),
        Set(k, v),
        Incr(k, number(random) % 2**62),
        Delete([k, key(random)]),
        SetMany([k, k], [v, v]),
        Cas(k, v, v),
        Push(k, Value(b'{"a":1}', True)),
        Scan(k[:2], 5),
        Count(k[:1]),
    ]
    return random.choice(commands)


def _execute(random: Random) -> list[Request]:
    """KV.EXECUTE in sessions that clients share, with sequences repeated, ahead and behind."""
    few, many = b"fuzz%d" % random.randrange(20), b"fuzz%d" % random.randrange(20_000)
    session = random.choice([few, few, few, many, b"load-fuzz", b"node:n1"])
    since = random.choice([[], [b"0"], [b"%d" % random.randrange(100_000)], [b"%d" % abs(number(random))]])
    first = random.randrange(1, 1_000)
    requests = []
    for ordinal in range(random.randrange(1, 30)):
        command = _simple(random)
        whole = Txn([command, _simple(random)]) if random.random() < 0.3 else command
        sequence = first + ordinal + random.choice([0, 0, 0, 1, -1])
        acknowledged = max(0, first - random.choice([0, 1, 100]))
        requests.append([b"KV.EXECUTE", session, b"%d" % max(1, sequence), b"%d" % acknowledged, _pack(whole), *since])
    return requests


def _log(random: Random) -> list[Request]:
    first = random.randrange(1, 2_000)
    return [[b"KV.LOG", b"%d" % first, b"%d" % (first + random.randrange(20))]]


_QUERIES = """
SELECT count(*) FROM kv
SELECT key FROM kv LIMIT 5
SELECT key, value FROM kv
SELECT 1
nonsense
SELECT count(*) FROM kv a, kv b, kv c WHERE a.value < b.value
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000) SELECT i, hex(randomblob(50)) FROM n
SELECT length(hex(zeroblob(20000000)))
SELECT instr(hex(zeroblob(10000000)), hex(zeroblob(5000000)) || '1')
SELECT group_concat(hex(value)) FROM kv
SELECT typeof(fts3_tokenizer('simple'))
SELECT load_extension('x')
ATTACH ':memory:' AS other
DELETE FROM kv
PRAGMA journal_mode
""".strip().splitlines()


def _sql(random: Random) -> list[Request]:
    return [[b"KV.SQL", random.choice(_QUERIES).encode()]]


def _proposals(random: Random) -> list[Request]:
    return [[b"KV.PROPOSE", b"%d" % random.randrange(1, 500), value(random, 1_024)] for _ in range(3)]


def _large(random: Random) -> list[Request]:
    """A few values of up to the largest size, each asked for once."""
    requests: list[Request] = []
    for _ in range(random.randrange(1, 4)):
        name = b"large%d" % random.randrange(4)
        requests += [[b"SET", name, value(random, MIB)], [b"GET", name]]
    return requests


def _backwards(random: Random) -> list[Request]:
    return [[b"SETNX", b"digits", b"0123456789"], [b"GETRANGE", b"digits", _position(random), _position(random)]]


def _many_results(random: Random) -> list[Request]:
    reads = [[b"GET", b"large0"]] * random.randrange(100, 1_100)
    return [[b"SET", b"large0", bytes(MIB)], [b"MULTI"], [b"INCR", b"n"], *reads, [b"EXEC"]]


def _many_changes(random: Random) -> list[Request]:
    count = random.randrange(100, 4_000)
    return [[b"MULTI"], *([b"SETRANGE", b"s%d" % i, b"1048575", b"x"] for i in range(count)), [b"EXEC"]]


def _many_walks(random: Random) -> list[Request]:
    walks = [[b"KEYS", b"*n*o*m*atch*"]] * random.randrange(50, 600)
    return [[b"MULTI"], [b"INCR", b"n"], *walks, [b"EXEC"]]


def _comparisons(random: Random) -> list[Request]:
    values: list[Request] = [[b"SET", b"left", b"ab" * 900], [b"SET", b"right", b"ba" * 900]]
    return [*values, *([[b"LCS", b"left", b"right", b"IDX"]] * random.randrange(1, 50))]


def _wide_reads(random: Random) -> list[Request]:
    name = random.choice([b"MGET", b"WATCH"])
    return [[b"SET", b"large0", bytes(MIB)], [name, *([b"large0"] * random.randrange(100, 16_000))]]


def _copies(random: Random) -> list[Request]:
    return [[b"SET", b"large0", bytes(MIB)], *([b"COPY", b"large0", b"c%d" % i] for i in range(400))]


def _far_sequences(random: Random) -> list[Request]:
    return [[b"KV.EXECUTE", b"far", b"%d" % random.choice([2**62, 2**62 + 1, 2**63 - 1]), b"0", _pack(Incr(b"n", 1))]]


def _flood_of_talk(random: Random) -> list[Request]:
    return random.choice([[[b"PING"]] * 200_000, [[b"COMMAND"]] * 1_000])


def _flood_of_values(random: Random) -> list[Request]:
    return [[b"SET", b"large%d" % (i % 4), bytes(MIB)] for i in range(random.randrange(50, 300))]


def _many_words(random: Random) -> list[Request]:
    """Any request with one of its arguments many times more."""
    request = anything(random)
    word = random.choice(request[1:] or [b"x"])[:8]
    return [[*request, *[word] * random.choice([300, 10_000, 100_000, 500_000])]]


def _talk_in_a_transaction(random: Random) -> list[Request]:
    request = random.choice(_talk(random))
    return [[b"MULTI"], *[request] * random.choice([3, 4, 16_000]), [b"EXEC"]]


def _many_parts(random: Random) -> list[Request]:
    """In one command as MessagePack."""
    number = random.choice([1_000, 10_000, 100_000, 500_000])
    names, v = [b"k%d" % (at % 9) for at in range(number)], Value(b"v")
    commands: list[Simple | Txn] = [
        Delete(names),
        Exists(names),
        SetMany(names, [v] * number),
        Txn([Get(b"k1")] * number),
        Txn([SetMany(names[:500], [v] * 500)] * (number // 500)),
    ]
    return [[b"KV.EXECUTE", b"parts", b"1", b"0", _pack(random.choice(commands))]]


def _far_proposals(random: Random) -> list[Request]:
    return [[b"KV.PROPOSE", b"%d" % random.randrange(10_000, 1_000_000), b"1"]]


def _long_words(random: Random) -> list[Request]:
    """Any request with one of its arguments far longer than any command needs."""
    request = anything(random)
    request[random.randrange(len(request))] = random.choice([b"a", b"\xff", b"[", b"9", b'{"":']) * random.choice(
        [1_000, 65_536, 262_144, MIB, 4 * MIB]
    )
    return [request] * random.choice([1, 1, 20])


def _gaps(random: Random) -> list[Request]:
    """Slots that are taken by name, every second one, and what comes behind them."""
    first = random.choice([1, random.randrange(1_000, 200_000)])
    taken = [[b"KV.PROPOSE", b"%d" % (first + 2 * at), b"1"] for at in range(random.choice([50, 1_000, 4_000]))]
    return [*taken, *[_on_data(random) for _ in range(100)]]


def _same_proposals(random: Random) -> list[Request]:
    """Slots that are chosen already."""
    slot = random.randrange(1, 5_000)
    return [[b"KV.PROPOSE", b"%d" % (slot + at % 3), b"1"] for at in range(random.choice([10, 256, 2_000]))]


def _wide_transaction(random: Random) -> list[Request]:
    """Which waits behind writes, and whose requests name many keys."""
    names = [b"k%d" % (at % 50) for at in range(random.choice([10, 1_000, 16_000, 65_000]))]
    wide = [random.choice([b"MGET", b"EXISTS", b"DEL"]), *names]
    writes = [[b"SET", key(random), b"v"] for _ in range(random.choice([0, 200]))]
    return [*writes, [b"MULTI"], *[wide] * random.choice([1, 4, 30]), [b"EXEC"]]


def _kept_results(random: Random) -> list[Request]:
    """Results of a session that never says what it has got."""
    session, first = b"kept%d" % random.randrange(3), random.randrange(1, 50_000)
    command = _pack(random.choice([Incr(b"n", 1), Set(b"k1", Value(b"v"), get=True)]))
    sequences = range(first, first + random.choice([100, 5_000]))
    return [[b"KV.EXECUTE", session, b"%d" % sequence, b"1", command] for sequence in sequences]


def _deep_values(random: Random) -> list[Request]:
    """JSON that is large or deep, pushed, compared and replaced; and bytes that are no text."""
    size = random.choice([1_000, 100_000, 1_000_000])
    texts = [b"[%b]" % b",".join([b'{"":1}'] * (size // 7)), b"[" * 120 + b"]" * 120, b"[%b1]" % (b"1," * (size // 2))]
    item, other = Value(random.choice(texts), True), Value(random.choice([b"\xff", b"a"]) * size)
    commands = [Push(b"list", item), Push(b"list", other), Set(b"list", item), Cas(b"list", item, other)]
    wide = Txn([Push(b"list", Value(b"\xff" * 1_000))] * random.choice([10, 1_400]))
    drawn = [random.choice([*commands, wide]) for _ in range(random.randrange(1, 8))]
    return [[b"KV.EXECUTE", b"", b"0", b"0", _pack(command)] for command in drawn]


_RUBBISH = [b"*", b"$", b"%", b"~", b">", b"|", b"+", b"-", b":", b"(", b"=", b"_", b"#", b",", b"!"]


def _rubbish(random: Random) -> list[Request]:
    """Requests, and then what is none: a client that sends this is disconnected."""
    numbers = [b"0", b"1", b"2", b"9999", b"100000000", b"4294967294", b"99999999999", b"-1"]
    lines = (random.choice(_RUBBISH) + random.choice(numbers) + b"\r\n" for _ in range(random.randrange(1, 20)))
    begun = random.choice([b"", b"*2\r\n", b"*2\r\n$4\r\nPING\r\n"])
    wrong = begun + b"".join(lines) * random.choice([1, 1, 1_000]) + b"!\r\n" * 4_000  # the end of whatever is awaited
    return [[b"PING"], [b"SET", key(random), b"v"], [RAW, wrong]]


def _due_together(random: Random) -> list[Request]:
    pairs = [[b"SET", b"due%d" % i, b"", b"PXAT", b"9000000000000"] for i in range(10_000)]
    return [*pairs, *([b"PEXPIRE", b"due%d" % i, b"100"] for i in range(10_000))]


KINDS: dict[str, Kind] = {
    "data": Kind(_data, 40),
    "anything": Kind(_anything, 30),
    "walks": Kind(_walks, 4),
    "talk": Kind(_talk, 8),
    "transaction": Kind(_transaction, 15),
    "broken transaction": Kind(_broken_transaction, 6),
    "silent": Kind(_silent, 2),
    "execute": Kind(_execute, 10),
    "log": Kind(_log, 2),
    "sql": Kind(_sql, 2),
    "proposals": Kind(_proposals, 2),
    "large": Kind(_large, 4),
    "flush": Kind(lambda random: [[random.choice([b"FLUSHDB", b"FLUSHALL"])]], 1),
    "backwards": Kind(_backwards, 4),
    "many results": Kind(_many_results, 1),
    "many changes": Kind(_many_changes, 1),
    "many walks": Kind(_many_walks, 1),
    "comparisons": Kind(_comparisons, 1),
    "wide reads": Kind(_wide_reads, 1),
    "copies": Kind(_copies, 1),
    "flood of talk": Kind(_flood_of_talk, 1),
    "flood of values": Kind(_flood_of_values, 1),
    "due together": Kind(_due_together, 1),
    "far proposals": Kind(_far_proposals, 1),
    "many words": Kind(_many_words, 1),
    "talk in a transaction": Kind(_talk_in_a_transaction, 1),
    "many parts": Kind(_many_parts, 1),
    "far sequences": Kind(_far_sequences, 1),
    "long words": Kind(_long_words, 2),
    "gaps": Kind(_gaps, 1),
    "same proposals": Kind(_same_proposals, 1),
    "wide transaction": Kind(_wide_transaction, 2),
    "kept results": Kind(_kept_results, 2),
    "deep values": Kind(_deep_values, 2),
    "rubbish": Kind(_rubbish, 1),
}
"""All kinds by name; how often each is drawn beside the others."""
