"""The prompt on a terminal: completion, highlighting, history, toolbar."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.formatted_text import FormattedText, StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.search import accept_search
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from cli.interrupts import Interrupts
from cli.prompt.completion import suggestions
from cli.prompt.session import META, Leave, ReplSession, divide, is_incomplete
from cli.prompt.toolbar import Toolbar
from cli.render import visible, wrapped
from cli.target import Target
from kvstore.errors import CommandError, KvstoreError
from kvstore.language.highlight import tokens
from kvstore.store import Store

TICK = 0.1
"""The clock of an idle store moves on once in this many seconds, so that keys expire while nobody types."""
MAX_COMPLETIONS = 50
MAX_HIGHLIGHTED = 10_000
"""Longer input, in characters, is shown without colours, so that pasting a large value stays fast."""
GREETING = "Each write takes one slot of the log. help lists the commands, Tab completes, Ctrl-D leaves."
_INTERRUPTED = "interrupted; a write may have happened, or may still happen: check before you repeat it"

STYLE = Style.from_dict(
    {
        "command": "bold ansicyan",
        "unknown": "ansired",
        "key": "ansigreen",
        "value": "",
        "number": "ansiyellow",
        "option": "ansimagenta",
        "keyword": "ansimagenta",
        "punctuation": "bold",
        "error": "ansired underline",
        "failure": "ansired",
        "bottom-toolbar": "noreverse ansibrightblack",
    }
)


def interact(store: Store, at: Target, output: str) -> None:
    """Read and execute commands until Ctrl-D or ``quit``."""
    with Toolbar(store, at) as toolbar:
        asyncio.run(_Prompt(store, at, toolbar, output).run())


class _Prompt:
    def __init__(self, store: Store, at: Target, toolbar: Toolbar, output: str) -> None:
        self._store = store
        self._is_remote = bool(at.connect)
        self._session = ReplSession(store, output, interactive=True)
        self._colours = None if "NO_COLOR" not in os.environ else ColorDepth.DEPTH_1_BIT
        self._prompt: PromptSession[str] = PromptSession(
            "kvstore> ",
            completer=_Completer(store),
            complete_while_typing=False,
            lexer=Highlighter(),
            history=_history(at.history),
            auto_suggest=AutoSuggestFromHistory(),
            bottom_toolbar=toolbar.text,
            multiline=True,
            prompt_continuation=lambda width, number, wraps: "...".rjust(width - 2) + "> ",
            key_bindings=_bindings(),
            refresh_interval=0.5,
            style=STYLE,
            color_depth=self._colours,
        )

    async def run(self) -> None:
        ticking = asyncio.create_task(self._tick())
        self._session.width = self._prompt.output.get_size().columns
        print("\n".join(wrapped([GREETING], self._session.width)))
        try:
            while True:
                try:
                    text = await self._prompt.prompt_async()
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    return
                try:
                    # A store in this process is not interrupted: no command must be applied by half.
                    with Interrupts(at_once=self._is_remote) as interrupts:
                        for command in divide(text):  # several, if several lines were pasted
                            interrupts.check()
                            self._execute(command)
                except Leave:
                    return
                except KeyboardInterrupt:
                    self._complain([_INTERRUPTED if self._is_remote else "interrupted"])
        finally:
            ticking.cancel()

    def _execute(self, text: str) -> None:
        self._session.width = self._prompt.output.get_size().columns
        try:
            for line in self._session.execute(text):
                print(line)
        except CommandError as error:
            self._complain(_pointed(text, error, self._session.width))
        except KvstoreError as error:
            self._complain([str(error)])

    async def _tick(self) -> None:
        """Let time pass for the store, on the loop that also runs the commands: a store belongs to one thread."""
        while True:
            await asyncio.sleep(TICK)
            self._store.tick()

    def _complain(self, lines: Iterable[str]) -> None:
        text = FormattedText([("class:failure", "\n".join(wrapped(map(visible, lines), self._session.width)))])
        print_formatted_text(text, style=STYLE, color_depth=self._colours)


def _history(path: Path) -> History:
    """What was typed before, in a file that only its owner may read; in memory where no such file can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        return FileHistory(str(path))
    except OSError as error:
        print(f"The history is not kept: {path}: {(error.strerror or str(error)).lower()}")
        return InMemoryHistory()


def _pointed(text: str, error: CommandError, width: int) -> list[str]:
    """The line that is wrong or, if it is wider than this, a part of it; a caret under the position; the message."""
    if error.position is None:
        return [error.message]
    start = text.rfind("\n", 0, error.position) + 1
    line = text[start:].split("\n", 1)[0]
    line, at = visible(line.expandtabs(1)), len(visible(line[: error.position - start].expandtabs(1)))
    if sum(map(get_cwidth, line)) >= width:
        begin = max(0, at - width // 4)
        line, at = line[begin : begin + width // 2], at - begin  # each character may take two columns
    return [line, " " * sum(map(get_cwidth, line[:at])) + "^", error.message]


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        """Execute what is whole; within quotes or braces begin a new line."""
        if is_searching():  # Ctrl-R: as in a shell, the line that was found is executed
            accept_search()
        *_, last = divide(event.current_buffer.text)
        if is_incomplete(last):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    return bindings


class Highlighter(Lexer):
    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        text = document.text
        begins = len(text) - len(text.lstrip())
        ends = begins + len(text.split(maxsplit=1)[0]) if text.strip() else begins
        first = text[begins:ends].lower()
        if len(text) > MAX_HIGHLIGHTED or first.startswith("#"):
            return lambda number: [("", document.lines[number])]
        styles = [""] * len(text)
        if first in META:
            styles[begins:] = ["class:command"] * (ends - begins) + ["class:value"] * (len(text) - ends)
        if first not in META or first == "explain":
            offset = ends if first == "explain" else 0
            for token in tokens(text[offset:]):
                styles[offset + token.start : offset + token.end] = [f"class:{token.kind}"] * (token.end - token.start)
        starts = [0]
        for line in document.lines:
            starts.append(starts[-1] + len(line) + 1)
        return lambda number: [
            (styles[starts[number] + column], character) for column, character in enumerate(document.lines[number])
        ]


class _Completer(Completer):
    def __init__(self, store: Store) -> None:
        self._store = store

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        for text, replaces, summary in suggestions(document.text_before_cursor, self._keys):
            yield Completion(text, -replaces, display_meta=summary)

    def _keys(self, prefix: bytes) -> Iterable[bytes]:
        try:
            return self._store.keys(prefix, MAX_COMPLETIONS)
        except KvstoreError:
            return []  # a cluster that does not answer has no keys to offer
