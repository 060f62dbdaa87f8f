"""A cluster under one hostile client, with a healthy one beside it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import hiredis

from tests.fuzz.outcome import Outcome
from tests.fuzz.run import be_healthy
from tests.fuzz.sender import packed
from tests.system.servers import HOST, Servers, patience


def say(
    servers: Servers, name: str, *requests: tuple[object, ...], seconds: float = 30, source: str = HOST
) -> list[object]:
    """Send these as one pipeline while taking the answers. Raises OSError when the node hangs up or takes longer.

    ``source``: the address from which they come.
    """
    parts = [[part if isinstance(part, bytes) else str(part).encode() for part in request] for request in requests]
    data, reader, answers = b"".join(map(packed, parts)), hiredis.Reader(), list[object]()
    address, own = (HOST, servers.ports[name]), (source, 0)
    with socket.create_connection(address, timeout=patience(seconds), source_address=own) as wire:
        sending = threading.Thread(target=wire.sendall, args=(data,), daemon=True)
        sending.start()
        deadline = time.monotonic() + patience(seconds)
        while len(answers) < len(requests):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(answers):,} of {len(requests):,} answers in {seconds} s")
            some = wire.recv(1 << 18)
            if not some:
                raise ConnectionResetError(f"hung up after {len(answers):,} of {len(requests):,} answers")
            reader.feed(some)
            while len(answers) < len(requests) and (answer := reader.gets()) is not False:
                answers.append(answer)
        sending.join()
    return answers


@contextmanager
def healthy_clients(servers: Servers, longest_wait: float) -> Iterator[None]:
    """What is sent within leaves the nodes alive, and healthy clients waiting no longer than so many seconds."""
    outcome, over = Outcome(), threading.Event()
    healthy = [
        threading.Thread(target=be_healthy, args=(servers, name, outcome, over.is_set)) for name in servers.names
    ]
    for thread in healthy:
        thread.start()
    try:
        yield
        until = time.monotonic() + patience(longest_wait)
        while not outcome.healthy and time.monotonic() < until:  # what was sent may have taken no time at all
            time.sleep(0.02)
    finally:
        over.set()
        for thread in healthy:
            thread.join()
        dead = [name for name in servers.names if not servers.is_running(name)]
        assert not dead, servers.log(dead[0])[-3_000:]
    assert not outcome.complaints, outcome.complaints
    assert outcome.healthy > 0
    assert outcome.longest_wait < patience(longest_wait)
