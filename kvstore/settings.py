"""The settings of ``kvstore serve``: from the command line, the environment and a file, checked as a whole."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from consensus.election import Timing
from kvstore.errors import KvstoreError

Address = tuple[str, int]
MAX_NODES = 15
MAX_ID = 64
PREFIX = "KVSTORE_"
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SettingsError(KvstoreError):
    """A setting that cannot be used; says which, where it came from, and what would do."""


class Settings(msgspec.Struct, frozen=True):
    """What one node needs to know. ``peers``: where every node of the cluster listens for the others, by id."""

    node_id: str
    data_dir: Path
    client_listen: Address
    peer_listen: Address
    peers: dict[str, Address]
    cluster_name: str = "kvstore"
    request_timeout_ms: int = 5_000
    password: str | None = None
    timing: Timing = Timing()


NAMES = (
    "node_id",
    "data_dir",
    "client_listen",
    "peer_listen",
    "initial_cluster",
    "cluster_name",
    "request_timeout",
    "password",
    "password_file",
    "heartbeat_ms",
    "election_ms",
)
"""All settings, as they are called in the file; ``KVSTORE_NODE_ID`` and ``--node-id`` mean the first."""


class _Given:
    """Where each setting comes from: the command line goes before the environment, and that before the file."""

    def __init__(self, options: Mapping[str, str | None], environment: Mapping[str, str], file: Path | None) -> None:
        in_file = _read(file) if file else {}
        self._found: dict[str, tuple[str, str]] = {}
        for name in NAMES:
            option, variable = options.get(name), environment.get(PREFIX + name.upper())
            if option is not None:
                self._found[name] = option, f"--{name.replace('_', '-')}"
            elif variable is not None:
                self._found[name] = variable, PREFIX + name.upper()
            elif name in in_file:
                self._found[name] = in_file[name], f"{name} in {file}"

    def text(self, name: str, default: str | None = None) -> str:
        """The setting as text. Raises SettingsError when it is missing and has no default."""
        if name in self._found:
            return self._found[name][0]
        if default is None:
            option, variable = f"--{name.replace('_', '-')}", PREFIX + name.upper()
            raise SettingsError(f"{name} is missing: give {option}, {variable}, or {name} in a --config file")
        return default

    def has(self, name: str) -> bool:
        return name in self._found

    def wrong(self, name: str, what: str) -> SettingsError:
        """An error about this setting that says where its value came from."""
        source = self._found[name][1] if name in self._found else name
        return SettingsError(f"{source}: {what}")


def load(options: Mapping[str, str | None], environment: Mapping[str, str], file: Path | None) -> Settings:
    """Put the settings together. ``options``: those of the command line by name, None where it has none.

    Raises SettingsError.
    """
    given = _Given(options, environment, file)
    node_id = given.text("node_id")
    if not _NODE_ID.fullmatch(node_id) or len(node_id) > MAX_ID:
        raise given.wrong("node_id", f"{node_id!r} must be letters, digits, - _ or . and at most {MAX_ID} of them")
    peer_listen = _address(given, "peer_listen", given.text("peer_listen", "127.0.0.1:7401"))
    return Settings(
        node_id=node_id,
        data_dir=Path(given.text("data_dir")),
        client_listen=_address(given, "client_listen", given.text("client_listen", "127.0.0.1:6401")),
        peer_listen=peer_listen,
        peers=_cluster(given, node_id) if given.has("initial_cluster") else {node_id: peer_listen},
        cluster_name=given.text("cluster_name", "kvstore"),
        request_timeout_ms=round(_number(given, "request_timeout", "5", 0.1, 600) * 1_000),
        password=_password(given),
        timing=_timing(given),
    )


def _read(file: Path) -> dict[str, str]:
    try:
        found = tomllib.loads(file.read_text())
    except OSError as error:
        raise SettingsError(f"--config {file} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {file} is no TOML: {error}") from error
    texts = {}
    for name, value in found.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            raise SettingsError(f"{name} in {file} is no setting{f': did you mean {near[0]}?' if near else ''}")
        if name == "initial_cluster" and isinstance(value, dict):
            value = ",".join(f"{node}={address}" for node, address in value.items())
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise SettingsError(f"{name} in {file} must be text or a number")
        texts[name] = str(value)
    return texts


def _address(given: _Given, name: str, text: str) -> Address:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65_535 or (":" in host and "[" not in text):
        raise given.wrong(name, f"{text!r} must be HOST:PORT, with a port up to 65535 and IPv6 as [::1]:PORT")
    return host, int(port)


def _cluster(given: _Given, node_id: str) -> dict[str, Address]:
    peers: dict[str, Address] = {}
    for part in given.text("initial_cluster").split(","):
        node, equals, address = part.strip().partition("=")
        if not equals or not _NODE_ID.fullmatch(node) or len(node) > MAX_ID:
            raise given.wrong("initial_cluster", f"{part.strip()!r} must be NODE=HOST:PORT")
        if node in peers:
            raise given.wrong("initial_cluster", f"node {node} is named twice")
        peers[node] = _address(given, "initial_cluster", address)
    if node_id not in peers:
        raise given.wrong("initial_cluster", f"this node, {node_id}, is not among {', '.join(peers)}: add it")
    if len(peers) > MAX_NODES:
        raise given.wrong("initial_cluster", f"{len(peers)} nodes are named, at most {MAX_NODES} are allowed")
    if len(set(peers.values())) < len(peers):
        raise given.wrong("initial_cluster", "two nodes have the same address")
    return peers


def _number(given: _Given, name: str, default: str, low: float, high: float) -> float:
    text = given.text(name, default)
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise given.wrong(name, f"{text!r} must be a number from {low:g} to {high:g}")
    return number


def _timing(given: _Given) -> Timing:
    heartbeat = round(_number(given, "heartbeat_ms", str(Timing().heartbeat), 5, 10_000))
    text = given.text("election_ms", "..".join(map(str, Timing().election)))
    low, dots, high = text.partition("..")
    if not (dots and low.isdigit() and high.isdigit() and int(low) < int(high) <= 600_000):
        raise given.wrong("election_ms", f"{text!r} must be LOW..HIGH in ms, as in 300..600")
    if int(low) < 3 * heartbeat:
        raise given.wrong("election_ms", f"{low} must be at least three heartbeats of {heartbeat} ms: raise it")
    return Timing(heartbeat=heartbeat, election=(int(low), int(high)), resend=2 * heartbeat)


def _password(given: _Given) -> str | None:
    if given.has("password") and given.has("password_file"):
        raise given.wrong("password_file", "a password is given as well: give one of the two")
    password = given.text("password", "")
    if given.has("password_file"):
        try:
            password = Path(given.text("password_file")).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise given.wrong("password_file", f"it cannot be read: {error}") from error
        if not password:
            raise given.wrong("password_file", "it is empty: write a password into it, or leave it out")
    return password or None


def environment() -> Mapping[str, str]:
    """The variables of this process."""
    return os.environ
