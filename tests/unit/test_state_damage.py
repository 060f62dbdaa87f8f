"""A state.db that is damaged, or not this store's: it is made again from the log, and no wrong value is shown."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore.commands import Clear, Expire, Found, Get, Incr, Scan, Set, Value
from kvstore.errors import DamagedError, DataDirError, StateDamagedError
from kvstore.handles.embedded import EmbeddedStore
from kvstore.handles.opening import open_read_only
from kvstore.node.hosting import open_node
from kvstore.state.entries import encode
from kvstore.storage.data_dir import DataDir
from kvstore.storage.database import rebuild_mark
from kvstore.storage.log_store import SqliteLog

KEYS = 60
PLACES = 200


def value_of(number: int) -> bytes:
    return b"value %d " % number * (1 + number % 40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with some of everything, closed."""
    directory = tmp_path_factory.mktemp("whole")
    with EmbeddedStore.open(directory, "test") as store:
        for number in range(KEYS):
            store.execute(Set(b"key %d" % number, Value(value_of(number)), ttl=10**9 if number % 3 == 0 else 0))
        store.execute(Set(b"\xff\x00", Value(b"\x00\xff")))
        store.execute_batch([Incr(b"n"), Get(b"n")], session="s", first_sequence=1)
    return directory


def copy_of(directory: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(directory, target)
    return target


def contents(store: EmbeddedStore) -> dict[bytes, bytes]:
    """By their names and by a range, which must agree."""
    found = {}
    for key in [*(b"key %d" % number for number in range(KEYS)), b"\xff\x00", b"n"]:
        result = store.execute(Get(key)).result
        if isinstance(result, Found):
            found[key] = result.value.data
    return found


EXPECTED = {b"key %d" % number: value_of(number) for number in range(KEYS)} | {b"\xff\x00": b"\x00\xff", b"n": b"1"}


def was_rebuilt(directory: Path) -> bool:
    return (directory / "state.db.damaged").exists()


def test_bytes_changed_anywhere_are_repaired_or_lie_within_a_value(whole: Path, tmp_path: Path) -> None:
    rng = random.Random(19)
    size = (whole / "state.db").stat().st_size
    repaired = 0
    for number in range(PLACES):
        directory = copy_of(whole, tmp_path / "copy")
        damaged = bytearray((directory / "state.db").read_bytes())
        place = rng.randrange(size) if number % 4 else rng.randrange(200)
        for position in range(place, min(place + rng.choice([1, 1, 8, 100]), size)):
            damaged[position] ^= rng.randrange(1, 256)
        (directory / "state.db").write_bytes(damaged)
        for _ in range(2):  # damage that is met in use is repaired by the next start, and no later one
            try:
                with EmbeddedStore.open(directory, "test") as store:
                    found = contents(store)
                    store.execute(Scan(b"", 0))
                    store.execute(Set(b"key 0", Value(value_of(0))))
                    assert store.executed_upto("s") == 2 or not was_rebuilt(directory)
                break
            except StateDamagedError:
                assert rebuild_mark(directory / "state.db").exists()
            except DataDirError as error:
                assert "newer version" in str(error)  # a byte of the number of its schema
                found = EXPECTED
                break
        else:
            pytest.fail(f"byte {place} is met again and again")
        if was_rebuilt(directory):
            repaired += 1
            assert found == EXPECTED
        else:  # what only a checksum of each row could tell: text for other text in its place
            assert_only_text_differs(found, whole, damaged, place)
    assert repaired > PLACES // 20


def assert_only_text_differs(found: dict[bytes, bytes], whole: Path, damaged: bytearray, place: int) -> None:
    for key, value in found.items():
        assert key in EXPECTED
        if value != EXPECTED[key]:
            assert len(value) == len(EXPECTED[key]), (place, key)
            assert value in bytes(damaged), (place, key)


def change(directory: Path, *statements: str) -> None:
    with sqlite3.connect(directory / "state.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE progress SET applied_upto = applied_upto - 1",
        "UPDATE progress SET applied_upto = applied_upto + 1",
        "UPDATE progress SET applied_upto = 'x'",
        "UPDATE progress SET clock = clock + 1",
        "UPDATE progress SET keys = 7",
        "UPDATE progress SET directory = 'another'",
        "UPDATE progress SET entry = x'00'",
        "DELETE FROM progress",
        "DROP TABLE progress",
        "DROP TABLE kv",
        "ALTER TABLE kv DROP COLUMN version",
        "UPDATE sessions SET last_slot = 'x'",
        "UPDATE sessions SET weight = -1",
        "UPDATE forgotten SET kind = 'x' WHERE kind = 'client'",
        "UPDATE kv SET slot = 'x'",
        "UPDATE kv SET created = slot + 1",
        "UPDATE kv SET version = 0",
        "UPDATE kv SET value = 1.5",
        "UPDATE kv SET type = 'x'",
        "UPDATE kv SET expires = 'soon'",
        "UPDATE kv SET value = CAST(x'ff' AS TEXT)",
        "UPDATE session_results SET result = x'c1'",
        "UPDATE session_results SET result = 'x'",
        "UPDATE session_results SET began = 77",
        "UPDATE results SET result = x'00'",
    ],
)
def test_rows_that_cannot_have_been_written_are_damage(whole: Path, tmp_path: Path, statement: str) -> None:
    directory = copy_of(whole, tmp_path / "copy")
    change(directory, statement)

    def use() -> dict[bytes, bytes]:
        with EmbeddedStore.open(directory, "test") as store:
            store.execute_batch([Incr(b"n"), Get(b"n")], session="s", first_sequence=1)
            assert next(store.log()).slot == 1
            return contents(store)

    try:
        found = use()
    except StateDamagedError as error:
        assert "made again from log.db when the store is opened next" in str(error)
        found = use()
    assert found == EXPECTED
    assert was_rebuilt(directory)
    assert not rebuild_mark(directory / "state.db").exists()


