"""The settings of ``kvstore serve``: from the command line, the environment and a file, checked as a whole."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from consensus.election import Timing
from consensus.membership import MAX_NODES
from kvstore.addresses import Address, is_host
from kvstore.errors import KvstoreError
from kvstore.logs import Format, Level
from kvstore.storage.log_tail import KEEP, Keep

MAX_ID = 64
MIB = 1_048_576
PREFIX = "KVSTORE_"
TIMING = Timing(heartbeat=100, election=(600, 1_000), resend=200)
"""Machines do other things as well: a pause of half a second should not change the leader."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_Word = TypeVar("_Word", bound=str)


class SettingsError(KvstoreError):
    """A setting that cannot be used; says which one, where it came from, and which values are allowed."""


class Settings(msgspec.Struct, frozen=True):
    """What one node needs to know. ``peers``: where every node of the cluster listens for the others, by id."""

    node_id: str
    data_dir: Path
    client_listen: Address
    peer_listen: Address
    peers: dict[str, Address]
    existing_data_dir: bool = False
    cluster_name: str = "kvstore"
    request_timeout_ms: int = 5_000
    max_clients: int = 10_000
    keep: Keep = KEEP
    password: str | None = None
    timing: Timing = TIMING
    log_format: Format = "auto"
    log_level: Level = "info"


NAMES = (
    "node_id",
    "data_dir",
    "existing_data_dir",
    "client_listen",
    "peer_listen",
    "initial_cluster",
    "cluster_name",
    "request_timeout",
    "max_clients",
    "keep_slots",
    "keep_mib",
    "password",
    "password_file",
    "heartbeat_ms",
    "election_ms",
    "read_lease",
    "log_format",
    "log_level",
)
"""All settings, as they are called in the file; ``KVSTORE_NODE_ID`` and ``--node-id`` mean the first."""


