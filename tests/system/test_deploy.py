"""What the files for deployment and their manuals say is what this version takes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cli.clusters.commands  # noqa: F401 (it adds its commands to the others)
from cli.commands import app
from kvstore.server.settings import NAMES, PREFIX, load
from tests.system.servers import free_ports

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
DEPLOY = DOCS / "deploy"
OPERATIONS = (DOCS / "operations.md").read_text()
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
UNIT = (DEPLOY / "systemd" / "kvstore@.service").read_text()
COMPOSE = (DEPLOY / "compose" / "compose.yaml").read_text()
STATEFUL_SET = (DEPLOY / "kubernetes" / "statefulset.yaml").read_text()


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The parameters that our command line makes of these; exits or raises where it takes them not."""
    group = typer.main.get_command(app)
    context = group.make_context("kvstore", list(arguments))
    name, command, rest = group.resolve_command(context, arguments)  # type: ignore[attr-defined]
    found: dict[str, Any] = command.make_context(name, rest).params
    return found


def command_lines() -> list[tuple[str, list[str]]]:
    found = []
    for path in [*FILES, DOCS / "operations.md", DOCS / "benchmarks.md"]:
        text = path.read_text()
        lines = re.findall(r"(?:^ {4}|ExecStart=\S*/|`)(kvstore [a-z][^`\n]*)", text, re.MULTILINE)
        calls = [shlex.split(line)[1:] for line in lines]
        for listed in re.findall(r"(?:command|args|test|CMD|ENTRYPOINT):? (\[.*\])", text):
            words = [word for word in json.loads(listed) if word not in ("CMD", "kvstore")]
            calls += [words] if words else []
        found += [(path.name, call) for call in calls]
    return found


COMMAND_LINES = command_lines()


@pytest.mark.parametrize(
    ("file", "arguments"), COMMAND_LINES, ids=[f"{file} {call[0]}" for file, call in COMMAND_LINES]
)
def test_every_command_line_is_taken(file: str, arguments: list[str]) -> None:
    parsed(arguments)


def test_the_command_lines_were_found() -> None:
    found = {(file, call[0]) for file, call in COMMAND_LINES}
    assert {
        ("kvstore@.service", "serve"),
        ("compose.yaml", "serve"),
        ("compose.yaml", "status"),
        ("Dockerfile", "serve"),
        ("statefulset.yaml", "serve"),
        ("statefulset.yaml", "status"),
        ("operations.md", "serve"),
        ("operations.md", "status"),
        ("benchmarks.md", "bench"),
        ("benchmarks.md", "cluster"),
    } <= found


def test_the_image_is_built_from_all_that_an_install_needs() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {*wheel["packages"], *(hook["path"] for hook in wheel["hooks"].values())}
    everything, *exceptions = (DEPLOY / "compose" / "Dockerfile.dockerignore").read_text().split()
    assert everything == "*"
    assert {line[1:] for line in exceptions if line.startswith("!")} == needed


def options(call: list[str]) -> dict[str, str | None]:
    found = {name: value for name, value in parsed(call).items() if name in NAMES}
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in found.items()}


