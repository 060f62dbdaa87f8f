"""``kvstore load``: executes files of commands in batches, each line once, however often the load is started again.

The session's name comes from a file's digest, and the sequence of a line is its ordinal. The store remembers up to
which sequence it executed each session. So a load that was killed knows where to go on, and a file that was
loaded is not loaded twice. What comes through a pipe cannot be read again, so each pipe has a session of its own.
"""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import msgspec

from cli.exits import INTERRUPTED, OK, UNMET, USAGE, complain, status_of, write_lines
from cli.interrupts import Interrupts
from cli.loading.foresight import Foresight, can_fail
from cli.loading.formats import Content
from cli.loading.progress import Progress
from cli.loading.source import Source, UnreadableError
from cli.loading.summary import Summary, summary_lines
from cli.render import counted, visible
from cli.target import Target
from kvstore import clocks
from kvstore.commands import Command, Done, Failed, Forgotten, Missing, NotMet, Outcomes
from kvstore.errors import CommandError, KvstoreError
from kvstore.limits import LOAD_SESSIONS
from kvstore.store import Reply, Store

BATCH_COMMANDS = 1_000
BATCH_BYTES = 4 * 1_048_576
"""A batch is executed when it has this many commands, or when its lines have this many bytes: that bounds memory."""


class LoadOptions(msgspec.Struct, frozen=True):
    at: Target
    format: str = ""
    keep_going: bool = False
    dry_run: bool = False
    again: bool = False


def run(files: Sequence[str], options: LoadOptions, output: str) -> int:
    """Load files one after another until one has a bad line. Prints the summary, and returns the exit status."""
    for name in files:
        if reason := _why_unreadable(name):
            complain(f"{visible(name)}: {reason}", output, file=visible(name))
            return USAGE
    # A load makes millions of short-lived values without cycles. Looking for cycles often takes a fifth of its time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    summaries: list[Summary] = []
    with Interrupts(at_once=bool(options.at.connect)) as interrupts:
        if options.dry_run:
            status = _load_files(files, None, options, output, interrupts, summaries)
        else:
            with options.at.open("kvstore load") as store:
                status = _load_files(files, store, options, output, interrupts, summaries)
    write_lines(summary_lines(summaries, output))
    return status


def _why_unreadable(name: str) -> str:
    """Why a file cannot be read, "" if it can. Asked before the store is opened, so a wrong name changes nothing."""
    if name == "-":
        return ""
    path = Path(name)
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "it is a directory, not a file"
    return "" if os.access(path, os.R_OK) else "permission denied: check who may read it"


def _load_files(
    files: Sequence[str],
    store: Store | None,
    options: LoadOptions,
    output: str,
    interrupts: Interrupts,
    summaries: list[Summary],
) -> int:
    worst = OK
    for number, name in enumerate(files):
        source = Source(name, options.format, interrupts)
        try:
            load = Load(source, store, options, output, interrupts)
            status = load.run()
        finally:
            source.close()
        summaries.append(load.summary)
        worst = max(worst, status)
        if load.summary.state in ("stopped", "interrupted"):
            for rest in files[number + 1 :]:
                complain(f"{visible(rest)}: not loaded", output, file=visible(rest))
            break
    return worst


