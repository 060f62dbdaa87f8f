"""The subcommands of ``kvstore``: only how they are called. Each imports what it needs when it runs."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from cli.target import DEFAULT_DATA_DIR, Target, target
from kvstore.errors import CommandError

if TYPE_CHECKING:
    from kvstore.commands import Value

app = typer.Typer(
    help="""A replicated key-value store: every command goes through a Multi-Paxos log and is executed against SQLite.

    \b
      kvstore repl                    a prompt
      kvstore set greeting "hello"    one command
      kvstore load commands.kv        a file of commands
      kvstore log                     what was chosen, slot by slot
      kvstore sql "select * from kv"  the store, as a table

    \b
    Exit status: 0 done; 1 a condition was not met, a key is missing, or a command failed;
    2 wrong usage; 3 the store is not available (in use, damaged, full, not there).""",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class OutputForm(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    plain = "plain"


class FileFormat(StrEnum):
    commands = "commands"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"


def directory(text: str) -> Path:
    """What ``--data-dir`` names. Raises CommandError for nothing: a script's variable that is not set names none."""
    if not text:
        raise CommandError("--data-dir is empty: name a directory")
    return Path(text)


DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        "-d",
        parser=directory,
        envvar="KVSTORE_DATA_DIR",
        metavar="DIR",
        help="Where the store is.",
        show_default=str(DEFAULT_DATA_DIR),
    ),
]
ConnectOption = Annotated[
    str | None,
    typer.Option(
        "--connect",
        "-c",
        envvar="KVSTORE_CONNECT",
        metavar="HOST:PORT,...",
        help="Use a cluster instead; its password is taken from KVSTORE_PASSWORD or KVSTORE_PASSWORD_FILE.",
        show_default=False,
    ),
]
OutputOption = Annotated[OutputForm | None, typer.Option("--output", "-o", help="How to print the result.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY")]
KeysArgument = Annotated[list[str], typer.Argument(metavar="KEY...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Values are JSON texts; they keep their type.")]


class TakesNumbers(TyperCommand):
    """A command whose values may be negative numbers: -5 in ``set k -5`` is no option."""

    def make_parser(self, ctx: typer.Context) -> object:  # type: ignore[override]  # typer's own types
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_marked(args: list[str]) -> tuple[dict[str, object], list[str], list[object]]:
            options, left, order = parse([_mark(argument) for argument in args])
            return {name: _unmark(value) for name, value in options.items()}, left, order  # type: ignore[return-value]

        parser.parse_args = parse_marked  # type: ignore[assignment, method-assign]
        return parser


_NEGATIVE = re.compile(r"-[0-9.][0-9.eE+-]*")
_MARK = "\0"  # no argument can hold it


def _mark(argument: str) -> str:
    return _MARK + argument if _NEGATIVE.fullmatch(argument) else argument


def _unmark(value: object) -> object:
    if type(value) is str:
        return value.removeprefix(_MARK)
    return [_unmark(part) for part in value] if isinstance(value, list | tuple) else value


def _print_version(wanted: bool) -> None:
    if wanted:
        from kvstore.version import is_compiled, own_version

        print(f"kvstore {own_version()}{' (compiled)' if is_compiled() else ''}")
        raise typer.Exit


def _at(data_dir: Path | None, connect: str | None) -> Target:
    return target(data_dir, connect, sys.argv[1:])


def _name(output: OutputForm | None) -> str:
    return output.value if output else ""


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version)] = False,
) -> None:
    pass


# -- one command ----------------------------------------------------------------------------------------------------


