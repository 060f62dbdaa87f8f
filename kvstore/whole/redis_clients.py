"""Client programs that speak Redis' protocol to the nodes, each on a machine of its own.

What each may expect is decided where it asks, or by :mod:`kvstore.whole.promises` when the run is over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import TypeAlias

import msgspec

from consensus.simulation.scenario import Scenario
from kvstore.commands import Append
from kvstore.state import sessions
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.promises import MANY_SESSIONS, OWN, Ask, Promises
from kvstore.whole.redis_line import RedisLine
from kvstore.whole.replies import NodeError, ReplyValue
from kvstore.whole.world import WholeWorld

MAX_REDIS_CLIENTS = 5
PATIENT = 8.0
"""How many seconds a client waits for its replies once all faults are over."""
LISTS = (OWN + b"list:a", OWN + b"list:b")
COUNTERS = (OWN + b"count:a", OWN + b"count:b")
REGISTERS = (OWN + b"reg:a", OWN + b"reg:b", OWN + b"reg:c")
WATCHED = (OWN + b"watch:a", OWN + b"watch:b")
STREAMED = (*REGISTERS, *WATCHED)
SHARED = (*LISTS, *COUNTERS, *REGISTERS, *WATCHED)
RUBBISH = (
    b"*x\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n:1\r\n",
    b"*99999999999\r\n",
    b"*2\r\n$3\r\nGET\r\n$-7\r\n",
    b"*1\r\n%1\r\n*0\r\n+x\r\n",
    b"*2\r\n~4294967294\r\n",
)

Act: TypeAlias = "Callable[[RedisClient, RedisLine], Awaitable[None]]"
_pack = msgspec.msgpack.Encoder().encode


def redis_client_count(scenario: Scenario) -> int:
    """How many of these clients the seed gives, before any are dropped."""
    return scenario.random("redis client count").randint(0, MAX_REDIS_CLIENTS)


class RedisClient:
    """One program: it connects, does what its kinds of ``acts`` say for a while, and connects again.

    Without ``acts`` some are drawn.
    """

    def __init__(
        self,
        name: str,
        world: WholeWorld,
        promises: Promises,
        rng: random.Random,
        nodes: Sequence[str],
        lines: count[int],
        acts: Sequence[Act] = (),
    ) -> None:
        self.name = name
        self.world = world
        self.promises = promises
        self.rng = rng
        self.is_stopped = False
        self.sessions = SessionWork(self)
        self.own: dict[bytes, Ask] = {}
        """The keys that only this client writes, each with the request that wrote it."""
        self._nodes = nodes
        self._lines = lines
        self._tags = count(1)
        self._machine = world.client_machine(name)
        self._is_done = False
        self._cuts = rng.choice([0.0, 0.0, 0.03])
        self._dawdles = rng.choice([0.0, 0.0, 0.05])
        self._patience = rng.choice([1.0, 3.0, PATIENT])
        self._pace = rng.choice([0.01, 0.05, 0.2])
        self._acts = acts or rng.sample(ACTS, rng.choice([1, 1, 2, 4, len(ACTS)]))

    def begin(self) -> None:
        self._machine.start(self._run)

    def stop(self) -> None:
        """Begin nothing new."""
        self.is_stopped = True

    def unfinished(self) -> str:
        """What it still waits for, as text; "" if nothing."""
        return "" if self._is_done else f"{self.name} still waits for its replies"

    def tag(self) -> bytes:
        """A mark that nobody else uses."""
        return f"{self.name}.{next(self._tags)}".encode()

    async def _run(self, machine: VirtualMachine) -> int:
        while not self.is_stopped:
            line = RedisLine(self.world, self.promises, self.rng.choice(self._nodes), next(self._lines))
            if await line.dial():
                if self.rng.random() < 0.5:
                    line.send([Ask(("HELLO", 3))])
                for _ in range(self.rng.choice([1, 5, 30])):
                    if self.is_stopped or line.is_lost:
                        break
                    await self.rng.choice(self._acts)(self, line)
                    await asyncio.sleep(self.rng.random() * self._pace)
            line.close()
            await asyncio.sleep(self.rng.random() * self._pace)
        self._is_done = True
        return 0

    async def ask(self, line: RedisLine, *asks: Ask) -> bool:
        """Send requests, and wait for the replies; returns False if some did not come. Much may happen meanwhile."""
        line.send(asks)
        dice = self.rng.random()
        if self.is_stopped:
            pass
        elif dice < self._cuts:
            self.world.count("client: goes away with requests under way")
            wait, cut = (
                self.rng.random() * self.rng.choice([0.0, 0.005, 0.1]),
                self.rng.choice([line.abort, line.close]),
            )
            asyncio.get_running_loop().call_later(wait, cut)
        elif dice < self._cuts + self._dawdles:
            self.world.count("client: reads slowly")
            line.dawdle(self.rng.choice([0.05, 0.5, 2.0]))
        await line.answers(PATIENT if self.is_stopped else self._patience)
        return all(ask.answered or ask.silent for ask in asks)

    async def dial_another(self, line: RedisLine) -> RedisLine | None:
        """A further connection, with another node if there is one; None if that does not answer."""
        nodes = [node for node in self._nodes if node != line.node] or self._nodes
        other = RedisLine(self.world, self.promises, self.rng.choice(nodes), next(self._lines))
        return other if await other.dial() else None

    def fail(self, line: RedisLine, rule: str, found: str) -> None:
        self.world.fail(rule, f"{self.name}: {found}", line.node)


# -- requests ---------------------------------------------------------------------------------------------------------


def _append(client: RedisClient, key: bytes) -> Ask:
    tag = client.tag()
    return Ask(("APPEND", key, tag + b";"), "write", tag)


def set_request(client: RedisClient, key: bytes, *options: str, prefix: bytes = b"v") -> Ask:
    tag = client.tag()
    return Ask(("SET", key, b"%b:%b" % (prefix, tag), *options), "write", tag)


def _delete(client: RedisClient, key: bytes) -> Ask:
    tag = client.tag()
    return Ask(("DEL", key, b"%bnone:%b" % (OWN, tag)), "write", tag)


def _increment(client: RedisClient, key: bytes) -> Ask:
    return Ask(("INCR", key), "count", keys=(key,))


def read_request(*keys: bytes) -> Ask:
    return Ask(("GET" if len(keys) == 1 else "MGET", *keys), "read", keys=keys)


def _local(*keys: bytes) -> Ask:
    return Ask(("GET" if len(keys) == 1 else "MGET", *keys), "local", keys=keys)


def echo(client: RedisClient) -> Ask:
    tag = client.tag()
    return Ask((client.rng.choice(["ECHO", "PING"]), tag), expected=(tag,))


def _ok(*arguments: bytes | str | int) -> Ask:
    return Ask(arguments, expected=(b"OK",))


def _wrong(error: str, *arguments: bytes | str | int) -> Ask:
    return Ask(arguments, expected=(NodeError(error),))


def _any(client: RedisClient) -> Ask:
    """Some request on data."""
    rng, dice = client.rng, client.rng.random()
    if dice < 0.3:
        return _append(client, rng.choice(LISTS))
    if dice < 0.5:
        return _increment(client, rng.choice(COUNTERS))
    if dice < 0.7:
        options = rng.choice([(), (), ("NX",), ("XX",), ("GET",), ("XX", "GET"), ("PX", "100000000")])
        return set_request(client, rng.choice(REGISTERS), *options)
    if dice < 0.75:
        return _delete(client, rng.choice(REGISTERS))
    if dice < 0.9:
        return read_request(rng.choice(SHARED))
    return read_request(*rng.sample(SHARED, rng.choice([2, 3]))) if dice < 0.97 else echo(client)


# -- what clients do --------------------------------------------------------------------------------------------------


async def _pipeline(client: RedisClient, line: RedisLine) -> None:
    await client.ask(line, *(_any(client) for _ in range(client.rng.choice([1, 1, 3, 10, 60]))))


async def _stream(client: RedisClient, line: RedisLine) -> None:
    """Write without waiting, a few values at a time, which are short and long."""
    rng = client.rng
    narrow = client.world.network.window < 10_000
    sizes = rng.choice([(1,), (1, 100), (1, 300) if narrow else (1, 300, 2_000)])
    pause = rng.choice([0.0, 0.001, 0.005])
    for _ in range(rng.choice([5, 20, 60])):
        some = [
            set_request(client, rng.choice(STREAMED), prefix=b"7" * rng.choice(sizes)) for _ in range(rng.randint(1, 3))
        ]
        line.send(some)
        await asyncio.sleep(pause)
        if line.is_lost or client.is_stopped:
            break
    client.world.count("client: writes without waiting")
    await client.ask(line, read_request(rng.choice(STREAMED)))


async def poll(client: RedisClient, line: RedisLine) -> None:
    """Read again and again."""
    for _ in range(20):
        if client.is_stopped or not await client.ask(line, read_request(client.rng.choice(SHARED))):
            return
        await asyncio.sleep(client.rng.random() * 0.003)


async def _transaction(client: RedisClient, line: RedisLine) -> None:
    """MULTI, with errors of all kinds in it."""
    rng = client.rng
    text, tag = b"%btext:%b" % (OWN, client.name.encode()), client.tag()
    queued: list[tuple[bytes | str, ...]] = [("SET", text, b"t:" + tag)]
    for _ in range(rng.randint(0, 4)):
        queued.append(
            rng.choice(
                [
                    ("INCR", text),
                    ("GET", rng.choice(REGISTERS)),
                    ("APPEND", rng.choice(LISTS), tag + b";"),
                    ("DEL", rng.choice(REGISTERS)),
                    ("SET", rng.choice(REGISTERS), b"m:" + tag),
                ]
            )
        )
    asks = [Ask(arguments, expected=(b"QUEUED",)) for arguments in queued]
    ending = Ask(("EXEC",), "write", tag)
    dice = rng.random()
    if dice < 0.3:
        wrong = rng.choice(
            [
                _wrong("ERR wrong number", "GET"),
                _wrong("ERR unknown command", "NONSENSE", "x"),
                _wrong("ERR", "KV.STATUS"),
                _wrong("ERR", "SET", text, "x", "BOTH"),
            ]
        )
        asks.insert(rng.randint(0, len(asks)), wrong)
        if wrong.arguments[0] == "SET":  # wrong options are told of by EXEC, and the rest is done
            wrong.expected = (b"QUEUED", NodeError("ERR"))
            ending = Ask(("DISCARD",), "write", tag, expected=(b"OK",), never=True)
        else:
            client.world.count("multi: not executed because of an error")
            ending = Ask(("EXEC",), "write", tag, expected=(NodeError("EXECABORT"),), never=True)
    elif dice < 0.4:
        ending = Ask(("DISCARD",), "write", tag, expected=(b"OK",), never=True)
    elif dice < 0.5:
        asks.insert(0, _wrong("ERR MULTI calls can not be nested", "MULTI"))
        asks.insert(0, _wrong("ERR WATCH inside MULTI", "WATCH", text))
    if await client.ask(line, _ok("MULTI"), *asks, ending, echo(client)) and ending.done:
        client.world.count("multi: executed")
        if ending.reply is None:
            client.fail(line, "a transaction is aborted only for what is watched", f"{tag!r} was aborted")
        if isinstance(ending.reply, list) and any(isinstance(part, NodeError) for part in ending.reply):
            client.world.count("multi: an error in the middle")


async def _optimistic(client: RedisClient, line: RedisLine) -> None:
    """Read under WATCH, wait, and write what follows from what was read; some times in a row."""
    for _ in range(client.rng.choice([1, 3, 6])):
        if not line.is_lost and not client.is_stopped:
            await _optimistic_round(client, line)


async def _optimistic_round(client: RedisClient, line: RedisLine) -> None:
    rng = client.rng
    keys = tuple(rng.sample(WATCHED, rng.choice([1, 1, 2])))
    watch, read = Ask(("WATCH", *keys), "watch", keys=keys), read_request(*keys)
    if not await client.ask(line, watch, read) or not (watch.done and read.done):
        await client.ask(line, _ok("UNWATCH"))
        return
    values = read.reply if isinstance(read.reply, list) else [read.reply]
    shown = {key: value for key, value in zip(keys, values, strict=True) if isinstance(value, bytes | None)}
    await asyncio.sleep(rng.choice([0, 0, 0.02, 0.2]))
    changes = rng.random() < 0.3  # a change of its own counts too
    if changes and not await client.ask(line, set_request(client, rng.choice(keys), prefix=b"%d" % rng.randrange(9))):
        await client.ask(line, _ok("UNWATCH"))
        return
    again, forgets = rng.random() < 0.5, rng.random() < (0.3 if changes else 0.05)
    if again and not await client.ask(line, Ask(("WATCH", *keys), "watch", keys=keys)):
        await client.ask(line, _ok("UNWATCH"))
        return
    if forgets and not await client.ask(line, _ok("UNWATCH")):
        return
    tag, key = client.tag(), rng.choice(keys)
    number = int((shown[key] or b"0:").partition(b":")[0])
    ending = Ask(("EXEC",), "write", tag, keys=keys, shows={} if forgets else shown, watch=None if forgets else watch)
    done = await client.ask(
        line,
        _ok("MULTI"),
        Ask(("SET", key, b"%d:%b" % (number + 1, tag)), expected=(b"QUEUED",)),
        Ask(("APPEND", rng.choice(LISTS), tag + b";"), expected=(b"QUEUED",)),
        ending,
    )
    if done and forgets and ending.answered and ending.reply is None:
        client.fail(line, "after UNWATCH nothing aborts a transaction", f"{tag!r} was aborted")


async def _optimistic_at_once(client: RedisClient, line: RedisLine) -> None:
    """Watch, read and write in one pipeline, so that the transaction is asked for before it is known what was read."""
    rng = client.rng
    for _ in range(rng.choice([1, 5, 20])):
        key, tag = rng.choice(WATCHED), client.tag()
        watch, read = Ask(("WATCH", key), "watch", keys=(key,)), read_request(key)
        if rng.random() < 0.4:
            await read_at_once(client, line, watch, read, rng.choice([0, 0.001, 0.01]))
        else:
            ending = Ask(("EXEC",), "write", tag, keys=(key,), watch=watch)
            queued = Ask(("SET", key, b"%d:%b" % (rng.randrange(9), tag)), expected=(b"QUEUED",))
            await client.ask(line, watch, read, _ok("MULTI"), queued, ending)
            if read.done and (read.reply is None or isinstance(read.reply, bytes)):
                ending.shows = {key: read.reply}
                client.world.count("watch: in one pipeline with its transaction")
        if line.is_lost or client.is_stopped:
            return


async def read_at_once(client: RedisClient, line: RedisLine, watch: Ask, read: Ask, pause: float) -> None:
    """Read in a transaction, which is asked for before it is known what is watched."""
    ending = Ask(("EXEC",), "read", keys=watch.keys)
    line.send([watch, read])
    await asyncio.sleep(pause)
    queued = Ask(("GET", *watch.keys), expected=(b"QUEUED",))
    await client.ask(line, _ok("MULTI"), queued, ending)
    if not ending.done:
        return
    if ending.reply is None:
        ending.kind = "watch"  # it was told nothing of the keys
    elif read.done and watch.done and ending.reply != [read.reply]:
        found = f"{watch.keys} held {read.reply!r:.200} and then {ending.reply!r:.200}"
        client.fail(line, "a transaction whose watched keys have changed does nothing", found)
    client.world.count("watch: a transaction that reads")


async def _local_reads(client: RedisClient, line: RedisLine) -> None:
    """Reads of what a node has applied."""
    rng = client.rng
    asks = [_ok("READONLY")]
    for _ in range(rng.randint(1, 10)):
        dice = rng.random()
        if dice < 0.8:
            asks.append(_local(*rng.sample(SHARED, rng.choice([1, 1, 3]))))
        else:
            asks.append(_append(client, rng.choice(LISTS)) if dice < 0.95 else echo(client))
    client.world.count("client: reads locally")
    await client.ask(line, *asks, _ok("READWRITE"), read_request(rng.choice(SHARED)))


class SessionWork:
    """Appends in a session of its own, with a window; it goes on where the last connection ended."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._name = ""
        self._since = 0
        self._number = 0
        self._tags: list[bytes] = []
        self._tried: set[int] = set()
        self._upto = 0

    async def go_on(self, line: RedisLine) -> None:
        client, rng = self._client, self._client.rng
        if not self._name or (self._upto == len(self._tags) and rng.random() < 0.3):
            begins = Ask(("KV.BEGIN",))
            if not await client.ask(line, begins) or not isinstance(begins.reply, int):
                return
            self._number += 1
            self._name, self._since = f"{client.name}.{self._number}", begins.reply
            self._tags, self._tried, self._upto = [], set(), 0
        elif rng.random() < (0.8 if self._upto < len(self._tags) else 0.2) and not await self._resume(line):
            return
        self._tags += [client.tag() for _ in range(rng.choice([0, 1, 3, 10]))]
        pending = [self._request(number) for number in range(self._upto + 1, len(self._tags) + 1)]
        await client.ask(line, *pending)
        for ask in pending:
            if ask.never:
                self._name = ""
            if not ask.done:
                break
            self._upto += 1
        if rng.random() < 0.5 and (other := await client.dial_another(line)) is not None:
            client.world.count("session: asked for at another node")
            await self._resume(other)
            other.close()

    async def _resume(self, line: RedisLine) -> bool:
        """Ask how far the session was executed; returns whether there was an answer."""
        client, asks = self._client, Ask(("KV.SESSION", self._name), "watch")
        if not await client.ask(line, asks) or not isinstance(asks.reply, int):
            return False
        client.promises.told_upto.append((self._name, asks.reply))
        if self._upto and not asks.reply and sessions.MAX_SESSIONS < MANY_SESSIONS:
            client.world.count("session: unknown to the store")
            self._name = ""
            return False
        if not self._upto <= asks.reply <= len(self._tags):
            client.fail(
                line,
                "KV.SESSION knows what was acknowledged",
                f"{self._name} was executed up to {self._upto} of {len(self._tags)}, and is told {asks.reply}",
            )
        client.world.count("session: resumed" if self._upto < len(self._tags) else "session: asked for")
        self._upto = max(self._upto, asks.reply)
        return True

    def _request(self, number: int) -> Ask:
        client, tag = self._client, self._tags[number - 1]
        command = _pack(Append(LISTS[0], tag + b";"))
        arguments = ("KV.EXECUTE", self._name, number, self._upto + 1, command, self._since)
        ask = Ask(arguments, "write", tag, session=(self._name, number), again=number in self._tried)
        self._tried.add(number)
        client.world.count("session: sent again" if ask.again else "session: sent")
        return ask


