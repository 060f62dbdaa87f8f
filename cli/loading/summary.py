"""What a load did, as text for people and as fields for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from cli.render import counted, table_lines, visible


class Summary(msgspec.Struct):
    """What the load of one file did. Numbers of lines and slots begin at 1, and 0 stands for none.

    ``commands`` counts the commands that this load executed, or that a dry run found valid; ``skipped`` the lines that
    earlier loads of the file are done with, bad ones too; ``bad_lines`` the lines that are not valid commands, or whose
    command failed.
    """

    file: str
    format: str
    state: Literal["loaded", "loaded before", "checked", "stopped", "interrupted"] = "loaded"
    commands: int = 0
    bad_lines: int = 0
    not_met: int = 0
    missing: int = 0
    skipped: int = 0
    resumed_at_line: int = 0
    last_line: int = 0
    first_slot: int = 0
    last_slot: int = 0
    seconds: float = 0.0
    commands_per_second: int = 0

    def finish(self, seconds: float) -> None:
        self.seconds = round(seconds, 3)
        self.commands_per_second = round(self.commands / max(seconds, 0.001))


def summary_lines(summaries: Sequence[Summary], output: str) -> Iterator[str]:
    """The summaries as lines: sentences if ``output`` is "", one object with the totals and the files if it is json."""
    fields = [msgspec.structs.asdict(summary) for summary in summaries]
    if output == "json":
        totals = {name: sum(getattr(summary, name) for summary in summaries) for name in ("commands", "bad_lines")}
        yield msgspec.json.encode({**totals, "files": fields}).decode()
    elif output:
        yield from table_lines(Summary.__struct_fields__, [list(each.values()) for each in fields], output)
    else:
        for summary in summaries:
            yield _sentence(summary)


def _sentence(summary: Summary) -> str:
    name = visible(summary.file)
    if summary.state == "loaded before":
        return f"{name}: already loaded ({counted(summary.skipped, 'line')}); --again loads it once more"
    did = "valid" if summary.state == "checked" else "executed"
    parts = [f"{counted(summary.commands, 'command')} {did} in {summary.seconds:.2f} s"]
    if summary.commands:
        parts.append(f"{summary.commands_per_second:,}/s")
    if summary.first_slot:
        alone = summary.first_slot == summary.last_slot
        parts.append(f"slot {summary.first_slot}" if alone else f"slots {summary.first_slot} to {summary.last_slot}")
    counts = [
        (summary.skipped, f"{counted(summary.skipped, 'line')} done before"),
        (summary.not_met, f"{counted(summary.not_met, 'condition')} not met"),
        (summary.missing, f"{counted(summary.missing, 'missing key')}"),
        (summary.bad_lines, f"{counted(summary.bad_lines, 'bad line')}"),
    ]
    text = f"{name}: {', '.join(parts + [told for count, told in counts if count])}"
    if summary.state in ("stopped", "interrupted"):
        place = f"after line {summary.last_line}" if summary.last_line else "before the first command"
        text += f"; {summary.state} {place}"
    return text