class _Given:
    """Where each setting comes from. The command line takes precedence over the environment, and that over the file."""

    def __init__(self, options: Mapping[str, str | None], environment: Mapping[str, str], file: Path | None) -> None:
        in_file = _read(file) if file else {}
        self._found: dict[str, tuple[str, str]] = {}
        self._rank: dict[str, int] = {}
        for name in NAMES:
            sources = (
                (options.get(name), _option(name)),
                (environment.get(_variable(name)), _variable(name)),
                (in_file.get(name), f"{name} in {file}"),
            )
            for rank, (text, source) in enumerate(sources):
                # An empty password means none, and must not hide one that is given elsewhere.
                if text is not None and (text or name != "password"):
                    self._found[name], self._rank[name] = (text, source), rank
                    break

    def text(self, name: str, default: str | None = None) -> str:
        """The setting as text. Raises SettingsError when it is missing and has no default."""
        if name in self._found:
            return self._found[name][0]
        if default is None:
            raise SettingsError(
                f"{name} is missing: give {_option(name)}, {_variable(name)}, or {name} in a --config file"
            )
        return default

    def has(self, name: str) -> bool:
        return name in self._found

    def nearest(self, *names: str) -> list[str]:
        """Of settings that exclude each other, those given in the place that takes precedence."""
        found = [name for name in names if name in self._rank]
        return [name for name in found if self._rank[name] == min(self._rank[name] for name in found)]

    def wrong(self, name: str, what: str) -> SettingsError:
        """An error about this setting that says where its value came from."""
        source = self._found[name][1] if name in self._found else name
        return SettingsError(f"{source}: {what}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def load(options: Mapping[str, str | None], environment: Mapping[str, str], file: Path | None) -> Settings:
    """Put the settings together. ``options``: those of the command line by name, None where it has none.

    Raises SettingsError.
    """
    given = _Given(options, environment, file)
    node_id = _name(given, "node_id")
    peer_listen = _address(given, "peer_listen", given.text("peer_listen", "127.0.0.1:7401"))
    return Settings(
        node_id=node_id,
        data_dir=_data_dir(given),
        existing_data_dir=_is_on(given, "existing_data_dir"),
        client_listen=_address(given, "client_listen", given.text("client_listen", "127.0.0.1:6401")),
        peer_listen=peer_listen,
        peers=_cluster(given, node_id) if given.has("initial_cluster") else {node_id: peer_listen},
        cluster_name=_name(given, "cluster_name", "kvstore"),
        request_timeout_ms=round(_number(given, "request_timeout", "5", 0.1, 600) * 1_000),
        max_clients=int(_number(given, "max_clients", "10000", 1, 100_000)),
        keep=Keep(
            int(_number(given, "keep_slots", str(KEEP.slots), 100, 1_000_000_000)),
            int(_number(given, "keep_mib", str(KEEP.bytes // MIB), 1, 1_000_000) * MIB),
        ),
        password=_password(given),
        timing=_timing(given),
        log_format=_one_of(given, "log_format", "auto", get_args(Format)),
        log_level=_one_of(given, "log_level", "info", get_args(Level)),
    )


def client_password(environment: Mapping[str, str]) -> str | None:
    """The password with which a client authenticates, from the variables that a node uses too. Raises SettingsError."""
    return _password(_Given({}, environment, None))


def _read(file: Path) -> dict[str, str]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {file} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {file} is not valid TOML: {error}") from error
    texts = {}
    for name, value in found.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            raise SettingsError(f"{name} in {file} is not a setting{f': did you mean {near[0]}?' if near else ''}")
        if name == "initial_cluster" and isinstance(value, dict):
            value = ",".join(f"{node}={address}" for node, address in value.items())
        if name in ("read_lease", "existing_data_dir") and isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            remedy = "text, or a table of nodes" if name == "initial_cluster" else "text or a number"
            raise SettingsError(f"{name} in {file} must be {remedy}")
        texts[name] = str(value)
    return texts


def _name(given: _Given, name: str, default: str | None = None) -> str:
    text = given.text(name, default)
    if not _NAME.fullmatch(text) or len(text) > MAX_ID:
        what = f"{text!r} must be 1 to {MAX_ID} letters, digits, '-', '_' or '.', and begin with a letter or digit"
        raise given.wrong(name, what)
    return text


def _data_dir(given: _Given) -> Path:
    text = given.text("data_dir")
    if not text or "\0" in text:
        raise given.wrong("data_dir", f"{text!r} must be the path of a directory")
    return Path(text)


def _one_of(given: _Given, name: str, default: _Word, words: tuple[_Word, ...]) -> _Word:
    text = given.text(name, default)
    for word in words:
        if text == word:
            return word
    raise given.wrong(name, f"{text!r} must be one of {', '.join(words)}")


def _address(given: _Given, name: str, text: str) -> Address:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    fits = port.isascii() and port.isdecimal() and int(port[:6]) <= 65_535
    if not colon or not host or not fits or set("[]") & set(host) or (":" in host) != bracketed:
        raise given.wrong(name, f"{text!r} must be HOST:PORT, with a port up to 65535 and IPv6 as [::1]:PORT")
    if not is_host(host):
        raise given.wrong(name, f"{host!r} is not a host name: its parts have 1 to 63 characters")
    return host, int(port)


def _cluster(given: _Given, node_id: str) -> dict[str, Address]:
    peers: dict[str, Address] = {}
    for part in given.text("initial_cluster").split(","):
        node, equals, address = part.strip().partition("=")
        if not equals or not _NAME.fullmatch(node) or len(node) > MAX_ID:
            raise given.wrong("initial_cluster", f"{part.strip()!r} must be NODE=HOST:PORT")
        if node in peers:
            raise given.wrong("initial_cluster", f"node {node} is named twice")
        peers[node] = _address(given, "initial_cluster", address)
        if peers[node][1] == 0:
            raise given.wrong("initial_cluster", f"{part.strip()!r} must name a port: others cannot guess it")
    if node_id not in peers:
        raise given.wrong("initial_cluster", f"this node, {node_id}, is not among {', '.join(peers)}: add it")
    if len(peers) > MAX_NODES:
        raise given.wrong(
            "initial_cluster", f"{len(peers)} nodes are named, at most {MAX_NODES} are allowed: leave some out"
        )
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
    heartbeat = round(_number(given, "heartbeat_ms", str(TIMING.heartbeat), 5, 10_000))
    text = given.text("election_ms", "..".join(map(str, TIMING.election)))
    low, dots, high = text.partition("..")
    digits = re.fullmatch(r"[0-9]{1,6}", low) and re.fullmatch(r"[0-9]{1,6}", high)
    if not (dots and digits and int(low) < int(high) <= 600_000):
        raise given.wrong("election_ms", f"{text!r} must be LOW..HIGH in ms, up to 600000, as in 300..600")
    if int(low) < 3 * heartbeat:
        which = "election_ms" if given.has("election_ms") else "heartbeat_ms"
        what = f"an election after {low} ms must be at least three heartbeats of {heartbeat} ms"
        raise given.wrong(which, f"{what}: raise --election-ms or lower --heartbeat-ms")
    # Nobody asks to lead before the shortest election time-out anyway: a lease so long delays no failover.
    lease = int(low) if _is_on(given, "read_lease") else 0
    return Timing(heartbeat=heartbeat, election=(int(low), int(high)), resend=2 * heartbeat, lease=lease)


def _is_on(given: _Given, name: str) -> bool:
    text = given.text(name, "false").lower()
    if text not in ("true", "1", "yes", "on", "false", "0", "no", "off"):
        raise given.wrong(name, f"{text!r} must be true or false")
    return text in ("true", "1", "yes", "on")


def _password(given: _Given) -> str | None:
    nearest = given.nearest("password", "password_file")
    if len(nearest) == 2:
        raise given.wrong("password_file", "password is given in the same place: give one of the two")
    if nearest != ["password_file"]:
        password = given.text("password", "")
        if any("\ud800" <= character <= "\udfff" for character in password):
            raise given.wrong("password", "it is not UTF-8 text")
        return password or None
    try:
        password = Path(given.text("password_file")).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8 text"
        raise given.wrong("password_file", f"{given.text('password_file')!r} cannot be read: {reason}") from error
    if not password:
        raise given.wrong("password_file", "it is empty: write a password into it, or leave it out")
    return password


def environment() -> Mapping[str, str]:
    """The variables of this process."""
    return os.environ
