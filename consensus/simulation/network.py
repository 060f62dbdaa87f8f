"""A network that delays, loses, repeats, reorders and holds back messages, on each link by itself."""

from __future__ import annotations

import random
from typing import NamedTuple

Link = tuple[str, str]
"""Sender and receiver: what happens in one direction need not happen in the other."""

STRAGGLERS = 0.03


class Weather(NamedTuple):
    """What a fault does to some links while it lasts.

    ``delay``: how much longer a message may take, in ms; ``loss`` and ``repeat``: probabilities; ``hold``: until this
    time nothing arrives, and then everything at once; ``cut``: nothing arrives at all.
    """

    links: frozenset[Link]
    cut: bool = False
    delay: int = 0
    loss: float = 0.0
    repeat: float = 0.0
    hold: int = 0


class _State(NamedTuple):
    cut: bool
    delay: int
    loss: float
    repeat: float
    hold: int


class Network:
    """Decides when each copy of a message arrives.

    In good weather ``delay`` bounds how long a message takes, in ms, and ``loss`` and ``repeat`` are the probabilities
    that it is lost or repeated.
    """

    def __init__(self, rng: random.Random, delay: tuple[int, int], loss: float, repeat: float) -> None:
        self.lost = self.repeated = self.reordered = 0
        self.stragglers = STRAGGLERS
        """The share of messages that take far longer than the others, as some do on any real network."""
        self._random = rng
        self._delay = delay
        self._loss = loss
        self._repeat = repeat
        self._weather: list[Weather] = []
        self._states: dict[Link, _State] = {}
        self._latest: dict[Link, int] = {}

    def exercised(self) -> dict[str, int]:
        """What this network has done to messages so far, and how often."""
        done = {"out of order": self.reordered, "repeated": self.repeated, "lost": self.lost}
        return {f"network: messages {what}": times for what, times in done.items() if times}

    def begin(self, weather: Weather) -> None:
        self._weather.append(weather)
        self._states.clear()

    def end(self, weather: Weather) -> None:
        """This weather is over; it is no error if it has ended already, since ``clear`` may have come before."""
        if weather in self._weather:
            self._weather.remove(weather)
            self._states.clear()

    def clear(self) -> None:
        """All bad weather is over, and from now on no message is lost or repeated."""
        self._loss = self._repeat = 0.0
        self._weather.clear()
        self._states.clear()

    def is_cut(self, sender: str, receiver: str) -> bool:
        return self._state((sender, receiver)).cut

    def arrivals(self, sender: str, receiver: str, now: int) -> list[int]:
        """The times at which the copies of a message sent now arrive; none if it is lost."""
        link = (sender, receiver)
        cut, slower, loss, repeat, hold = self._state(link)
        draw = self._random.random
        if cut or (loss and draw() < loss):
            self.lost += 1
            return []
        low, high = self._delay
        copies = 1
        if repeat and draw() < repeat:
            self.repeated += 1
            copies = 2
        times = []
        for _ in range(copies):
            wait = draw()
            if wait > 1 - self.stragglers:
                wait *= 20
            arrival = now + low + int(wait * (high - low + 1 + slower))
            if arrival < hold:
                arrival = hold
            latest = self._latest.get(link, 0)
            if arrival < latest:
                self.reordered += 1
            else:
                self._latest[link] = arrival
            times.append(arrival)
        return times

    def _state(self, link: Link) -> _State:
        state = self._states.get(link)
        if state is None:
            here = [weather for weather in self._weather if link in weather.links]
            state = self._states[link] = _State(
                any(weather.cut for weather in here),
                sum(weather.delay for weather in here),
                max((weather.loss for weather in here), default=self._loss),
                max((weather.repeat for weather in here), default=self._repeat),
                max((weather.hold for weather in here), default=0),
            )
        return state
