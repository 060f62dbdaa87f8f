"""When the interpreter looks for circles of objects that nobody refers to: never for long."""

from __future__ import annotations

import gc

INTERVAL_MS = 1_000
ALL_MS = 60_000
FEW_OBJECTS = 20_000
"""How many objects it looks at in one go: memory that was not used of late takes up to half a microsecond each."""


def begin() -> None:
    """Never look at the objects that are there now, and at others only when ``Collector`` says so.

    Left alone it would count how many objects are made more than are freed, and look when these are many. In a node
    with requests that wait, as many old ones are freed as new ones come: it would look at a quarter of a million at
    once, in the middle of a turn, for 90 ms.
    """
    gc.freeze()
    gc.disable()


class Collector:
    """Has the new objects looked at every second, and all every minute, as far as they are few."""

    def __init__(self) -> None:
        self._next = self._next_of_all = 0

    def look(self, now: int, is_busy: bool) -> None:
        """To be called now and then; ``now`` is in ms. In a node that is not busy the requests that wait are few.

        New ones that are many all the same, such as those of thousands of clients, stay, and are never looked at again.
        """
        if is_busy or now < self._next:
            return
        self._next = now + INTERVAL_MS
        if len(gc.get_objects(generation=0)) > FEW_OBJECTS:
            gc.freeze()
        elif now < self._next_of_all:
            gc.collect(0)
        else:
            self._next_of_all = now + ALL_MS
            gc.collect(2 if len(gc.get_objects()) <= FEW_OBJECTS else 0)
