"""The states of a client's connection, as tables.

A connection is in one of seven states. In four of them it is open:

- READING: requests are read, and each is started as soon as the client's order allows.
- FULL: the client sent many requests whose replies have not come yet. Its socket is not read from, so that it cannot
  fill the memory; what was read before is still started. It is READING again when few requests are left.
- BLOCKED: the client does not take its replies. Nothing is read and nothing is started, since each request would make
  another reply that waits in memory. Replies to what is under way still go out. When the client takes them again the
  connection is FULL at first, and READING at once if few requests are left.
- YIELDING: it has used up its share of this turn, or other clients have used up the turn. Nothing is read and nothing
  is started. In its next turn it is FULL at first, as above.

In the other three it comes to an end, and nothing is read or started any more:

- LEAVING: the client wants to leave (QUIT, or CLIENT KILL of itself), or it sent what cannot be understood. What is
  under way is answered first.
- KILLED: somebody else has the client killed. Only the replies that are ready are sent.
- ENDED: the socket is closed, or is being closed. Late replies and late callbacks from the transport change nothing.

The transport reads while the connection is READING. Where the connection comes to an end the transport is left as it
is, and what it still receives is thrown away.

Which event leads from which state to which stands in ``MOVES``. A pair that is not there cannot happen; if it does,
``after`` raises. Whether a client is let in, and whether it has a transaction open, are not states of its connection:
they decide how a request is answered, not whether it is read.

CLIENT REPLY has a table of its own, ``MODES``: a client is answered (ON), or not (OFF), or is not answered once (SKIP).
SKIP ends with the beginning of the next request, which is the one that is not answered.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class ConnectionState(Enum):
    """See above."""

    READING = "reading"
    FULL = "full"
    BLOCKED = "blocked"
    YIELDING = "yielding"
    LEAVING = "leaving"
    KILLED = "killed"
    ENDED = "ended"


class ConnectionEvent(Enum):
    """What moves a connection from state to state."""

    MANY_PENDING = "many requests are pending"
    FEW_PENDING = "few requests are pending"
    STOPPED_TAKING = "the client stopped taking its replies"
    TAKES_AGAIN = "the client takes its replies again"
    SHARE_USED = "the client's share of the turn is used up"
    NEXT_TURN = "it is the client's turn again, or there may be room for its request"
    LEAVE = "the client is to leave"
    KILL = "the client is killed"
    ALL_SENT = "everything is sent"
    LOST = "the connection is lost"


class ReplyMode(Enum):
    """Whether requests are answered."""

    ON = "on"
    OFF = "off"
    SKIP = "skip"


class ModeEvent(Enum):
    """What changes a client's reply mode."""

    TURNED_ON = b"ON"
    TURNED_OFF = b"OFF"
    SKIPS = b"SKIP"
    REQUEST_BEGINS = b"request"
    RESETS = b"reset"


class UndeclaredMoveError(Exception):
    """A table of this file lacks what happened: one of the two is wrong."""


READING: Final = ConnectionState.READING
FULL: Final = ConnectionState.FULL
BLOCKED: Final = ConnectionState.BLOCKED
YIELDING: Final = ConnectionState.YIELDING
LEAVING: Final = ConnectionState.LEAVING
KILLED: Final = ConnectionState.KILLED
ENDED: Final = ConnectionState.ENDED

MANY_PENDING: Final = ConnectionEvent.MANY_PENDING
FEW_PENDING: Final = ConnectionEvent.FEW_PENDING
STOPPED_TAKING: Final = ConnectionEvent.STOPPED_TAKING
TAKES_AGAIN: Final = ConnectionEvent.TAKES_AGAIN
SHARE_USED: Final = ConnectionEvent.SHARE_USED
NEXT_TURN: Final = ConnectionEvent.NEXT_TURN
LEAVE: Final = ConnectionEvent.LEAVE
KILL: Final = ConnectionEvent.KILL
ALL_SENT: Final = ConnectionEvent.ALL_SENT
LOST: Final = ConnectionEvent.LOST

OPEN: Final = (READING, FULL, BLOCKED, YIELDING)

MOVES: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    READING: {
        SHARE_USED: YIELDING,
        NEXT_TURN: READING,
        MANY_PENDING: FULL,
        STOPPED_TAKING: BLOCKED,
        LEAVE: LEAVING,
        KILL: KILLED,
        LOST: ENDED,
    },
    FULL: {
        SHARE_USED: YIELDING,
        NEXT_TURN: FULL,
        FEW_PENDING: READING,
        STOPPED_TAKING: BLOCKED,
        LEAVE: LEAVING,
        KILL: KILLED,
        LOST: ENDED,
    },
    BLOCKED: {
        NEXT_TURN: BLOCKED,
        STOPPED_TAKING: BLOCKED,
        TAKES_AGAIN: FULL,
        LEAVE: LEAVING,
        KILL: KILLED,
        LOST: ENDED,
    },
    YIELDING: {
        NEXT_TURN: FULL,
        STOPPED_TAKING: BLOCKED,
        LEAVE: LEAVING,
        KILL: KILLED,
        LOST: ENDED,
    },
    LEAVING: {
        NEXT_TURN: LEAVING,
        STOPPED_TAKING: LEAVING,
        TAKES_AGAIN: LEAVING,
        LEAVE: LEAVING,
        KILL: KILLED,
        ALL_SENT: ENDED,
        LOST: ENDED,
    },
    KILLED: {
        NEXT_TURN: KILLED,
        STOPPED_TAKING: KILLED,
        TAKES_AGAIN: KILLED,
        KILL: KILLED,
        ALL_SENT: ENDED,
        LOST: ENDED,
    },
    ENDED: {
        NEXT_TURN: ENDED,
        STOPPED_TAKING: ENDED,
        TAKES_AGAIN: ENDED,
        KILL: ENDED,
        LOST: ENDED,
    },
}

ON: Final = ReplyMode.ON
OFF: Final = ReplyMode.OFF
SKIP: Final = ReplyMode.SKIP

MODES: dict[ReplyMode, dict[ModeEvent, ReplyMode]] = {
    # That a request begins is not told to a client which is answered: it would change nothing.
    ON: {
        ModeEvent.TURNED_ON: ON,
        ModeEvent.TURNED_OFF: OFF,
        ModeEvent.SKIPS: SKIP,
        ModeEvent.RESETS: ON,
    },
    OFF: {
        ModeEvent.TURNED_ON: ON,
        ModeEvent.TURNED_OFF: OFF,
        ModeEvent.SKIPS: OFF,
        ModeEvent.REQUEST_BEGINS: OFF,
        ModeEvent.RESETS: ON,
    },
    # Only EXEC can change the mode again before the next request begins, which is skipped all the same.
    SKIP: {
        ModeEvent.TURNED_ON: SKIP,
        ModeEvent.TURNED_OFF: OFF,
        ModeEvent.SKIPS: SKIP,
        ModeEvent.REQUEST_BEGINS: ON,
    },
}


def after(state: ConnectionState, event: ConnectionEvent) -> ConnectionState:
    """The state that the event leads to. Raises UndeclaredMoveError."""
    try:
        return MOVES[state][event]
    except KeyError:
        raise UndeclaredMoveError(f"a connection that is {state.value}, and {event.value}") from None


def mode_after(mode: ReplyMode, event: ModeEvent) -> ReplyMode:
    """The reply mode that the event leads to. Raises UndeclaredMoveError."""
    try:
        return MODES[mode][event]
    except KeyError:
        raise UndeclaredMoveError(f"reply mode {mode.value}, and {event.name}") from None
