"""Settings: where each comes from, and what is said about those that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consensus.election import Timing
from kvstore.server.settings import NAMES, Settings, SettingsError, load
from kvstore.storage.log_tail import Keep

NEEDED = {"node_id": "n1", "data_dir": "data"}
THREE = "n1=a:1,n2=b:2,n3=[::1]:3"


def given(**options: str) -> Settings:
    return load(NEEDED | options, {}, None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "n1.toml"


def test_a_node_alone_needs_a_name_and_a_directory() -> None:
    assert given() == Settings(
        node_id="n1",
        data_dir=Path("data"),
        client_listen=("127.0.0.1", 6401),
        peer_listen=("127.0.0.1", 7401),
        peers={"n1": ("127.0.0.1", 7401)},
    )


@pytest.mark.parametrize("name", ["node_id", "data_dir"])
def test_a_missing_setting_is_named_with_all_the_places_for_it(name: str) -> None:
    option, variable = f"--{name.replace('_', '-')}", f"KVSTORE_{name.upper()}"
    with pytest.raises(SettingsError, match=f"^{name} is missing: give {option}, {variable}, or {name} in a --config"):
        load({other: text for other, text in NEEDED.items() if other != name}, {}, None)


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(file: Path) -> None:
    file.write_text('node_id = "f"\ndata_dir = "f"\ncluster_name = "f"\nrequest_timeout = 1.5\n')
    variables = {"KVSTORE_NODE_ID": "v", "KVSTORE_DATA_DIR": "v", "KVSTORE_UNKNOWN": "left alone"}
    found = load({"node_id": "o", "data_dir": None}, variables, file)
    assert (found.node_id, found.data_dir, found.cluster_name) == ("o", Path("v"), "f")
    assert found.request_timeout_ms == 1_500


def test_all_settings_can_be_in_the_file(file: Path) -> None:
    values = {
        "existing_data_dir": "true",
        "client_listen": '"[::]:1"',
        "peer_listen": '"h:2"',
        "initial_cluster": '{n1 = "a:1", n2 = "b:2"}',
        "cluster_name": '"c"',
        "request_timeout": "2",
        "max_clients": "500",
        "keep_slots": "200",
        "keep_mib": "2",
        "password": '"secret"',
        "heartbeat_ms": "10",
        "election_ms": '"30..60"',
        "read_lease": "true",
        "log_format": '"json"',
        "log_level": '"debug"',
    }
    assert {*values, "node_id", "data_dir", "password_file"} == set(NAMES)
    file.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    assert load(NEEDED, {}, file) == Settings(
        node_id="n1",
        data_dir=Path("data"),
        client_listen=("::", 1),
        peer_listen=("h", 2),
        peers={"n1": ("a", 1), "n2": ("b", 2)},
        existing_data_dir=True,
        cluster_name="c",
        request_timeout_ms=2_000,
        max_clients=500,
        keep=Keep(200, 2 * 1_048_576),
        password="secret",
        timing=Timing(heartbeat=10, election=(30, 60), resend=20, lease=30),
        log_format="json",
        log_level="debug",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"node_id": "a b"}, "--node-id: 'a b' must be 1 to 64 letters"),
        ({"node_id": "x" * 65}, "--node-id: 'xxx"),
        ({"cluster_name": ""}, "--cluster-name: '' must be"),
        ({"data_dir": ""}, "--data-dir: '' must be the path"),
        ({"client_listen": "6401"}, "--client-listen: '6401' must be HOST:PORT"),
        ({"client_listen": "h:65536"}, "--client-listen: 'h:65536' must be HOST:PORT, with a port up to 65535"),
        ({"client_listen": "h:²"}, "--client-listen: 'h:²'"),
        ({"client_listen": "h:" + "9" * 5_000}, "--client-listen: 'h:9"),
        ({"peer_listen": "::1:7401"}, "--peer-listen: '::1:7401' must be HOST:PORT, .* IPv6 as \\[::1\\]:PORT"),
        ({"peer_listen": "[::1:7401"}, "--peer-listen: "),
        ({"peer_listen": ":7401"}, "--peer-listen: "),
        ({"peer_listen": "a..b:7401"}, "--peer-listen: 'a..b' is not a host name: its parts have 1 to 63 characters"),
        ({"initial_cluster": f"n1=a:1,n2={'b' * 64}:2"}, "--initial-cluster: 'b*' is not a host name"),
        ({"initial_cluster": "n2=b:2,n3=c:3"}, "--initial-cluster: this node, n1, is not among n2, n3: add it"),
        ({"initial_cluster": "n1=a:1,n1=b:2"}, "--initial-cluster: node n1 is named twice"),
        ({"initial_cluster": "n1=a:1,n2=a:1"}, "--initial-cluster: two nodes have the same address"),
        ({"initial_cluster": "n1=a:1,n2"}, "--initial-cluster: 'n2' must be NODE=HOST:PORT"),
        ({"initial_cluster": "n1=a:1,n2=b:0"}, "--initial-cluster: 'n2=b:0' must name a port"),
        (
            {"initial_cluster": ",".join(f"n{number}=h:{number + 1}" for number in range(8))},
            "--initial-cluster: 8 nodes are named, at most 7 are allowed: leave some out",
        ),
        ({"request_timeout": "0"}, "--request-timeout: '0' must be a number from 0.1 to 600"),
        ({"request_timeout": "nan"}, "--request-timeout: 'nan' must be a number"),
        ({"request_timeout": "5s"}, "--request-timeout: '5s' must be a number"),
        ({"keep_slots": "99"}, "--keep-slots: '99' must be a number from 100 to 1e\\+09"),
        ({"max_clients": "0"}, "--max-clients: '0' must be a number from 1 to 100000"),
        ({"heartbeat_ms": "4"}, "--heartbeat-ms: '4' must be a number from 5 to 10000"),
        ({"heartbeat_ms": "201"}, "--heartbeat-ms: .*600 ms must be at least three heartbeats of 201 ms: raise"),
        ({"election_ms": "299..400"}, "--election-ms: .*299 ms must be at least three heartbeats of 100 ms: raise"),
        ({"election_ms": "300"}, "--election-ms: '300' must be LOW..HIGH in ms"),
        ({"election_ms": "600..300"}, "--election-ms: '600..300' must be LOW..HIGH"),
        ({"election_ms": "³..600"}, "--election-ms: "),
        ({"read_lease": "perhaps"}, "--read-lease: 'perhaps' must be true or false"),
        ({"log_format": "xml"}, "--log-format: 'xml' must be one of auto, human, json"),
        ({"log_level": "loud"}, "--log-level: 'loud' must be one of debug, info, warning, error"),
    ],
)
def test_an_error_names_the_option_the_bound_and_the_remedy(options: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=f"^{said}"):
        given(**options)


def test_the_bounds_themselves_are_allowed() -> None:
    found = given(heartbeat_ms="100", election_ms="300..301", node_id="x" * 64, request_timeout="0.1")
    assert found.timing == Timing(heartbeat=100, election=(300, 301), resend=200)
    assert found.request_timeout_ms == 100


@pytest.mark.parametrize(
    ("text", "lease"), [("true", 600), ("on", 600), ("1", 600), ("false", 0), ("No", 0), (None, 0)]
)
def test_a_read_lease_lasts_as_long_as_nobody_asks_to_lead(text: str | None, lease: int) -> None:
    assert load(NEEDED, {} if text is None else {"KVSTORE_READ_LEASE": text}, None).timing.lease == lease


def test_a_cluster_may_have_spaces_and_ipv6() -> None:
    found = given(initial_cluster=THREE.replace(",", ", "))
    assert found.peers == {"n1": ("a", 1), "n2": ("b", 2), "n3": ("::1", 3)}


def test_an_error_names_the_variable_or_the_key_and_its_file(file: Path) -> None:
    with pytest.raises(SettingsError, match=r"^KVSTORE_CLIENT_LISTEN: 'x' must be"):
        load(NEEDED, {"KVSTORE_CLIENT_LISTEN": "x"}, None)
    file.write_text('client_listen = "x"\n')
    with pytest.raises(SettingsError, match=f"^client_listen in {re.escape(str(file))}: 'x' must be"):
        load(NEEDED, {}, file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('client_listn = "h:1"', "client_listn in .* is not a setting: did you mean client_listen\\?"),
        ("zzz = 1", "zzz in .* is not a setting$"),
        ("node_id = true", "node_id in .* must be text or a number"),
        ('initial_cluster = ["a:1"]', "initial_cluster in .* must be text, or a table of nodes"),
        ("node_id = ", "--config .* is not valid TOML: "),
    ],
)
def test_a_file_with_a_mistake_is_refused(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError, match=f"^{said}"):
        load(NEEDED, {}, file)


def test_a_file_that_cannot_be_read_is_an_error(file: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--config .* cannot be read: no such file"):
        load(NEEDED, {}, file)
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"^--config .* is not valid TOML"):
        load(NEEDED, {}, file)


def test_the_password_comes_from_its_file_without_the_newline(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3 cret \n")
    assert given(password_file=str(secret)).password == "s3 cret "
    assert load(NEEDED, {"KVSTORE_PASSWORD": "v"}, None).password == "v"
    assert load(NEEDED, {"KVSTORE_PASSWORD": ""}, None).password is None


def test_of_password_and_its_file_the_nearer_place_wins(tmp_path: Path, file: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("from the file")
    assert load(NEEDED | {"password_file": str(secret)}, {"KVSTORE_PASSWORD": "v"}, None).password == "from the file"
    file.write_text(f'password_file = "{secret}"\n')
    assert load(NEEDED, {"KVSTORE_PASSWORD": "v"}, file).password == "v"
    assert load(NEEDED, {"KVSTORE_PASSWORD": ""}, file).password == "from the file"
    with pytest.raises(SettingsError, match=r"^KVSTORE_PASSWORD_FILE: password is given in the same place"):
        load(NEEDED, {"KVSTORE_PASSWORD": "v", "KVSTORE_PASSWORD_FILE": str(secret)}, None)


def test_a_password_has_to_be_text() -> None:
    with pytest.raises(SettingsError, match=r"^KVSTORE_PASSWORD: it is not UTF-8 text"):
        load(NEEDED, {"KVSTORE_PASSWORD": "\udcff"}, None)


def test_what_no_look_up_takes_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^--initial-cluster: 'a\.\.b' is not a host name"):
        given(initial_cluster="n1=a..b:7401")


def test_a_password_file_that_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    with pytest.raises(SettingsError, match=r"^--password-file: .* cannot be read: no such file"):
        given(password_file=str(secret))
    secret.write_text("\n")
    with pytest.raises(SettingsError, match=r"^--password-file: it is empty"):
        given(password_file=str(secret))