def truncated(directory: Path) -> None:
    file = directory / "state.db"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rubbish(directory: Path) -> None:
    (directory / "state.db").write_bytes(b"rubbish" * 10_000)


def another_stores(directory: Path) -> None:
    with EmbeddedStore.open(directory.parent / "another", "test") as store:
        for number in range(KEYS + 3):
            store.execute(Set(b"key %d" % number, Value(b"another's")))
    shutil.copy(directory.parent / "another" / "state.db", directory / "state.db")


def another_stores_that_is_ahead(directory: Path) -> None:
    with EmbeddedStore.open(directory.parent / "another", "test") as store:
        for number in range(3 * KEYS):
            store.execute(Set(b"key %d" % number, Value(b"another's")))
    shutil.copy(directory.parent / "another" / "state.db", directory / "state.db")


def of_a_copy_that_went_its_own_way(directory: Path) -> None:
    """The same name of the data directory, as a copy has it, and other values in the same slots."""
    twin = copy_of(directory, directory.parent / "twin")
    for path, value in ((twin, b"theirs"), (directory, b"1")):
        with EmbeddedStore.open(path, "test") as store:
            store.execute(Set(b"n", Value(value)))
    shutil.copy(twin / "state.db", directory / "state.db")


@pytest.mark.parametrize(
    "harm", [truncated, rubbish, another_stores, another_stores_that_is_ahead, of_a_copy_that_went_its_own_way]
)
def test_a_state_that_is_not_this_logs_is_made_again_at_the_start(
    whole: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    directory = copy_of(whole, tmp_path / "copy")
    harm(directory)
    with pytest.raises(DataDirError):
        open_read_only(directory)
    with EmbeddedStore.open(directory, "test") as store:
        assert contents(store) == EXPECTED
        assert store.executed_upto("s") == 2
    assert was_rebuilt(directory)
    with open_read_only(directory) as looked:
        assert looked.status().keys == len(EXPECTED)


def test_an_older_state_is_brought_up_to_date(whole: Path, tmp_path: Path) -> None:
    directory = copy_of(whole, tmp_path / "copy")
    with EmbeddedStore.open(directory, "test") as store:
        store.execute(Clear())
    shutil.copy(whole / "state.db", directory / "state.db")
    with EmbeddedStore.open(directory, "test") as store:
        assert contents(store) == {}
    assert not was_rebuilt(directory)


def test_only_one_damaged_state_is_kept(whole: Path, tmp_path: Path) -> None:
    directory = copy_of(whole, tmp_path / "copy")
    for _ in range(3):
        rubbish(directory)
        with EmbeddedStore.open(directory, "test") as store:
            assert contents(store) == EXPECTED
    kept = {path.name for path in directory.glob("state.db*")}
    assert kept == {"state.db", "state.db.damaged"}


def test_without_the_beginning_of_the_log_it_is_refused_and_left_alone(whole: Path, tmp_path: Path) -> None:
    directory = copy_of(whole, tmp_path / "copy")
    values = [encode_set(b"k", b"v")]
    log = sqlite3.connect(directory / "log.db")
    log.execute("DELETE FROM records")
    log.commit()
    log.close()
    later = SqliteLog(directory / "log.db", node_id="n1", nodes=["n1"])
    from consensus.ballot import Ballot
    from consensus.messages import Run, Stored

    later.append([Stored(Run(KEYS + 100, Ballot(1, "n1"), values), KEYS + 99)])
    later.close()
    rubbish(directory)
    with pytest.raises(DamagedError, match=rf"cannot be made again, as log.db begins at slot {KEYS + 100}"):
        EmbeddedStore.open(directory, "test")
    assert (directory / "state.db").read_bytes().startswith(b"rubbish")


def test_a_log_whose_first_slots_have_not_come_yet_has_a_state_made_anew(whole: Path, tmp_path: Path) -> None:
    from consensus.ballot import Ballot
    from consensus.messages import Run, Stored

    directory = tmp_path / "copy"
    with DataDir.open(directory, "test") as data_dir:
        log = SqliteLog(data_dir.log_path, node_id="n1", nodes=["n1", "n2", "n3"])
        log.append([Stored(Run(3, Ballot(1, "n2"), [encode_set(b"k", b"v")]), 0)])
        log.close()
    shutil.copy(whole / "state.db", directory / "state.db")
    with DataDir.open(directory, "test") as data_dir:
        node = open_node("n1", ["n1", "n2", "n3"], data_dir)
        assert (node.applied_upto, node.replica.last_slot) == (0, 3)
        node.close()
    assert was_rebuilt(directory)


def encode_set(key: bytes, value: bytes) -> bytes:
    from kvstore.commands import Entry

    return encode(Entry("", 0, 0, 1, Set(key, Value(value))))


def test_a_store_of_an_earlier_version_opens_and_learns_its_name(whole: Path, tmp_path: Path) -> None:
    directory = copy_of(whole, tmp_path / "copy")
    change(
        directory,
        *(f"ALTER TABLE progress DROP COLUMN {name}" for name in ("directory", "node", "entry", "checksum")),
        "DROP TABLE session_results",
        "DROP TABLE sessions",
        "CREATE TABLE sessions (session TEXT PRIMARY KEY, acknowledged, last_sequence, last_slot, results, weight)",
        "PRAGMA user_version = 2",
    )
    log = sqlite3.connect(directory / "log.db")
    log.execute("DROP TABLE directory")
    log.execute("PRAGMA user_version = 1")
    log.close()
    (directory / "id").unlink()
    with open_read_only(directory) as looked:
        assert looked.status().keys == len(EXPECTED)
    for _ in range(2):
        with EmbeddedStore.open(directory, "test") as store:
            assert contents(store) == EXPECTED
            store.execute(Expire(b"key 1", 10**9))
    assert not was_rebuilt(directory)
    name = (directory / "id").read_text().strip()
    assert len(name) == 32
    with sqlite3.connect(directory / "state.db") as state:
        assert state.execute("SELECT directory, node FROM progress").fetchone() == (name, "n1")
    state.close()


def test_the_log_of_another_directory_is_refused(whole: Path, tmp_path: Path) -> None:
    directory = copy_of(whole, tmp_path / "copy")
    with EmbeddedStore.open(tmp_path / "another", "test") as store:
        store.execute(Set(b"k", Value(b"v")))
    shutil.copy(tmp_path / "another" / "log.db", directory / "log.db")
    with pytest.raises(DataDirError, match=r"log\.db in .* is another data directory's"):
        EmbeddedStore.open(directory, "test")


def test_a_state_whose_log_is_gone_is_refused(tmp_path: Path) -> None:
    """Not even the random name of the directory is left, and it would begin anew with nothing."""
    with EmbeddedStore.open(tmp_path, "test") as store:
        store.execute(Set(b"a", Value(b"1")))
    for lost in ("log.db", "log.db-wal", "log.db-shm", "id"):
        (tmp_path / lost).unlink(missing_ok=True)
    for _ in range(2):
        with pytest.raises(
            DamagedError, match=r"log\.db is missing, though .*state\.db has what its slots up to \d+ did"
        ):
            EmbeddedStore.open(tmp_path, "test")
    assert not (tmp_path / "log.db").exists() and (tmp_path / "state.db").exists()
