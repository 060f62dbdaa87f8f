"""The subcommands that run servers: how they are called, and nothing else."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import ConnectOption, OutputOption, app, directory
from kvstore.errors import CommandError


def _setting(option: str, metavar: str, help: str) -> object:
    return typer.Option(option, metavar=metavar, help=help, show_default=False)


@app.command("serve")
def serve(
    node_id: Annotated[str | None, _setting("--node-id", "ID", "This node's name in the cluster.")] = None,
    data_dir: Annotated[str | None, _setting("--data-dir", "DIR", "Where its log and state are.")] = None,
    existing_data_dir: Annotated[
        bool | None,
        typer.Option(
            "--existing-data-dir/--no-existing-data-dir", help="Start only if DIR is there: its disk is mounted (no)."
        ),
    ] = None,
    client_listen: Annotated[
        str | None, _setting("--client-listen", "HOST:PORT", "For Redis clients (127.0.0.1:6401).")
    ] = None,
    peer_listen: Annotated[
        str | None, _setting("--peer-listen", "HOST:PORT", "For the other nodes (127.0.0.1:7401).")
    ] = None,
    initial_cluster: Annotated[
        str | None, _setting("--initial-cluster", "ID=HOST:PORT,...", "All nodes' peer addresses; alone without it.")
    ] = None,
    cluster_name: Annotated[str | None, _setting("--cluster-name", "NAME", "Nodes of others are refused.")] = None,
    request_timeout: Annotated[
        str | None, _setting("--request-timeout", "SECONDS", "Until a request is given up (5).")
    ] = None,
    max_clients: Annotated[str | None, _setting("--max-clients", "NUMBER", "Connections at once (10000).")] = None,
    keep_slots: Annotated[
        str | None, _setting("--keep-slots", "NUMBER", "Of the log, once the state has them (100000).")
    ] = None,
    keep_mib: Annotated[
        str | None, _setting("--keep-mib", "MIB", "Of the log: fewer slots, if they have so many (64).")
    ] = None,
    password_file: Annotated[str | None, _setting("--password-file", "FILE", "Clients must AUTH with it.")] = None,
    heartbeat_ms: Annotated[
        str | None, _setting("--heartbeat-ms", "MS", "Between a leader's heartbeats (100).")
    ] = None,
    election_ms: Annotated[
        str | None, _setting("--election-ms", "LOW..HIGH", "Silence until another node wants to lead (600..1000).")
    ] = None,
    read_lease: Annotated[
        bool | None,
        typer.Option("--read-lease/--no-read-lease", help="Reads without a round: the clocks' rates must agree (no)."),
    ] = None,
    log_format: Annotated[
        str | None, _setting("--log-format", "FORMAT", "human, json, or auto: human on a terminal (auto).")
    ] = None,
    log_level: Annotated[
        str | None, _setting("--log-level", "LEVEL", "debug, info, warning or error, and what is worse (info).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="KVSTORE_CONFIG", metavar="FILE", help="A TOML file of these.")
    ] = None,
    end_with_stdin: Annotated[bool, typer.Option("--end-with-stdin", hidden=True)] = False,
) -> int:
    """Run one node of a cluster, for any Redis client.

    Every setting can also come from a variable (KVSTORE_NODE_ID, ...) or from the file (node_id = "n1"). The command
    line takes precedence over the environment, and that over the file. SIGTERM hands leadership over and ends cleanly.

    \b
      kvstore serve --node-id n1 --data-dir data        a cluster of one
      kvstore serve --config /etc/kvstore/n1.toml
    """
    from cli.clusters import serve as server

    options = {
        "node_id": node_id,
        "data_dir": data_dir,
        "existing_data_dir": None if existing_data_dir is None else str(existing_data_dir).lower(),
        "client_listen": client_listen,
        "peer_listen": peer_listen,
        "initial_cluster": initial_cluster,
        "cluster_name": cluster_name,
        "request_timeout": request_timeout,
        "max_clients": max_clients,
        "keep_slots": keep_slots,
        "keep_mib": keep_mib,
        "password_file": password_file,
        "heartbeat_ms": heartbeat_ms,
        "election_ms": election_ms,
        "read_lease": None if read_lease is None else str(read_lease).lower(),
        "log_format": log_format,
        "log_level": log_level,
    }
    return server.run(options, config, end_with_stdin=end_with_stdin)


@app.command("cluster")
def cluster(
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="How many.")] = 3,
    # Not KVSTORE_DATA_DIR: that is one store's directory, and this one holds a directory for each node.
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", "-d", parser=directory, metavar="DIR", help="Keep the data.", show_default="temporary"
        ),
    ] = None,
    base_port: Annotated[
        int, typer.Option("--base-port", metavar="PORT", min=1, help="The first node's, for clients.")
    ] = 6401,
    read_lease: Annotated[
        bool, typer.Option("--read-lease", help="Reads without a round; see serve.", show_default=False)
    ] = False,
) -> int:
    """Run a whole cluster on this machine, to try things out, until Ctrl-C.

    \b
      kvstore cluster
      redis-cli -p 6401 set x 1
      redis-cli -p 6402 get x
    """
    from cli.clusters import local

    return local.run(nodes, data_dir, base_port, ["--read-lease"] if read_lease else [])


@app.command("top")
def top(
    connect: ConnectOption = None,
    interval: Annotated[float, typer.Option("--interval", "-i", metavar="SECONDS", min=0.1, help="Between looks.")] = 1,
    count: Annotated[
        int,
        typer.Option(
            "--count", "-n", metavar="N", min=0, help="Look so often.", show_default="until q; once to a file"
        ),
    ] = 0,
    output: OutputOption = None,
) -> int:
    """Watch a cluster: what each node does, and how far it has got. Press q to quit.

    \b
      kvstore top --connect 127.0.0.1:6401,127.0.0.1:6402,127.0.0.1:6403
    """
    if not connect:
        raise CommandError("--connect is missing: name the nodes to watch, HOST:PORT,..., or set KVSTORE_CONNECT")
    from cli.clusters import top as view

    return view.run(connect, interval, count, output.value if output else "")


class BenchOperation(StrEnum):
    set = "set"
    get = "get"
    mixed = "mixed"


@app.command("bench")
def bench(
    connect: ConnectOption = None,
    operation: Annotated[BenchOperation, typer.Option("--operation", help="What the clients do.")] = BenchOperation.set,
    clients: Annotated[int, typer.Option("--clients", metavar="N", help="How many at once.")] = 16,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=3_600, help="How long.")] = 5,
    pipeline: Annotated[int, typer.Option("--pipeline", metavar="N", min=1, max=200, help="Requests at once.")] = 1,
    value_size: Annotated[int, typer.Option("--value-size", metavar="BYTES", min=0, max=1_048_576)] = 256,
    keys: Annotated[int, typer.Option("--keys", metavar="N", min=1, help="How many different keys.")] = 100_000,
    output: OutputOption = None,
) -> int:
    """Measure a cluster: throughput, latencies, the processor time of each node named. Writes keys bench:...

    The first node is loaded. The last line tells where the leader's time went, if it was named.

    \b
      kvstore bench --connect 127.0.0.1:6401 --clients 64
    """
    if not connect:
        raise CommandError("--connect is missing: name the nodes, HOST:PORT,..., or set KVSTORE_CONNECT")
    from cli.clusters import bench as measure

    options = measure.BenchOptions(operation.value, clients, seconds, pipeline, value_size, keys)
    return measure.run(connect, options, output.value if output else "")
