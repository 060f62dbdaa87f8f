"""The order of one client's requests, whatever the order in which a node answers them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.node.client_order import ClientOrder, PendingReply

KINDS = st.sampled_from(["read", "write", "neither", "slow read", "at once"])


class Client:
    """Sends numbered requests, and notes which of them run at the same time."""

    def __init__(self, kinds: list[str]) -> None:
        self.kinds = kinds
        self.order: ClientOrder[int, int] = ClientOrder(self._start)
        self.running: dict[int, PendingReply[int]] = {}
        self.started: list[int] = []
        self.heard: list[int] = []
        self.depth = 0

    def _start(self, number: int) -> bool:
        kind = self.kinds[number]
        reply = PendingReply[int]()
        reads = {"read": True, "slow read": True, "write": False}.get(kind)
        if not self.order.begin(reply, reads, kind == "slow read"):
            return False
        self.depth += 1
        assert self.depth == 1, "a request is started on top of another's stack"
        beside = {self.kinds[other] for other in self.running}
        assert kind not in ("read", "slow read") or "write" not in beside
        assert kind != "write" or not beside & {"read", "slow read"}
        assert kind != "slow read" or not beside
        assert "slow read" not in beside
        self.started.append(number)
        self.running[number] = reply
        if kind == "at once":
            self.answer(number)
        self.depth -= 1
        return True

    def answer(self, number: int) -> None:
        self.order.answer(self.running.pop(number), number)
        while (ready := self.order.next_answer()) is not None:
            self.heard.append(ready)
        self.order.advance()


@given(st.lists(KINDS, max_size=12), st.data())
def test_requests_start_and_are_answered_in_their_order(kinds: list[str], data: st.DataObject) -> None:
    client = Client(kinds)
    sent = 0
    while sent < len(kinds) or client.running:
        if sent < len(kinds) and (not client.running or data.draw(st.booleans())):
            client.order.add(sent)
            sent += 1
        else:
            client.answer(data.draw(st.sampled_from(sorted(client.running))))
        assert client.started == list(range(len(client.started)))
        assert client.order.is_idle == (len(client.heard) == sent)
    assert client.heard == list(range(len(kinds)))


def test_what_is_forgotten_is_neither_started_nor_answered() -> None:
    client = Client(["write", "read"])
    client.order.add(0)
    client.order.add(1)
    client.order.forget()
    client.answer(0)
    assert (client.started, client.heard, client.order.is_idle) == ([0], [], True)
