"""What clients do in runs that have a theme."""

from __future__ import annotations

import asyncio

from kvstore.whole.promises import Ask
from kvstore.whole.redis_clients import (
    REGISTERS,
    WATCHED,
    RedisClient,
    echo,
    read_at_once,
    read_request,
    set_request,
)
from kvstore.whole.redis_line import RedisLine


async def large_values(client: RedisClient, line: RedisLine) -> None:
    """Write without waiting, mostly values that a link has little room for."""
    rng = client.rng
    pause = rng.choice([0.001, 0.005, 0.02])
    sizes = (1, 100, 300, 900) if client.world.network.window < 10_000 else (1, 100, 900, 6_000)
    for _ in range(rng.choice([20, 60])):
        if line.is_lost or client.is_stopped:
            break
        line.send([set_request(client, rng.choice(REGISTERS), prefix=b"7" * rng.choice(sizes))])
        await asyncio.sleep(pause)
    await client.ask(line, read_request(rng.choice(REGISTERS)))


async def read_behind_watch(client: RedisClient, line: RedisLine) -> None:
    """Read in a transaction that comes while WATCH is under way, of keys that change all the time."""
    other = await client.dial_another(line)
    if other is None:
        return
    rng, longest = client.rng, client.world.dials.delay[1] / 1_000
    for _ in range(20):
        if line.is_lost or other.is_lost or client.is_stopped:
            break
        key = rng.choice(WATCHED)
        other.send([set_request(client, key, prefix=b"%d" % rng.randrange(9)) for _ in range(2)])
        await asyncio.sleep(rng.random() * longest)
        watch = Ask(("WATCH", key), "watch", keys=(key,))
        await read_at_once(client, line, watch, read_request(key), rng.random() * longest)
        client.world.count("watch: a transaction comes while the keys change")
    other.close()


async def much_at_once(client: RedisClient, line: RedisLine) -> None:
    """Send thousands of requests of one kind in one piece."""
    rng = client.rng
    if rng.random() < 0.5:
        asks = [echo(client) for _ in range(3_000)]
    else:
        asks = [set_request(client, rng.choice(REGISTERS)) for _ in range(600)]
    client.world.count("client: much at once")
    await client.ask(line, *asks)
    await asyncio.sleep(rng.random())


async def lookalikes(client: RedisClient, line: RedisLine) -> None:
    """Pipelines in several pieces, with values that look like the beginnings of huge requests."""
    rng = client.rng
    for _ in range(rng.choice([3, 10])):
        if line.is_lost or client.is_stopped:
            break
        prefix = rng.choice([b"v", b"v", b"*12345", b"$12345678"])
        line.send([set_request(client, rng.choice(REGISTERS), prefix=prefix) for _ in range(rng.randint(1, 9))])
        await asyncio.sleep(rng.choice([0.0, 0.001, 0.01]))
    client.world.count("client: values that look like requests")
    await client.ask(line, read_request(rng.choice(REGISTERS)))