async def _session(client: RedisClient, line: RedisLine) -> None:
    await client.sessions.go_on(line)


async def _keys(client: RedisClient, line: RedisLine) -> None:
    """Write keys of its own, and list them."""
    rng, prefix = client.rng, b"%bown:%b:" % (OWN, client.name.encode())
    asks = []
    for _ in range(rng.randint(0, 5)):
        key = b"%b%03d" % (prefix, rng.randrange(60))
        if key not in client.own or client.own[key].refused:
            ask = client.own[key] = set_request(client, key)
            asks.append(ask)
    await client.ask(line, *asks)
    certain = {key for key, ask in client.own.items() if ask.done}
    here = {key for key, ask in client.own.items() if ask.done and ask.line == line.number}
    possible = {key for key, ask in client.own.items() if not ask.refused}
    kind = rng.choice(["KEYS", "KV.KEYS", "SCAN"])
    found: list[ReplyValue] = []
    if kind == "SCAN":
        cursor: ReplyValue = b"0"
        while True:
            assert isinstance(cursor, bytes)
            page = Ask(("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", rng.choice([1, 7, 50])), "watch")
            if not await client.ask(line, page) or not isinstance(page.reply, list):
                return
            cursor, keys = page.reply
            assert isinstance(keys, list)
            found += keys
            if cursor == b"0":
                break
    else:
        arguments = ("KEYS", prefix + b"*") if kind == "KEYS" else ("KV.KEYS", prefix, 1_000)
        listing = Ask(arguments, "watch")
        if not await client.ask(line, listing) or not isinstance(listing.reply, list):
            return
        found = listing.reply
    client.world.count(f"keys: {kind}")
    needed = here if kind == "KV.KEYS" else certain
    told = [key for key in found if isinstance(key, bytes)]
    if len(set(told)) != len(told) or (kind != "KEYS" and told != sorted(told)):
        client.fail(line, "keys are listed once, in order", f"{kind}: {told}")
    if missing := sorted(needed - set(told)):
        client.fail(line, "every key is listed", f"{kind} lacks {missing} on connection {line.number}")
    if strange := sorted(set(told) - possible):
        client.fail(line, "only keys that exist are listed", f"{kind} has {strange}")


