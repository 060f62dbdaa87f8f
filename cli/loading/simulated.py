"""``kvstore load`` as a client of a simulated cluster: it is killed again and again, and each line must happen once."""

from __future__ import annotations

from contextlib import closing

from cli.exits import OK
from cli.interrupts import Interrupts
from cli.loading.load import Load, LoadOptions
from cli.loading.source import Source
from cli.loading.summary import Summary
from cli.target import DEFAULT_DATA_DIR, Target
from consensus.simulation.scenario import Scenario
from consensus.simulation.violation import Violation
from kvstore.limits import LOAD_SESSIONS
from kvstore.simulated.model import NOT_MET
from kvstore.simulated.oracle import Oracle, Told
from kvstore.whole.blocking import BlockingThread
from kvstore.whole.programs import start_program, store_on
from kvstore.whole.world import WholeWorld

NAME = "load"


def simulated_load(scenario: Scenario, world: WholeWorld, oracle: Oracle) -> SimulatedLoad | None:
    """The load of this run, if it has one."""
    return SimulatedLoad(scenario, world, oracle) if scenario.random(NAME).random() < 0.3 else None


class QuietLoad(Load):
    """A load whose messages go into the trace."""

    def __init__(self, source: Source, store: object, world: WholeWorld, batch: int) -> None:
        options = LoadOptions(Target(DEFAULT_DATA_DIR))
        super().__init__(source, store, options, "json", Interrupts(), batch)  # type: ignore[arg-type]
        self._world = world

    def _tell(self, message: str, **fields: object) -> None:
        self._world.note(NAME, message)


class SimulatedLoad:
    """Starts the load of one file again until it is done, and once more."""

    def __init__(self, scenario: Scenario, world: WholeWorld, oracle: Oracle) -> None:
        self.name = NAME
        self.told: list[Told] = []
        self._world = world
        self._oracle = oracle
        self._random = rng = scenario.random(f"{NAME} itself")
        self._machine = world.client_machine(NAME)
        self._thread: BlockingThread | None = None
        self._batch, self._count = rng.choice([(1, 10), (5, 40), (30, 120), (1_000, 300)])
        if world.network.window < 65_536:  # much at once would block so thin a link, and no leader be heard
            self._count = min(self._count, 30)
        self._kills = rng.choice([0, 3, 10])
        self._file = world.directory / "load.kv"
        self._file.write_text("".join(self._line(number) for number in range(1, self._count + 1)))
        self._summaries: list[Summary] = []
        self._is_stopped = False

    def _line(self, number: int) -> str:
        kind = self._random.choice(["append", "append", "incr", "set", "cas", "comment"])
        match kind:
            case "append":
                return f"append load:text {number},\n"
            case "incr":
                return f"incr load:number {number}\n"
            case "set":
                return f"set load:{number} {number}\n"
            case "cas":
                return f"cas load:cas {number - 1} {number}\n"
            case _:
                return f"\n# the next line is number {number}\nset load:last {number}\n"

    # -- while the run goes on ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._start()
        if self._kills:
            self._world.timeline.after(self._pause(), self._kill)

    def stop(self) -> None:
        """It is not killed any more."""
        self._is_stopped = True

    def unfinished(self) -> str:
        return "" if self._is_over else f"{NAME} has not loaded its file yet"

    @property
    def _is_over(self) -> bool:
        return bool(self._summaries) and self._summaries[-1].state == "loaded before"

    def _pause(self) -> int:
        return self._random.randint(1, 4_000 // max(self._kills, 1))

    def _start(self) -> None:
        if not self._machine.is_up:
            self._thread = start_program(self._world, self._machine, self._random, self._load)

    def _kill(self) -> None:
        if self._is_stopped or self._is_over:
            return
        if self._machine.is_up:
            self._world.count("load: killed")
            self._world.note(NAME, "is killed")
            self._machine.kill()
            assert self._thread is not None
            self._thread.kill()
            self._world.timeline.after(self._random.choice([0, 5, 500]), self._start)
        self._world.timeline.after(self._pause(), self._kill)

    def _load(self, thread: BlockingThread) -> None:
        interrupts = Interrupts()
        with (
            store_on(self._world, thread, self._oracle, self._random, 3.0) as store,
            closing(Source(str(self._file), "", interrupts)) as source,
        ):
            load = QuietLoad(source, store, self._world, self._batch)
            status = load.run()
        self._summaries.append(load.summary)
        self._world.count(f"load: {load.summary.state}")
        if (status == OK) != (load.summary.state in ("loaded", "loaded before")):
            self._fail(f"the exit status is {status}, and the summary {load.summary}")
        if not self._is_over:
            self._world.timeline.after(self._random.choice([5, 100]), self._start)

    # -- when it is over ----------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Raise Violation unless each line was executed once, in their order, and every summary says what was done.

        A load that had no time to come to its end has executed the first lines.
        """
        executed = {
            sequence: found
            for (session, sequence), found in self._oracle.model.executed.items()
            if session.startswith(LOAD_SESSIONS)
        }
        lines = range(1, (self._count if self._is_over else len(executed)) + 1)
        if sorted(executed) != list(lines):
            self._fail(f"of {self._count} lines these were executed: {sorted(executed)}")
        slots = [executed[line][0] for line in lines]
        if slots != sorted(slots):
            self._fail(f"the lines were executed in these slots: {slots}")
        self._judge_content(len(lines))
        done = 0
        for summary in self._summaries:
            if summary.state == "stopped" and not summary.skipped + summary.commands:
                continue  # it did not come to know what was done before
            if summary.skipped < done:
                self._fail(f"{done} lines were done, and {summary} skips less")
            done = summary.skipped + summary.commands
            if summary.bad_lines or done > len(executed):
                self._fail(f"{len(executed)} lines were executed, and {summary}")
            if summary.state == "loaded":
                self._compare(summary, [executed[line] for line in range(summary.skipped + 1, self._count + 1)])
        if self._is_over and done != self._count:
            self._fail(f"{self._count} lines, and the last summary is {self._summaries[-1]}")

    def _judge_content(self, count: int) -> None:
        """What the first so many lines make of keys that nobody else writes, executed one after the other."""
        expected: dict[bytes, bytes] = {}
        commands = [line.encode().split() for line in self._file.read_text().splitlines() if line and line[0] != "#"]
        for word, key, operand, *_ in commands[:count]:
            if word == b"append":
                expected[key] = expected.get(key, b"") + operand
            elif word == b"incr":
                expected[key] = b"%d" % (int(expected.get(key, b"0")) + int(operand))
            elif word == b"set":
                expected[key] = operand  # what is left, cas, finds no key
        held = {key: cell.data for key, cell in self._oracle.model.cells.items() if key.startswith(b"load:")}
        if held != expected:
            self._fail(f"{count} lines give {expected}, and the store holds {held}")

    def _compare(self, summary: Summary, executed: list[tuple[int, object]]) -> None:
        """Does the summary of a load that came to the end say what the log says?"""
        not_met = sum(result == NOT_MET for _, result in executed)
        first, last = (executed[0][0], executed[-1][0]) if executed else (0, 0)
        is_later = summary.first_slot >= first and summary.last_slot >= last  # a line that was sent twice has two slots
        if (summary.commands, summary.not_met) != (len(executed), not_met) or not is_later:
            self._fail(f"{len(executed)} lines in slots {first} to {last}, {not_met} not met, and {summary}")

    def _fail(self, found: str) -> None:
        raise Violation("a load executes each line once, in order, and counts them", found)
