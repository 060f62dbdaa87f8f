"""From whom a node reads when more comes in a turn than it has time for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from kvstore import clocks
from kvstore.resp.hub import Hub
from kvstore.resp.shares import SECONDS_PER_BYTE_READ, Shares
from kvstore.server import collector
from kvstore.server.collector import ALL_MS, INTERVAL_MS, Collector
from kvstore.server.main import ClientProtocol
from kvstore.server.readers import LATE_SECONDS, READ_AGAIN, Readers
from tests.unit.resp_client import Client, Node, packed
from tests.unit.test_shares import Loop

MUCH = 262_144


class Socket:
    """One that is always ready, and notes when it is read."""

    def __init__(self) -> None:
        self.has_come = False
        self.is_held = False
        self.reads: list[int] = []

    def hold(self, wanted: bool) -> None:
        self.is_held = wanted


class Crowd:
    """Many clients that send without end to a node that has no time for requests: all is put off."""

    def __init__(self, count: int) -> None:
        self.loop = Loop()
        self.shares = Shares(self.loop.soon)
        self.readers = Readers(self.shares, self.loop.soon)
        self.sockets = [Socket() for _ in range(count)]
        for socket in self.sockets:
            self.readers.add(socket)
        self.turns = 0

    def turn(self) -> int:
        """One turn of the event loop; returns how many sockets were read."""
        self.shares.begin()
        self.loop.turn()
        self.turns += 1
        count = 0
        for socket in self.sockets:  # always in this order
            if not socket.is_held:
                count += 1
                socket.has_come = True
                socket.reads.append(self.turns)
                self.shares.put_off(MUCH)
                self.readers.look()
        return count


@pytest.mark.parametrize("count", [100, READ_AGAIN, 1_000])
def test_a_turn_reads_from_no_more_than_it_has_time_for_and_from_everybody_in_the_end(count: int) -> None:
    crowd = Crowd(count)
    most = LATE_SECONDS / (MUCH * SECONDS_PER_BYTE_READ) + 1
    for _ in range(2 * count):
        assert 0 < crowd.turn() <= most
    longest = max(later - earlier for socket in crowd.sockets for earlier, later in pairwise(socket.reads))
    assert crowd.readers.holds and longest <= 2 * count


def test_a_quiet_crowd_is_read_again_within_a_few_turns() -> None:
    crowd = Crowd(1_000)
    crowd.turn()
    crowd.readers.remove(crowd.sockets.pop())
    crowd.shares.begin()
    turns = 0
    while crowd.loop.ready:
        crowd.loop.turn()
        turns += 1
    assert turns == 4 and not any(socket.is_held for socket in crowd.sockets)


class Transport:
    """A client's transport, of which only one thing is asked."""

    def __init__(self) -> None:
        self.is_read = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


def test_a_socket_is_read_if_nothing_at_all_speaks_against_it() -> None:
    soon: list[Callable[[], None]] = []
    protocol = ClientProtocol(Node(), Hub(), {}, Readers(Shares(), soon.append))  # type: ignore[arg-type]
    protocol._transport = transport = Transport()  # type: ignore[assignment]
    protocol.hold(True)
    protocol._pause(True)
    assert not transport.is_read
    protocol.hold(False)
    assert not transport.is_read
    protocol._pause(False)
    assert transport.is_read
    protocol.hold(True)
    protocol.stop_reading()
    protocol._pause(False)
    protocol.hold(False)
    assert not transport.is_read


def test_answers_start_nothing_in_a_turn_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's read and the writes behind it: its answer comes when the turn's time is used up."""
    now = [1_000.0]
    monkeypatch.setattr(clocks, "seconds", lambda: now[0])
    loop = Loop()
    shares = Shares(loop.soon)
    client = Client(hub=Hub(shares=shares))
    client.connection.received(packed("GET a") + packed("SET a 1") * 3)
    assert client.node.started == ["get a"]
    shares.spent = 1.0
    client.node.waiting.pop()()
    assert client.node.started == ["get a"]
    loop.turn()
    assert client.node.started == ["get a"] + ["set a=1"] * 3


class Circle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often all objects were taken from the collector's sight: not in earnest, in a process with other tests."""
    times = [0]
    monkeypatch.setattr(gc, "freeze", lambda: times.append(times.pop() + 1))
    gc.disable()
    yield times
    gc.enable()


@pytest.mark.parametrize(("is_busy", "few", "is_left"), [(False, 10**9, False), (True, 10**9, True), (False, 0, True)])
def test_circles_are_looked_for_when_that_takes_no_time(
    monkeypatch: pytest.MonkeyPatch, frozen: list[int], is_busy: bool, few: int, is_left: bool
) -> None:
    looks = Collector()
    looks.look(1, False)
    monkeypatch.setattr(collector, "FEW_OBJECTS", few)
    circle = weakref.ref(Circle())
    looks.look(INTERVAL_MS, is_busy)
    assert circle() is not None and frozen == [0]
    looks.look(1 + INTERVAL_MS, is_busy)
    assert (circle() is not None) is is_left
    assert frozen == [int(few == 0)]


def test_old_circles_are_found_within_a_minute(frozen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "FEW_OBJECTS", 10**9)
    looks = Collector()
    looks.look(1, False)
    old = Circle()
    looks.look(1 + INTERVAL_MS, False)
    circle = weakref.ref(old)
    del old
    looks.look(ALL_MS, False)
    assert circle() is not None
    looks.look(ALL_MS + INTERVAL_MS, False)
    assert circle() is None and frozen == [0]