def test_the_unit_starts_a_node_with_the_example_file() -> None:
    line = re.search(r"^ExecStart=\S*/kvstore (.*)$", UNIT, re.MULTILINE)
    assert line
    call = shlex.split(line[1].replace("%i", "n1"))
    assert parsed(call)["config"] == Path("/etc/kvstore/n1.toml")
    settings = load(options(call), {}, DEPLOY / "systemd" / "n1.toml")
    assert settings.node_id == "n1"
    assert settings.peers["n1"] == settings.peer_listen
    assert len(settings.peers) == 3
    assert settings.data_dir == Path(re.findall(r"RequiresMountsFor=(.*)", UNIT)[0].replace("%i", "n1"))
    assert settings.existing_data_dir
    assert "StateDirectory" not in UNIT  # systemd would make it
    assert set(tomllib.loads((DEPLOY / "systemd" / "n1.toml").read_text())) <= set(NAMES)


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze here")
    installed = Path(sys.executable).with_name("kvstore")
    (tmp_path / "kvstore@n1.service").write_text(UNIT.replace("/opt/kvstore/bin/kvstore", str(installed)))
    done = subprocess.run([program, "verify", tmp_path / "kvstore@n1.service"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@contextmanager
def serving(calls: list[tuple[list[str], dict[str, str]]], clients: list[int]) -> Iterator[None]:
    """Nodes run by these command lines and variables, until each of those who listen there can serve."""
    command = [sys.executable, "-m", "cli"]
    nodes = [subprocess.Popen([*command, *call], env=env, stderr=subprocess.DEVNULL, cwd=TOP) for call, env in calls]
    try:
        for port in clients:
            check = [*command, "status", "--connect", f"127.0.0.1:{port}"]
            while subprocess.run(check, cwd=TOP, capture_output=True, timeout=20).returncode:
                assert all(node.poll() is None for node in nodes)
        yield
        for node in nodes:
            node.terminate()
        assert [node.wait(20) for node in nodes] == [0] * len(nodes)
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def test_three_nodes_of_the_unit_make_a_cluster(tmp_path: Path) -> None:
    line = re.search(r"^ExecStart=\S*/kvstore (.*)$", UNIT, re.MULTILINE)
    assert line
    text = (DEPLOY / "systemd" / "n1.toml").read_text()
    ports = free_ports(6)
    calls = []
    for number, (client, peer) in enumerate(zip(ports[:3], ports[3:], strict=True), 1):
        settings = text.replace("10.0.0.1:6401", f"127.0.0.1:{client}").replace(
            'peer_listen = "10.0.0.1:7401"', f'peer_listen = "127.0.0.1:{peer}"'
        )
        for other, port in enumerate(ports[3:], 1):
            settings = settings.replace(f"10.0.0.{other}:7401", f"127.0.0.1:{port}")
        (tmp_path / f"n{number}.toml").write_text(settings)
        (tmp_path / f"n{number}").mkdir()
        words = line[1].replace("%i", f"n{number}").replace("/etc/kvstore", str(tmp_path))
        calls.append((shlex.split(words.replace("/var/lib/kvstore", str(tmp_path))), {}))
    with serving(calls, ports[:3]):
        assert all((tmp_path / node / "log.db").is_file() for node in ("n1", "n2", "n3"))


def test_three_services_of_the_compose_file_make_a_cluster(tmp_path: Path) -> None:
    environment = dict(re.findall(r"^  (KVSTORE_\w+): (.*)$", COMPOSE, re.MULTILINE))
    services = dict(re.findall(r"^  (n\d):\n    <<: \*node\n    command: (\[.*\])$", COMPOSE, re.MULTILINE))
    ports = dict(zip(services, free_ports(3), strict=True))
    peers = dict(zip(services, free_ports(3), strict=True))
    cluster = environment["KVSTORE_INITIAL_CLUSTER"]
    for service, port in peers.items():
        cluster = cluster.replace(f"{service}:7401", f"127.0.0.1:{port}")
    calls = []
    for service, call in services.items():
        own = {
            "KVSTORE_DATA_DIR": str(tmp_path / service),
            "KVSTORE_CLIENT_LISTEN": f"0.0.0.0:{ports[service]}",
            "KVSTORE_PEER_LISTEN": f"0.0.0.0:{peers[service]}",
            "KVSTORE_INITIAL_CLUSTER": cluster,
        }
        assert set(own) == set(environment)
        calls.append((json.loads(call), own))
    with serving(calls, list(ports.values())):
        assert all((tmp_path / service / "log.db").is_file() for service in services)


def test_every_service_of_the_compose_file_is_a_node_of_the_same_cluster() -> None:
    environment = dict(re.findall(r"^  (KVSTORE_\w+): (.*)$", COMPOSE, re.MULTILINE))
    services = dict(re.findall(r"^  (n\d):\n    <<: \*node\n    command: (\[.*\])$", COMPOSE, re.MULTILINE))
    assert set(services) == {"n1", "n2", "n3"}
    for service, call in services.items():
        settings = load(options(json.loads(call)), environment, None)
        assert settings.node_id == service
        assert {node: host for node, (host, _) in settings.peers.items()} == {name: name for name in services}
        assert {port for _, port in settings.peers.values()} == {settings.peer_listen[1]}


def test_every_pod_is_a_node_of_the_same_cluster() -> None:
    environment = dict(re.findall(r"- name: (KVSTORE_\w+)\n +value: (.*)", STATEFUL_SET))
    replicas = int(re.findall(r"replicas: (\d+)", STATEFUL_SET)[0])
    pods = [f"kvstore-{number}" for number in range(replicas)]
    for pod in pods:
        settings = load({}, environment | {"KVSTORE_NODE_ID": pod}, None)
        assert settings.peers == {name: (f"{name}.kvstore-peers", settings.peer_listen[1]) for name in pods}


def test_every_variable_is_one_of_ours() -> None:
    ours = {PREFIX + name.upper() for name in NAMES} | {"KVSTORE_CONFIG", "KVSTORE_COMPILE"}
    for path in [*FILES, DOCS / "operations.md"]:
        assert set(re.findall(r"KVSTORE_[A-Z_]+[A-Z]", path.read_text())) <= ours, path


def test_the_manual_lists_every_setting_and_no_other() -> None:
    table = OPERATIONS.partition("## Settings")[2].partition("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(NAMES)


def test_every_setting_but_the_password_is_an_option() -> None:
    arguments = ["serve", "--node-id", "n1"]
    assert set(NAMES) - set(parsed(arguments)) == {"password"}


def test_the_manual_lists_every_event_and_no_other() -> None:
    source = "".join(path.read_text() for folder in ("kvstore", "cli") for path in (TOP / folder).rglob("*.py"))
    told = set(re.findall(r"""\b(?:log\.(?:debug|info|warning|error|limited)|_tell)\(\s*"([a-z_]+)\"""", source))
    table = OPERATIONS.partition("## What the log says")[2]
    listed = {
        event for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for event in re.findall(r"`(\w+)`", row)
    }
    assert told == listed