@app.command("get", cls=TakesNumbers)
def get(
    key: KeyArgument,
    no_newline: Annotated[bool, typer.Option("--no-newline", "-n", help="Print the value's bytes only.")] = False,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Print a key's value. Exit status 1 if it does not exist.

    \b
      kvstore get greeting
      kvstore get photo --no-newline > photo.png
    """
    from cli import oneshot

    return oneshot.get(oneshot.literal(key), _at(data_dir, connect), _name(output), not no_newline)


@app.command("set", cls=TakesNumbers)
def set_(
    key: Annotated[str, typer.Argument(metavar="KEY")],
    text: Annotated[str | None, typer.Argument(metavar="VALUE", show_default=False)] = None,
    ex: Annotated[int | None, typer.Option("--ex", metavar="SECONDS", help="Let it expire.")] = None,
    px: Annotated[int | None, typer.Option("--px", metavar="MS", help="The same, in milliseconds.")] = None,
    nx: Annotated[bool, typer.Option("--nx", help="Only if the key does not exist.")] = False,
    xx: Annotated[bool, typer.Option("--xx", help="Only if the key exists.")] = False,
    ifeq: Annotated[str | None, typer.Option("--ifeq", metavar="OLD", help="Only if it has this value now.")] = None,
    json: JsonOption = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Take the value from standard input.")] = False,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Store a value, taken literally. KEY=VALUE as one argument works too.

    \b
      kvstore set greeting "hello world"
      kvstore set token s3cret --ex 60 --nx
      kvstore set user '{"name": "Ada"}' --json
      kvstore set photo --stdin < photo.png
      kvstore set -- -key value         a key that begins with a dash
    """
    from cli import oneshot
    from kvstore.commands import Set

    if nx and xx:
        raise CommandError("--nx and --xx exclude each other")
    if ex is not None and px is not None:
        raise CommandError("--ex and --px exclude each other")
    for name, bound in (("--ex", ex), ("--px", px)):
        if bound is not None and bound < 1:
            raise CommandError(f"{name} must be at least 1")
    key, value = _assignment(key, text, json, stdin)
    command = Set(
        oneshot.literal(key),
        value,
        ttl=(ex or 0) * 1_000 + (px or 0),
        when="nx" if nx else "xx" if xx else "",
        ifeq=None if ifeq is None else oneshot.value(ifeq, json),
    )
    return oneshot.execute(command, _at(data_dir, connect), _name(output))


def _assignment(key: str, text: str | None, json: bool, stdin: bool) -> tuple[str, Value]:
    from cli import oneshot

    if stdin:
        if text is not None:
            raise CommandError("VALUE and --stdin exclude each other")
        return key, oneshot.value_from_stdin(json)
    if text is None:
        key, equals, text = key.partition("=")
        if not equals:
            raise CommandError("VALUE is missing: kvstore set KEY VALUE, or KEY=VALUE, or KEY --stdin")
    return key, oneshot.value(text, json)


@app.command("delete", cls=TakesNumbers)
def delete(
    keys: KeysArgument, data_dir: DataDirOption = None, connect: ConnectOption = None, output: OutputOption = None
) -> int:
    """Delete keys, and print how many of them existed. Exit status 1 if one did not."""
    from cli import oneshot
    from kvstore.commands import Delete

    return oneshot.execute(Delete([oneshot.literal(key) for key in keys]), _at(data_dir, connect), _name(output))


@app.command("exists", cls=TakesNumbers)
def exists(
    keys: KeysArgument, data_dir: DataDirOption = None, connect: ConnectOption = None, output: OutputOption = None
) -> int:
    """Print how many of the keys exist. Exit status 1 if one does not."""
    from cli import oneshot
    from kvstore.commands import Exists

    return oneshot.execute(Exists([oneshot.literal(key) for key in keys]), _at(data_dir, connect), _name(output))


@app.command("cas", cls=TakesNumbers)
def cas(
    key: KeyArgument,
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
    create: Annotated[bool, typer.Option("--create", help="Set a missing key to NEW.")] = False,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Compare and set: replace OLD by NEW. Exit status 1 if the value is another, or there is none.

    \b
      kvstore cas lock free mine --create
    """
    from cli import oneshot
    from kvstore.commands import Cas

    command = Cas(oneshot.literal(key), oneshot.value(old, json), oneshot.value(new, json), create)
    return oneshot.execute(command, _at(data_dir, connect), _name(output))


NumberArgument = Annotated[int, typer.Argument(metavar="[N]", show_default=False)]


@app.command("incr", cls=TakesNumbers)
def incr(
    key: KeyArgument,
    by: NumberArgument = 1,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Add N, or 1, to a number and print it. A missing key counts as 0."""
    from cli import oneshot
    from kvstore.commands import Incr

    return oneshot.execute(Incr(oneshot.literal(key), by), _at(data_dir, connect), _name(output))


@app.command("decr", cls=TakesNumbers)
def decr(
    key: KeyArgument,
    by: NumberArgument = 1,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Subtract N, or 1, from a number and print it. A missing key counts as 0."""
    from cli import oneshot
    from kvstore.commands import Incr

    return oneshot.execute(Incr(oneshot.literal(key), -by), _at(data_dir, connect), _name(output))


@app.command("append", cls=TakesNumbers)
def append(
    key: KeyArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Append text to a value and print its new length in bytes. A missing key counts as empty."""
    from cli import oneshot
    from kvstore.commands import Append

    return oneshot.execute(Append(oneshot.literal(key), oneshot.literal(text)), _at(data_dir, connect), _name(output))


@app.command("push", cls=TakesNumbers)
def push(
    key: KeyArgument,
    item: Annotated[str, typer.Argument(metavar="ITEM")],
    json: JsonOption = False,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Append an item to a JSON list and print its new length. A missing key counts as an empty list."""
    from cli import oneshot
    from kvstore.commands import Push

    return oneshot.execute(Push(oneshot.literal(key), oneshot.value(item, json)), _at(data_dir, connect), _name(output))


PrefixArgument = Annotated[str, typer.Argument(metavar="[PREFIX]", show_default=False)]


@app.command("scan", cls=TakesNumbers)
def scan(
    prefix: PrefixArgument = "",
    limit: Annotated[int, typer.Argument(metavar="[LIMIT]", min=0, show_default=False)] = 0,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Print keys and values, in the order of the keys' bytes.

    \b
      kvstore scan user: 10
      kvstore scan --output plain | cut -f1
    """
    from cli import oneshot
    from kvstore.commands import Scan

    return oneshot.execute(Scan(oneshot.literal(prefix), limit), _at(data_dir, connect), _name(output))


@app.command("count", cls=TakesNumbers)
def count(
    prefix: PrefixArgument = "",
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Print how many keys there are, or how many with a prefix."""
    from cli import oneshot
    from kvstore.commands import Count

    return oneshot.execute(Count(oneshot.literal(prefix)), _at(data_dir, connect), _name(output))


@app.command("expire", cls=TakesNumbers)
def expire(
    key: KeyArgument,
    time: Annotated[int, typer.Argument(metavar="SECONDS")],
    px: Annotated[bool, typer.Option("--px", help="The time is in milliseconds.")] = False,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Let a key expire; 0 deletes it now. Exit status 1 if it does not exist."""
    from cli import oneshot
    from kvstore.commands import Expire

    return oneshot.execute(
        Expire(oneshot.literal(key), time if px else time * 1_000), _at(data_dir, connect), _name(output)
    )


@app.command("ttl", cls=TakesNumbers)
def ttl(
    key: KeyArgument, data_dir: DataDirOption = None, connect: ConnectOption = None, output: OutputOption = None
) -> int:
    """Print the milliseconds until a key expires, -1 for never. Exit status 1 if it does not exist."""
    from cli import oneshot
    from kvstore.commands import Ttl

    return oneshot.execute(Ttl(oneshot.literal(key)), _at(data_dir, connect), _name(output))


@app.command("persist", cls=TakesNumbers)
def persist(
    key: KeyArgument, data_dir: DataDirOption = None, connect: ConnectOption = None, output: OutputOption = None
) -> int:
    """Remove a key's expiry, so that it is kept for ever. Exit status 1 if it does not exist."""
    from cli import oneshot
    from kvstore.commands import Persist

    return oneshot.execute(Persist(oneshot.literal(key)), _at(data_dir, connect), _name(output))


@app.command("exec", cls=TakesNumbers)
def exec_(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND")],
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Execute a command of the command language. Quote it as a whole; - reads it from standard input.

    \b
      kvstore exec 'set greeting="hello world" EX 60'
      kvstore exec 'txn { if version a = 3 then set a=1; incr b }'
    """
    from cli import oneshot

    return oneshot.execute_text(command, _at(data_dir, connect), _name(output))


# -- looking at a store, also while another process has it open -----------------------------------------------------


@app.command("log")
def log(
    first: Annotated[int, typer.Argument(metavar="[FROM]", min=1, show_default=False)] = 1,
    last: Annotated[int | None, typer.Argument(metavar="[TO]", min=1, show_default=False)] = None,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Print the log, slot by slot. Works while another process has the store open.

    \b
      kvstore log
      kvstore log 100 120 --output json
    """
    from cli import oneshot

    return oneshot.show_log(first, last, _at(data_dir, connect), _name(output))


@app.command("status")
def status(data_dir: DataDirOption = None, connect: ConnectOption = None, output: OutputOption = None) -> int:
    """Print where the store stands. Works while another process has it open."""
    from cli import oneshot

    return oneshot.show_status(_at(data_dir, connect), _name(output))


@app.command("sql")
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Query the state database, read-only. Works while another process has it open.

    \b
      kvstore sql "select key, value from kv where version > 1"
    """
    from cli import oneshot

    return oneshot.query(query, _at(data_dir, connect), _name(output))


# -- many commands --------------------------------------------------------------------------------------------------


@app.command("load")
def load(
    files: Annotated[list[str], typer.Argument(metavar="FILE...")],
    format: Annotated[
        FileFormat | None, typer.Option("--format", "-f", help="By the file's name, else commands.", show_default=False)
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", "-k", help="Report bad lines and go on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the lines; touch no store.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Load a file that was loaded before once more.")] = False,
    data_dir: DataDirOption = None,
    connect: ConnectOption = None,
    output: OutputOption = None,
) -> int:
    """Execute files of commands, one a line. - is standard input; .gz is unpacked.

    Each line of a file is executed once: a load that was stopped or killed goes on where it was when it is
    started again, and a file that was loaded is not loaded twice. Stops at the first bad line; everything
    before it is done and on disk. Exit status 1 if there was a bad line.

    \b
      kvstore load commands.kv
      kvstore load users.csv more.jsonl.gz     key and value in columns, or fields
      generate | kvstore load -
    """
    from cli.loading import load as loader

    if again and dry_run:
        raise CommandError("--again and --dry-run exclude each other")
    options = loader.LoadOptions(
        _at(data_dir, connect), format.value if format else "", keep_going=keep_going, dry_run=dry_run, again=again
    )
    return loader.run(files, options, _name(output))


@app.command("repl")
def repl(data_dir: DataDirOption = None, connect: ConnectOption = None, output: OutputOption = None) -> int:
    """A prompt with completion, history and help. Reads commands from a pipe as well."""
    from cli.prompt.repl import run

    return run(_at(data_dir, connect), _name(output))


@app.command("simulate")
def simulate(
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="A..B", help="Which seeds to run.", show_default="0..99")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="S", min=0, help="Run this one alone.", show_default=False)
    ] = None,
    nodes: Annotated[
        int, typer.Option("--nodes", min=0, help="How many replicas.", show_default="the seed chooses")
    ] = 0,
    faults: Annotated[
        str, typer.Option("--faults", metavar="PRESET", help="all, network, processes, disks, clocks or none.")
    ] = "all",
    whole: Annotated[
        bool, typer.Option("--whole", help="Run the whole program: event loop, sockets, files and all.")
    ] = False,
    time: Annotated[float, typer.Option("--time", metavar="SECONDS", help="How long faults go on.")] = 5.0,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="How many processes.", show_default="one a core")
    ] = 0,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write every event of the run.", show_default=False)
    ] = None,
    keep_faults: Annotated[
        str | None,
        typer.Option("--keep-faults", metavar="N,N,...", help="Only these faults of it.", show_default=False),
    ] = None,
    keep_clients: Annotated[
        str | None, typer.Option("--keep-clients", metavar="N,N,...", help="Only these clients.", show_default=False)
    ] = None,
    output: OutputOption = None,
) -> int:
    """Look for bugs: run whole clusters in virtual time, under faults, and check every rule there is.

    Everything is drawn from the seed, so that a run can be repeated event by event. A failure is shown with the
    rule that was broken and a picture of the last events. Exit status 1 if there was one.

    \b
      kvstore simulate --seeds 0..999
      kvstore simulate --seeds 0..99 --nodes 5 --faults network --time 20
      kvstore simulate --whole --seeds 0..99
      kvstore simulate --seed 42 --trace trace.txt
    """
    from cli import simulate as simulator

    options = simulator.SimulateOptions(seeds, seed, nodes, faults, time, jobs, trace, keep_faults, keep_clients, whole)
    return simulator.run(options, _name(output))


@app.command("node")
def node(
    # KVSTORE_DATA_DIR does not count here: several nodes started from one shell would fight over one directory.
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", "-d", parser=directory, metavar="DIR", help="Survive restarts.", show_default="in memory"
        ),
    ] = None,
) -> int:
    """A node on standard input and output. It talks JSON lines, as Maelstrom's servers do."""
    from kvstore.maelstrom.host import run

    return run(data_dir)
