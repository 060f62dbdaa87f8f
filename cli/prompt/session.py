"""What the prompt does with a line: it executes a command of the store, or one of its own."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cli import render
from cli.interrupts import ended_by_repetition
from cli.prompt.explain import explain
from kvstore.commands import Failed
from kvstore.errors import CommandError, IncompleteCommand
from kvstore.language.lexer import split
from kvstore.language.parser import ALIASES, COMMANDS, check_end, definition_of, parse
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
    "help": MetaCommand("help [COMMAND]", "this list, or how to use one command; ? is short for it"),
    "quit": MetaCommand("quit", "leave, like Ctrl-D"),
}

_SHORT = {"?": "help", "exit": "quit"}
_SQL = ("select", "with", "values", "pragma", "insert", "update", "replace", "create", "drop", "alter")
_CLOSING = {"'": "'", '"': '"', "{": "}"}


class Leave(Exception):
    """Raised by ``quit``: the session ends."""


class ReplSession:
    """Executes lines on one store. Remembers which form of output was chosen, and whether to show times."""

    def __init__(self, store: Store, output: str, *, interactive: bool) -> None:
        self.failed = False
        """Whether any command failed. A condition that was not met and a missing key are not failures."""
        self.width = 0
        """The columns of the terminal, into which tables have to fit; 0 for as many as they take."""
        self.output = output
        self._store = store
        self._interactive = interactive
        self._timing = False
        self._meta: dict[str, Callable[[str], Iterator[str]]] = {
            "log": self._log,
            "status": self._status,
            "sql": self._sql,
            "explain": self._explain,
            "timing": self._set_timing,
            "output": self._set_output,
            "help": self._help,
            "quit": self._leave,
        }

    def execute(self, text: str) -> Iterator[str]:
        """What to show for a line of input. Raises KvstoreError if it cannot be executed, Leave for ``quit``."""
        name, *rest = text.split(maxsplit=1)[:2] or [""]
        if not name or name.startswith("#"):
            return
        name = name.lower()
        if name != "sql":
            check_end(text)
        began = time.perf_counter()
        meta = self._meta.get(_SHORT.get(name, name))
        if meta is None:
            yield from self._command(text)
            return
        operands = rest[0].rstrip() if rest else ""
        try:
            yield from meta(operands)
        except CommandError as error:
            if error.position is None:
                raise
            # Errors of these commands count from their first operand.
            begin = len(text.rstrip()) - len(operands)
            raise type(error)(error.message, begin + error.position) from error
        if self._timing and name in ("log", "status", "sql"):
            yield f"({_elapsed(began)})"

    def _command(self, text: str) -> Iterator[str]:
        _check_name(text)
        command = parse(text)
        began = time.perf_counter()
        reply = self._store.execute(command)
        took = _elapsed(began)
        self.failed |= isinstance(reply.result, Failed)
        lines = render.result_lines(command, reply, self.output, self.width)
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
            raise CommandError(f"log takes at most two slot numbers: {META['log'].usage}", 0)
        bounds = [int(number) for number in numbers]
        rows = self._store.log(bounds[0] if bounds else 1, bounds[1] if len(bounds) > 1 else None)
        return render.log_lines(rows, self.output or "table", self.width)

    def _status(self, text: str) -> Iterator[str]:
        if text:
            raise CommandError(f"status takes no operand: {META['status'].usage}", 0)
        return render.status_lines(self._store.status(), self.output, self.width)

    def _sql(self, text: str) -> Iterator[str]:
        if not text:
            raise CommandError(f"the query is missing: {META['sql'].usage}", 0)
        with ended_by_repetition():
            columns, rows = self._store.sql(text.rstrip(";"))
        return render.table_lines(columns, rows, self.output or "table", self.width)

    def _explain(self, text: str) -> Iterator[str]:
        return render.wrapped(explain(text, self._store.status()), self.width)

    def _set_timing(self, text: str) -> Iterator[str]:
        if text not in ("", "on", "off"):
            raise CommandError(f"timing is on or off: {META['timing'].usage}", 0)
        self._timing = text == "on" if text else not self._timing
        yield f"timing is {'on' if self._timing else 'off'}"

    def _set_output(self, text: str) -> Iterator[str]:
        if text and text not in render.OUTPUTS:
            raise CommandError(f"there is no output {text!r}: {META['output'].usage}", 0)
        self.output = text or self.output
        yield f"output is {self.output or 'for people: a table for rows, a line for anything else'}"

    def _help(self, text: str) -> Iterator[str]:
        return render.wrapped(
            self._help_lines(_SHORT.get(text.lower(), ALIASES.get(text.lower(), text.lower()))), self.width
        )

    def _help_lines(self, name: str) -> Iterator[str]:
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
            raise CommandError(f"there is no command {name!r}: {_hint(name)}", 0)
        else:
            width = max(map(len, [*COMMANDS, *META]))
            yield "Commands of the store. Each takes a slot of the log, but reads take none:"
            yield from (f"  {entry.name:<{width}}  {entry.summary}" for entry in COMMANDS.values())
            yield "Commands of the prompt:"
            yield from (f"  {name:<{width}}  {meta.summary}" for name, meta in META.items())
            yield "help COMMAND shows how to use one of them."

    def _leave(self, text: str) -> Iterator[str]:
        raise Leave


def _check_name(text: str) -> None:
    """Raise CommandError if there is no such command: the prompt's own may be meant as well."""
    if text.split(maxsplit=1)[0].lower() in COMMANDS:
        return
    word = split(text)[0]
    if definition_of(word) is None:
        raise CommandError(f"unknown command {word.text!r}: {_hint(word.text.lower())}", word.start)


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, [*COMMANDS, *META, *ALIASES, *_SHORT], n=1)
    if name in _SQL:
        return "a query begins with sql, as in sql SELECT * FROM kv; it only reads, and set writes"
    if close:
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(COMMANDS)}, and at the prompt {', '.join(META)} and ?"


def is_incomplete(text: str) -> bool:
    """Whether the text ends within quotes or braces, so that further lines belong to it."""
    return _opened(text) is not None


def _opened(text: str) -> str | None:
    """What the text lacks at its end, a quote or a brace, "" if that is something else; None if it is complete."""
    name = text.split(maxsplit=1)[0].lower() if text.strip() else ""
    if not name or name in META or name in _SHORT or name.startswith("#"):
        return None
    try:
        parse(text)
    except IncompleteCommand as error:
        return _CLOSING.get(text[error.position or 0], "")
    except CommandError:
        return None
    return None


def divide(text: str) -> Iterator[str]:
    """The commands of a text, one a line. A line that ends within quotes or braces goes on in the next one."""
    lines: list[str] = []
    lacks: str | None = None
    for line in text.split("\n"):
        lines.append(line)
        if (
            lacks is None or lacks in line
        ):  # else it cannot be complete: parsing it again for every line would take long
            lacks = _opened("\n".join(lines))
        if lacks is None:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _elapsed(began: float) -> str:
    return f"{(time.perf_counter() - began) * 1_000:.1f} ms"
