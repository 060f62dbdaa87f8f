"""Where a turn's time goes, by clocks that the test sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.server.time_spent import TimeSpent


class Clocks:
    """Time in ns, and the part of it in which the thread had a processor."""

    def __init__(self) -> None:
        self.time = 1_000_000
        self.cpu = 0
        self.time_spent = TimeSpent(lambda: self.time, lambda: self.cpu)

    def work(self, nanoseconds: int) -> None:
        self.time += nanoseconds
        self.cpu += nanoseconds

    def wait(self, nanoseconds: int) -> None:
        self.time += nanoseconds

    @property
    def spent(self) -> dict[str, int]:
        return {phase: spent for phase, spent in self.time_spent.nanoseconds.items() if spent}


def test_each_part_of_a_turn_is_counted_where_it_belongs() -> None:
    clocks = Clocks()
    clocks.wait(7_000)
    clocks.work(2_000)
    clocks.time_spent.begin()
    clocks.work(300)
    clocks.time_spent.mark("consensus")
    clocks.work(40)
    clocks.time_spent.mark("replies")
    clocks.wait(5_000)  # an fsync
    clocks.time_spent.mark("log")
    clocks.work(100)
    clocks.time_spent.mark("consensus")
    clocks.time_spent.end()
    assert clocks.spent == {"idle": 7_000, "requests": 2_000, "consensus": 400, "replies": 40, "log": 5_000}
    assert clocks.time_spent.microseconds()["log"] == 5


def test_messages_between_turns_are_no_requests() -> None:
    clocks = Clocks()
    clocks.work(100)
    began = clocks.time_spent.now()
    clocks.work(30)
    clocks.time_spent.spent("consensus", began)
    clocks.wait(500)
    clocks.time_spent.begin()
    assert clocks.spent == {"requests": 100, "consensus": 30, "idle": 500}


def test_waiting_for_the_disk_alone_is_the_logs_time() -> None:
    clocks = Clocks()
    clocks.time_spent.begin()
    clocks.time_spent.end()
    clocks.work(10)
    clocks.wait(90)
    clocks.time_spent.begin("log")
    clocks.time_spent.begin()  # the turn that the disk's answer brings: nothing is counted twice
    clocks.time_spent.end()
    assert clocks.spent == {"requests": 10, "log": 90}


@given(st.lists(st.tuples(st.sampled_from(["begin", "mark", "spent", "end", "work", "wait"]), st.integers(0, 1_000))))
def test_all_phases_together_are_all_the_time(steps: list[tuple[str, int]]) -> None:
    clocks = Clocks()
    for step, size in [*steps, ("begin", 0)]:
        match step:
            case "work":
                clocks.work(size)
            case "wait":
                clocks.wait(size)
            case "mark":
                clocks.time_spent.begin()
                clocks.wait(size)
                clocks.time_spent.mark("log")
            case "spent":
                began = clocks.time_spent.now()
                clocks.wait(size)  # less than it seems: the thread lost its processor meanwhile
                clocks.time_spent.spent("consensus", began)
            case "end":
                clocks.time_spent.end()
            case "begin":
                clocks.time_spent.begin()
        assert min(clocks.time_spent.nanoseconds.values()) >= 0
    assert sum(clocks.spent.values()) == clocks.time - 1_000_000