class _StopLoad(Exception):
    """The load of a file ends here. The reason has been printed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Load:
    """One file being loaded into a store, or only checked if there is no store."""

    def __init__(
        self,
        source: Source,
        store: Store | None,
        options: LoadOptions,
        output: str,
        interrupts: Interrupts,
        batch_commands: int = BATCH_COMMANDS,
    ) -> None:
        self._source = source
        self._store = store
        self._batch_commands = batch_commands
        self._again = options.again
        self._keep_going = options.keep_going or options.dry_run
        self._foresight = None if store is None or self._keep_going else Foresight(store)
        self._output = output
        self._interrupts = interrupts
        self._name = visible(source.name)
        self._progress = Progress(self._name, source.size, wanted=output != "json")
        self._session = ""
        self._since = 0
        """A slot before the session, 0 where an earlier load may have begun it."""
        self._done = 0
        """The ordinal of the last line that the session executed before this load."""
        self._batch: list[Command] = []
        self._lines: list[int] = []
        self._first = 1
        self._full_at = 0
        self.summary = Summary(self._name, source.format)

    def run(self) -> int:
        """Load the file, print errors as they come, and fill in the summary. Returns the exit status."""
        started = clocks.seconds()
        try:
            try:
                self._find_session()
            except UnreadableError as error:
                self._fail(UNMET, f"{self._name}: cannot be read whole, so nothing was executed: {error}")
            status = self._load()
        except _StopLoad as stop:
            self.summary.state = "stopped"
            status = stop.status
        except KvstoreError as error:  # while looking at the store, between batches
            self._tell(self._why_stopped(error))
            self.summary.state = "stopped"
            status = status_of(error)
        except KeyboardInterrupt:
            self.summary.state = "interrupted"
            status = INTERRUPTED
        self._progress.clear()
        self.summary.finish(clocks.seconds() - started)
        return status

    def _find_session(self) -> None:
        """Choose the session: that of the last load of this file, or a new one."""
        if self._store is None:
            return
        if self._source.is_stream:
            self._session = f"{LOAD_SESSIONS}stream-{secrets.token_hex(8)}"
            self._since = self._store.begin()
            return
        base = f"{LOAD_SESSIONS}{self._source.format}-{self._source.digest()[:16]}"
        names, self._session = [base], base
        while self._store.executed_upto(following := f"{base}-{len(names) + 1}"):
            names.append(following)
            self._session = following
        self._done = self._store.executed_upto(self._session)
        if self._again and (not self._done or self._is_loaded()):
            self._session, self._done = (following, 0) if self._done else (self._session, 0)
            self._since = self._store.begin()

    def _is_loaded(self) -> bool:
        try:
            return next(islice(self._source.items(self._done), self._done, None), None) is None
        except UnreadableError:
            return False  # the load itself will meet the same error, and print it

    def _load(self) -> int:
        ordinal, skipped = 0, 0
        try:
            # The last line that was executed before is read again: it may be the one that failed and ended that load.
            for ordinal, (line, item) in enumerate(self._source.items(max(self._done - 1, 0)), 1):
                if ordinal > self._done:
                    self._on_line(ordinal, line, item)
                else:
                    skipped = ordinal
                    if ordinal == self._done:
                        self._look_back(line, item)
        except UnreadableError as error:
            self._flush()
            self._fail(UNMET, f"{self._name}: cannot be read any further: {error}")
        self._flush()
        if self._store is None:
            self.summary.state = "checked"
        elif ordinal == skipped > 0:
            self.summary.state = "loaded before"
        if self._source.has_changed():
            self._fail(UNMET, f"{self._name}: was changed while it was loaded: check what was executed")
        return UNMET if self.summary.bad_lines else OK

    def _look_back(self, line: int, content: Content) -> None:
        """Look at the last line executed before. If it failed, it ends this load too, unless --keep-going is given."""
        self.summary.skipped = self._done
        self.summary.last_line = line
        if self._store and not self._keep_going and isinstance(content, Command) and can_fail(content):
            # Given the same sequence again, the store returns the recorded result and executes nothing.
            reply = self._store.execute_batch(
                [content], session=self._session, first_sequence=self._done, since=self._since
            )[0]
            if isinstance(reply.result, Failed):
                self.summary.bad_lines += 1
                self._fail(UNMET, f"{self._at(line)}: {reply.result.reason}; --keep-going goes on after it", line=line)

    def _on_line(self, ordinal: int, line: int, content: Content) -> None:
        if ordinal == self._done + 1 and self._done:
            self._progress.begin(self._source.position())
            self.summary.resumed_at_line = line
            if self._output != "json":  # in JSON the summary says so
                self._tell(f"{self._name}: going on at line {line}; {counted(self._done, 'line')} done before")
        if isinstance(content, CommandError):
            self._flush()
            self._bad_line(line, content)
        elif content is not None:
            self._add(ordinal, line, content)

    def _add(self, ordinal: int, line: int, command: Command) -> None:
        source = self._source
        if not self._batch:
            self._first = ordinal
            self._full_at = source.unpacked() + BATCH_BYTES
        self._batch.append(command)
        self._lines.append(line)
        is_certain = self._foresight is None or self._foresight.is_certain(command)
        if (
            not is_certain
            or len(self._batch) >= self._batch_commands
            or source.unpacked() >= self._full_at
            or source.is_waiting()
        ):
            self._flush()
            self._interrupts.check()

    def _flush(self) -> None:
        """Execute the batch. When this returns, its commands are durable, applied and counted."""
        while self._batch:  # more than once if some are refused
            self._execute_batch()

    def _execute_batch(self) -> None:
        batch, lines, self._batch, self._lines = self._batch, self._lines, [], []
        replies: list[Reply] = []
        if self._store is not None:
            try:
                replies = self._store.execute_batch(
                    batch, session=self._session, first_sequence=self._first, since=self._since
                )
            except CommandError as error:
                self._refused(self._store, batch, lines, error)
                return
            except KvstoreError as error:
                self._count_executed(self._store, lines)
                self._fail(status_of(error), self._why_stopped(error))
        if any(isinstance(reply.result, Forgotten) for reply in replies):
            self._fail(
                UNMET,
                f"{self._name}: the store no longer knows whether this file was loaded, since thousands of others were:"
                " check what it holds, and load it with --again",
            )
        if self._foresight is not None:
            self._foresight.executed()
        self.summary.commands += len(batch)
        self.summary.last_line = lines[-1]
        self._count(batch, lines, replies)
        self._progress.update(self._source.position(), self.summary.commands)

    def _refused(self, store: Store, batch: list[Command], lines: list[int], error: CommandError) -> None:
        """The store takes one of these for too much, which it finds out only now: that is a bad line.

        Those before it were executed, and tell their results again; those behind it come next, in another batch.
        """
        try:
            done = store.executed_upto(self._session) - self._first + 1
        except KvstoreError as lost:
            self._fail(status_of(lost), self._why_stopped(lost))
        done = min(max(done, 0), len(batch) - 1)
        behind, behind_lines = batch[done + 1 :], lines[done + 1 :]
        if done:
            self._batch, self._lines = batch[:done], lines[:done]
            self._execute_batch()
        self._bad_line(lines[done], error)
        self._batch, self._lines, self._first = behind, behind_lines, self._first + done + 1

    def _count_executed(self, store: Store, lines: Sequence[int]) -> None:
        """Count what was executed of a batch that broke off: its first commands may have been."""
        try:
            executed = min(max(store.executed_upto(self._session) - self._first + 1, 0), len(lines))
        except KvstoreError:  # the store cannot say now; the next load of this file finds out
            return
        self.summary.commands += executed
        if executed:
            self.summary.last_line = lines[executed - 1]

    def _count(self, batch: Sequence[Command], lines: Sequence[int], replies: Sequence[Reply]) -> None:
        summary = self.summary
        if replies:
            summary.first_slot = summary.first_slot or replies[0].slot
            summary.last_slot = replies[-1].slot
        for index, reply in enumerate(replies):
            match reply.result:
                case Done():
                    pass
                case NotMet() | Outcomes(False):
                    summary.not_met += 1
                case Missing():
                    summary.missing += 1
                case Failed(reason):
                    summary.commands -= 1
                    self._bad_line(lines[index], CommandError(reason))
                case _:
                    pass

    # -- messages -----------------------------------------------------------------------------------------------------

    def _at(self, line: int, position: int | None = None) -> str:
        """``file:line`` or ``file:line:column``, which editors understand."""
        return f"{self._name}:{line}" if position is None else f"{self._name}:{line}:{position + 1}"

    def _why_stopped(self, error: KvstoreError) -> str:
        again = "" if self._source.is_stream or status_of(error) == USAGE else "; start the load again to go on"
        return f"{self._name}: {error}{again}"

    def _bad_line(self, line: int, error: CommandError) -> None:
        self.summary.bad_lines += 1
        self._tell(f"{self._at(line, error.position)}: {error.message}", line=line)
        if not self._keep_going:
            raise _StopLoad(UNMET)

    def _fail(self, status: int, message: str, **fields: object) -> NoReturn:
        self._tell(message, **fields)
        raise _StopLoad(status)

    def _tell(self, message: str, **fields: object) -> None:
        self._progress.clear()
        complain(message, self._output, file=self._name, **fields)