async def _flood(client: RedisClient, line: RedisLine) -> None:
    await client.ask(line, *(echo(client) for _ in range(client.rng.choice([50, 300, 1_000]))))


async def _rubbish(client: RedisClient, line: RedisLine) -> None:
    """Requests, and then what is none: they are answered, then there is an error, and the connection ends."""
    rubbish = Ask((), expected=(NodeError("ERR Protocol error"),), raw=client.rng.choice(RUBBISH))
    client.world.count("client: sends rubbish")
    if await client.ask(line, *(_any(client) for _ in range(client.rng.randint(0, 5))), rubbish):
        await line.end(PATIENT)


async def _slow(client: RedisClient, line: RedisLine) -> None:
    """Ask for much, and take it late."""
    key = b"%bbig:%b" % (OWN, client.name.encode())
    # Through the narrowest connections large values take longer than any node waits.
    size = 30_000 if client.world.network.window > 10_000 else 300
    if not await client.ask(line, set_request(client, key, prefix=b"x" * size)):
        return
    line.dawdle(client.rng.choice([0.1, 0.5]))
    client.world.count("client: takes its replies late")
    await client.ask(line, *(read_request(key) for _ in range(40)), _append(client, LISTS[0]), read_request(LISTS[0]))


async def _half_closed(client: RedisClient, line: RedisLine) -> None:
    line.send([_any(client) for _ in range(client.rng.choice([1, 5, 20]))])
    client.world.count("client: closes its half")
    line.half_close()
    await line.end(PATIENT)


