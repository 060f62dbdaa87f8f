"""Frames between nodes: the same however they are cut; rubbish is refused; and the little things that servers keep."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.ballot import Ballot
from consensus.messages import Accept, Accepted, Heartbeat, Learn, Prepare, Run
from kvstore.commands import Set, Value
from kvstore.node.peer_messages import Forward, PeerMessage, Request
from kvstore.server import frames
from kvstore.server.frames import (
    KEEP_ALIVE,
    MAX_FRAME_BYTES,
    MAX_GREETING_BYTES,
    PROTOCOL_VERSION,
    FrameError,
    FrameReader,
    Hello,
    decode_answer,
    decode_hello,
    decode_message,
    frame,
)
from kvstore.server.latencies import WINDOW_US, Latencies
from kvstore.server.peers import Identity, InboundConnection, Peers
from kvstore.state.entries import UNREADABLE
from tests.examples import examples

BALLOT = Ballot(3, "n1")
messages: st.SearchStrategy[PeerMessage] = st.one_of(
    st.builds(Accept, st.just(BALLOT), st.integers(1, 99), st.lists(st.binary(max_size=40), min_size=1), st.just(0)),
    st.builds(Accepted, st.just(BALLOT), st.integers(1, 99), st.integers(1, 99)),
    st.builds(Heartbeat, st.just(BALLOT), st.integers(1, 99), st.integers(0, 99), st.just([(1, 2)])),
    st.builds(
        lambda key: Forward(BALLOT, True, [Request("s", 1, 1, Set(key, Value(b"v")))]),
        st.binary(min_size=1, max_size=9),
    ),
)


@given(st.lists(messages | st.none(), max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_messages_are_the_same_however_they_are_cut(sent: list[PeerMessage | None], places: list[int]) -> None:
    data = b"".join(KEEP_ALIVE if message is None else frame(message) for message in sent)
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    reader = FrameReader()
    reader.limit = MAX_FRAME_BYTES
    found = [decode_message(body) for first, last in pairwise(at) for body in reader.feed(data[first:last])]
    assert found == [message for message in sent if message is not None]


@given(
    st.lists(messages, max_size=4),
    st.lists(st.tuples(st.integers(0, 30), messages | st.none()), max_size=6),
    st.integers(1, 40),
    st.integers(1, 50),
)
def test_large_messages_in_pieces_let_others_through(
    large: list[PeerMessage], between: list[tuple[int, PeerMessage | None]], piece_bytes: int, cut: int
) -> None:
    with patch.object(frames, "PIECE_BYTES", piece_bytes):
        parts = [part for message in large for part in frames.pieces(message)]
    for place, message in between:
        parts.insert(place, KEEP_ALIVE if message is None else frame(message))
    data = b"".join(parts)
    reader = FrameReader()
    reader.limit = MAX_FRAME_BYTES
    cuts = [reader.feed(data[at : at + cut]) for at in range(0, len(data), cut)]
    found = [decode_message(body) for bodies in cuts for body in bodies]
    expected = [*large, *(message for _, message in between if message is not None)]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_pieces_are_bounded_together() -> None:
    with patch.object(frames, "PIECE_BYTES", 10):
        parts = frames.pieces(Accept(BALLOT, 1, [b"x" * 100], 0))
    reader = FrameReader()
    reader.limit = 50
    with pytest.raises(FrameError, match="at most 50"):
        reader.feed(b"".join(parts))
    with pytest.raises(FrameError, match="empty"):
        FrameReader().feed(b"\xc0\0\0\0")


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_rubbish_is_refused_or_waited_on(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            for body in reader.feed(piece):
                for decode in (decode_hello, decode_message):
                    with pytest.raises(UNREADABLE):
                        decode(body)
    except FrameError:
        return


@given(
    messages | st.just(Hello("c", "n1", "n2", PROTOCOL_VERSION, 5)),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1),
)
@examples(300)
def test_messages_with_rubbish_in_them_are_refused_or_others(
    message: PeerMessage | Hello, changes: list[tuple[int, int]]
) -> None:
    body = bytearray(frame(message)[4:])
    for place, byte in changes:
        body[place % len(body)] = byte
    for decode in (decode_hello, decode_answer, decode_message):
        with suppress(*UNREADABLE):
            decode(bytes(body))


@pytest.mark.parametrize(
    "message",
    [
        Accept(Ballot(1, "n1"), 2**63, [b"x"], 0),
        Accept(Ballot(1, "n1"), 1, [b"x"], 2**64 - 1),
        Accept(Ballot(1, "n1"), -1, [b"x"], 0),
        Prepare(Ballot(2**64 - 1, "n1"), 1),
        Heartbeat(Ballot(1, "n1"), 1, 0, [(1, 2**63)]),
        Learn([Run(2**63, Ballot(1, "n1"), [b"x"])], 0),
        Forward(BALLOT, True, [Request("s", 2**63, 0, Set(b"k", Value(b"v")))]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_numbers_that_no_slot_or_round_has_are_refused(message: PeerMessage) -> None:
    """SQLite could not store them, and a node that finds that out has to stop."""
    with pytest.raises(UNREADABLE):
        decode_message(frame(message)[4:])


def test_a_name_that_is_no_text_ends_the_connection_and_nothing_else() -> None:
    loop = asyncio.new_event_loop()
    link = InboundConnection(loop, Peers(Identity("c", "n2", 1), {}, lambda sender, message: None, lambda node: None))
    body = frame(Hello("c", "n1", "n2", PROTOCOL_VERSION, 5))[4:].replace(b"n1", b"\xff1")
    link.data_received(len(body).to_bytes(4, "big") + body)
    assert link.hello is None
    loop.close()


def test_before_the_greeting_only_little_is_taken() -> None:
    with pytest.raises(FrameError, match="at most 4,096"):
        FrameReader().feed((MAX_GREETING_BYTES + 1).to_bytes(4, "big"))


def test_percentiles_are_right_within_an_eighth() -> None:
    latencies = Latencies(0)
    rng = random.Random(1)
    times = sorted(int(rng.expovariate(1 / 900)) + 1 for _ in range(20_000))
    for took in times:
        latencies.record(took, 1)
    for percent, found in zip((50, 99, 99.9), latencies.percentiles(50, 99, 99.9, now=2), strict=True):
        exact = times[int(len(times) * percent / 100) - 1]
        assert exact <= found <= exact * 1.13


def test_old_latencies_are_forgotten() -> None:
    latencies = Latencies(0)
    latencies.record(1_000_000, 1)
    latencies.record(10, WINDOW_US + 1)
    assert latencies.percentiles(99, now=WINDOW_US + 2)[0] >= 1_000_000
    latencies.record(10, 2 * WINDOW_US + 2)
    assert latencies.percentiles(99, now=2 * WINDOW_US + 3) == [10]
    assert latencies.percentiles(99, now=9 * WINDOW_US) == [0]
