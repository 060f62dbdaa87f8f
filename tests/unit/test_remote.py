"""A store on a cluster: which node is asked, and what becomes of a request when one does not answer."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from consensus.ballot import Ballot
from kvstore.addresses import Address, address_text, addresses
from kvstore.commands import Done, Exists, Forgotten, Get, Incr, Txn
from kvstore.errors import CommandError, KvstoreError, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.handles import remote
from kvstore.handles.remote import RemoteStore
from kvstore.store import Reply

Answer = Callable[[list[bytes]], bytes | None]
FAR_TOO_LONG = 30.0
FORGOTTEN = msgspec.msgpack.encode(Reply(Forgotten(), 9, Ballot(1, "n1"), True))
DONE = msgspec.msgpack.encode(Reply(Done(), 1, Ballot(1, "n1"), True))


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.5)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2])
            answer = self.server.answer(words)  # type: ignore[attr-defined]
            if answer is None:
                self.server.frozen.wait(FAR_TOO_LONG)  # type: ignore[attr-defined]
                return
            self.wfile.write(answer)


@contextmanager
def node(answer: Answer) -> Iterator[Address]:
    """Something that listens; ``answer`` gives its reply to a request, or None: then it keeps silent for ever."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.answer, server.frozen = answer, threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            host, port = server.server_address[:2]
            yield str(host), int(port)
        finally:
            server.frozen.set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()


def healthy(words: list[bytes]) -> bytes:
    match words[0]:
        case b"KV.SESSION" | b"KV.BEGIN":
            return b":7\r\n"
        case b"KV.EXECUTE":
            return b"$%d\r\n%b\r\n" % (len(DONE), DONE)
        case _:
            return b"+OK\r\n"


def only(answer: bytes) -> Answer:
    """A node that gives the same answer to every request on data."""
    return lambda words: answer if words[0] in (b"KV.EXECUTE", b"KV.SESSION") else healthy(words)


def no_http(words: list[bytes]) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\n\r\n"


def test_a_node_that_froze_is_passed_over() -> None:
    with node(lambda words: None) as frozen, node(healthy) as other:
        began = time.monotonic()
        with RemoteStore([frozen, other], patience=FAR_TOO_LONG) as store:
            assert store.executed_upto("s") == 7
            assert store.node == other
        assert time.monotonic() - began < FAR_TOO_LONG / 3


def test_a_node_that_freezes_while_it_owes_an_answer_is_given_up_and_the_write_sent_again_as_it_was() -> None:
    sent: list[list[bytes]] = []
    freezing = threading.Event()

    def freezes(words: list[bytes]) -> bytes | None:
        if words[0] == b"KV.EXECUTE":
            sent.append(words)
            freezing.set()
        return None if freezing.is_set() else healthy(words)

    def takes_over(words: list[bytes]) -> bytes:
        sent.extend([words] if words[0] == b"KV.EXECUTE" else [])
        return healthy(words)

    with node(freezes) as first, node(takes_over) as second:
        with RemoteStore([first, second], patience=FAR_TOO_LONG) as store:
            assert store.execute(Incr(b"x", 1)).slot == 1
        assert len(sent) == 2
        assert sent[0] == sent[1]


def test_a_node_that_waits_for_a_quorum_is_not_given_up() -> None:
    waiting = threading.Event()

    def slow(words: list[bytes]) -> bytes:
        if words[0] == b"KV.SESSION":
            waiting.wait(1.5 * remote.SILENCE_SECONDS)
        return healthy(words)

    with node(slow) as first, node(only(b"-ERR never asked\r\n")) as second, RemoteStore([first, second]) as store:
        assert store.executed_upto("s") == 7
        assert store.node == first


def test_every_node_is_tried_once_though_one_used_up_the_time() -> None:
    with node(lambda words: None if words[0] == b"KV.SESSION" else b"+OK\r\n") as slow, node(healthy) as other:
        store = RemoteStore([slow, other], patience=0.1)
        assert store.executed_upto("s") == 7
        store.close()


@pytest.mark.parametrize("answer", [no_http, only(b"-ERR unknown command 'KV.SESSION'\r\n")])
def test_what_is_no_kvstore_is_passed_over_and_named_at_once(answer: Answer) -> None:
    with node(answer) as stranger, node(healthy) as other:
        with RemoteStore([stranger, other]) as store:
            assert store.executed_upto("s") == 7
        with RemoteStore([stranger], patience=FAR_TOO_LONG) as store, pytest.raises(UnavailableError) as caught:
            store.executed_upto("s")
        assert str(caught.value).startswith(f"{address_text(stranger)} is not a kvstore node")


