"""The watchdog names what took long."""

from __future__ import annotations

import gc

import pytest

from kvstore.server import long_turns, process_memory
from kvstore.server.long_turns import LONG_NS, LongTurns


def test_what_took_long_is_counted_and_named_with_its_time_on_a_processor() -> None:
    watchdog = LongTurns()
    watchdog.took("apply", LONG_NS, "short enough")
    assert watchdog.count == 0
    watchdog.took("apply", 2 * LONG_NS, "slots, slot 7", LONG_NS // 2)
    assert (watchdog.longest_ms, watchdog.longest) == (100, "apply: slots, slot 7, 25 ms on a processor")
    watchdog.processor = lambda: 3 * LONG_NS
    watchdog.took("requests", 3 * LONG_NS, "ping")
    watchdog.took("message", 2 * LONG_NS)
    assert (watchdog.count, watchdog.longest) == (3, "requests: ping, 150 ms on a processor")


def test_a_search_for_circles_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog = LongTurns()
    monkeypatch.setattr(long_turns, "LONG_NS", 0)
    watchdog.watch_collector()
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(watchdog._collects)
    assert watchdog.longest.startswith("collector: generation 2, ")
    before = watchdog.count
    gc.collect()
    assert watchdog.count == before


def test_memory_is_returned_only_where_that_takes_no_time() -> None:
    """300 MB in 33,000 pieces took 140 ms, in which nobody got any memory."""
    mib = 1_048_576
    resident, used, pieces, trimmed = 100 * mib, 50 * mib, 10, 0

    def trim(pad: int) -> None:
        nonlocal trimmed, resident
        trimmed += 1
        resident = used + 50 * mib

    returning = process_memory.Returning(lambda: resident, lambda: process_memory.Heap(pieces, used), trim)
    returning.give_back()
    assert trimmed == 1
    resident = used + 65 * mib  # little has been freed since
    returning.give_back()
    resident, used = 500 * mib, 450 * mib  # what it has grown by is in use
    returning.give_back()
    assert trimmed == 1
    used, pieces = 100 * mib, 33_000
    returning.give_back()
    assert (trimmed, resident) == (1, 500 * mib)
    pieces = 100  # what was between them is free now
    returning.give_back()
    assert (trimmed, resident) == (2, 150 * mib)
    returning.give_back()
    assert trimmed == 2
    process_memory.give_back()
