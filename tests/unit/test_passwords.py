"""Wrong passwords are answered slowly, counted by address, and hold up nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvstore.resp import guesses
from kvstore.resp.guesses import AT_ONCE, DELAY_SECONDS, MAX_ADDRESSES, PER_SECOND, Guesses
from kvstore.resp.hub import Hub
from tests.unit.resp_client import Client, Node

WRONG = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


class Clock:
    """Time that passes when a test says so; as a hub's ``later`` too."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.waiting.append((self.now + seconds, call))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        due = [call for at, call in self.waiting if at <= self.now]
        self.waiting = [(at, call) for at, call in self.waiting if at > self.now]
        for call in due:
            call()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> Hub:
    hub = Hub("secret")
    hub.guesses = Guesses(lambda: clock.now)
    hub.later = clock.later
    return hub


def test_a_wrong_password_takes_a_while(hub: Hub, clock: Clock) -> None:
    client, other = Client(hub=hub), Client(hub=hub)
    assert client.ask("auth wrong", "auth secret", "echo on") == b""
    assert other.ask("auth secret", "echo on") == b"+OK\r\n$2\r\non\r\n"
    clock.passes(DELAY_SECONDS)
    assert client.said == WRONG + b"+OK\r\n$2\r\non\r\n"
    assert hub.guesses.wrong == 1


@pytest.mark.parametrize(
    "asked", ["auth wrong", "auth default wrong", "auth secret secret", "hello 3 auth default wrong"]
)
def test_guesses_of_one_connection_come_one_after_the_other(asked: str, hub: Hub, clock: Clock) -> None:
    client = Client(hub=hub)
    client.ask(*[asked] * 10)
    for count in range(1, 6):
        clock.passes(DELAY_SECONDS)
        assert client.said == WRONG * count


def test_more_connections_guess_no_faster(hub: Hub, clock: Clock) -> None:
    for number in range(200):
        Client(hub=hub, peer=f"1.2.3.4:{number}").ask("auth wrong")
    looked_at = hub.guesses
    assert looked_at.wrong == 200
    late = Client(hub=hub, peer="1.2.3.4:999")
    late.ask("auth secret")
    clock.passes(DELAY_SECONDS)
    assert late.said.startswith(b"+OK") or b"none is looked at" in late.said
    elsewhere = Client(hub=hub, peer="1.2.3.5:1")
    assert elsewhere.ask("auth secret") == b"+OK\r\n"
    clock.passes(AT_ONCE / PER_SECOND)
    assert late.ask("auth secret") == b"+OK\r\n"


def test_the_rate_of_one_address(clock: Clock) -> None:
    counted = Guesses(lambda: clock.now)
    tried = 0
    for _ in range(10_000):
        if not counted.wait("1.2.3.4:5"):
            tried += 1
            counted.note("1.2.3.4:5")
        clock.passes(0.001)
    assert tried <= AT_ONCE + 10 * PER_SECOND + 1


def test_networks_of_version_6_are_one(clock: Clock) -> None:
    counted = Guesses(lambda: clock.now)
    for number in range(AT_ONCE):
        counted.note(f"[2001:db8:1:2:3:4:5:{number}]:6401")
    assert counted.wait("[2001:db8:1:2::ffff]:1")
    assert not counted.wait("[2001:db8:1:3::1]:1")
    assert not counted.wait("[::1]:1")


def test_any_number_of_addresses(clock: Clock) -> None:
    counted = Guesses(lambda: clock.now)
    for number in range(MAX_ADDRESSES + 100):
        counted.note(f"a{number}:1")
    assert len(counted._spent) == MAX_ADDRESSES


def test_who_leaves_before_the_answer(hub: Hub, clock: Clock) -> None:
    client = Client(hub=hub)
    client.ask("auth wrong", "auth wrong")
    client.connection.lost()
    clock.passes(10)
    assert client.said == b""


def test_without_a_password_nothing_is_slow(clock: Clock) -> None:
    hub = Hub(None)
    hub.later = clock.later
    client = Client(Node(), hub=hub)
    assert client.ask("auth default any") == b"+OK\r\n"
    assert client.ask("auth any").startswith(b"-ERR AUTH <password> called without any")


def test_they_are_logged_and_counted(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses.log, "_told", {})
    for _ in range(5):
        Client(hub=hub).ask("auth wrong")
    assert [record.getMessage() for record in caplog.records] == ["wrong_password"]
