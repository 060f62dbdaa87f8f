"""One run: clients that send what ``kinds`` draws, and beside them healthy ones whose waits are measured."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TypeVar

import redis

from tests.fuzz.judge import SETTLING_SECONDS, judge, measure
from tests.fuzz.kinds import KINDS
from tests.fuzz.outcome import Outcome
from tests.fuzz.sender import Sender, Stopped, crowd
from tests.system.servers import Servers

Item = TypeVar("Item")

RECONNECT_EVERY = 10


@dataclass(frozen=True)
class Plan:
    """What is sent. A part of ``kinds``, of ``clients`` or of ``most`` sends a part of the same requests.

    ``most``: pipelines of one client. ``crowd``: connections beside those of clients, at most. ``outages``: seconds
    between two in which a node is killed, told to end or paused; 0 for none.
    """

    seed: int
    seconds: float
    kinds: tuple[str, ...] = tuple(KINDS)
    clients: tuple[int, ...] = tuple(range(6))
    most: int = 2**62
    crowd: int = 200
    outages: float = 0.0

    def option(self) -> str:
        """As ``python -m tests.fuzz`` takes it."""
        kinds = " ".join(f'"{kind}"' for kind in self.kinds)
        return (
            f"--seed {self.seed} --seconds {self.seconds:.0f} --crowd {self.crowd} --outages {self.outages:.0f}"
            f" --most {self.most} --clients {' '.join(map(str, self.clients))} --kinds {kinds}"
        )


def be_healthy(servers: Servers, name: str, outcome: Outcome, stopped: Stopped) -> None:
    """Write and read a key over and over, and measure; an error, or another's value, is a complaint.

    Now and then it connects anew, which may take no longer either.

    Who is told that nothing serves now asks again, and has waited since it asked first. Other errors are none while a
    node is down on purpose. A write whose answer was an error may take effect later.
    """
    key, unsure = f"healthy:{name}", set[bytes]()
    with servers.client(name, socket_timeout=60) as client:
        for ordinal in range(2**62):
            value = str(ordinal).encode()
            for request in (("SET", key, value), ("GET", key)):
                began = time.monotonic()
                while True:
                    if stopped():
                        outcome.waited(began)
                        return
                    try:
                        answer = client.execute_command(*request)
                        break
                    except (redis.RedisError, OSError) as error:
                        unsure.add(value)
                        if not (outcome.was_disturbed(began) or _is_unavailable(error)):
                            outcome.complain(f"{name} answered {request[0]} of a healthy client by {error!r}")
                            return
                        outcome.unavailable += 1
                        time.sleep(0.05)
                outcome.answered(began)
                if not ordinal % RECONNECT_EVERY:
                    client.connection_pool.disconnect()
                if request[0] == "GET" and answer not in (value, None) and answer not in unsure:  # None after FLUSHALL
                    outcome.complain(f"{name} gave {answer!r} for {value!r}")
            time.sleep(0.02)


def _is_unavailable(error: Exception) -> bool:
    return isinstance(error, redis.exceptions.ClusterDownError) or str(error).startswith(("UNKNOWN", "CLUSTERDOWN"))


def break_off(servers: Servers, outcome: Outcome, random: Random, stopped: Stopped) -> None:
    """Kill, end or pause one node for a while, and wait until it serves again. One that ended by itself is left so."""
    name, how, seconds = random.choice(servers.names), random.choice(["kill", "stop", "pause"]), random.random() * 4
    if not servers.is_running(name):
        return
    measure(servers, name, outcome)
    outcome.outage(True)
    try:
        if how == "pause":
            outcome.paused.add(name)
            servers.pause(name)
        elif how == "kill":
            servers.kill(name)
        elif status := servers.stop(name):
            outcome.complain(f"{name} ended with {status} when told to: {servers.log(name)[-3_000:]}")
        until = time.monotonic() + seconds
        while time.monotonic() < until and not stopped():
            time.sleep(0.05)
        if how == "pause":
            servers.resume(name)
        else:
            outcome.paused.discard(name)
            servers.start(name)
        servers.wait_until_serving(name, seconds=SETTLING_SECONDS)
    except Exception:
        outcome.complain(f"after {how} of {name}: {traceback.format_exc()[-3_000:]}")
    finally:
        outcome.outage(False)


def fuzz(servers: Servers, plan: Plan) -> Outcome:
    """Send for so long to a cluster that serves, then judge it."""
    outcome = Outcome()
    over = threading.Event()
    stopped = over.is_set
    ports = list(servers.ports.values())

    numbers = plan.clients
    senders = _started([Sender(plan.seed, n, ports, plan.kinds, outcome, plan.most).run for n in numbers], stopped)
    others = _started([partial(be_healthy, servers, name, outcome) for name in servers.names], stopped)
    if plan.crowd:
        others += _started([partial(crowd, plan.seed, ports, plan.crowd)], stopped)
    _until_over(servers, plan, outcome, senders)
    over.set()
    for thread in senders + others:
        thread.join()
    judge(servers, outcome)
    return outcome


def _started(jobs: Sequence[Callable[[Stopped], None]], stopped: Stopped) -> list[threading.Thread]:
    threads = [threading.Thread(target=job, args=(stopped,)) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


def _until_over(servers: Servers, plan: Plan, outcome: Outcome, senders: list[threading.Thread]) -> None:
    random = Random(f"{plan.seed}/outages")
    deadline = time.monotonic() + plan.seconds
    outage_at = time.monotonic() + plan.outages
    while time.monotonic() < deadline and not outcome.complaints and any(sender.is_alive() for sender in senders):
        if not all(map(servers.is_running, servers.names)):
            return
        if plan.outages and time.monotonic() > outage_at:
            break_off(servers, outcome, random, lambda: time.monotonic() > deadline)
            outage_at = time.monotonic() + plan.outages
        time.sleep(0.2)


def shrink(plan: Plan, finds: Callable[[Plan], bool]) -> Plan:
    """A smaller plan that still finds something: fewer clients first, then kinds, then pipelines."""
    clients = _smallest(plan.clients, lambda part: finds(replace(plan, clients=tuple(part))))
    plan = replace(plan, clients=tuple(clients))
    kinds = _smallest(plan.kinds, lambda part: finds(replace(plan, kinds=tuple(part))))
    plan = replace(plan, kinds=tuple(kinds))
    while plan.most > 1 and finds(fewer := replace(plan, most=plan.most // 2)):
        plan = fewer
    return plan


def _smallest(items: Sequence[Item], finds: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """What is left when parts without which the finding stays are taken out: large parts first."""
    size = len(items) // 2
    while size:
        for start in range(0, len(items), size):
            rest = [*items[:start], *items[start + size :]]
            if rest and finds(rest):
                items = rest
                size = min(size, max(1, len(items) // 2)) if len(items) > 1 else 0
                break
        else:
            size //= 2
    return items