async def _stranger(client: RedisClient, line: RedisLine) -> None:
    """Wrong passwords, other versions, and requests that wait behind them."""
    wrong = [
        _wrong("ERR AUTH", "AUTH", "secret"),
        _wrong("WRONGPASS", "AUTH", "somebody", "secret"),
        _wrong("NOPROTO", "HELLO", 4),
        _wrong("WRONGPASS", "HELLO", 3, "AUTH", "somebody", "secret"),
        Ask(("HELLO", 2)),
        Ask(("HELLO", 3)),
    ]
    asks = [_any(client), client.rng.choice(wrong), _any(client), echo(client)]
    client.world.count("client: wrong password or version")
    await client.ask(line, *asks)


async def _unheard(client: RedisClient, line: RedisLine) -> None:
    """Requests that are not answered, by the client's own wish."""
    hushed = [_any(client) for _ in range(3)]
    for ask in hushed:
        ask.silent = True
    client.world.count("client: wants no replies")
    await client.ask(line, Ask(("CLIENT", "REPLY", "OFF"), silent=True), *hushed, _ok("CLIENT", "REPLY", "ON"))
    skipped = _any(client)
    skipped.silent = True
    await client.ask(line, Ask(("CLIENT", "REPLY", "SKIP"), silent=True), skipped, _any(client))


ACTS: list[Act] = [
    _pipeline,
    _pipeline,
    _stream,
    _stream,
    _transaction,
    _optimistic,
    _optimistic,
    _optimistic_at_once,
    _local_reads,
    _session,
    _session,
    _keys,
    _flood,
    _rubbish,
    _slow,
    _half_closed,
    _stranger,
    _unheard,
]
