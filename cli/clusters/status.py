"""``kvstore status --connect``: a health check for process managers, and a table of nodes for people."""

from __future__ import annotations

import sys

from cli.exits import OK, UNAVAILABLE, columns, complain, write_lines
from cli.render import status_lines, table_lines
from cli.target import reach
from kvstore.addresses import address_text, addresses
from kvstore.errors import KvstoreError
from kvstore.handles.remote import as_status

PATIENCE = 3.0
"""How long a node may take to show that it serves, in seconds."""
_COLUMNS = ["node_id", "role", "leader", "ballot", "chosen_upto", "applied_upto", "keys", "client_address"]


def show(connect: str, output: str) -> int:
    """Print each node's status; exit status 0 only when all of them can serve linearizable reads and writes."""
    rows: list[list[object]] = []
    serving = True
    nodes = addresses(connect)
    for address in nodes:
        with reach([address], PATIENCE, tells=True) as node:
            try:
                fields = node.fields()
                serves = node.is_serving()
                if len(nodes) == 1:
                    write_lines(status_lines(as_status(fields), output, columns(sys.stdout)))
                refused = str(fields["writes_refused"])
                rows.append(
                    ["no" if not serves else "reads only" if refused else "yes", *(fields[name] for name in _COLUMNS)]
                )
                if not serves:
                    complain(f"{address_text(address)} cannot serve now: no quorum confirms a leader to it", output)
                if refused:
                    serves = False
                    complain(f"{address_text(address)} refuses writes: {refused}", output)
            except KvstoreError as error:
                serves = False
                complain(str(error), output)
                rows.append(["no", *([None] * (len(_COLUMNS) - 1)), address_text(address)])
        serving &= serves
    if len(nodes) > 1:
        write_lines(table_lines(["serves", *_COLUMNS], rows, output or "table", columns(sys.stdout)))
    return OK if serving else UNAVAILABLE
