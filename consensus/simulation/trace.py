"""What happened in a run, as lines of text, and as a picture in which time runs down and nodes stand side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from consensus.messages import (
    NO_OP,
    Accept,
    Accepted,
    Chosen,
    Fetch,
    Heartbeat,
    Learn,
    Prepare,
    Promise,
    Record,
    Run,
    Stored,
)

COLUMN_WIDTH = 10
"""The width of a node's column."""
QUIET = ("Heartbeat", "Alive")
"""Messages that hardly ever say anything new, and are left out of the picture."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened to ``node``, or to all if it is empty, at a time in ms.

    ``kind``: send, receive, write or note. ``peer``: the other end of a message. ``slots``: the first and last that it
    is about.
    """

    at: int
    node: str
    kind: str
    text: str
    peer: str = ""
    slots: tuple[int, int] | None = None

    def __str__(self) -> str:
        where = f"{self.node} -> {self.peer}" if self.kind == "send" else self.node or "*"
        where = f"{self.node} <- {self.peer}" if self.kind == "receive" else where
        return f"{self.at:>7} {where:<10} {self.text}"


class Trace:
    """Collects the events of a run. It takes longer than the run itself, so it is made only if somebody wants to look.

    ``show`` puts the value of a slot into words.
    """

    def __init__(self, show: Callable[[bytes], str] = repr) -> None:
        self.events: list[Event] = []
        self._show = show

    def note(self, at: int, node: str, text: str) -> None:
        self.events.append(Event(at, node, "note", text))

    def sent(self, at: int, node: str, receiver: str, message: object) -> None:
        self.events.append(Event(at, node, "send", self.describe(message), receiver, _slots(message)))

    def received(self, at: int, sender: str, node: str, message: object) -> None:
        self.events.append(Event(at, node, "receive", self.describe(message), sender, _slots(message)))

    def wrote(self, at: int, node: str, records: Sequence[Record]) -> None:
        for record in records:
            slots = (record.run.first, record.run.last) if isinstance(record, Stored) else None
            self.events.append(Event(at, node, "write", f"on disk: {self.describe(record)}", slots=slots))

    def lines(self) -> Iterator[str]:
        """All events, one on each line."""
        return map(str, self.events)

    def describe(self, message: object) -> str:
        """A message or record in a few words."""
        match message:
            case Stored():
                return f"Stored {self._run(message.run)}, chosen up to {message.chosen_upto}"
            case Promise():
                accepted = ", ".join(map(self._run, message.accepted)) or "nothing"
                return f"Promise {message.ballot} from slot {message.first}, accepted: {accepted}"
            case Learn():
                return f"Learn {', '.join(map(self._run, message.runs))}, chosen up to {message.chosen_upto}"
            case Accept():
                run = Run(message.first, message.ballot, message.values)
                return f"Accept {self._run(run)}, chosen up to {message.chosen_upto}"
            case msgspec.Struct():
                fields = ((name, getattr(message, name)) for name in message.__struct_fields__)
                return f"{type(message).__name__} " + ", ".join(f"{name} {value}" for name, value in fields)
            case _:
                return str(message)

    def _run(self, run: Run) -> str:
        slots = f"{run.first}" if run.first == run.last else f"{run.first}..{run.last}"
        values = ", ".join("no-op" if value == NO_OP else self._show(value) for value in run.values)
        return f"[{slots} under {run.ballot}: {values}]"


def _slots(message: object) -> tuple[int, int] | None:
    match message:
        case Accept():
            return message.first, message.first + len(message.values) - 1
        case Accepted() | Fetch():
            return message.first, message.last
        case Learn():
            return message.runs[0].first, message.runs[-1].last
        case Promise() | Prepare():
            return message.first, 2**63
        case Chosen() | Heartbeat():
            return None
        case _:
            return None


def relevant(events: Sequence[Event], nodes: Sequence[str], slots: Sequence[int], limit: int) -> list[Event]:
    """The last ``limit`` events about these nodes and slots (about any, if none are given), oldest first."""
    found: list[Event] = []
    for event in reversed(events):
        if event.text.startswith(QUIET) or (event.kind == "receive" and found and _is_same(found[-1], event)):
            continue
        if event.slots is not None and slots and not any(event.slots[0] <= slot <= event.slots[1] for slot in slots):
            continue
        if event.slots is None and slots and nodes and event.node and event.node not in nodes:
            continue
        found.append(event)
        if len(found) == limit:
            break
    return found[::-1]


def _is_same(one: Event, other: Event) -> bool:
    return one.kind == other.kind and one.at == other.at and one.node == other.node and one.text == other.text


def picture(events: Sequence[Event], names: Sequence[str]) -> Iterator[str]:
    """A space-time diagram: a column for each node, and an arrow where a message is sent."""
    column = {name: index for index, name in enumerate(names)}
    yield f"{'ms':>7}  " + "".join(f"{name:<{COLUMN_WIDTH}}" for name in names)
    last = -1
    for event in events:
        when = f"{event.at:>7}" if event.at != last else " " * 7
        last = event.at
        yield f"{when}  {_columns(event, column, len(names))}  {_caption(event)}"


def _columns(event: Event, column: dict[str, int], width: int) -> str:
    cells = [" "] * (width * COLUMN_WIDTH)
    for index in range(width):
        cells[index * COLUMN_WIDTH] = "│"
    at, peer = column.get(event.node), column.get(event.peer)
    if at is None:
        if event.kind == "note":
            return "─" * ((width - 1) * COLUMN_WIDTH + 1) + " " * (COLUMN_WIDTH - 1)
        return "".join(cells)
    if peer is not None and event.kind == "send":
        low, high = sorted((at * COLUMN_WIDTH, peer * COLUMN_WIDTH))
        for cell in range(low + 1, high):
            cells[cell] = "─" if cells[cell] == " " else "┼"
        cells[peer * COLUMN_WIDTH] = "▶" if peer > at else "◀"
    cells[at * COLUMN_WIDTH] = {"send": "●", "receive": "○", "write": "■", "note": "✱"}[event.kind]
    return "".join(cells)


def _caption(event: Event) -> str:
    match event.kind:
        case "send":
            return f"{event.node} → {event.peer}: {event.text}"
        case "receive":
            return f"{event.node} ← {event.peer}: {event.text}"
        case _:
            return f"{event.node}: {event.text}" if event.node else event.text