def test_a_full_disk_of_one_node_is_passed_over() -> None:
    full = only(b"-MISCONF the disk is full\r\n")
    with node(full) as first, node(healthy) as second, node(full) as third:
        with RemoteStore([first, second]) as store:
            assert store.execute(Incr(b"x", 1)).slot == 1
        with RemoteStore([first, third], patience=FAR_TOO_LONG) as store, pytest.raises(StorageFullError):
            store.execute(Incr(b"x", 1))


def test_a_write_that_may_have_happened_is_not_called_refused() -> None:
    unknown, full = only(b"-UNKNOWN no quorum answered in time\r\n"), only(b"-MISCONF the disk is full\r\n")
    with node(unknown) as first, node(full) as second:
        store = RemoteStore([first, second], patience=0.1)
        with pytest.raises(UnknownOutcomeError):
            store.execute(Incr(b"x", 1))
        store.close()


def test_a_transaction_of_reads_has_no_session_and_so_takes_no_slot() -> None:
    asked: list[list[bytes]] = []

    def answer(words: list[bytes]) -> bytes | None:
        asked.append(words)
        return b"$%d\r\n%b\r\n" % (len(DONE), DONE) if words[0] == b"KV.EXECUTE" else b"+OK\r\n"

    with node(answer) as address, RemoteStore([address]) as store:
        store.execute(Txn([Get(b"a"), Exists([b"b"])]))
    assert [words[1] for words in asked if words[0] == b"KV.EXECUTE"] == [b""]


def test_passwords_missing_wrong_and_superfluous() -> None:
    superfluous = b"-ERR AUTH <password> called without any password configured for the default user.\r\n"
    for password, answer, told in (
        (None, b"-NOAUTH Authentication required.\r\n", "asks for a password"),
        (
            "wrong",
            b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
            "refuses the password, which is wrong; check KVSTORE",
        ),
        ("any", superfluous, "has no password"),
    ):
        with node(lambda words, answer=answer: answer) as asked:  # type: ignore[misc]
            with RemoteStore([asked], password=password) as store, pytest.raises(KvstoreError) as caught:
                store.executed_upto("s")
            assert told in str(caught.value)
            assert not isinstance(caught.value, UnavailableError)


def test_addresses_are_read_and_shown() -> None:
    text = "localhost:1,127.0.0.1:65535,[::1]:6401"
    found = addresses(text)
    assert found == [("localhost", 1), ("127.0.0.1", 65_535), ("::1", 6_401)]
    assert ",".join(map(address_text, found)) == text
    for wrong in ("", "host", "host:0", "host:65536", "::1:6401", "a:1,", "a b:1", "[::1]", "a:1;b:2"):
        with pytest.raises(CommandError, match=r"^--connect: .* must be HOST:PORT"):
            addresses(wrong)
    for wrong in ("a..b:1", "a" * 64 + ":1"):
        with pytest.raises(CommandError, match=r"^--connect: .* is not a host name"):
            addresses(wrong)


def test_a_session_that_was_dropped_begins_anew() -> None:
    sent: list[tuple[bytes, bytes]] = []
    replies = [DONE, FORGOTTEN, DONE, DONE]

    def answer(words: list[bytes]) -> bytes:
        if words[0] != b"KV.EXECUTE":
            return healthy(words)
        sent.append((words[1], words[2]))
        reply = replies[len(sent) - 1]
        return b"$%d\r\n%b\r\n" % (len(reply), reply)

    with node(answer) as address, RemoteStore([address]) as store:
        for _ in range(3):
            assert store.execute(Incr(b"k", 1)).result == Done()
    first, again = sent[0][0], sent[2][0]
    assert first != again
    assert sent == [(first, b"1"), (first, b"2"), (again, b"1"), (again, b"2")]


def test_nobody_knows_what_became_of_a_request_that_was_sent_before_its_session_was_dropped() -> None:
    with (
        node(lambda words: None if words[0] == b"KV.EXECUTE" else healthy(words)) as frozen,
        node(only(b"$%d\r\n%b\r\n" % (len(FORGOTTEN), FORGOTTEN))) as other,
        RemoteStore([frozen, other], patience=FAR_TOO_LONG) as store,
        pytest.raises(UnknownOutcomeError, match="dropped the session of this request: it may have happened"),
    ):
        store.execute(Incr(b"k", 1))
