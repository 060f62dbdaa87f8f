"""``kvstore bench``: a load on a cluster, and what it took: throughput, latencies, each node's time a request, and
where the leader's time went."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import hiredis
import msgspec

from cli.exits import OK, UNAVAILABLE, complain, write_lines
from cli.target import password
from kvstore.errors import CommandError, KvstoreError
from kvstore.remote import Address, RemoteStore, addresses

MAX_CLIENTS = 10_000
PATIENCE = 5.0


class Options(msgspec.Struct, frozen=True):
    """``pipeline``: so many requests are sent before their answers are taken. Sizes are in bytes."""

    operation: str
    clients: int
    seconds: float
    pipeline: int
    value_size: int
    keys: int


class Report(msgspec.Struct):
    """What was measured. Latencies are in ms, of a whole pipeline where there is one; ``cpu_us`` by node, a request.

    ``leader_time``: percent of the time that the leader's event loop gave to each phase of its work (see
    :class:`kvstore.phases.Phases`). Without a ``leader`` no node that was named led at the end.
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


def run(connect: str, options: Options, output: str) -> int:
    """Load the first node that is named, and print the report; returns the exit status."""
    nodes = addresses(connect)
    if not 1 <= options.clients <= MAX_CLIENTS:
        raise CommandError(f"--clients must be from 1 to {MAX_CLIENTS:,}, not {options.clients}")
    before = dict(_looks(nodes))
    if not before:
        complain("no node answers: start one, or name another with --connect", output)
        return UNAVAILABLE
    load = _Load(options)
    seconds = asyncio.run(load.run(nodes[0]))
    after = dict(_looks(nodes))
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


def _looks(nodes: list[Address]) -> Iterator[tuple[str, Look]]:
    """The counters of each node that answers, by its name."""
    secret = password()
    for node in nodes:
        try:
            with RemoteStore([node], password=secret, patience=PATIENCE) as store:
                fields = store.fields()
                time_us = msgspec.json.decode(str(fields["time_us"]), type=dict[str, int])
                yield str(fields["node_id"]), Look(str(fields["role"]), int(fields["cpu_ms"] or 0), time_us)
        except KvstoreError:
            continue


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
    yield "CPU a request: " + ", ".join(f"{name} {us:.1f} us" for name, us in report.cpu_us.items())
    if report.leader_time:
        shares = (f"{phase} {percent:.0f} %" for phase, percent in report.leader_time.items())
        yield f"leader {report.leader}: " + ", ".join(shares)
    if report.errors:
        yield f"{report.errors:,} of {report.requests:,} requests failed"


class _Load:
    """Clients that send as soon as they are answered."""

    def __init__(self, options: Options) -> None:
        self.took: list[float] = []
        self.errors = 0
        self._options = options
        self._value = random.randbytes(options.value_size // 2).hex().encode().ljust(options.value_size, b"x")

    async def run(self, node: Address) -> float:
        """Returns how long it took, in seconds."""
        began = time.monotonic()
        ends = began + self._options.seconds
        await asyncio.gather(*(self._client(node, ends) for _ in range(self._options.clients)))
        return time.monotonic() - began

    async def _client(self, node: Address, ends: float) -> None:
        reader, writer = await asyncio.open_connection(*node)
        answers = hiredis.Reader()
        secret = password()
        if secret:
            writer.write(_packed(b"AUTH", secret.encode()))
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
    """Take so many answers; how many of them were errors."""
    errors = 0
    while count:
        answer = answers.gets()
        if answer is False:
            data = await reader.read(262_144)
            if not data:
                raise KvstoreError("the node ended the connection: see its log")
            answers.feed(data)
            continue
        errors += isinstance(answer, hiredis.ReplyError)
        count -= 1
    return errors
