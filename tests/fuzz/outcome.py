"""What one run has seen so far: its clients write here, each from a thread of its own."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

AFTERMATH_SECONDS = 6.0
"""After a node was ended or paused on purpose, so long may requests fail or wait: a leader is elected under load."""


@dataclass
class Outcome:
    """Times in seconds, memory in MiB, turns of the event loop in ms."""

    pipelines: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    last_pipeline: int = 0
    """The highest ordinal that a client got to."""
    healthy: int = 0
    """Requests of healthy clients that were answered."""
    unavailable: int = 0
    """How often one was told that no quorum answers, or that its outcome is unknown, and asked again."""
    longest_wait: float = 0.0
    """Of a healthy client until it was served, while no node was down or just back."""
    longest_wait_in_outage: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    """By node, the most it ever had."""
    long_turns: int = 0
    longest_turn: tuple[int, str, str] = (0, "", "")
    """How long, at which node, and what it was."""
    busy_turns: list[tuple[int, str]] = field(default_factory=list)
    """The long turns that the logs tell of: how many ms each had a processor, and its line."""
    paused: set[str] = field(default_factory=set)
    """Nodes whose process stood still on purpose: its turns say nothing."""
    complaints: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _outages: int = 0
    _last_outage: float = -AFTERMATH_SECONDS

    def complain(self, what: str) -> None:
        with self.lock:
            self.complaints.append(what)

    def sent(self, kind: str, requests: int) -> None:
        with self.lock:
            self.pipelines[kind] = self.pipelines.get(kind, 0) + 1
            self.requests += requests

    def answered(self, began: float) -> None:
        """A healthy client was answered now."""
        with self.lock:
            self.healthy += 1
        self.waited(began)

    def waited(self, began: float) -> None:
        """A healthy client has waited since then."""
        waited = time.monotonic() - began
        with self.lock:
            if self._was_disturbed(began):
                self.longest_wait_in_outage = max(self.longest_wait_in_outage, waited)
            else:
                self.longest_wait = max(self.longest_wait, waited)

    def was_disturbed(self, began: float) -> bool:
        """Whether a node was down at any time since then, or just back."""
        with self.lock:
            return self._was_disturbed(began)

    def _was_disturbed(self, began: float) -> bool:
        return self._outages > 0 or began < self._last_outage + AFTERMATH_SECONDS

    def outage(self, begins: bool) -> None:
        with self.lock:
            self._outages += 1 if begins else -1
            self._last_outage = time.monotonic()

    def measured(self, node: str, memory: int, turns: int, longest: int, what: str) -> None:
        with self.lock:
            self.memory[node] = max(self.memory.get(node, 0), memory)
            if node in self.paused:
                return
            self.long_turns += turns
            self.longest_turn = max(self.longest_turn, (longest, node, what))
