"""``kvstore bench``: a load on a cluster, and what it took: throughput, latencies, each node's time a request, and
where the leader's time went."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator

import hiredis
import msgspec

from cli.exits import OK, UNAVAILABLE, complain, write_lines
from cli.target import reach
from kvstore.addresses import Address, address_text, addresses
from kvstore.errors import CommandError, KvstoreError, UnavailableError
from kvstore.server.settings import SettingsError, client_password

MAX_CLIENTS = 10_000
PATIENCE = 5.0
ANSWER_SECONDS = 10.0
"""A node that answers nothing for longer than its own time limit for a request is taken to stand still."""


class BenchOptions(msgspec.Struct, frozen=True):
    """``pipeline``: how many requests are sent before their answers are read. Sizes are in bytes."""

    operation: str
    clients: int
    seconds: float
    pipeline: int
    value_size: int
    keys: int


class Report(msgspec.Struct):
    """What was measured. Latencies are in ms, of a whole pipeline where there is one; ``cpu_us`` by node, a request.

    ``leader_time``: percent of the time that the leader's event loop gave to each kind of work (see
    :class:`kvstore.server.time_spent.TimeSpent`). Without a ``leader`` no node that was named led at the end.
    """

    operation: str
    clients: int
    pipeline: int
    requests: int
    errors: int
    seconds: float
    per_second: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: dict[str, float]
    leader: str | None
    leader_time: dict[str, float]


class Look(msgspec.Struct, frozen=True):
    """A node's counters since its start: processor time in ms, and its event loop's time in microseconds by phase."""

    role: str
    cpu_ms: int
    time_us: dict[str, int]


def run(connect: str, options: BenchOptions, output: str) -> int:
    """Load the first node that answers, and print the report; returns the exit status."""
    nodes = addresses(connect)
    if not 1 <= options.clients <= MAX_CLIENTS:
        raise CommandError(f"--clients must be from 1 to {MAX_CLIENTS:,}, not {options.clients}")
    nodes, before = _look_at(nodes, output)
    if not before:
        return UNAVAILABLE
    load = _Load(options)
    seconds = asyncio.run(load.run(nodes[0]))
    _, after = _look_at(nodes, output)
    leader = next((name for name, look in after.items() if look.role == "leader" and name in before), None)
    done = max(len(load.took) * options.pipeline - load.errors, 1)
    took = sorted(load.took) or [0.0]
    p50, p99, p999 = (
        round(took[min(int(len(took) * share), len(took) - 1)] * 1_000, 3) for share in (0.5, 0.99, 0.999)
    )
    report = Report(
        operation=options.operation,
        clients=options.clients,
        pipeline=options.pipeline,
        requests=len(load.took) * options.pipeline,
        errors=load.errors,
        seconds=round(seconds, 3),
        per_second=round(done / seconds),
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        cpu_us={
            f"{name} ({look.role})": round((after[name].cpu_ms - look.cpu_ms) * 1_000 / done, 1)
            for name, look in before.items()
            if name in after
        },
        leader=leader,
        leader_time=_shares(before[leader].time_us, after[leader].time_us) if leader else {},
    )
    write_lines(_lines(report, output))
    return UNAVAILABLE if load.errors == report.requests else OK


def _look_at(nodes: list[Address], output: str) -> tuple[list[Address], dict[str, Look]]:
    """The nodes that answer, and the counters of each by its name; complains of the others."""
    answering: list[Address] = []
    looks: dict[str, Look] = {}
    for node in nodes:
        try:
            with reach([node], PATIENCE) as store:
                fields = store.fields()
        except SettingsError:
            raise
        except KvstoreError as error:
            complain(str(error), output)
            continue
        time_us = msgspec.json.decode(str(fields["time_us"]), type=dict[str, int])
        looks[str(fields["node_id"])] = Look(str(fields["role"]), int(fields["cpu_ms"] or 0), time_us)
        answering.append(node)
    return answering, looks


def _shares(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    """Percent of the time in between, by phase; nothing if the node was started anew."""
    took = {phase: time - before.get(phase, 0) for phase, time in after.items()}
    total = sum(took.values())
    if total <= 0 or min(took.values()) < 0:
        return {}
    return {phase: round(100 * time / total, 1) for phase, time in took.items()}


def _lines(report: Report, output: str) -> Iterator[str]:
    if output == "json":
        yield msgspec.json.encode(report).decode()
        return
    each = f", {report.pipeline} pipelined" if report.pipeline > 1 else ""
    yield f"{report.operation}, {report.clients} clients{each}: {report.per_second:,}/s over {report.seconds:.1f} s"
    yield f"latency: p50 {report.p50_ms:.2f} ms, p99 {report.p99_ms:.2f} ms, p99.9 {report.p999_ms:.2f} ms"
    yield "CPU per request: " + ", ".join(f"{name} {us:.1f} us" for name, us in report.cpu_us.items())
    if report.leader_time:
        shares = (f"{phase} {percent:.0f} %" for phase, percent in report.leader_time.items())
        yield f"leader {report.leader}: " + ", ".join(shares)
    if report.errors:
        yield f"{report.errors:,} of {report.requests:,} requests failed"


class _Load:
    """Clients that send the next requests as soon as they are answered."""

    def __init__(self, options: BenchOptions) -> None:
        self.took: list[float] = []
        self.errors = 0
        self._options = options
        self._value = random.randbytes(options.value_size // 2).hex().encode().ljust(options.value_size, b"x")

    async def run(self, node: Address) -> float:
        """Returns how long it took, in seconds. Raises UnavailableError when the node is lost, or stands still."""
        began = time.monotonic()
        ends = began + self._options.seconds
        try:
            async with asyncio.timeout(self._options.seconds + ANSWER_SECONDS):
                await asyncio.gather(*(self._client(node, ends) for _ in range(self._options.clients)))
        except TimeoutError:
            why = f"gave no answer for {ANSWER_SECONDS:.0f} s"
        except OSError as error:
            why = f"was lost: {error.strerror or error}"
        else:
            return time.monotonic() - began
        raise UnavailableError(f"{address_text(node)} {why}; nothing was measured, see its log")

    async def _client(self, node: Address, ends: float) -> None:
        reader, writer = await asyncio.open_connection(*node)
        answers = hiredis.Reader()
        if password := client_password(os.environ):
            writer.write(_packed(b"AUTH", password.encode()))
            await _answers(reader, answers, 1)
        while time.monotonic() < ends:
            began = time.perf_counter()
            writer.write(b"".join(self._request() for _ in range(self._options.pipeline)))
            self.errors += await _answers(reader, answers, self._options.pipeline)
            self.took.append(time.perf_counter() - began)
        writer.close()

    def _request(self) -> bytes:
        key = b"bench:%012d" % random.randrange(self._options.keys)
        if self._options.operation == "get" or (self._options.operation == "mixed" and random.random() < 0.5):
            return _packed(b"GET", key)
        return _packed(b"SET", key, self._value)


def _packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


async def _answers(reader: asyncio.StreamReader, answers: hiredis.Reader, count: int) -> int:
    """Read this many answers; returns the number of errors among them."""
    errors = 0
    while count:
        answer = answers.gets()
        if answer is False:
            data = await reader.read(262_144)
            if not data:
                raise ConnectionResetError("it ended the connection")
            answers.feed(data)
            continue
        errors += isinstance(answer, hiredis.ReplyError)
        count -= 1
    return errors
