"""The tables of a connection's states: complete, and followed by what a connection does."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.resp.connection import MAX_BACKLOG
from kvstore.resp.hub import Hub
from kvstore.resp.states import (
    ALL_SENT,
    ENDED,
    MODES,
    MOVES,
    OPEN,
    READING,
    ConnectionEvent,
    ConnectionState,
    ModeEvent,
    ReplyMode,
    UndeclaredMoveError,
    after,
    mode_after,
)
from tests.examples import examples
from tests.unit.resp_client import Client, Node, packed


def test_every_state_can_be_reached_and_comes_to_the_end() -> None:
    assert set(MOVES) == set(ConnectionState)
    reached = {READING}
    for _ in ConnectionState:
        reached |= {to for state in reached for to in MOVES[state].values()}
    assert reached == set(ConnectionState)
    for state, moves in MOVES.items():
        assert state is ENDED or ENDED in moves.values()
    assert set(MOVES[ENDED].values()) == {ENDED}
    assert not any(to in OPEN for state in set(MOVES) - set(OPEN) for to in MOVES[state].values())


def test_what_the_world_may_do_at_any_time_is_declared_in_every_state() -> None:
    for state in ConnectionState:
        assert {ConnectionEvent.KILL, ConnectionEvent.LOST} <= set(MOVES[state])


def test_a_move_that_is_not_declared_raises() -> None:
    for state, event in product(ConnectionState, ConnectionEvent):
        if event not in MOVES[state]:
            with pytest.raises(UndeclaredMoveError):
                after(state, event)
    with pytest.raises(UndeclaredMoveError):
        mode_after(ReplyMode.SKIP, ModeEvent.RESETS)
    assert set(MODES) == set(ReplyMode)


def test_a_connection_raises_when_it_leaves_the_table() -> None:
    client = Client()
    with pytest.raises(UndeclaredMoveError):
        client.connection._move(ALL_SENT)


REQUESTS = [
    "SET a 1", "GET a", "PING", "QUIT", "MULTI", "EXEC", "RESET", "CLIENT REPLY OFF", "CLIENT REPLY ON",
    "CLIENT REPLY SKIP", "CLIENT KILL ID 1", "CLIENT KILL ID 1 SKIPME no", "KEYS *", "POST /", "NOSUCH",
]  # fmt: skip
STEPS = ["blocked", "taken", "lost", "other kills", "turn", "answer one", "flush", "rubbish", "many", *REQUESTS]


@given(st.lists(st.sampled_from(STEPS), max_size=30), st.booleans())
@examples(300)
def test_a_connection_moves_as_the_table_says(steps: list[str], has_little_time: bool) -> None:
    """Nothing raises, the transport is paused only while the connection is open, and it is closed once at the end."""
    hub, node = Hub(), Node()
    if has_little_time:
        hub.shares.share_seconds = hub.shares.turn_seconds = -1.0
    client = Client(node, hub=hub)
    other = Client(node, hub=hub)
    blocked = lost = False
    for step in steps:
        if step in ("blocked", "taken"):
            if blocked == (step == "taken"):  # as a transport tells it: in turn
                blocked = not blocked
                client.connection.writable(not blocked)
        elif step == "lost":
            client.connection.lost()
            lost = True
        elif step == "other kills":
            other.connection.received(packed("CLIENT KILL ID 1"))
        elif step == "turn":
            client.turn()
        elif step == "answer one" and node.waiting:
            node.waiting.pop()()
        elif step == "flush":
            hub.flush()
        elif step == "rubbish":
            client.connection.received(b"*1\r\n:1\r\n")
        elif step == "many":
            client.connection.received(packed("INCR a") * MAX_BACKLOG)
        elif step in REQUESTS and not lost:
            client.connection.received(packed(step))
        state = client.connection._state
        assert client.paused == (state is not READING) or state not in OPEN
        assert not client.closed or state is ENDED
    client.connection.lost()
    client.turn()
    assert 1 not in hub.clients
