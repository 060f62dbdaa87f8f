"""What the prompt does with a line: it executes a command of the store, or one of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cli import render
from cli.prompt.explain import explain
from kvstore.commands import Failed
from kvstore.errors import CommandError
from kvstore.language.parser import COMMANDS, parse
from kvstore.store import Store


class MetaCommand(NamedTuple):
    """A command of the prompt itself, which is not part of the command language."""

    usage: str
    summary: str


META: dict[str, MetaCommand] = {
    "log": MetaCommand("log [FROM] [TO]", "the log, slot by slot"),
    "status": MetaCommand("status", "ballot, chosen and applied slots, gaps, sizes"),
    "sql": MetaCommand("sql SELECT ...", "a query on the state database (table kv) that only reads"),
    "explain": MetaCommand("explain COMMAND", "what a command would do, without doing it"),
    "timing": MetaCommand("timing [on|off]", "show how long reads and queries take as well"),
    "output": MetaCommand("output [table|json|csv|plain]", "the form in which results are shown"),
    "help": MetaCommand("help [COMMAND]", "this list, or how to use one command"),
    "quit": MetaCommand("quit", "leave, like Ctrl-D"),
}


class Leave(Exception):
    """Raised by ``quit``: the session ends."""


class ReplSession:
    """Executes lines on one store. Remembers which form of output was chosen, and whether to show times."""

    def __init__(self, store: Store, output: str, *, interactive: bool) -> None:
        self.failed = False
        """Whether any command failed. A condition that was not met and a missing key are not failures."""
        self.output = output
        self._store = store
        self._interactive = interactive
        self._timing = False
        self._meta: dict[str, Callable[[str], Iterator[str]]] = {
            "log": self._log,
            "status": self._status,
            "sql": self._sql,
            "explain": lambda text: explain(text, self._store.status()),
            "timing": self._set_timing,
            "output": self._set_output,
            "help": self._help,
            "quit": self._leave,
            "exit": self._leave,
        }

    def execute(self, text: str) -> Iterator[str]:
        """What to show for a line of input. Raises KvstoreError if it cannot be executed, Leave for ``quit``."""
        name, _, rest = text.strip().partition(" ")
        if not name or name.startswith("#"):
            return
        began = time.perf_counter()
        meta = self._meta.get(name.lower())
        if meta is None:
            yield from self._command(text)
            return
        yield from meta(rest.strip())
        if self._timing and name.lower() in ("log", "status", "sql"):
            yield f"({_elapsed(began)})"

    def _command(self, text: str) -> Iterator[str]:
        command = parse(text)
        began = time.perf_counter()
        reply = self._store.execute(command)
        took = _elapsed(began)
        self.failed |= isinstance(reply.result, Failed)
        lines = render.result_lines(command, reply, self.output)
        if self.output in ("json", "csv") or not self._interactive:
            yield from lines
            return
        how = render.provenance(reply)
        shown = list(lines)
        if how and len(shown) == 1:
            yield f"{shown[0]}  {how}, {took}"
        elif how:
            yield from [*shown, f"{how}, {took}"]
        else:
            yield from shown or ["(nothing)"]
            if self._timing:
                yield f"({took})"

    # -- commands of the prompt ---------------------------------------------------------------------------------------

    def _log(self, text: str) -> Iterator[str]:
        numbers = text.split()
        if len(numbers) > 2 or not all(number.isdigit() for number in numbers):
            raise CommandError(f"log takes at most two slot numbers: {META['log'].usage}", 4)
        bounds = [int(number) for number in numbers]
        rows = self._store.log(bounds[0] if bounds else 1, bounds[1] if len(bounds) > 1 else None)
        return render.log_lines(rows, self.output or "table")

    def _status(self, text: str) -> Iterator[str]:
        if text:
            raise CommandError(f"status takes no operand: {META['status'].usage}", 7)
        return render.status_lines(self._store.status(), self.output)

    def _sql(self, text: str) -> Iterator[str]:
        if not text:
            raise CommandError(f"the query is missing: {META['sql'].usage}", 3)
        columns, rows = self._store.sql(text.rstrip(";"))
        return render.table_lines(columns, rows, self.output or "table")

    def _set_timing(self, text: str) -> Iterator[str]:
        if text not in ("", "on", "off"):
            raise CommandError(f"timing is on or off: {META['timing'].usage}", 7)
        self._timing = text == "on" if text else not self._timing
        yield f"timing is {'on' if self._timing else 'off'}"

    def _set_output(self, text: str) -> Iterator[str]:
        if text and text not in render.OUTPUTS:
            raise CommandError(f"there is no output {text!r}: {META['output'].usage}", 7)
        self.output = text or self.output
        yield f"output is {self.output or 'for people: a table for rows, a line for anything else'}"

    def _help(self, text: str) -> Iterator[str]:
        name = text.lower()
        if name in COMMANDS:
            entry = COMMANDS[name]
            yield entry.usage
            yield f"  {entry.summary}"
            if entry.details:
                yield f"  {entry.details}"
            yield from (f"    {example}" for example in entry.examples)
        elif name in META:
            yield META[name].usage
            yield f"  {META[name].summary}"
        elif name:
            raise CommandError(f"there is no command {text!r}: help lists all", 5)
        else:
            width = max(map(len, [*COMMANDS, *META]))
            yield "Commands of the store. Each takes a slot of the log, but reads take none:"
            yield from (f"  {entry.name:<{width}}  {entry.summary}" for entry in COMMANDS.values())
            yield "Commands of the prompt:"
            yield from (f"  {name:<{width}}  {meta.summary}" for name, meta in META.items())
            yield "help COMMAND shows how to use one of them."

    def _leave(self, text: str) -> Iterator[str]:
        raise Leave


def _elapsed(began: float) -> str:
    return f"{(time.perf_counter() - began) * 1_000:.1f} ms"
